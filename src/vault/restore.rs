//! Puts a backup in the place of the database. Everything that can be wrong with it is found before anything is touched; the database begins a new epoch, so that no token and no object's name of
//! the time after the backup is ever met again. Called while no daemon runs.

use std::path::PathBuf;

use mlctl_artifacts::{ArtifactError, keys};

use super::{
    Vault, VaultError,
    make::Scratch,
    places,
    switch::{self, fresh},
};
use crate::store::offline::{self, Examined, Summary};

/// Epochs that may have been begun by restores of which nothing else is left, at most.
const MOST_EPOCHS: u32 = 10_000;

/// What came of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What was taken.
    pub from: String,
    /// What the database is now.
    pub summary: Summary,
    /// What the old database is called now, where there was one.
    pub kept: Option<PathBuf>,
}

impl Vault {
    /// Looks through a database file, or the database; a restore that was not brought to its end is a find.
    ///
    /// # Errors
    /// [`VaultError::Store`] for what is no database of ours.
    pub async fn check(&self, file: Option<PathBuf>) -> Result<(PathBuf, Examined), VaultError> {
        let path = file.unwrap_or_else(|| self.config.database.clone());
        if switch::is_pending(&path) {
            let what = "a restore was cut short: the next start of mld, or another restore, brings it to its end";
            return Ok((path, Examined { summary: None, problems: vec![what.to_owned()] }));
        }
        let examined = offline::examine(&path).await?;
        Ok((path, examined))
    }

    /// Puts a backup in the database's place: `latest` (of the place `from`, or the usual one), the path or URI of a backup's folder, or a database file.
    ///
    /// # Errors
    /// [`VaultError`]: the database is as it was.
    pub async fn restore(&self, source: &str, from: Option<&str>) -> Result<Restored, VaultError> {
        let database = &self.config.database;
        switch::finish(database)?;
        let scratch = Scratch::new(fresh(database));
        let new = &scratch.0;
        let found = self.fetch(source, from, new).await?;
        offline::upgrade(new, self.clock.now(), self.config.entropy).await?;
        let examined = offline::examine(new).await?;
        let unsound = |problems| VaultError::Unsound { what: found.name(), problems };
        let summary = match examined {
            Examined { summary: Some(summary), problems } if problems.is_empty() => summary,
            Examined { problems, .. } => return Err(unsound(problems)),
        };
        let known = offline::known_epoch(database, &summary.instance).await;
        let epoch = self.begin_epoch(&summary.instance, summary.epoch.max(known)).await?;
        let summary = offline::renew(new, epoch).await?;
        let kept = switch::take(database, &places::name(self.clock.now()))?;
        Ok(Restored { from: found.name(), summary, kept })
    }

    /// Claims the first epoch after `last` that no restore has begun, where the objects are whose names bear it.
    async fn begin_epoch(&self, instance: &str, last: u32) -> Result<u32, VaultError> {
        for epoch in last.saturating_add(1)..=last.saturating_add(MOST_EPOCHS) {
            let at = self.stores.open(&keys::epoch_uri(&self.config.storage_url, instance, epoch))?;
            let now = self.clock.now().to_string();
            match at.create(format!("{now}\n").into()).await {
                Ok(()) => return Ok(epoch),
                // Perhaps by a try of ours whose answer was lost: there are enough of them.
                Err(ArtifactError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(VaultError::Missing(format!("epoch after {last}: {MOST_EPOCHS} of them were begun already")))
    }
}
