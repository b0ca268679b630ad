//! The only place that knows how objects are named.
//!
//! ```text
//! <prefix>/jobs/<job>-<instance>/<attempt>/checkpoints/<step, 12 digits>/manifest.json    written last
//! <prefix>/jobs/<job>-<instance>/<attempt>/shared/<blake3>                                what several checkpoints of the job hold
//! <prefix>/jobs/<job>-<instance>/model/<attempt>/{model.safetensors, config.json}         config.json written last
//! <prefix>/jobs/<job>-<instance>/output/<attempt>/…
//! <prefix>/datasets/<instance>/<blake3>.json                                              the manifest of a version, named by its digest
//! <prefix>/datasets/<instance>/files/<digest>/…                                            files that were pushed, in a folder named by what is in them
//! <prefix>/doctor/…                                                                       probes, deleted at once
//! <prefix>/backups/<instance>/<time>/{mld.db, manifest.json}                              manifest.json written last
//! <prefix>/epochs/<instance>/<epoch>                                                      claimed by a restore
//! ```
//! Every folder an attempt writes to is its own: one that is no longer valid can overwrite nothing. Which attempt's model or
//! output is the job's is said by the job's row, which takes the result of the valid attempt alone.
//!
//! The instance is made with a database and bears the database's epoch from the second on, so that a new or restored database never meets old keys.

use mlctl_protocol::{AttemptNumber, JobId, message::Storage};

/// Lists a checkpoint's objects; a checkpoint without it does not exist.
pub const MANIFEST: &str = "manifest.json";
/// The weights in a checkpoint.
pub const CHECKPOINT_MODEL: &str = "model-00001-of-00001.safetensors";
/// The optimizer's tensors in a checkpoint.
pub const CHECKPOINT_OPTIMIZER: &str = "optimizer-00001-of-00001.safetensors";
/// Everything else in a checkpoint.
pub const CHECKPOINT_STATE: &str = "state.json";
/// Which object is which file, in a checkpoint that is files of a command.
pub const CHECKPOINT_FILES: &str = "files.json";

/// The database in a backup; a backup without [`MANIFEST`] does not exist.
pub const BACKUP_DATABASE: &str = "mld.db";

/// What a published model is; a model without it does not exist.
pub const MODEL_CONFIG: &str = "config.json";
/// The weights of a published model.
pub const MODEL: &str = "model.safetensors";
/// The folder of an attempt that holds its checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// The folder of an attempt that holds what several of the job's checkpoints do, by its BLAKE3.
pub const SHARED: &str = "shared";

/// The folder of all jobs.
#[must_use]
pub fn jobs_uri(prefix: &str) -> String {
    format!("{}/jobs", prefix.trim_end_matches('/'))
}

/// The folder of a job. `prefix` is a URI without a slash at its end; one that is there is dropped.
#[must_use]
pub fn job_uri(prefix: &str, instance: &str, job: JobId) -> String {
    format!("{}/{job}-{instance}", jobs_uri(prefix))
}

/// The folder of an attempt, to which nobody else writes.
#[must_use]
pub fn attempt_uri(prefix: &str, instance: &str, job: JobId, attempt: AttemptNumber) -> String {
    format!("{}/{attempt}", job_uri(prefix, instance, job))
}

/// The folder of the final model of an attempt.
#[must_use]
pub fn model_uri(prefix: &str, instance: &str, job: JobId, attempt: AttemptNumber) -> String {
    format!("{}/model/{attempt}", job_uri(prefix, instance, job))
}

/// The folder of the results of an attempt.
#[must_use]
pub fn output_uri(prefix: &str, instance: &str, job: JobId, attempt: AttemptNumber) -> String {
    format!("{}/output/{attempt}", job_uri(prefix, instance, job))
}

/// The folder of the manifests of all databases' datasets.
#[must_use]
pub fn datasets_uri(prefix: &str) -> String {
    format!("{}/datasets", prefix.trim_end_matches('/'))
}

/// The manifest of a dataset's version, by its digest.
#[must_use]
pub fn dataset_manifest_uri(prefix: &str, instance: &str, digest: &str) -> String {
    format!("{}/{instance}/{digest}.json", datasets_uri(prefix))
}

/// The folder of all that was pushed to a database's datasets.
#[must_use]
pub fn pushed_uri(prefix: &str, instance: &str) -> String {
    format!("{}/{instance}/{FILES}", datasets_uri(prefix))
}

/// The folder of files that were pushed, by the digest of what is in them.
#[must_use]
pub fn dataset_files_uri(prefix: &str, instance: &str, digest: &str) -> String {
    format!("{}/{digest}", pushed_uri(prefix, instance))
}

/// The folder of all that was pushed, inside that of a database's datasets.
const FILES: &str = "files";

/// What an object below [`datasets_uri`] is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatasetPart<'a> {
    /// A manifest.
    Manifest,
    /// A file that was pushed, in this folder.
    File(&'a str),
}

/// Reads the name of an object below [`datasets_uri`]; `None` for one that is not of this database.
#[must_use]
pub fn dataset_part<'a>(name: &'a str, instance: &str) -> Option<DatasetPart<'a>> {
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let rest = name.strip_prefix(instance)?.strip_prefix('/')?;
    if let Some(digest) = rest.strip_suffix(".json") {
        return is_digest(digest).then_some(DatasetPart::Manifest);
    }
    let (digest, file) = rest.strip_prefix(FILES)?.strip_prefix('/')?.split_once('/')?;
    let folder = &name[..name.len() - file.len() - 1];
    is_digest(digest).then_some(DatasetPart::File(folder))
}

/// The folder in which objects are written, read and deleted to see whether that works.
#[must_use]
pub fn probes_uri(prefix: &str) -> String {
    format!("{}/doctor", prefix.trim_end_matches('/'))
}

/// The folder under which each database has its backups, unless the settings name another.
#[must_use]
pub fn backups_uri(prefix: &str) -> String {
    format!("{}/backups", prefix.trim_end_matches('/'))
}

/// What says that an epoch of a database has begun: created by one restore alone.
#[must_use]
pub fn epoch_uri(prefix: &str, instance: &str, epoch: u32) -> String {
    format!("{}/epochs/{instance}/{epoch}", prefix.trim_end_matches('/'))
}

/// All folders an attempt may write to.
#[must_use]
pub fn storage(prefix: &str, instance: &str, job: JobId, attempt: AttemptNumber) -> Storage {
    Storage {
        attempt_uri: attempt_uri(prefix, instance, job, attempt),
        model_uri: model_uri(prefix, instance, job, attempt),
        output_uri: output_uri(prefix, instance, job, attempt),
        durable_uri: None,
        spool: None,
    }
}

/// The folder of an attempt, inside that of a job's attempts on the daemon's machine, in which checkpoints wait for the store.
#[must_use]
pub fn spool(attempt: AttemptNumber) -> String {
    format!("{attempt}/spool")
}

/// The folder of a checkpoint inside its attempt's.
#[must_use]
pub fn checkpoint(step: u64) -> String {
    format!("{CHECKPOINTS}/{step:012}")
}

/// The name of file `number` of `count` with the tensors of a model or an optimizer in a checkpoint, from 1; as models are named that are in several files.
#[must_use]
pub fn shard(what: &str, number: usize, count: usize) -> String {
    format!("{what}-{number:05}-of-{count:05}.safetensors")
}

/// The step of a checkpoint's folder name; `None` for a name that is not one of ours.
#[must_use]
pub fn checkpoint_step(folder: &str) -> Option<u64> {
    let step = folder.parse().ok()?;
    (format!("{step:012}") == folder).then_some(step)
}

/// What the name of an object says that lies in the folder of all jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The job.
    pub job: JobId,
    /// The database that the job is of, and its epoch.
    pub instance: String,
    /// What it is of the job.
    pub part: Part,
}

/// What an object is of its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Of an attempt's own folder.
    Attempt {
        /// Which.
        attempt: AttemptNumber,
        /// The step of the checkpoint, where it is of one.
        step: Option<u64>,
    },
    /// Of a final model.
    Model {
        /// Whose.
        attempt: AttemptNumber,
    },
    /// Of predictions.
    Output {
        /// Whose.
        attempt: AttemptNumber,
    },
    /// Not of ours.
    Other,
}

/// Reads the name of an object below [`jobs_uri`]; `None` where the first folder is no job's.
#[must_use]
pub fn parse(name: &str) -> Option<Key> {
    let mut parts = name.split('/');
    let (job, instance) = parts.next()?.split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| number.to_string() == text);
    let attempt = |text: Option<&str>| text.and_then(number).and_then(|number| u32::try_from(number).ok());
    let job = JobId(number(job)?);
    let first = parts.next();
    let part = match first {
        Some("model") => attempt(parts.next()).map(|attempt| Part::Model { attempt: AttemptNumber(attempt) }),
        Some("output") => attempt(parts.next()).map(|attempt| Part::Output { attempt: AttemptNumber(attempt) }),
        first => attempt(first).map(|attempt| {
            let step = (parts.next() == Some(CHECKPOINTS)).then(|| parts.next().and_then(checkpoint_step));
            Part::Attempt { attempt: AttemptNumber(attempt), step: step.flatten() }
        }),
    };
    Some(Key { job, instance: instance.to_owned(), part: part.unwrap_or(Part::Other) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let (job, attempt) = (JobId(42), AttemptNumber(3));
        assert_eq!(attempt_uri("file:///o/", "k3f9", job, attempt), "file:///o/jobs/42-k3f9/3");
        assert_eq!(storage("file:///o", "k3f9", job, attempt).model_uri, "file:///o/jobs/42-k3f9/model/3");
        assert_eq!(checkpoint(12), "checkpoints/000000000012");
        assert_eq!(
            (shard("model", 1, 1), shard("optimizer", 1, 1)),
            (CHECKPOINT_MODEL.into(), CHECKPOINT_OPTIMIZER.into())
        );
        assert_eq!(shard("model", 2, 12), "model-00002-of-00012.safetensors");
    }

    #[test]
    fn names_say_what_an_object_is() {
        let attempt = AttemptNumber(3);
        for (name, part) in [
            ("3/checkpoints/000000000012/state.json", Part::Attempt { attempt, step: Some(12) }),
            ("3/checkpoints/12/state.json", Part::Attempt { attempt, step: None }),
            ("3/x", Part::Attempt { attempt, step: None }),
            ("model/3/config.json", Part::Model { attempt }),
            ("output/3/predictions.jsonl", Part::Output { attempt }),
            ("03/x", Part::Other),
            ("model/x", Part::Other),
            ("x", Part::Other),
        ] {
            let key = Key { job: JobId(42), instance: "k3f9-2".into(), part };
            assert_eq!(parse(&format!("42-k3f9-2/{name}")), Some(key), "{name}");
        }
        for name in ["", "42", "x-k3f9/3/x", "042-k3f9/3/x", "-k3f9/3/x"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn manifests_of_datasets_are_told_from_what_else_lies_there() {
        let digest = "0f".repeat(32);
        let uri = dataset_manifest_uri("file:///o/", "k3f9", &digest);
        assert_eq!(uri, format!("file:///o/datasets/k3f9/{digest}.json"));
        assert_eq!(dataset_part(&format!("k3f9/{digest}.json"), "k3f9"), Some(DatasetPart::Manifest));
        let folder = format!("k3f9/files/{digest}");
        assert_eq!(dataset_files_uri("file:///o", "k3f9", &digest), format!("file:///o/datasets/{folder}"));
        assert_eq!(dataset_part(&format!("{folder}/a/b.csv"), "k3f9"), Some(DatasetPart::File(&folder)));
        for name in [format!("other/{digest}.json"), format!("k3f9/{digest}"), "k3f9/x.json".into(), "k3f9".into()] {
            assert_eq!(dataset_part(&name, "k3f9"), None, "{name}");
        }
    }

    #[test]
    fn steps_come_back_from_folder_names() {
        for step in [0, 12, 999_999_999_999, u64::MAX] {
            let folder = checkpoint(step);
            assert_eq!(checkpoint_step(folder.strip_prefix("checkpoints/").unwrap()), Some(step));
        }
        for folder in ["", "12", "+00000000012", "00000000001x", "000000000012 ", "0000000000012"] {
            assert_eq!(checkpoint_step(folder), None, "{folder:?}");
        }
    }
}
