//! Checkpoints in real storage: what is written can be resumed, what is damaged is passed over out loud, what is foreign is refused.

use std::path::{Path, PathBuf};

use mlctl_artifacts::Stores;
use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken, JobId, JobSpec,
    message::{ReportBody, Start, StopClass, Storage},
    result::CheckpointRef,
};
use mlworker::{
    data::rows::Shuffled,
    fault::Fault,
    host::Order,
    job::Job,
    train::{
        fit::{Prepared, fit},
        session::Trained,
    },
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::common::{Memory, Problem, Recorder, bits};

const SPEC: &str = r#"{"version": 1, "name": "t", "train": {"model": {"type": "mlp", "layers": [6, 3]}, "loss": "cross_entropy",
    "data": {"format": "randn", "rows": 1, "features": 6, "targets": 1}, "optimizer": {"type": "sgd"}, "batch_size": 1}}"#;

struct Store {
    dir: TempDir,
    runtime: Runtime,
}

impl Store {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), runtime: Runtime::new().unwrap() }
    }

    /// One attempt of a problem, with its checkpoints in the store.
    fn attempt(
        &self,
        problem: &Problem,
        host: &Recorder,
        (number, resume): (u32, &[CheckpointRef]),
    ) -> Result<Trained, Fault> {
        let uri = |name: &str| format!("file://{}/jobs/1/{name}", self.dir.path().display());
        let mut spec: JobSpec = serde_json::from_str(SPEC).unwrap();
        spec.checkpoint = problem.policy.clone();
        let start = Start {
            token: FencingToken(u64::from(number)),
            spec,
            spec_digest: "0".repeat(64),
            resume: resume.to_vec(),
            storage: Storage {
                attempt_uri: uri(&number.to_string()),
                model_uri: uri("model"),
                output_uri: uri("output"),
                durable_uri: None,
                spool: None,
            },
            heartbeat_seconds: 5,
            lease_seconds: 600,
            threads: 1,
            ends_at: None,
            array_index: None,
        };
        let (stores, attempt, runtime) = (Stores::new(), AttemptNumber(number), self.runtime.handle());
        let job = Job { id: JobId(1), attempt, start: &start, host, stores: &stores, runtime, pinned: None };
        let (examples, dataset_digest) = (&problem.examples, &"d".repeat(64));
        fit(
            job,
            &problem.spec,
            &Prepared {
                source: &Shuffled::new(examples, problem.spec.seed),
                index: None,
                dataset_digest,
                dataset_version: None,
                config: &|step, _| step,
            },
        )
    }

    /// Stops a first attempt; answers with its checkpoints, the latest first.
    fn interrupted(&self, problem: &Problem) -> Vec<CheckpointRef> {
        let host = Recorder::ordering(14, Order::Stop(StopClass::Preempted));
        assert_eq!(self.attempt(problem, &host, (1, &[])).unwrap_err().class, ExitClass::Preempted);
        let reports = host.reports.lock().unwrap();
        let checkpoints = reports.iter().filter_map(|body| match body {
            ReportBody::Checkpoint { checkpoint } => Some(checkpoint.clone()),
            _ => None,
        });
        checkpoints.collect::<Vec<_>>().into_iter().rev().collect()
    }
}

fn whole(problem: &Problem) -> Trained {
    problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap()
}

fn resumed(host: &Recorder) -> (u64, Vec<String>) {
    let reports = host.reports.lock().unwrap();
    let found = reports.iter().find_map(|body| match body {
        ReportBody::Resumed { from, skipped } => Some((from.step, skipped.clone())),
        _ => None,
    });
    found.expect("the run is resumed")
}

fn file(checkpoint: &CheckpointRef, name: &str) -> PathBuf {
    Path::new(checkpoint.uri.strip_prefix("file://").unwrap()).join(name)
}

const PARTS: [&str; 4] =
    ["manifest.json", "model-00001-of-00001.safetensors", "optimizer-00001-of-00001.safetensors", "state.json"];

#[test]
fn what_is_written_is_resumed_to_the_same_bits() {
    let (store, problem) = (Store::new(), Problem::classes());
    let checkpoints = store.interrupted(&problem);
    assert!(checkpoints.len() >= 2, "{checkpoints:?}");
    let host = Recorder::default();
    let trained = store.attempt(&problem, &host, (2, &checkpoints)).unwrap();
    assert_eq!(bits(&trained), bits(&whole(&problem)));
    assert_eq!(resumed(&host), (checkpoints[0].step, vec![]));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_out_loud() {
    let flip = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    };
    let truncate = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let whole = bits(&whole(&Problem::classes()));
    for name in PARTS {
        for damage in [flip as fn(&mut Vec<u8>), truncate, Vec::clear] {
            let (store, problem) = (Store::new(), Problem::classes());
            let checkpoints = store.interrupted(&problem);
            let path = file(&checkpoints[0], name);
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            let host = Recorder::default();
            let trained = store.attempt(&problem, &host, (2, &checkpoints)).unwrap();
            let (step, skipped) = resumed(&host);
            assert_eq!((step, skipped.len()), (checkpoints[1].step, 1), "{name}");
            assert!(skipped[0].contains(name), "{skipped:?}");
            assert_eq!(bits(&trained), whole, "{name}");
        }
    }
}

#[test]
fn without_a_usable_checkpoint_training_begins_anew_with_a_warning() {
    let (store, problem) = (Store::new(), Problem::classes());
    let checkpoints = store.interrupted(&problem);
    for checkpoint in &checkpoints {
        std::fs::remove_file(file(checkpoint, PARTS[0])).unwrap();
    }
    let host = Recorder::default();
    let trained = store.attempt(&problem, &host, (2, &checkpoints)).unwrap();
    assert_eq!(bits(&trained), bits(&whole(&problem)));
    assert!(
        host.warnings()[0].starts_with("training begins anew, from step 0: the checkpoint at step"),
        "{:?}",
        host.warnings()
    );
}

#[test]
fn a_checkpoint_of_another_spec_ends_the_job() {
    let (store, mut problem) = (Store::new(), Problem::classes());
    let checkpoints = store.interrupted(&problem);
    problem.spec.seed += 1;
    let fault = store.attempt(&problem, &Recorder::default(), (2, &checkpoints)).unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec);
    assert!(fault.message.contains("seed was 11 and is 12"), "{}", fault.message);
}

#[test]
fn an_attempt_that_was_copied_cannot_overwrite() {
    let (store, problem) = (Store::new(), Problem::classes());
    let checkpoints = store.interrupted(&problem);
    let mut other = Problem::classes();
    other.spec.seed += 1;
    // The same attempt number again, with another state at the same steps: a stale process with stolen papers.
    let fault = store.attempt(&other, &Recorder::default(), (1, &[])).unwrap_err();
    assert_eq!(fault.class, ExitClass::Lost, "{}", fault.message);
    let host = Recorder::default();
    store.attempt(&problem, &host, (2, &checkpoints)).unwrap();
    assert_eq!(resumed(&host), (checkpoints[0].step, vec![]), "the checkpoints are as they were");
}
