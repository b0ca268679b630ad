//! Why there is no backup, or no way back from one.

use std::{io, path::PathBuf};

use mlctl_artifacts::ArtifactError;

use crate::store::StoreError;

/// Why something was not done. Unless it says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where backups are.
    #[error(transparent)]
    Storage(#[from] ArtifactError),
    /// A file here.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There is no such backup.
    #[error("there is no backup {0}")]
    Missing(String),
    /// Several databases have backups there.
    #[error("there are backups of several databases under {url}: {}", instances.join(", "))]
    Several {
        /// Where.
        url: String,
        /// Of which.
        instances: Vec<String>,
    },
    /// The backup is not what its manifest says.
    #[error("the backup {uri} is damaged: {what}")]
    Corrupt {
        /// Its folder.
        uri: String,
        /// How it is wrong.
        what: String,
    },
    /// The copy of a database does not pass the check.
    #[error("{what} does not pass the check: {}", shown(problems))]
    Unsound {
        /// What.
        what: String,
        /// Everything that is wrong.
        problems: Vec<String>,
    },
    /// Another backup is being made.
    #[error("a backup is being made already")]
    Busy,
}

impl VaultError {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Store(StoreError::Full) => {
                "free space on the disk of the state directory: a copy of the database is made there"
            }
            Self::Store(_) => "`mlctl db check` looks at the database, `mlctl db check --file FILE` at another file",
            Self::Storage(error) => {
                error.hint().unwrap_or("check the place and who may write there; `mlctl doctor` tries object storage")
            }
            Self::Io { .. } => "check the disk, and the owner and the permissions of the folder",
            Self::Missing(_) => "`mlctl db ls` lists what there is; `--from URL` looks elsewhere",
            Self::Several { .. } => "name one: mlctl db restore URL/INSTANCE/TIME, as `mlctl db ls` shows it",
            Self::Corrupt { .. } | Self::Unsound { .. } => "take another backup: `mlctl db ls` lists them",
            Self::Busy => "wait for it: `mlctl db ls` shows it when it is done",
        }
    }
}

/// A few of many.
fn shown(problems: &[String]) -> String {
    const MOST: usize = 3;
    let few: Vec<&str> = problems.iter().take(MOST).map(String::as_str).collect();
    let more = problems.len().saturating_sub(MOST);
    let rest = if more == 0 { String::new() } else { format!("; and {more} more") };
    format!("{}{rest}", few.join("; "))
}
