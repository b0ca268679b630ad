//! The environment of a command: an allow-list of what this process has, what tells the program where it runs, and what the spec sets. Pure: variables in, variables out.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use mlctl_protocol::{
    launch::{Launch, is_passed_on},
    message::Start,
    spec::CommandSpec,
};

use crate::checkpoints::Prepared;

/// Where programs are when the daemon's environment does not say.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The label of a job that a schedule submitted: when it was due.
const SCHEDULED_AT: &str = "mlctl/scheduled-at";

/// The variables of an attempt's command; a later one goes over an earlier one.
pub fn of(
    inherited: impl IntoIterator<Item = (OsString, OsString)>,
    launch: &Launch,
    start: &Start,
    command: &CommandSpec,
    checkpoints: Option<&Prepared>,
) -> BTreeMap<OsString, OsString> {
    let mut variables = BTreeMap::from([("PATH".into(), USUAL_PATH.into())]);
    variables.extend(inherited.into_iter().filter(|(name, _)| is_passed_on(name)));
    let mut set = |name: &str, value: &OsStr| _ = variables.insert(name.into(), value.into());
    for pool in ["OMP_NUM_THREADS", "RAYON_NUM_THREADS"] {
        set(pool, start.threads.to_string().as_ref());
    }
    if start.spec.resources.gpus == 0 {
        // Present and empty: no device at all, where an absent one would mean every device.
        set("CUDA_VISIBLE_DEVICES", "".as_ref());
    }
    for (name, value) in &command.env {
        set(name, value.as_ref());
    }
    set("ML_JOB_ID", launch.job.to_string().as_ref());
    set("ML_ATTEMPT", launch.attempt.to_string().as_ref());
    set("ML_RUN_DIR", launch.attempt_dir.as_os_str());
    if let Some(prepared) = checkpoints {
        set("ML_CHECKPOINT_DIR", prepared.dir.as_os_str());
        if let Some(path) = &prepared.resume_from {
            set("ML_RESUME_FROM", path.as_os_str());
        }
    }
    if let Some(index) = start.array_index {
        set("ML_ARRAY_INDEX", index.to_string().as_ref());
    }
    if let Some(ends_at) = &start.ends_at {
        set("ML_DEADLINE", ends_at.as_ref());
    }
    if let Some(scheduled_at) = start.spec.labels.get(SCHEDULED_AT) {
        set("ML_SCHEDULED_AT", scheduled_at.as_ref());
    }
    variables
}
