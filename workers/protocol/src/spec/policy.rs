//! How a job is treated: what it occupies, how often it is tried, when it is saved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ExitClass;

/// What a job occupies while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// CPU cores, and threads of arithmetic. Resume is exact to the bit for the same number.
    #[schemars(range(min = 1, max = 1024))]
    pub cpus: u32,
    /// GPUs. Each is the job's alone, unless `vram_mib` says how much of it it needs.
    #[schemars(range(max = 64))]
    pub gpus: u32,
    /// Memory of the machine that is set aside for the job, in MiB: one that takes more is ended as `oom_host`. Jobs that say nothing are not counted.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(max = MAX_MIB))]
    pub memory_mib: u32,
    /// Memory that the job needs of each of its GPUs, in MiB; jobs that say so share a GPU while it has enough. 0 for all of it. Nothing keeps a job to what it says.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(max = MAX_MIB))]
    pub vram_mib: u32,
}

/// More memory than one machine has: 1 PiB, in MiB.
pub const MAX_MIB: u32 = 1 << 30;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Resources {
    /// Nothing at all: what a sum begins with.
    pub const NONE: Self = Self { cpus: 0, gpus: 0, memory_mib: 0, vram_mib: 0 };
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1, ..Self::NONE }
    }
}

/// What happens when an attempt dies. Errors of the spec or the data are never retried; being preempted uses up no retry. Faults of the infrastructure (`lost`, `storage`,
/// `device`, `disk`) are not the job's: they are retried out of a budget of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Retries after the first attempt.
    #[schemars(range(max = 100))]
    pub limit: u32,
    /// Seconds before the second retry; the first is at once, each later one waits twice as long as the one before.
    #[schemars(range(min = 1, max = 86_400))]
    pub backoff_seconds: u32,
    /// Seconds that a retry waits at most.
    #[schemars(range(min = 1, max = 604_800))]
    pub max_backoff_seconds: u32,
    /// The exit classes after which the job is tried again: of `oom_host`, `oom_device`, `disk`, `storage`, `device`, `timeout`, `hang`, `crash` and `lost`. All of them but
    /// `timeout` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 13))]
    pub on: Option<Vec<ExitClass>>,
    /// Retries after faults of the infrastructure, which use up none of `limit`: the first is at once, later ones wait as above. When they are used up, the job is held.
    /// With 0, such a fault is like any other.
    #[serde(skip_serializing_if = "is_default_infrastructure_limit")]
    #[schemars(range(max = 100))]
    pub infrastructure_limit: u32,
}

/// Retries after faults of the infrastructure where a spec does not say.
const DEFAULT_INFRASTRUCTURE_LIMIT: u32 = 5;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_default_infrastructure_limit(limit: &u32) -> bool {
    *limit == DEFAULT_INFRASTRUCTURE_LIMIT
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            limit: 3,
            backoff_seconds: 10,
            max_backoff_seconds: 600,
            on: None,
            infrastructure_limit: DEFAULT_INFRASTRUCTURE_LIMIT,
        }
    }
}

/// When a job may run, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimePolicy {
    /// Seconds that an attempt may run, counted from the start of its worker by a clock that nobody sets. It is asked to save its work and stop a
    /// tenth of that before, or the grace time of mld where that is less, and killed when it has not within the grace time. The job then fails as `timeout` and is not
    /// tried again by itself; `mlctl retry` goes on from its last checkpoint, for as long again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub limit_seconds: Option<u32>,
    /// The moment before which the job is not started, in RFC 3339 with an offset: `2026-11-26T02:00:00+01:00`. At once when absent or past. A retry does not wait
    /// for it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub begin: Option<String>,
    /// The moment by which the job must have ended, in RFC 3339 with an offset. One that waits then fails as `timeout`; one that runs is asked to save its work and stop a tenth
    /// of its time before, or the grace time of mld where that is less, and fails so too. It is a moment of the wall clock: a clock that is set back gives it longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub deadline: Option<String>,
}

impl TimePolicy {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How many of a user's jobs with the same key run at once, and who has to wait or to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    /// What the jobs have in common: any text of one line. Keys of different users have nothing to do with each other.
    #[schemars(length(min = 1, max = 100))]
    pub key: String,
    /// The job starts only while fewer jobs with the key than this have been let through and not ended. Jobs may name different limits: each waits for its own, and none
    /// passes one that is before it.
    #[serde(default = "default_concurrency_limit")]
    #[schemars(range(min = 1, max = 10_000))]
    pub limit: u32,
    /// Who has the places when there are too few. With `oldest` the job waits until others have ended. With `newest` it replaces them: when its turn to wait for a place comes, which is
    /// at its submit or when what it waits for is over, its start time has come or a person lets it go on, the oldest of those that wait for a place or run are cancelled,
    /// until it is one of `limit` at most; one that runs saves its work within the grace time of mld. Replaced are those alone that say `newest` themselves. The limit is then 100
    /// at most, and no member of an array says so.
    #[serde(default, skip_serializing_if = "Wins::is_default")]
    pub wins: Wins,
}

/// Who has the places of a concurrency key when there are too few.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Wins {
    /// Who came first: the others wait.
    #[default]
    Oldest,
    /// Who came last: the others are cancelled.
    Newest,
}

impl Wins {
    /// Both with their names.
    pub const ALL: [(&str, Self); 2] = [("oldest", Self::Oldest), ("newest", Self::Newest)];

    /// The name used in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Newest => "newest",
        }
    }

    /// Whether it is what holds where nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

const fn default_concurrency_limit() -> u32 {
    1
}

/// When checkpoints are taken: at the end of the step at which any of the conditions holds, besides on demand, on stop and
/// at the end. When none is given, every 60 seconds. One that is due while another is being written is taken when that is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointPolicy {
    /// Optimizer steps between checkpoints.
    #[schemars(range(min = 1))]
    pub every_steps: Option<u64>,
    /// Seconds between checkpoints.
    #[schemars(range(min = 1))]
    pub every_seconds: Option<u64>,
    /// Epochs between checkpoints.
    #[schemars(range(min = 1))]
    pub every_epochs: Option<u64>,
    /// Checkpoints kept, the newest; others are deleted once a newer one is verified. What the keys below say stays besides.
    #[schemars(range(min = 1, max = 1000))]
    pub keep: u32,
    /// Besides the newest, those that are best by a metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_best: Option<KeepBest>,
    /// Besides, the newest of each of so many days, by the calendar of UTC: the last days on which one was taken. As `retention.checkpoints_nightly` of mld says when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 3660))]
    pub keep_nightly: Option<u32>,
    /// Besides, the newest of each of so many weeks, from Monday on. As `retention.checkpoints_weekly` of mld says when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 520))]
    pub keep_weekly: Option<u32>,
    /// Bytes that the job's checkpoints may have together; 0 for any. Beyond it the oldest go, and the best last; the newest stays, and so does what others need. As
    /// `retention.checkpoints_max_bytes` of mld says when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_CHECKPOINT_BYTES))]
    pub max_bytes: Option<u64>,
}

/// More bytes of checkpoints than one job has: 1 PiB.
pub const MAX_CHECKPOINT_BYTES: u64 = 1 << 50;

/// Which checkpoints are the best.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepBest {
    /// The metric that they are compared by, as `mlctl checkpoint ls` shows it: `val_loss`. One that has no value of it is not among the best.
    #[schemars(length(min = 1, max = 100))]
    pub metric: String,
    /// Which end of it is good: `min` or `max`. When absent, `max` of what ends in `accuracy` and `min` of all else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<BestGoal>,
    /// How many are kept.
    #[serde(default = "default_best")]
    #[schemars(range(min = 1, max = 1000))]
    pub count: u32,
}

/// Which end of a metric is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum BestGoal {
    /// The least.
    Min,
    /// The greatest.
    Max,
}

const fn default_best() -> u32 {
    1
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self {
            every_steps: None,
            every_seconds: None,
            every_epochs: None,
            keep: 3,
            keep_best: None,
            keep_nightly: None,
            keep_weekly: None,
            max_bytes: None,
        }
    }
}

impl CheckpointPolicy {
    /// Seconds between checkpoints, the default of 60 applied when no condition is given.
    #[must_use]
    pub const fn effective_seconds(&self) -> Option<u64> {
        match (self.every_steps, self.every_seconds, self.every_epochs) {
            (None, None, None) => Some(60),
            _ => self.every_seconds,
        }
    }
}
