//! The newest commit, told to a small file beside the database. A log that lost its end (to a flipped bit in the write-ahead log, or to an old copy put back) is as
//! whole as one that never had it: only something outside the database can miss it. Told by the writer after each commit, heard when the database is opened.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use sqlx::{Row, SqliteConnection};
use tracing::warn;

use super::{error::Fault, ledger::Ledger};

/// Told heads are one line of this form, always of the same length, so that one overwrites the other in one piece.
const LENGTH: usize = 16 + 3 * 20 + 64 + 64 + 6;

/// Where the newest commit is told.
pub(super) struct Head {
    file: File,
    instance: String,
    /// A disk that refuses is said once.
    failed: bool,
}

/// What was told last: the database holds at least this.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    epoch: i64,
    commits: i64,
    event: i64,
    hash: String,
}

impl Head {
    /// Opens or makes the file.
    pub(super) fn open(path: &Path, instance: &str) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        Ok(Self { file, instance: instance.to_owned(), failed: false })
    }

    /// Tells a commit. It is in the database and synced by now; this line is not, and need not be: after a power loss it may be older than the database, never newer.
    /// The write goes to memory and takes a microsecond.
    pub(super) fn tell(&mut self, ledger: &Ledger) {
        let told = Told {
            epoch: ledger.epoch.into(),
            commits: ledger.commits,
            event: ledger.last_event,
            hash: blake3::Hash::from(ledger.last_hash).to_hex().to_string(),
        };
        let done = self.file.write_all_at(told.line(&self.instance).as_bytes(), 0);
        if let Err(error) = done
            && !std::mem::replace(&mut self.failed, true)
        {
            warn!(%error, "the newest commit cannot be told to the file beside the database; nothing is lost");
        }
    }
}

impl Told {
    /// What the file says. `None` when there is none, or none that can be understood: it is a witness, not the truth.
    pub(super) fn read(path: &Path, instance: &str) -> Option<Self> {
        let text = fs::read_to_string(path).ok().filter(|text| text.len() == LENGTH)?;
        let mut words = text.split_whitespace();
        let mut word = || words.next();
        let (name, epoch, commits, event, hash) = (word()?, word()?, word()?, word()?, word()?);
        let told = Self {
            epoch: epoch.parse().ok()?,
            commits: commits.parse().ok()?,
            event: event.parse().ok()?,
            hash: hash.to_owned(),
        };
        (name == instance && told.line(instance) == text).then_some(told)
    }

    pub(super) fn epoch(&self) -> u32 {
        u32::try_from(self.epoch).unwrap_or(0)
    }

    /// With its own hash, so that damage to this file is not taken for damage to the database.
    fn line(&self, instance: &str) -> String {
        let Self { epoch, commits, event, hash } = self;
        let line = format!("{instance} {epoch:020} {commits:020} {event:020} {hash}");
        format!("{line} {}\n", blake3::hash(line.as_bytes()).to_hex())
    }

    /// Whether the database holds what was told. `None` when it does, else what is wrong.
    pub(super) async fn compare(&self, conn: &mut SqliteConnection, ledger: &Ledger) -> Result<Option<String>, Fault> {
        let missing = self.commits.saturating_sub(ledger.commits);
        if i64::from(ledger.epoch) < self.epoch || missing > 0 {
            let event = self.event;
            return Ok(Some(format!(
                "{missing} committed transactions are missing at its end, which was event {event}"
            )));
        }
        // The file may be older than what was cut off since.
        if self.event > 0 && self.event < ledger.pruned_event {
            return Ok(None);
        }
        if let Some(pruned) = ledger.pruned_hash.filter(|_| self.event == ledger.pruned_event) {
            let same = blake3::Hash::from(pruned).to_hex().as_str() == self.hash;
            return Ok((!same).then(|| format!("its event {} is not the one that was committed", self.event)));
        }
        let row = sqlx::query("SELECT lower(hex(hash)) FROM events WHERE id = ?1")
            .bind(self.event)
            .fetch_optional(conn)
            .await?;
        let hash = row.map(|row| row.try_get::<String, _>(0)).transpose()?;
        let same = if self.event == 0 { hash.is_none() } else { hash.as_ref() == Some(&self.hash) };
        Ok((!same).then(|| format!("its event {} is not the one that was committed", self.event)))
    }
}
