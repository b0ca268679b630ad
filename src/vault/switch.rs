//! Puts one database in the place of another so that a kill at any moment leaves one of them: the new one is whole and synced beside the old one, then a small file says that it is to be taken,
//! then names are changed. Who finds that file (the next daemon, the next restore) goes on with it. The old files stay, under names of their own.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::VaultError;
use crate::store::offline::ENDINGS;

/// What follows the database's name: the new database, and the file that says that it is to be taken.
const FRESH: &str = ".restoring";
const DECISION: &str = ".switch";
const DRAFT: &str = ".switch-tmp";

/// A name beside a database.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Where the new database is made.
pub(super) fn fresh(database: &Path) -> PathBuf {
    beside(database, FRESH)
}

/// Whether a restore was decided on and not brought to its end.
pub(super) fn is_pending(database: &Path) -> bool {
    beside(database, DECISION).exists()
}

/// Takes the new database, which is whole: from here on there is no way back but another restore. Returns what the old one is called now, where there was one.
pub(super) fn take(database: &Path, stamp: &str) -> Result<Option<PathBuf>, VaultError> {
    let (fresh, decision) = (fresh(database), beside(database, DECISION));
    File::open(&fresh).and_then(|file| file.sync_all()).map_err(VaultError::io("sync", &fresh))?;
    sync_folder(database).map_err(VaultError::io("sync the folder of", &fresh))?;
    let had_one = database.exists();
    let draft = beside(database, DRAFT);
    let write = || {
        let mut file = File::create(&draft)?;
        writeln!(file, "{stamp}")?;
        file.sync_all()?;
        fs::rename(&draft, &decision)?;
        sync_folder(database)
    };
    write().map_err(VaultError::io("write", &decision))?;
    finish(database)?;
    Ok(had_one.then(|| kept(database, stamp, "")))
}

/// Brings a restore that was decided on to its end, and removes what one that was not has left. Called before the database is opened, by whoever holds the state directory. Says whether there was one.
///
/// # Errors
/// [`VaultError::Io`]: to be tried again; the database must not be opened.
pub fn finish(database: &Path) -> Result<bool, VaultError> {
    let (fresh, decision) = (fresh(database), beside(database, DECISION));
    let stamp = match fs::read_to_string(&decision) {
        Ok(stamp) => stamp.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parts = ["", "-journal", "-wal", "-shm"].map(|ending| beside(&fresh, ending));
            for left in parts.into_iter().chain([beside(database, DRAFT)]) {
                remove(&left).map_err(VaultError::io("remove", &left))?;
            }
            return Ok(false);
        }
        Err(error) => return Err(VaultError::io("read", decision)(error)),
    };
    // As long as it has its own name, everything under the database's is the old one's.
    if fresh.exists() {
        for ending in ENDINGS {
            let (old, kept) = (beside(database, ending), kept(database, &stamp, ending));
            match fs::rename(&old, &kept) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(VaultError::io("rename", old)(error)),
            }
        }
        sync_folder(database).map_err(VaultError::io("sync the folder of", database))?;
        fs::rename(&fresh, database).map_err(VaultError::io("rename", &fresh))?;
        sync_folder(database).map_err(VaultError::io("sync the folder of", database))?;
    }
    remove(&decision).map_err(VaultError::io("remove", &decision))?;
    sync_folder(database).map_err(VaultError::io("sync the folder of", database))?;
    Ok(true)
}

/// What a file of the old database is called from now on. SQLite takes the log beside it for its log.
fn kept(database: &Path, stamp: &str, ending: &str) -> PathBuf {
    beside(database, &format!(".before-{stamp}{ending}"))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes it last what the folder of a file says.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
