//! What people get wrong, end to end through the CLI: each mistake is named where it is, with what to do, ends in its exit code and class, and costs nothing: no
//! retry, no other job.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::{
    Daemon, Setup, Worker,
    cli::Run,
    processes,
    specs::{Length, training},
    until,
};

const SPEC: &str = r#"
version = 1
name = "bad"

[checkpoint]
every_steps = 5

[train]
loss = "cross_entropy"
batch_size = 8
max_epochs = 2

[train.model]
type = "mlp"
layers = [3, 8, 2]

[train.data]
format = "csv"
uri = "rows.csv"
targets = ["y"]

[train.optimizer]
type = "adam"
"#;

const INFER: &str = r#"
version = 1
name = "predict"

[infer]
model = { from = "MODEL" }
data = { format = "csv", uri = "rows.csv", features = ["a", "b", "c"] }
"#;

/// 40 good rows: the class is whether the first number is large.
fn rows() -> String {
    let row = |n: u32| format!("{}.5,{},-{},{}\n", n, n * 2, n % 7, u32::from(n >= 20));
    format!("a,b,c,y\n{}", (0..40).map(row).collect::<String>())
}

/// A daemon with the real worker, and a good spec with good data in the test's folder.
fn stage() -> Daemon {
    let daemon = Daemon::with(Worker::Real);
    daemon.write("job.toml", SPEC);
    daemon.write("rows.csv", rows());
    daemon
}

/// The job of a file must fail.
fn fails(daemon: &Daemon, file: &str, class: &str, words: &[&str]) {
    daemon.must_fail(&["submit", file, "-w"], class, words);
}

/// A submit that is refused: nothing is queued.
fn refused(daemon: &Daemon, args: &[&str], words: &[&str]) -> Run {
    let before = daemon.mlctl(&["ls", "-o", "json"]).json();
    let run = daemon.mlctl(args);
    run.must_fail(6, words);
    assert_eq!(daemon.mlctl(&["ls", "-o", "json"]).json(), before, "nothing was queued");
    run
}

#[test]
fn mistakes_in_a_spec_are_shown_all_at_once_where_they_stand() {
    let daemon = stage();
    let wrong = SPEC.replace("batch_size = 8", "batchsize = 8").replace("\"cross_entropy\"", "\"cross_entrpy\"");
    daemon.write("wrong.toml", wrong);
    refused(
        &daemon,
        &["submit", "wrong.toml"],
        &["wrong.toml:9:", "cross_entropy", "wrong.toml:10:1", "batchsize", "batch_size"],
    );
    daemon.write("broken.toml", SPEC.replace("layers = [3, 8, 2]", "layers = [3, 8, 2"));
    refused(&daemon, &["submit", "broken.toml"], &["broken.toml:"]);
    refused(&daemon, &["submit", "job.toml", "--set", "train.model.layers=[0]"], &["train.model.layers"]);
    refused(&daemon, &["submit", "absent.toml"], &["absent.toml"]);
}

#[test]
fn what_a_spec_names_must_be_there() {
    let daemon = stage();
    daemon.write("nodata.toml", SPEC.replace("rows.csv", "absent.csv"));
    refused(&daemon, &["submit", "nodata.toml"], &["absent.csv", "nodata.toml:"]);
    daemon.write("infer.toml", INFER.replace("MODEL", "job:nobody"));
    refused(&daemon, &["submit", "infer.toml"], &["nobody"]);
    daemon.write("infer.toml", INFER.replace("MODEL", "models/absent"));
    refused(&daemon, &["submit", "infer.toml"], &["absent"]);
}

#[test]
fn data_that_cannot_be_learned_from_fails_as_the_users_error() {
    let daemon = stage();
    let good = rows();
    let row_30 = good.lines().nth(31).unwrap().to_owned();
    let with_row_30 = |row: &str| good.replace(&row_30, row);
    let cases: &[(&str, String, String, &[&str])] = &[
        ("wrong column", SPEC.replace("[\"y\"]", "[\"why\"]"), good.clone(), &["rows.csv", "no column \"why\""]),
        ("text", SPEC.into(), with_row_30("30.5,sixty,-2,1"), &["rows.csv", "30", "\"b\"", "sixty"]),
        ("not a number", SPEC.into(), with_row_30("NaN,60,-2,1"), &["rows.csv", "30", "\"a\""]),
        ("infinite", SPEC.into(), with_row_30("inf,60,-2,1"), &["rows.csv", "30", "\"a\""]),
        ("an empty cell", SPEC.into(), with_row_30(",60,-2,1"), &["rows.csv", "30", "\"a\""]),
        ("too few cells", SPEC.into(), with_row_30("30.5,60"), &["rows.csv", "30"]),
        ("a label out of range", SPEC.into(), with_row_30("30.5,60,-2,2"), &["rows.csv", "30", "\"y\"", "2"]),
        ("a label that is no class", SPEC.into(), with_row_30("30.5,60,-2,0.5"), &["rows.csv", "30", "\"y\""]),
        ("another width", SPEC.replace("[3, 8, 2]", "[4, 8, 2]"), good.clone(), &["3 feature columns", "takes 4"]),
        ("no rows", SPEC.into(), "a,b,c,y\n".into(), &["no rows"]),
        ("nothing", SPEC.into(), String::new(), &["empty"]),
        ("no CSV", SPEC.into(), "\0\u{1}\u{2}".repeat(1000), &["rows.csv"]),
    ];
    for (case, spec, data, words) in cases {
        println!("{case}");
        daemon.write("job.toml", spec);
        daemon.write("rows.csv", data);
        fails(&daemon, "job.toml", "spec", words);
    }
    daemon.write("job.toml", SPEC);
    daemon.write("rows.csv", &good);
    daemon.mlctl(&["submit", "job.toml", "-w"]).ok();
    assert_eq!(daemon.last()["state"], "succeeded", "and a good job is none the worse for them");
}

#[test]
fn a_model_that_does_not_fit_is_refused_by_name_and_shape() {
    let daemon = stage();
    daemon.mlctl(&["submit", "job.toml", "-w"]).ok();
    let folder = uri_to_path(&daemon.last()["model"]["uri"]);
    let weights = folder.join("model.safetensors");

    daemon.write("four.csv", "a,b,c,d\n1,2,3,4\n");
    let wide = INFER.replace("MODEL", folder.to_str().unwrap()).replace("rows.csv", "four.csv");
    daemon.write("infer.toml", wide.replace("\"c\"]", "\"c\", \"d\"]"));
    fails(&daemon, "infer.toml", "spec", &["4 feature columns", "takes 3"]);

    let alone = daemon.write("alone.safetensors", std::fs::read(&weights).unwrap());
    let network = |layers: &str| {
        let model = format!("{}\", network = {{ type = \"mlp\", layers = {layers} }} }}", alone.display());
        INFER.replace("MODEL\" }", &model)
    };
    daemon.write("infer.toml", network("[3, 9, 2]"));
    fails(&daemon, "infer.toml", "spec", &["alone.safetensors", "layer1.weight", "9"]);
    daemon.write("infer.toml", network("[3, 8, 2]"));
    daemon.mlctl(&["submit", "infer.toml", "-w"]).ok();

    // A model that was changed after it was made is not used, however well it reads.
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    daemon.write("infer.toml", INFER.replace("MODEL", folder.to_str().unwrap()));
    let once = ["submit", "infer.toml", "-w", "--set", "retry={limit=0, infrastructure_limit=0}"];
    assert_eq!(daemon.mlctl(&once).code, 20);
    let job = daemon.last();
    assert_eq!(job["exit_class"], "storage", "{job:#}");
    assert!(job["exit_message"].as_str().unwrap().contains("corrupt"), "{job:#}");
}

#[test]
fn a_truncated_checkpoint_is_passed_over_out_loud_for_the_one_before_it() {
    let mut daemon = Setup::of(Worker::Real).start();
    let id = daemon.submit(&training(Worker::Real, "endless", Length::Endless));
    let checkpoints = |daemon: &Daemon| {
        let list = daemon.client.get(&format!("/v1/jobs/{id}/checkpoints")).ok();
        list["checkpoints"].as_array().unwrap().clone()
    };
    daemon.wait_for_checkpoint(&id, 1);
    until("there are two checkpoints", || (checkpoints(&daemon).len() >= 2).then_some(()));
    // The daemon first: it must not try again before the damage is done.
    let pid = daemon.wait_for_checkpoint(&id, 1);
    processes::signal(pid, rustix::process::Signal::STOP);
    let reported = checkpoints(&daemon);
    daemon.kill();
    processes::kill(pid);
    // What is in storage counts: the newest may not have been reported yet, and one under way has no manifest.
    let folder = uri_to_path(&reported[0]["uri"]).parent().unwrap().to_owned();
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|checkpoint| checkpoint.join("manifest.json").is_file());
    found.sort();
    let [.., before, newest] = found.as_slice() else { panic!("{found:?}") };
    let weights = newest.join("model-00001-of-00001.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let step = |checkpoint: &PathBuf| checkpoint.file_name().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    daemon.start();
    daemon.wait_until(&id, "goes on", |job| job["attempt"] == 2 && daemon.count(&id, "resumed") == 1);
    let resumed = daemon.events(&id).into_iter().find(|event| event["event"] == "resumed").unwrap();
    assert_eq!(resumed["step"], step(before), "the newest that is whole: {resumed:#}");
    let skipped = resumed["skipped"].to_string();
    assert!(skipped.contains(&format!("step {}", step(newest))), "{skipped}");
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}

fn uri_to_path(uri: &Value) -> PathBuf {
    uri.as_str().and_then(|uri| uri.strip_prefix("file://")).expect("a file URI").into()
}
