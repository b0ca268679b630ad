//! Whole jobs over real files: from the data to the published model, interrupted and damaged in between; and every mistake a user can make in
//! spec and data, with its class and its words.

use std::path::{Path, PathBuf};

use mlctl_artifacts::Stores;
use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken, JobId, JobSpec,
    message::{ReportBody, SpoolPlace, Start, StopClass, Storage},
    result::CheckpointRef,
    spec::Work,
};
use mlworker::{
    bundle::ModelConfig,
    fault::Fault,
    host::{Done, Host, Order},
    infer,
    job::Job,
    train,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::common::Recorder;

/// The real digits, carried by the project.
pub fn digits_csv() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/jobs/data/digits.csv").canonicalize().unwrap()
}

/// A place for jobs and their results.
pub struct Bench {
    pub dir: TempDir,
    runtime: Runtime,
    pub stores: Stores,
    /// Where results may wait for a store.
    pub spool: Option<SpoolPlace>,
}

impl Bench {
    pub fn new() -> Self {
        let (dir, runtime) = (TempDir::new().unwrap(), Runtime::new().unwrap());
        Self { dir, runtime, stores: Stores::new(), spool: None }
    }

    /// The URI of a file or folder here.
    pub fn uri(&self, name: &str) -> String {
        format!("file://{}/{name}", self.dir.path().display())
    }

    /// Writes a file; its URI.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.dir.path().join(name), content).unwrap();
        self.uri(name)
    }

    pub fn read(&self, uri: &str) -> String {
        std::fs::read_to_string(uri.strip_prefix("file://").unwrap()).unwrap()
    }

    /// Runs an attempt of a job. Its results go to folders with the job's number and the attempt's.
    pub fn run(
        &self,
        spec: &Value,
        host: &dyn Host,
        (job, attempt): (u64, u32),
        resume: &[CheckpointRef],
    ) -> Result<Done, Fault> {
        self.as_job(spec, host, (job, attempt, resume), |job| match &job.start.spec.work {
            Work::Train(spec) => train::run(job, spec),
            Work::Infer(spec) => infer::run(job, spec),
            Work::Evaluate(spec) => mlworker::evaluate::run(job, spec),
            Work::Retrain(_) | Work::Command(_) => unreachable!("jobs of this worker train or infer"),
        })
    }

    /// Does something as an attempt of a job.
    pub fn as_job<T>(
        &self,
        spec: &Value,
        host: &dyn Host,
        (job, attempt, resume): (u64, u32, &[CheckpointRef]),
        work: impl FnOnce(Job<'_>) -> T,
    ) -> T {
        let spec: JobSpec = serde_json::from_value(spec.clone()).unwrap();
        let home = self.uri(&format!("jobs/{job}"));
        let start = Start {
            token: FencingToken(u64::from(attempt)),
            spec,
            spec_digest: "0".repeat(64),
            resume: resume.to_vec(),
            storage: Storage {
                attempt_uri: format!("{home}/{attempt}"),
                model_uri: format!("{home}/model/{attempt}"),
                output_uri: format!("{home}/output/{attempt}"),
                durable_uri: None,
                spool: self.spool.clone(),
            },
            heartbeat_seconds: 5,
            lease_seconds: 600,
            threads: 1,
            ends_at: None,
            array_index: None,
        };
        let (attempt, runtime) = (AttemptNumber(attempt), self.runtime.handle());
        work(Job { id: JobId(job), attempt, start: &start, host, stores: &self.stores, runtime, pinned: None })
    }
}

/// The job of `config/jobs/digits.toml`, with some of its keys, for tests that need not be good.
pub fn digits() -> Value {
    json!({
        "version": 1, "name": "digits", "checkpoint": {"every_epochs": 1},
        "train": {
            "seed": 7, "loss": "cross_entropy", "scaling": "standard", "batch_size": 32, "max_epochs": 60,
            "model": {"type": "mlp", "layers": [64, 128, 64, 10], "dropout": 0.2},
            "data": {"format": "csv", "uri": format!("file://{}", digits_csv().display()), "targets": ["label"]},
            "split": {"validation": 0.15, "test": 0.15, "seed": 7},
            "optimizer": {"type": "adamw", "learning_rate": 0.002}
        }
    })
}

/// A job on a file of two features and three classes, which takes no time.
pub fn small(data: &str) -> Value {
    json!({
        "version": 1, "name": "small", "checkpoint": {"every_steps": 2},
        "train": {
            "loss": "cross_entropy", "scaling": "min_max", "batch_size": 3, "max_epochs": 4,
            "model": {"type": "mlp", "layers": [2, 4, 3]},
            "data": {"format": "csv", "uri": data, "targets": ["class"]},
            "optimizer": {"type": "sgd"}
        }
    })
}

pub const SMALL: &str = "a,b,class\n1,2,0\n3,4.5,1\n-1e3,0,2\n\"7\", 8 ,1\n9,10,0\n11,12,2\n";

pub fn checkpoints(host: &Recorder) -> Vec<CheckpointRef> {
    let reports = host.reports.lock().unwrap();
    let found = reports.iter().filter_map(|body| match body {
        ReportBody::Checkpoint { checkpoint } => Some(checkpoint.clone()),
        _ => None,
    });
    found.collect::<Vec<_>>().into_iter().rev().collect()
}

#[test]
fn the_digits_are_learnt_and_published() {
    let (bench, host) = (Bench::new(), Recorder::default());
    let done = bench.run(&digits(), &host, (1, 1), &[]).unwrap();
    assert!(done.metrics["test_accuracy"] >= 0.97, "{:?}", done.metrics);
    let model = done.model.unwrap();
    assert_eq!(model.uri, bench.uri("jobs/1/model/1"));
    let config = ModelConfig::from_json(bench.read(&format!("{}/config.json", model.uri)).as_bytes()).unwrap();
    assert_eq!((config.features.len(), config.targets, config.classes), (64, vec!["label".to_owned()], Some(10)));
    assert_eq!((config.dataset.rows, config.weights_digest), (1797, Some(model.digest)));
    assert_eq!(config.dataset.content_digest, blake3::hash(&std::fs::read(digits_csv()).unwrap()).to_hex().to_string());
    assert_eq!(config.metrics, done.metrics);
    let evaluation: Value = serde_json::from_str(&bench.read(&format!("{}/evaluation.json", model.uri))).unwrap();
    assert_eq!((&evaluation["rows"], evaluation["confusion"].as_array().unwrap().len()), (&json!(270), 10));
    assert!(host.warnings().is_empty(), "{:?}", host.warnings());
}

enum Damage {
    None,
    Flip,
    Truncate,
}

impl Damage {
    fn apply(&self, uri: &str) {
        let path = Path::new(uri.strip_prefix("file://").unwrap());
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        match self {
            Self::None => {}
            Self::Flip => bytes[middle] ^= 1,
            Self::Truncate => bytes.truncate(bytes.len() - 1),
        }
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_resumed_job_publishes_the_same_model_whatever_became_of_its_newest_checkpoint() {
    let mut spec = digits();
    spec["train"]["max_epochs"] = json!(6);
    let bench = Bench::new();
    let whole = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap().model.unwrap();
    for (job, damage) in (2..).zip([Damage::None, Damage::Flip, Damage::Truncate]) {
        let host = Recorder::ordering(170, Order::Stop(StopClass::Preempted));
        let fault = bench.run(&spec, &host, (job, 1), &[]).unwrap_err();
        assert_eq!(fault.class, ExitClass::Preempted, "{}", fault.message);
        let candidates = checkpoints(&host);
        // The last is not the only one, however slow the disk is.
        assert!(candidates.len() >= 2);
        damage.apply(&format!("{}/model-00001-of-00001.safetensors", candidates[0].uri));
        let host = Recorder::default();
        let model = bench.run(&spec, &host, (job, 2), &candidates).unwrap().model.unwrap();
        assert_eq!(model.digest, whole.digest);
        let reports = host.reports.lock().unwrap();
        let Some(ReportBody::Resumed { from, skipped }) = reports.first() else { panic!("{reports:?}") };
        let taken = usize::from(!matches!(damage, Damage::None));
        assert_eq!((from.step, skipped.len()), (candidates[taken].step, taken), "{skipped:?}");
    }
}

#[test]
fn changed_data_is_not_resumed_on() {
    let bench = Bench::new();
    let data = bench.file("small.csv", SMALL);
    let host = Recorder::ordering(6, Order::Stop(StopClass::Preempted));
    bench.run(&small(&data), &host, (1, 1), &[]).unwrap_err();
    bench.file("small.csv", SMALL.replace("4.5", "4.25"));
    let fault = bench.run(&small(&data), &Recorder::default(), (1, 2), &checkpoints(&host)).unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec);
    assert!(fault.message.contains("small.csv was of digest"), "{}", fault.message);
}

#[test]
fn a_job_begun_from_weights_is_resumed_without_them() {
    let bench = Bench::new();
    let data = bench.file("small.csv", SMALL);
    let first = bench.run(&small(&data), &Recorder::default(), (1, 1), &[]).unwrap().model.unwrap();
    let mut spec = small(&data);
    spec["train"]["init"] = json!({"from": first.uri});
    let whole = bench.run(&spec, &Recorder::default(), (2, 1), &[]).unwrap().model.unwrap();
    assert_ne!(whole.digest, first.digest);
    let host = Recorder::ordering(6, Order::Stop(StopClass::Preempted));
    bench.run(&spec, &host, (3, 1), &[]).unwrap_err();
    std::fs::remove_dir_all(first.uri.strip_prefix("file://").unwrap()).unwrap();
    let resumed = bench.run(&spec, &Recorder::default(), (3, 2), &checkpoints(&host)).unwrap().model.unwrap();
    assert_eq!(resumed.digest, whole.digest);
    // Other weights to begin with make another run.
    spec["train"]["init"]["from"] = json!(whole.uri);
    let fault = bench.run(&spec, &Recorder::default(), (3, 3), &checkpoints(&host)).unwrap_err();
    assert!(fault.message.contains("init was"), "{}", fault.message);
    spec["train"]["init"]["from"] = json!(first.uri);
    let fault = bench.run(&spec, &Recorder::default(), (4, 1), &[]).unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec);
    assert!(fault.message.contains("holds no model"), "{}", fault.message);
}

#[test]
fn values_are_learnt_from_generated_data() {
    let spec = json!({"version": 1, "name": "randn", "train": {
        "loss": "mse", "batch_size": 50, "max_steps": 10, "optimizer": {"type": "adam"},
        "model": {"type": "mlp", "layers": [20, 8, 2]},
        "data": {"format": "randn", "rows": 200, "features": 20, "targets": 2, "seed": 3}
    }});
    let bench = Bench::new();
    let one = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap().model.unwrap();
    let two = bench.run(&spec, &Recorder::default(), (2, 1), &[]).unwrap().model.unwrap();
    assert_eq!(one.digest, two.digest);
}

#[test]
fn a_class_that_nothing_belongs_to_is_a_warning() {
    let bench = Bench::new();
    let data = bench.file("small.csv", SMALL);
    let mut spec = small(&data);
    spec["train"]["model"]["layers"] = json!([2, 4, 5]);
    let host = Recorder::default();
    bench.run(&spec, &host, (1, 1), &[]).unwrap();
    assert!(host.warnings()[0].contains("of class 3, 4; the model has 5 outputs"), "{:?}", host.warnings());
}

/// What is wrong, the file, an edit of the spec, and what the message and the hint must say.
type Mistake = (&'static str, &'static str, fn(&mut Value), &'static str, &'static str);

const MISTAKES: [Mistake; 28] = [
    ("empty", "", |_| (), "is empty", "header"),
    ("only blank lines", "\n\r\n\n", |_| (), "is empty", "header"),
    ("only a header", "a,b,class\n", |_| (), "no rows", "at least one row"),
    ("no label", "a,b,klass\n1,2,0\n", |_| (), "has no column \"class\"", "did you mean \"klass\"?"),
    (
        "no feature",
        SMALL,
        |s| s["train"]["data"]["features"] = json!(["a", "z"]),
        "no column \"z\"",
        "its columns are \"a\"",
    ),
    ("no header", "1,2,0\n1,2,0\n", |_| (), "no column \"class\"", "must be a header"),
    ("two labels", "a,class,class\n1,2,0\n", |_| (), "more than one column \"class\"", "differently"),
    ("a feature twice", SMALL, |s| s["train"]["data"]["features"] = json!(["a", "a"]), "\"a\" is named twice", "once"),
    ("a leak", SMALL, |s| s["train"]["data"]["features"] = json!(["a", "class"]), "\"class\" is named twice", "once"),
    ("label alone", "class\n1\n", |_| (), "no column left", "\"class\""),
    (
        "text",
        "a,b,class\n1,2,0\n1,abc,0\n",
        |_| (),
        "row 1 (line 3), column \"b\": \"abc\" is not a number",
        "correct the row",
    ),
    ("nothing", "a,b,class\n1,,0\n", |_| (), "column \"b\": nothing is where a number must be", "correct"),
    ("nan", "a,b,class\n1,NaN,0\n", |_| (), "column \"b\": \"NaN\" is no finite number", "correct"),
    ("inf", "a,b,class\n-inf,1,0\n", |_| (), "column \"a\": \"-inf\" is no finite number", "correct"),
    ("1e99", "a,b,class\n1e99,1,0\n", |_| (), "\"1e99\" is too large", "correct"),
    ("ragged", "a,b,class\n1,2,0\n\n1,2\n", |_| (), "row 1 (line 4): it has 2 fields and the header has 3", "correct"),
    ("long", "a,b,class\n1,2,0,9\n", |_| (), "row 0 (line 2): it has 4 fields", "correct"),
    ("quoted line ends", "a,b,class\n1,\"\n\n2\",0\r\nx,2,0", |_| (), "row 1 (line 5), column \"a\": \"x\"", "correct"),
    (
        "class 3 of 3",
        "a,b,class\n1,2,3\n",
        |_| (),
        "\"3\" is not a class of a model with 3 outputs, whose classes are 0 to 2",
        "correct",
    ),
    ("class -1", "a,b,class\n1,2,-1\n", |_| (), "\"-1\" is not a class", "correct"),
    ("class 0.5", "a,b,class\n1,2,0.5\n", |_| (), "not a whole number", "correct"),
    ("class x", "a,b,class\n1,2,x\n", |_| (), "\"x\" is not a class number", "correct"),
    (
        "inputs",
        SMALL,
        |s| s["train"]["model"]["layers"] = json!([3, 3]),
        "2 feature columns and the model takes 3",
        "begin train.model.layers with 2",
    ),
    (
        "pixels",
        SMALL,
        |s| {
            s["train"]["model"] = json!({"type": "cnn", "image": {"channels": 1, "height": 3, "width": 1},
                "convolutions": [{"channels": 2, "pool": 1}], "layers": [3]});
        },
        "2 feature columns and the model takes 3",
        "make channels x height x width of train.model.image 2",
    ),
    (
        "outputs",
        SMALL,
        |s| s["train"]["loss"] = json!("mse"),
        "1 target columns and the model has 3 outputs",
        "end train.model.layers with 1",
    ),
    ("two targets", SMALL, |s| s["train"]["data"]["targets"] = json!(["class", "b"]), "takes 2", ""),
    (
        "no train rows",
        SMALL,
        |s| s["train"]["split"] = json!({"validation": 0.5, "test": 0.5}),
        "none is left to train on",
        "lower split",
    ),
    ("open quote", "a,b,class\n1,\"2,0\n3,4,1\n", |_| (), "row 0 (line 2): it has 2 fields", "correct"),
];

#[test]
fn every_mistake_in_the_data_is_told_with_its_place_and_a_way_out() {
    let bench = Bench::new();
    for (what, content, edit, message, hint) in MISTAKES {
        let mut spec = small(&bench.file("bad.csv", content));
        edit(&mut spec);
        let fault = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap_err();
        assert_eq!(fault.class, ExitClass::Spec, "{what}: {}", fault.message);
        assert!(fault.message.contains(message), "{what}: {}", fault.message);
        let advice = fault.hint.unwrap();
        assert!(advice.contains(hint), "{what}: {advice}");
        assert!(!bench.dir.path().join("jobs").exists(), "{what}: nothing was written");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_told_by_whose_fault_it_is() {
    let bench = Bench::new();
    let run = |uri: &str| bench.run(&small(uri), &Recorder::default(), (1, 1), &[]).unwrap_err();
    let fault = run(&bench.uri("gone.csv"));
    assert_eq!(fault.class, ExitClass::Spec);
    assert!(fault.message.contains("gone.csv does not exist"), "{}", fault.message);
    let fault = run("data/relative.csv");
    assert_eq!(fault.class, ExitClass::Spec, "{}", fault.message);
    let fault = run(bench.uri("").trim_end_matches('/'));
    assert_eq!(fault.class, ExitClass::Storage, "{}", fault.message);
    assert!(fault.hint.unwrap().contains("regular file"));
}

#[test]
fn text_that_is_no_table_ends_at_a_bound() {
    let bench = Bench::new();
    let wide = bench.file("wide.csv", "x,".repeat(100_001));
    let fault = bench.run(&small(&wide), &Recorder::default(), (1, 1), &[]).unwrap_err();
    assert!(fault.message.contains("line 1 of") && fault.message.contains("100000 columns"), "{}", fault.message);
    let long = bench.file("long.csv", [b"a,b,class\n\"".as_slice(), &vec![b'x'; 40 << 20]].concat());
    let fault = bench.run(&small(&long), &Recorder::default(), (1, 1), &[]).unwrap_err();
    assert!(fault.message.contains("line 2 of") && fault.message.contains("bytes"), "{}", fault.message);
    assert!(fault.hint.unwrap().contains("quotation mark"));
}

#[test]
fn a_byte_order_mark_line_ends_and_white_space_do_not_matter() {
    let bench = Bench::new();
    let digest = |job, content: &str| {
        let data = bench.file("x.csv", content);
        bench.run(&small(&data), &Recorder::default(), (job, 1), &[]).unwrap().model.unwrap().digest
    };
    let plain = digest(1, SMALL);
    assert_eq!(digest(2, &format!("\u{feff}{}", SMALL.replace('\n', "\r\n"))), plain);
    assert_eq!(digest(3, &SMALL.replace(",class", " , class ").replace(",1\n", ",1.0\n\n")), plain);
}
