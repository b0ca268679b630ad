//! What can go wrong, by what the caller can do about it, and how SQLite's result codes become that. Nothing else looks at a result code.

use std::{error::Error, sync::Arc};

use mlctl_protocol::JobId;

use super::rows::RowError;
use crate::domain::{Refusal, alias::AliasError, state::IllegalEvent};

/// Why the database refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no such job.
    #[error("no job {0}")]
    NotFound(String),
    /// What was named is an array, and a job was wanted.
    #[error("{id} ({name}) is an array of {size} jobs")]
    IsArray {
        /// The array.
        id: JobId,
        /// Its name.
        name: String,
        /// Its members.
        size: u32,
    },
    /// What was named is a job, and an array was wanted.
    #[error("job {job} is no array")]
    NoArray {
        /// The job.
        job: JobId,
    },
    /// There is no such schedule.
    #[error("no schedule {0}")]
    NoSchedule(String),
    /// There is one of that name, and it is not the same.
    #[error("there is a schedule {0} already, with another cron line, zone, job or user")]
    ScheduleExists(String),
    /// There is no such queue.
    #[error("no queue {0}")]
    NoQueue(String),
    /// There are as many queues as may be.
    #[error("there are {0} queues, and no more may be")]
    TooManyQueues(usize),
    /// Jobs are in the queue that have not ended.
    #[error("{jobs} jobs in queue {name} have not ended")]
    QueueInUse {
        /// The queue.
        name: String,
        /// How many.
        jobs: u64,
    },
    /// The job keeps no checkpoint of that step.
    #[error("job {job} keeps no checkpoint of step {step}")]
    NoCheckpoint {
        /// The job.
        job: JobId,
        /// The step.
        step: u64,
    },
    /// There is no such model.
    #[error("no model {0}")]
    NoModel(String),
    /// The model has no such version, or it was removed; without a number, none at all.
    #[error("model {model} has no version{}", version.map_or_else(String::new, |version| format!(" {version}")))]
    NoVersion {
        /// The model.
        model: String,
        /// The version.
        version: Option<u32>,
    },
    /// An alias means the version.
    #[error("version {version} of model {model} is its {alias}")]
    VersionNamed {
        /// The model.
        model: String,
        /// The version.
        version: u32,
        /// The alias.
        alias: String,
    },
    /// The aliases of a model are not changed, or there is no such one.
    #[error("model {model} {why}")]
    Alias {
        /// The model.
        model: String,
        /// Why.
        why: AliasError,
    },
    /// A job that has not ended begins with the version, or one of a schedule.
    #[error("a job that has not ended, or one of a schedule, begins with version {version} of model {model}")]
    VersionInUse {
        /// The model.
        model: String,
        /// The version.
        version: u32,
    },
    /// There is no such dataset.
    #[error("no dataset {0}")]
    NoDataset(String),
    /// The dataset has no such version, or it was removed; without a number, none at all.
    #[error("dataset {dataset} has no version{}", version.map_or_else(String::new, |version| format!(" {version}")))]
    NoDatasetVersion {
        /// The dataset.
        dataset: String,
        /// The version.
        version: Option<u32>,
    },
    /// A job that has not ended reads the version, or one of a schedule.
    #[error("a job that has not ended, or one of a schedule, reads version {version} of dataset {dataset}")]
    DatasetInUse {
        /// The dataset.
        dataset: String,
        /// The version.
        version: u32,
    },
    /// The name fits more than one job.
    #[error("the name {name:?} fits jobs {first} and {second}: use an id")]
    Ambiguous {
        /// The name.
        name: String,
        /// One of them.
        first: JobId,
        /// Another.
        second: JobId,
    },
    /// The job's state does not allow it, or the writer is stale.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The idempotency key stands for another job.
    #[error("key {key:?} was used for job {job} with a different spec")]
    KeyConflict {
        /// The key.
        key: String,
        /// The job it stands for.
        job: JobId,
    },
    /// The disk is full: nothing new is taken, what was acknowledged is safe.
    #[error("the disk that holds the database is full")]
    Full,
    /// The database cannot be used: newer schema, too old SQLite, damage, no permission.
    #[error("{what}")]
    Unusable {
        /// What is wrong and what to do.
        what: String,
    },
    /// A sync or a write failed: nothing is acknowledged any more until a restart, which reads what is there.
    #[error("the database cannot be written any more: {why}")]
    Broken {
        /// What failed first.
        why: String,
    },
    /// The database failed.
    #[error("the database failed")]
    Failed(#[source] Arc<dyn Error + Send + Sync>),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// What goes wrong inside the room, before it is known whom it concerns.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// SQLite or sqlx.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// A row that cannot be understood.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The log and the state machine disagree.
    #[error(transparent)]
    Illegal(#[from] IllegalEvent),
    /// A value cannot be written as JSON.
    #[error("a value cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// A job to wait for that is no id.
    #[error("{reference:?} is no job's id")]
    Unresolved {
        /// What was named.
        reference: String,
    },
    /// A guarded write found other rows than the ones just read.
    #[error("{statement}: {expected} rows should have changed, and {changed} did")]
    Guard {
        /// Which write.
        statement: &'static str,
        /// Rows meant.
        expected: u64,
        /// Rows changed.
        changed: u64,
    },
}

/// What a fault means for those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// One of the commands does not fit the schema or the rows: the others can go on without it.
    Guilty,
    /// No space.
    Full,
    /// The kernel could not read, write or sync.
    Io,
    /// The file is damaged or not ours.
    Damaged,
    /// Anything else.
    Other,
}

impl Fault {
    pub(super) fn meaning(&self) -> Meaning {
        match self {
            Self::Sql(error) => meaning(error),
            Self::Guard { .. } | Self::Illegal(_) | Self::Json(_) | Self::Unresolved { .. } => Meaning::Guilty,
            Self::Row(_) => Meaning::Damaged,
        }
    }
}

/// What SQLite's result code means.
pub(super) fn meaning(error: &sqlx::Error) -> Meaning {
    use libsqlite3_sys as codes;
    if is_no_room(error) {
        return Meaning::Full;
    }
    match primary_code(error) {
        Some(codes::SQLITE_CONSTRAINT | codes::SQLITE_TOOBIG | codes::SQLITE_MISMATCH) => Meaning::Guilty,
        Some(codes::SQLITE_FULL) => Meaning::Full,
        Some(codes::SQLITE_IOERR) => Meaning::Io,
        Some(codes::SQLITE_CORRUPT | codes::SQLITE_NOTADB) => Meaning::Damaged,
        _ => Meaning::Other,
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault.meaning() {
            Meaning::Full => Self::Full,
            Meaning::Damaged => Self::Unusable {
                what: format!(
                    "the database is damaged: {fault}; stop the daemon, keep a copy of the file, and restore a backup"
                ),
            },
            _ => Self::Failed(Arc::new(fault)),
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Fault::Sql(error).into()
    }
}

/// Whether the index of the log could not be made as long as it must be: SQLite has no other word for that the disk is full.
pub(super) fn is_no_room(error: &sqlx::Error) -> bool {
    code(error) == Some(libsqlite3_sys::SQLITE_IOERR_SHMSIZE)
}

/// SQLite's result code without its extension.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    Some(code(error)? & 0xff)
}

fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}
