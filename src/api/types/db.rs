//! Bodies about the database as a thing to check, copy and put back.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// `POST /v1/db/backup`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// The folder for it, a path of the daemon's host or a URI; the usual one when absent.
    #[serde(default)]
    pub to: Option<String>,
}

/// `POST /v1/db/check`, and `mld db check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DbCheckView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Whether nothing is wrong.
    pub ok: bool,
    /// The file.
    pub file: String,
    /// What the database is; null where that cannot be read.
    pub database: Option<DatabaseView>,
    /// Everything that is wrong, a line each.
    pub problems: Vec<String>,
}

/// What a database is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseView {
    /// The database's id.
    pub instance: String,
    /// Grows with every restore.
    pub epoch: u32,
    /// The version of its schema.
    pub schema: u32,
    /// Transactions that it has.
    pub commits: u64,
    /// Its newest event.
    pub last_event: u64,
    /// Jobs that it has.
    pub jobs: u64,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// The URI of its folder.
    pub uri: String,
    /// When it was made.
    pub made_at: Timestamp,
    /// The size of the database in bytes.
    pub size_bytes: u64,
    /// BLAKE3 of the database.
    pub blake3: String,
    /// The version of the program that made it.
    pub version: String,
    /// What the database is.
    pub database: DatabaseView,
}

/// `GET /v1/db/backups`, and `mld db ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupList {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// Where.
    pub url: String,
    /// The backups, newest first.
    pub backups: Vec<BackupView>,
    /// What cannot be read, and why.
    pub damaged: Vec<DamagedBackup>,
}

/// A backup that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedBackup {
    /// The URI of its folder.
    pub uri: String,
    /// What is wrong.
    pub problem: String,
}

/// `mld db restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreView {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: u32,
    /// What was taken.
    pub from: String,
    /// What the database is now.
    pub database: DatabaseView,
    /// What the old database is called now; null where there was none.
    pub kept: Option<String>,
}
