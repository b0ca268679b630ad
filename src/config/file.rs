//! `mld.toml` as it is written: the daemon's sections, keys, bounds and defaults. Called by `load`, which turns it into [`Settings`](super::Settings). The
//! descriptions here are those of `mlctl config schema`-aware editors; `config/mld.toml` shows every key, and a test keeps the two together.

use std::path::PathBuf;

use mlctl_protocol::{
    s3::S3Checksum,
    spec::{MAX_MIB, MAX_SPEC_BYTES},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LogFormat, notify::NotifySection};

/// The daemon's settings file. Every key may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SettingsFile {
    /// The daemon itself.
    pub daemon: DaemonSection,
    /// Object storage and data.
    pub storage: StorageSection,
    /// Workers and what they may use.
    pub workers: WorkersSection,
    /// GPUs.
    pub devices: DevicesSection,
    /// Command jobs: programs of the users' own.
    pub commands: CommandsSection,
    /// What is refused for being too much.
    pub limits: LimitsSection,
    /// The order of the queue.
    pub scheduler: SchedulerSection,
    /// How long finished jobs are kept.
    pub retention: RetentionSection,
    /// Backups of the database.
    pub backup: BackupSection,
    /// The daemon's own log.
    pub log: LogSection,
    /// Whom to tell of what happens.
    pub notify: Vec<NotifySection>,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonSection {
    /// The folder of the database and of all that must survive. One daemon a folder.
    pub state_dir: Option<PathBuf>,
    /// The socket clients talk to.
    pub socket: Option<PathBuf>,
    /// Whether the members of the group that mld runs as may use it, all of them alike.
    pub group_access: bool,
    /// Hours between two looks through the whole database; 0 for one at the start alone.
    #[schemars(range(max = 8760))]
    pub check_hours: u32,
    /// Bytes of the disk kept for what must be put on record when it is full; 0 for none.
    #[schemars(range(max = 1_099_511_627_776_u64))]
    pub disk_reserve_bytes: u64,
}

impl Default for DaemonSection {
    fn default() -> Self {
        let disk_reserve_bytes = 16 * 1024 * 1024;
        Self { state_dir: None, socket: None, group_access: false, check_hours: 24, disk_reserve_bytes }
    }
}

/// Object storage and data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// The prefix of checkpoints, models and predictions.
    #[schemars(length(min = 1))]
    pub url: Option<String>,
    /// Folders that job specs may read from. Empty: whatever the daemon's user may read.
    pub data_roots: Vec<PathBuf>,
    /// Bytes of an attempt's checkpoints, or of its predictions, that wait on this machine while an S3 store does not answer; 0 for none.
    #[schemars(range(max = 1_125_899_906_842_624_u64))]
    pub spool_max_bytes: u64,
    /// Seconds that a job which has trained or predicted all waits for a store that does not answer.
    #[schemars(range(max = 604_800))]
    pub outage_seconds: u32,
    /// The S3 store that `s3://` URIs mean.
    pub s3: S3Section,
}

impl Default for StorageSection {
    fn default() -> Self {
        Self {
            url: None,
            data_roots: Vec::new(),
            spool_max_bytes: 10 * 1024 * 1024 * 1024,
            outage_seconds: 7200,
            s3: S3Section::default(),
        }
    }
}

/// The S3 store that `s3://` URIs mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct S3Section {
    /// The server's URL, without a path; Amazon's when absent. `http://` sends everything unencrypted.
    #[schemars(length(min = 1))]
    pub endpoint: Option<String>,
    /// The region requests are signed for.
    #[schemars(length(min = 1))]
    pub region: String,
    /// Whether the bucket stands in the path of a URL rather than before the host's name.
    pub path_style: bool,
    /// The checksum sent with every object.
    pub checksum: S3Checksum,
    /// Seconds for which a request that fails is tried again; 0 for never.
    #[schemars(range(max = 240))]
    pub retry_seconds: u32,
    /// A file with the key, in the form of `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
    /// A file with the certificates (PEM) of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The proxy that all requests go through, `http://host:port`; none when absent.
    #[schemars(length(min = 1))]
    pub proxy: Option<String>,
}

impl Default for S3Section {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".into(),
            path_style: true,
            checksum: S3Checksum::default(),
            retry_seconds: 60,
            credentials_file: None,
            ca_file: None,
            proxy: None,
        }
    }
}

/// Workers and what they may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersSection {
    /// The worker's program.
    pub command: Option<PathBuf>,
    /// Cores given to jobs.
    #[schemars(range(min = 1, max = 4096))]
    pub cpus: Option<u32>,
    /// Memory given to jobs that say how much they need, in MiB.
    #[schemars(range(min = 1, max = MAX_MIB))]
    pub memory_mib: Option<u32>,
    /// Seconds between a worker's heartbeats.
    #[schemars(range(min = 1, max = 60))]
    pub heartbeat_seconds: u32,
    /// Seconds without a heartbeat after which a worker is ended, and without a daemon after which it ends itself.
    #[schemars(range(min = 10, max = 86_400))]
    pub lease_seconds: u32,
    /// Seconds from the order to stop to SIGKILL.
    #[schemars(range(min = 1, max = 3600))]
    pub grace_seconds: u32,
    /// Seconds without a step after which a worker is ended; 0 for never.
    #[schemars(range(max = 604_800))]
    pub hang_seconds: u32,
    /// Seconds that a preemptible job runs before it is asked to make way for a more urgent one.
    #[schemars(range(max = 86_400))]
    pub min_run_seconds: u32,
    /// Workers that are started before there is a job for them, of the kind that ran last; 0 for none.
    #[schemars(range(max = 64))]
    pub ahead: u32,
    /// The size of a log file in bytes.
    #[schemars(range(min = 4096, max = 1_099_511_627_776_u64))]
    pub log_max_bytes: u64,
    /// A folder of cgroup v2 that belongs to the daemon, in which each attempt has one of its own.
    pub cgroup_dir: Option<PathBuf>,
    /// Log files of each of a worker's two streams.
    #[schemars(range(min = 1, max = 100))]
    pub log_files: u32,
}

impl Default for WorkersSection {
    fn default() -> Self {
        Self {
            command: None,
            cpus: None,
            memory_mib: None,
            heartbeat_seconds: 2,
            lease_seconds: 600,
            grace_seconds: 20,
            hang_seconds: 600,
            min_run_seconds: 60,
            ahead: 2,
            log_max_bytes: 16 * 1024 * 1024,
            cgroup_dir: None,
            log_files: 4,
        }
    }
}

/// GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DevicesSection {
    /// Whether jobs are given GPUs.
    pub enabled: bool,
    /// The worker's program for jobs with a GPU.
    pub worker: Option<PathBuf>,
    /// A file that plays the hardware.
    pub simulated: Option<PathBuf>,
    /// What is special about one.
    #[schemars(length(max = 64))]
    pub gpu: Vec<GpuSection>,
}

impl Default for DevicesSection {
    fn default() -> Self {
        Self { enabled: true, worker: None, simulated: None, gpu: Vec::new() }
    }
}

/// What is special about a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuSection {
    /// Which: its index or its UUID.
    #[schemars(length(min = 1, max = 100))]
    pub id: String,
    /// The worker's program for jobs with it.
    #[serde(default)]
    pub worker: Option<PathBuf>,
    /// Whether jobs are given it.
    #[serde(default = "yes")]
    pub enabled: bool,
}

const fn yes() -> bool {
    true
}

/// Command jobs: programs of the users' own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CommandsSection {
    /// Whether there are any.
    pub enabled: bool,
    /// Who may submit them besides root and the user that mld runs as: login names, user ids, or `*` for everybody who may use mld.
    #[schemars(length(max = 1000), inner(length(min = 1, max = 100)))]
    pub users: Vec<String>,
    /// The program that runs them.
    pub executable: Option<PathBuf>,
}

impl Default for CommandsSection {
    fn default() -> Self {
        Self { enabled: true, users: Vec::new(), executable: None }
    }
}

/// The order of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SchedulerSection {
    /// Points of priority that a user who has used everything lately stands further back; 0 for none.
    #[schemars(range(max = 100))]
    pub fair_share_points: u32,
    /// Hours in which use counts half as much.
    #[schemars(range(min = 1, max = 8760))]
    pub fair_share_half_life_hours: u32,
    /// Cores that a GPU counts for.
    #[schemars(range(max = 10_000))]
    pub fair_share_gpu_cores: u32,
}

impl Default for SchedulerSection {
    fn default() -> Self {
        Self { fair_share_points: 10, fair_share_half_life_hours: 168, fair_share_gpu_cores: 16 }
    }
}

/// What is refused for being too much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Jobs that wait.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_queued: u32,
    /// The size of a job spec in bytes.
    #[schemars(range(min = 1024, max = MAX_SPEC_BYTES))]
    pub max_spec_bytes: usize,
    /// Members of an array.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_array: u32,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self { max_queued: 1_000_000, max_spec_bytes: MAX_SPEC_BYTES, max_array: 10_000 }
    }
}

/// How long finished jobs are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSection {
    /// Days after which a finished job is removed; 0 for never.
    #[schemars(range(max = 36_500))]
    pub finished_days: u32,
    /// Finished jobs that stay, an array counting as one; 0 for all.
    #[schemars(range(max = 100_000_000))]
    pub finished_jobs: u32,
    /// Days of each of which the newest checkpoint of a job is kept whose spec says nothing of it.
    #[schemars(range(max = 3660))]
    pub checkpoints_nightly: u32,
    /// The same of weeks.
    #[schemars(range(max = 520))]
    pub checkpoints_weekly: u32,
    /// Bytes that the checkpoints of such a job may have together; 0 for any.
    #[schemars(range(max = 1_125_899_906_842_624_u64))]
    pub checkpoints_max_bytes: u64,
    /// Hours between two collections of stored objects that nothing needs; 0 for none by themselves.
    #[schemars(range(max = 8760))]
    pub gc_hours: u32,
    /// Hours that such an object must be old.
    #[schemars(range(min = 1, max = 87_600))]
    pub gc_grace_hours: u32,
}

impl Default for RetentionSection {
    fn default() -> Self {
        Self {
            finished_days: 0,
            finished_jobs: 0,
            checkpoints_nightly: 0,
            checkpoints_weekly: 0,
            checkpoints_max_bytes: 0,
            gc_hours: 0,
            gc_grace_hours: 24,
        }
    }
}

/// Backups of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackupSection {
    /// Hours between two backups; 0 for none by themselves.
    #[schemars(range(max = 8760))]
    pub every_hours: u32,
    /// Backups that stay.
    #[schemars(range(min = 1, max = 1000))]
    pub keep: u32,
    /// The URI of the folder for them.
    #[schemars(length(min = 1))]
    pub url: Option<String>,
}

impl Default for BackupSection {
    fn default() -> Self {
        Self { every_hours: 24, keep: 7, url: None }
    }
}

/// The daemon's own log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter (`info,mlctl::store=debug`).
    #[schemars(length(min = 1))]
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// The CLI's settings file. Every key may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientFile {
    /// The daemon's socket.
    pub socket: Option<PathBuf>,
    /// The form of the output.
    pub output: Option<OutputForm>,
}

/// The form in which the CLI prints data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputForm {
    /// For people.
    #[default]
    Table,
    /// For people with wide screens.
    Wide,
    /// One JSON document.
    Json,
    /// A JSON object a line.
    Jsonl,
    /// The id or name alone.
    Name,
}
