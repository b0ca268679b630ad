//! Specs with mistakes, to the letter, and where paths lead.

use mlctl_protocol::{
    ExitClass,
    spec::{AfterFailed, Concurrency, DataSource, Wins},
};

use super::*;

const GOOD: &str = r#"version = 1
name = "digits"

[train]
batch_size = 32
loss = "cross_entropy"
max_epochs = 3
model = { type = "mlp", layers = [64, 10] }
optimizer = { type = "adam" }

[train.data]
format = "csv"
uri = "data/digits.csv"
targets = ["label"]
"#;

/// A folder `jobs` with a spec in it, and a working directory beside it.
struct Desk {
    home: tempfile::TempDir,
    environment: Environment,
}

impl Desk {
    fn new(spec: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        for folder in ["jobs/data", "work"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("jobs/job.toml"), spec).unwrap();
        std::fs::write(root.join("jobs/data/digits.csv"), "label,x\n").unwrap();
        let environment = Environment { working_dir: root.join("work"), ..Environment::default() };
        Self { home, environment }
    }

    fn load(&self, overlay: &Overlay<'_>) -> Result<JobSpec, String> {
        load(Source::File("../jobs/job.toml"), overlay, &self.environment).map_err(|failure| match failure.report {
            Some(report) => report.to_string(),
            None => failure.why.join("\n"),
        })
    }

    fn root(&self) -> String {
        self.home.path().canonicalize().unwrap().display().to_string()
    }
}

fn uri(spec: &JobSpec) -> &str {
    match &spec.work {
        Work::Train(train) => match &train.data {
            DataSource::Csv { uri, .. } => uri,
            other => panic!("{other:?}"),
        },
        Work::Infer(infer) => &infer.model.from,
        Work::Evaluate(evaluate) => &evaluate.models[0].from,
        Work::Retrain(retrain) => &retrain.model,
        Work::Command(command) => command.cwd.as_deref().unwrap(),
    }
}

#[test]
fn paths_are_relative_to_the_spec_and_to_the_working_directory_in_flags() {
    let desk = Desk::new(GOOD);
    let spec = desk.load(&Overlay::default()).unwrap();
    assert_eq!(uri(&spec), format!("file://{}/jobs/data/digits.csv", desk.root()));
    std::fs::write(desk.environment.working_dir.join("other.csv"), "label\n").unwrap();
    let set = ["train.data.uri=other.csv".to_owned()];
    let spec = desk.load(&Overlay { set: &set, ..Overlay::default() }).unwrap();
    assert_eq!(uri(&spec), format!("file://{}/work/other.csv", desk.root()));
}

#[test]
fn several_files_are_named_relative_to_the_spec_as_one_is() {
    for (written, kept) in
        [("data/", "data/"), ("./data/../data/d*.csv", "data/d*.csv"), ("**/[d]*.csv", "**/[d]*.csv")]
    {
        let desk = Desk::new(&GOOD.replace("data/digits.csv", written));
        let spec = desk.load(&Overlay::default()).unwrap();
        assert_eq!(uri(&spec), format!("file://{}/jobs/{kept}", desk.root()));
    }
}

#[test]
fn flags_lie_over_the_file() {
    let desk = Desk::new(GOOD);
    let spec = desk
        .load(&Overlay {
            set: &["train.seed=7".into(), "train.optimizer.learning_rate=0.1".into()],
            name: Some("other"),
            queue: Some("night"),
            labels: &[("team.eu".into(), "a b".into())],
            begin: None,
            concurrency_key: Some("nightly"),
            concurrency: Some("newest"),
            preemptible: true,
            after: Some(&["ok:12", "any:night.3"]),
            after_failed: Some("keep"),
            cwd: None,
            checkpoint_dir: None,
            env: &[],
            deadline: Some("2126-11-26T02:00:00Z"),
            retry_on: Some(&["oom_host", "hang"]),
            numbers: &[
                ("--priority", &["priority"], Some(9)),
                ("--cpus", &["resources", "cpus"], Some(2)),
                ("--gpus", &["resources", "gpus"], None),
            ],
        })
        .unwrap();
    assert_eq!((spec.name.as_str(), spec.priority, spec.resources.cpus, spec.resources.gpus), ("other", 9, 2, 0));
    assert_eq!(spec.queue, "night");
    assert_eq!(spec.labels.get("team.eu").map(String::as_str), Some("a b"));
    let Work::Train(train) = &spec.work else { panic!("{spec:?}") };
    assert_eq!(train.seed, 7);
    assert!(spec.preemptible);
    assert_eq!(spec.after.iter().map(ToString::to_string).collect::<Vec<_>>(), ["ok:12", "any:night.3"]);
    assert_eq!(spec.after_failed, AfterFailed::Keep);
    let concurrency = Concurrency { key: "nightly".into(), limit: 1, wins: Wins::Newest };
    assert_eq!(spec.concurrency, Some(concurrency));
    assert_eq!(spec.time.deadline.as_deref(), Some("2126-11-26T02:00:00Z"));
    assert_eq!(spec.retry.on, Some(vec![ExitClass::OomHost, ExitClass::Hang]));
}

#[test]
fn rules_are_shown_where_they_were_broken_and_all_at_once() {
    let text = GOOD.replace("\"digits\"", "\"17\"").replace("[64, 10]", "[64, 1]").replace("max_epochs = 3\n", "");
    let expected = r#"../jobs/job.toml:2:8: a name of digits alone would be taken for a job's id
 2 | name = "17"
   |        ^^^^
   = hint: add a letter

../jobs/job.toml:4:1: the training has no end: there is neither max_epochs nor max_steps
 4 | [train]
   | ^^^^^^^
   = hint: add max_epochs = 50, for example; convergence can end it earlier

../jobs/job.toml:7:39: cross_entropy needs an output for each class, and two classes at least
 7 | model = { type = "mlp", layers = [64, 1] }
   |                                       ^
   = hint: write the number of classes here"#;
    assert_eq!(Desk::new(&text).load(&Overlay::default()).unwrap_err(), expected);
}

#[test]
fn a_file_that_is_not_there_is_missed_before_the_job_is_submitted() {
    for (path, expected) in [
        ("data/digit.csv", "digit.csv does not exist|did you mean HOME/jobs/data/digits.csv?"),
        ("data/zzz", "HOME/jobs/data/zzz does not exist|expected a file of rows"),
        ("date/digits.csv", "does not exist|no folder HOME/jobs/date either"),
        ("data", "HOME/jobs/data is a folder|name a file of rows in it"),
        ("date/*.csv", "HOME/jobs/date does not exist"),
        ("data/digits.csv/", "HOME/jobs/data/digits.csv is no folder|a pattern of files in one"),
    ] {
        let desk = Desk::new(&GOOD.replace("data/digits.csv", path));
        let said = desk.load(&Overlay::default()).unwrap_err().replace(&desk.root(), "HOME");
        assert!(said.starts_with("../jobs/job.toml:13:7: "), "{said}");
        for part in expected.split('|') {
            assert!(said.contains(part), "{path}: {said}");
        }
    }
}

#[test]
fn a_spec_that_cannot_be_read_says_why() {
    let desk = Desk::new(GOOD);
    let failure = load(Source::File("none.toml"), &Overlay::default(), &desk.environment).unwrap_err();
    assert_eq!(failure.exit, Exit::Invalid);
    assert!(failure.why[0].starts_with("read none.toml: No such file"), "{:?}", failure.why);
    std::fs::write(desk.environment.working_dir.join("large.toml"), "#".repeat(MAX_SPEC_BYTES + 1)).unwrap();
    let failure = load(Source::File("large.toml"), &Overlay::default(), &desk.environment).unwrap_err();
    assert!(failure.why[0].contains("larger than"), "{:?}", failure.why);
}

#[test]
fn a_command_line_is_a_spec_of_its_own() {
    let desk = Desk::new(GOOD);
    let argv = |argv: &[&str]| argv.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>();
    let read = |words: &[&str], overlay: &Overlay<'_>| {
        load(Source::Command(&argv(words)), overlay, &desk.environment).map_err(|failure| match failure.report {
            Some(report) => report.to_string(),
            None => failure.why.join("\n"),
        })
    };
    let spec = read(&["./bin/train it.sh", "--lr", "0.1"], &Overlay::default()).unwrap();
    let Work::Command(command) = &spec.work else { panic!("{spec:?}") };
    assert_eq!((spec.name.as_str(), spec.retry.limit), ("train-it.sh", 0));
    assert_eq!(command.argv, ["./bin/train it.sh", "--lr", "0.1"]);
    assert_eq!(command.cwd, Some(format!("{}/work", desk.root())));
    let overlay = Overlay {
        cwd: Some("../jobs"),
        env: &[("A".into(), "b=c".into()), ("E".into(), String::new())],
        name: Some("n"),
        ..Overlay::default()
    };
    let spec = read(&["7"], &overlay).unwrap();
    let Work::Command(command) = &spec.work else { panic!("{spec:?}") };
    assert_eq!((spec.name.as_str(), &command.cwd), ("n", &Some(format!("{}/jobs", desk.root()))));
    assert_eq!(command.env.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>(), ["A=b=c", "E="]);
    for (program, name) in [("7", "command"), ("/usr/bin/python3", "python3"), ("./.x", "x"), ("ü", "command")] {
        assert_eq!(read(&[program], &Overlay::default()).unwrap().name, name);
    }
    let said = read(&["true"], &Overlay { cwd: Some("none"), ..Overlay::default() }).unwrap_err();
    assert!(said.contains("--cwd") && said.contains("none does not exist"), "{said}");
    let both = Overlay { set: &["train.seed=7".into()], ..Overlay::default() };
    assert!(read(&["true"], &both).is_err(), "a job does one thing");
}

#[test]
fn a_command_in_a_file_runs_in_the_files_folder() {
    let spec = "version = 1\nname = \"c\"\n[command]\nargv = [\"./x.sh\"]\n";
    let cwd = |text: &str, overlay: &Overlay<'_>| {
        let desk = Desk::new(text);
        let spec = desk.load(overlay)?;
        let Work::Command(command) = &spec.work else { panic!("{spec:?}") };
        Ok::<_, String>(command.cwd.as_ref().unwrap().replace(&desk.root(), "HOME"))
    };
    assert_eq!(cwd(spec, &Overlay::default()).unwrap(), "HOME/jobs");
    assert_eq!(cwd(&format!("{spec}cwd = \"data\"\n"), &Overlay::default()).unwrap(), "HOME/jobs/data");
    assert_eq!(
        cwd(&format!("{spec}cwd = \"data\"\n"), &Overlay { cwd: Some("."), ..Overlay::default() }).unwrap(),
        "HOME/work"
    );
    assert_eq!(cwd(&format!("{spec}cwd = \"/\"\n"), &Overlay::default()).unwrap(), "/");
    assert!(cwd(&format!("{spec}cwd = \"job.toml\"\n"), &Overlay::default()).unwrap_err().contains("is no folder"));
}
