//! The checked settings and their defaults. Every path is absolute, every value within its limits: whoever holds a [`Settings`] has nothing left to check.

use std::path::{Path, PathBuf};

use mlctl_protocol::s3::S3Checksum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{file::SettingsFile, load::Places};
use crate::domain::notify::Hook;

/// What a daemon does where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Everything that must survive.
    pub state_dir: PathBuf,
    /// The socket clients talk to.
    pub socket: PathBuf,
    /// Whether the daemon's group may use that socket.
    pub group_access: bool,
    /// Hours between two looks through the whole database; 0 for one at the start alone.
    pub check_hours: u32,
    /// Bytes of the disk kept for what must be put on record when it is full; 0 for none.
    pub disk_reserve_bytes: u64,
    /// The socket workers dial.
    pub workers_socket: PathBuf,
    /// The database.
    pub database: PathBuf,
    /// The folder under which each attempt has its own.
    pub attempts_dir: PathBuf,
    /// Object storage and data.
    pub storage: StorageSettings,
    /// Workers and what they may use.
    pub workers: WorkerSettings,
    /// GPUs.
    pub devices: DeviceSettings,
    /// Command jobs.
    pub commands: CommandSettings,
    /// What is refused for being too much.
    pub limits: LimitSettings,
    /// The order of the queue.
    pub scheduler: SchedulerSettings,
    /// How long finished jobs are kept, and which checkpoints.
    pub retention: RetentionSettings,
    /// Backups of the database.
    pub backup: BackupSettings,
    /// The daemon's own log.
    pub log: LogSettings,
    /// Whom to tell of what happens.
    pub notify: Vec<Hook>,
}

/// Object storage and data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StorageSettings {
    /// The prefix of all objects, without a slash at its end.
    pub url: String,
    /// Folders that `file://` URIs of a spec may name. Empty: whatever the daemon's user may read.
    pub data_roots: Vec<PathBuf>,
    /// Bytes of an attempt's checkpoints, or of its predictions, that wait on this machine while an S3 store does not answer; 0 for none.
    pub spool_max_bytes: u64,
    /// Seconds that a job which has trained or predicted all waits for a store that does not answer.
    pub outage_seconds: u32,
    /// The S3 store that `s3://` URIs mean. Who we are to it is no setting.
    pub s3: S3Settings,
}

/// The S3 store that `s3://` URIs mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct S3Settings {
    /// The server's URL, without a path and a slash at its end; Amazon's when absent.
    pub endpoint: Option<String>,
    /// The region requests are signed for.
    pub region: String,
    /// Whether the bucket stands in the path of a URL rather than before the host's name.
    pub path_style: bool,
    /// The checksum sent with every object.
    pub checksum: S3Checksum,
    /// Seconds for which a request that fails is tried again; 0 for never.
    pub retry_seconds: u32,
    /// A file with the key.
    pub credentials_file: Option<PathBuf>,
    /// A file with the certificates (PEM) of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The proxy that all requests go through, `http://host:port`; none when absent.
    pub proxy: Option<String>,
}

/// Workers and what they may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerSettings {
    /// The worker's program.
    pub command: PathBuf,
    /// Cores there are to give to jobs.
    pub cpus: u32,
    /// Memory there is to give to jobs, in MiB: all of it when absent.
    pub memory_mib: Option<u32>,
    /// Seconds between a worker's heartbeats.
    pub heartbeat_seconds: u32,
    /// Seconds without a heartbeat after which a worker is ended, and without a daemon after which it ends itself.
    pub lease_seconds: u32,
    /// Seconds from the order to stop to SIGKILL.
    pub grace_seconds: u32,
    /// Seconds without a step after which a worker is ended; 0 for never.
    pub hang_seconds: u32,
    /// Seconds that a preemptible job runs before it is asked to make way for a more urgent one.
    pub min_run_seconds: u32,
    /// Workers that are started before there is a job for them, of the kind that ran last; 0 for none.
    pub ahead: u32,
    /// A folder of cgroup v2 that belongs to the daemon; the one that the service manager has delegated to it when absent.
    pub cgroup_dir: Option<PathBuf>,
    /// The size of a log file, in bytes.
    pub log_max_bytes: u64,
    /// Log files of each of a worker's two streams, the one being written included; at least 1.
    pub log_files: u32,
}

/// GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceSettings {
    /// Whether jobs are given GPUs.
    pub enabled: bool,
    /// The worker's program for jobs with a GPU; that of others when absent.
    pub worker: Option<PathBuf>,
    /// A file that plays the hardware.
    pub simulated: Option<PathBuf>,
    /// What is special about one, by its index or its UUID.
    pub gpus: Vec<GpuSettings>,
}

/// What is special about a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuSettings {
    /// Its index or its UUID.
    pub id: String,
    /// The worker's program for jobs with it, where it is another.
    pub worker: Option<PathBuf>,
    /// Whether jobs are given it.
    pub enabled: bool,
}

/// Command jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CommandSettings {
    /// Whether there are any.
    pub enabled: bool,
    /// Who may submit them besides root and the daemon's own user: login names, user ids, or `*` for everybody who may use the daemon.
    pub users: Vec<String>,
    /// The program that runs them.
    pub executable: PathBuf,
}

/// The order of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchedulerSettings {
    /// Points of priority that a user who has used everything lately stands further back; 0 for none.
    pub fair_share_points: u32,
    /// Hours in which use counts half as much.
    pub fair_share_half_life_hours: u32,
    /// Cores that a GPU counts for.
    pub fair_share_gpu_cores: u32,
}

/// What is refused for being too much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitSettings {
    /// Jobs that wait.
    pub max_queued: u32,
    /// The size of a job spec, in bytes.
    pub max_spec_bytes: usize,
    /// Members of an array.
    pub max_array: u32,
}

/// How long finished jobs are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetentionSettings {
    /// Days after which a finished job is removed; 0 for never.
    pub finished_days: u32,
    /// Finished jobs that stay; 0 for all.
    pub finished_jobs: u32,
    /// Days of each of which a checkpoint of a job is kept that does not say so itself.
    pub checkpoints_nightly: u32,
    /// The same of weeks.
    pub checkpoints_weekly: u32,
    /// Bytes that the checkpoints of such a job may have together; 0 for any.
    pub checkpoints_max_bytes: u64,
    /// Hours between two collections of what nothing needs; 0 for none by themselves.
    pub gc_hours: u32,
    /// Hours that an object must be old to be collected by itself.
    pub gc_grace_hours: u32,
}

/// Backups of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupSettings {
    /// Hours between two backups; 0 for none by themselves.
    pub every_hours: u32,
    /// Backups that stay.
    pub keep: u32,
    /// The URI of the folder for them; under `storage.url` when absent.
    pub url: Option<String>,
}

/// The daemon's own log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogSettings {
    /// A level (`info`) or a filter (`info,mlctl::store=debug`).
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the daemon's own log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

impl Settings {
    /// The defaults for a daemon that keeps everything under `state_dir`, an absolute path, and whose programs are in `programs`.
    #[must_use]
    pub fn under(state_dir: &Path, programs: &Path) -> Self {
        super::load::settled(&SettingsFile::default(), &Places::under(state_dir), Some(programs))
    }
}
