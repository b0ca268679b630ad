//! What the vault found and made, as bodies.

use crate::{
    api::types::{BackupList, BackupView, DamagedBackup, DatabaseView, DbCheckView, RestoreView, SCHEMA},
    store::offline::{Examined, Summary},
    vault::{Backup, Listing, Restored},
};

impl From<Summary> for DatabaseView {
    fn from(found: Summary) -> Self {
        let Summary { instance, epoch, schema, commits, last_event, jobs } = found;
        Self { instance, epoch, schema, commits, last_event, jobs }
    }
}

impl From<Backup> for BackupView {
    fn from(Backup { uri, manifest }: Backup) -> Self {
        Self {
            schema: SCHEMA,
            uri,
            made_at: manifest.made_at,
            size_bytes: manifest.size_bytes,
            blake3: manifest.blake3,
            version: manifest.version,
            database: DatabaseView {
                instance: manifest.instance,
                epoch: manifest.epoch,
                schema: manifest.schema,
                commits: manifest.commits,
                last_event: manifest.last_event,
                jobs: manifest.jobs,
            },
        }
    }
}

impl From<Listing> for BackupList {
    fn from(Listing { url, backups, damaged }: Listing) -> Self {
        let damaged = damaged.into_iter().map(|(uri, problem)| DamagedBackup { uri, problem });
        Self {
            schema: SCHEMA,
            url,
            backups: backups.into_iter().map(BackupView::from).collect(),
            damaged: damaged.collect(),
        }
    }
}

impl From<Restored> for RestoreView {
    fn from(Restored { from, summary, kept }: Restored) -> Self {
        Self { schema: SCHEMA, from, database: summary.into(), kept: kept.map(|path| path.display().to_string()) }
    }
}

/// What a look through a file came to.
impl DbCheckView {
    /// Of the file of this name.
    #[must_use]
    pub fn of(file: String, Examined { summary, problems }: Examined) -> Self {
        let database = summary.map(DatabaseView::from);
        Self { schema: SCHEMA, ok: problems.is_empty(), file, database, problems }
    }
}
