//! `mld db`: the database looked at, copied and put back without a daemon, by whoever holds the state directory meanwhile. Called by `mld`'s main function.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mlctl_artifacts::{Stores, uri};
use mlctl_protocol::s3::S3Access;
use rustix::fs::Mode;
use serde::Serialize;
use tokio::sync::watch;

use super::{
    entropy,
    lock::{LockError, StateLock},
};
use crate::{
    api::types::{BackupList, BackupView, DbCheckView, RestoreView},
    config::Settings,
    domain::Clock,
    vault::{self, Plan, Source, Vault, VaultError},
};

/// How long after a daemon's start no backup is made by itself.
const SETTLE: Duration = Duration::from_secs(600);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Look through the database, or through another file.
    Check(Option<PathBuf>),
    /// Make a backup in a place, or in the usual one.
    Backup(Option<String>),
    /// List the backups in a place, or in the usual one.
    List(Option<String>),
    /// Put a backup in the database's place.
    Restore {
        /// Which.
        source: String,
        /// Where `latest` is looked for.
        from: Option<String>,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For people.
    pub text: Vec<String>,
    /// For programs.
    pub json: String,
    /// The exit code.
    pub code: u8,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A daemon runs, or the lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The state directory cannot be made.
    #[error("make the folder {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The work itself.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// What came of it cannot be written.
    #[error("write JSON")]
    Json(#[from] serde_json::Error),
}

impl OfflineError {
    /// The exit code of `mld`: 4 where there is no such backup, 5 where a daemon runs or several could be meant, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Vault(VaultError::Missing(_)) => 4,
            Self::Lock(LockError::Held { .. }) | Self::Vault(VaultError::Several { .. }) => 5,
            _ => 1,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Lock(LockError::Held { .. }) => {
                "ask it: `mlctl db check`, `mlctl db backup`; before a restore stop it: `mlctl daemon stop`"
            }
            Self::Lock(LockError::Failed { .. }) | Self::Folder { .. } => {
                "check the owner and the permissions of the folder, or name another with --state-dir"
            }
            Self::Vault(error) => error.hint(),
            Self::Json(_) => "this is a bug",
        }
    }
}

/// When a daemon with these settings makes backups by itself.
#[must_use]
pub const fn plan(settings: &Settings) -> Plan {
    Plan { every_hours: settings.backup.every_hours, keep: settings.backup.keep, settle: SETTLE }
}

/// Where a daemon with these settings has its backups; when it makes them.
#[must_use]
pub fn vault(settings: &Settings, plan: watch::Receiver<Plan>, stores: Stores, clock: Arc<dyn Clock>) -> Vault {
    let storage_url = settings.storage.url.trim_end_matches('/').to_owned();
    let usual = mlctl_artifacts::keys::backups_uri(&storage_url);
    let config = vault::Config {
        database: settings.database.clone(),
        backups_url: settings.backup.url.clone().unwrap_or(usual),
        storage_url,
        plan,
        entropy: entropy::fill,
    };
    Vault::new(config, stores, clock)
}

/// Does it.
///
/// # Errors
/// [`OfflineError`]: nothing was changed.
pub async fn run(
    task: Task,
    settings: &Settings,
    s3: Option<S3Access>,
    clock: Arc<dyn Clock>,
) -> Result<Answer, OfflineError> {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let vault = vault(settings, watch::Sender::new(plan(settings)).subscribe(), Stores::with_s3(s3), clock);
    let lock = || StateLock::take(&settings.state_dir);
    match task {
        Task::Check(None) => {
            let _lock = lock()?;
            check(&vault, None).await
        }
        Task::Check(Some(file)) => check(&vault, Some(absolute(&file))).await,
        Task::List(from) => list(vault.list(from.as_deref().map(named).as_deref()).await?.into()),
        Task::Backup(to) => {
            let _lock = lock()?;
            vault::finish(&settings.database)?;
            let to = to.as_deref().map(named);
            let made: BackupView = vault.backup(Source::File(&settings.database), to.as_deref()).await?.into();
            let text = vec![format!("{}: {} jobs, {} bytes", made.uri, made.database.jobs, made.size_bytes)];
            answer(text, &made, 0)
        }
        Task::Restore { source, from } => {
            let made = std::fs::create_dir_all(&settings.state_dir);
            made.map_err(|source| OfflineError::Folder { path: settings.state_dir.clone(), source })?;
            let _lock = lock()?;
            let source = if source == "latest" { source } else { named(&source) };
            let view: RestoreView = vault.restore(&source, from.as_deref().map(named).as_deref()).await?.into();
            answer(restored(&view), &view, 0)
        }
    }
}

async fn check(vault: &Vault, file: Option<PathBuf>) -> Result<Answer, OfflineError> {
    let (path, examined) = vault.check(file).await?;
    let view = DbCheckView::of(path.display().to_string(), examined);
    let text = if view.ok { vec![format!("{}: nothing is wrong", view.file)] } else { view.problems.clone() };
    answer(text, &view, u8::from(!view.ok))
}

fn list(list: BackupList) -> Result<Answer, OfflineError> {
    let mut text: Vec<_> = list.backups.iter().map(|backup| format!("{}  {}", backup.made_at, backup.uri)).collect();
    text.extend(list.damaged.iter().map(|damaged| format!("{}: {}", damaged.uri, damaged.problem)));
    answer(text, &list, 0)
}

fn restored(view: &RestoreView) -> Vec<String> {
    let mut text = vec![format!(
        "restored from {}: {} jobs, up to event {}, epoch {}",
        view.from, view.database.jobs, view.database.last_event, view.database.epoch
    )];
    text.extend(view.kept.iter().map(|kept| format!("the database that was there is {kept}")));
    text
}

fn answer(text: Vec<String>, view: &impl Serialize, code: u8) -> Result<Answer, OfflineError> {
    Ok(Answer { text, json: serde_json::to_string(view)?, code })
}

/// A path as an absolute one, a URI as it is.
fn named(text: &str) -> String {
    if text.contains("://") {
        return text.to_owned();
    }
    let path = absolute(Path::new(text));
    // One that cannot be a URI is refused where it is opened.
    uri::from_path(&path).unwrap_or_else(|_| path.display().to_string())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
