//! The database as a thing to check, copy and put back: backups in a folder or in object storage, and the way back from one. Called by the daemon's lifecycle, by the API and by `mld db`. It knows
//! no SQL, no process and no job; what may be done while a daemon runs is the caller's business.

mod error;
mod fetch;
pub mod keeper;
mod make;
mod manifest;
mod places;
mod restore;
mod switch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use mlctl_artifacts::Stores;
use tokio::sync::{Mutex, watch};

pub use self::{
    error::VaultError, keeper::Plan, make::Source, manifest::Manifest, places::Listing, restore::Restored,
    switch::finish,
};
use crate::{
    domain::Clock,
    store::offline::{self, Summary},
};

/// A backup that is whole: what it is, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The URI of its folder.
    pub uri: String,
    /// What it is.
    pub manifest: Manifest,
}

/// Where backups of a database are, and how they are made. Cheap to clone; clones make one backup at a time.
#[derive(Clone)]
pub struct Vault {
    config: Config,
    stores: Stores,
    clock: Arc<dyn Clock>,
    busy: Arc<Mutex<()>>,
}

/// What the vault needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database.
    pub database: PathBuf,
    /// The prefix of all objects.
    pub storage_url: String,
    /// The folder of the backups.
    pub backups_url: String,
    /// When backups are made by themselves.
    pub plan: watch::Receiver<Plan>,
    /// Fills bytes at random.
    pub entropy: fn(&mut [u8]),
}

impl Vault {
    /// A vault. Nothing is looked at yet.
    #[must_use]
    pub fn new(config: Config, stores: Stores, clock: Arc<dyn Clock>) -> Self {
        Self { config, stores, clock, busy: Arc::default() }
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> &Path {
        &self.config.database
    }

    /// Where they are.
    #[must_use]
    pub fn backups_url(&self) -> &str {
        &self.config.backups_url
    }

    /// When backups are made by themselves.
    #[must_use]
    pub fn plan(&self) -> Plan {
        *self.config.plan.borrow()
    }

    /// What the database is, without looking through it.
    ///
    /// # Errors
    /// [`VaultError::Store`].
    pub async fn summary(&self) -> Result<Summary, VaultError> {
        Ok(offline::summarise(&self.config.database).await?)
    }
}
