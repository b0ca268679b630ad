//! A database as a file, without a writer: looked at, copied, brought to this program's schema and put into a new epoch. Called by `vault`, and through [`Store::snapshot`](super::Store::snapshot)
//! by a daemon at work. Nothing but [`upgrade`] and [`renew`], which are for copies that nobody uses, changes a file.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};

use super::{
    StoreError, check,
    head::Told,
    ledger::Ledger,
    open::{self, SCHEMA, beside},
};

/// The files of a database: what follows its name. The first is the database itself.
pub const ENDINGS: [&str; 6] = ["", "-wal", "-shm", "-journal", ".head", ".instance"];

/// What a database file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The database's id.
    pub instance: String,
    /// Grows with every restore.
    pub epoch: u32,
    /// The version of its schema.
    pub schema: u32,
    /// Transactions that changed something.
    pub commits: u64,
    /// The newest event.
    pub last_event: u64,
    /// Jobs that it has.
    pub jobs: u64,
}

/// What was found in a database file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// What it is; none where that cannot be read.
    pub summary: Option<Summary>,
    /// Everything that is wrong, a line each.
    pub problems: Vec<String>,
}

/// Looks through a database file: its pages, its events against their chain, its rows against their events, and what was told beside it. Changes nothing.
///
/// # Errors
/// [`StoreError::Unusable`] for a file that is not there, is no database of ours, or has a newer schema.
pub async fn examine(path: &Path) -> Result<Examined, StoreError> {
    let mut conn = look(path).await?;
    let schema = open::identify(&mut conn, path, false).await?;
    let examined = async {
        if schema < SCHEMA {
            // Earlier schemas lack what the check looks at; their pages and the end of their log do not.
            let mut problems = check::pages(&mut conn).await;
            problems.extend(readable(&mut conn).await);
            return Examined { summary: None, problems };
        }
        let mut problems = told(&mut conn, path).await;
        problems.extend(check::all(&mut conn).await);
        problems.truncate(check::MOST);
        let summary = summary(&mut conn, schema).await.ok();
        Examined { summary, problems }
    };
    let examined = examined.await;
    // A damaged file may not even be let go of in order.
    let _ = conn.close().await;
    Ok(examined)
}

/// What a database file is, without looking through it.
///
/// # Errors
/// As [`examine`], and where it cannot be read.
pub async fn summarise(path: &Path) -> Result<Summary, StoreError> {
    let mut conn = look(path).await?;
    let schema = open::identify(&mut conn, path, false).await?;
    let found = summary(&mut conn, schema).await;
    let _ = conn.close().await;
    found
}

/// The newest epoch that is known of a database which may be damaged or gone: of the one named so, by itself or by what was told beside it; 0 where nothing is known.
pub async fn known_epoch(path: &Path, instance: &str) -> u32 {
    let own = summarise(path).await.ok().filter(|found| found.instance == instance).map_or(0, |found| found.epoch);
    let told = Told::read(&beside(path, ".head"), instance).map_or(0, |told| told.epoch());
    own.max(told)
}

/// Writes a consistent copy of a database, which may be in use, to a file that is not there yet. The copy has one file, and all pages of it are used.
///
/// # Errors
/// [`StoreError::Full`], [`StoreError::Failed`]; what was written by then is there.
pub async fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut conn = look(from).await?;
    let target = to.to_str().ok_or_else(|| StoreError::Unusable {
        what: format!("{} is not valid UTF-8: name another folder", to.display()),
    })?;
    let done = sqlx::query("VACUUM INTO ?1").bind(target).execute(&mut conn).await;
    let _ = conn.close().await;
    done.map(|_| ()).map_err(StoreError::from)
}

/// Brings a copy that nobody uses to this program's schema.
///
/// # Errors
/// [`StoreError::Unusable`] for what is no database of ours, or newer.
pub async fn upgrade(path: &Path, now: Timestamp, entropy: fn(&mut [u8])) -> Result<(), StoreError> {
    let mut conn = change(path).await?;
    let schema = open::identify(&mut conn, path, false).await?;
    open::migrate(&mut conn, path, schema, now, entropy).await?;
    conn.close().await?;
    Ok(())
}

/// Puts a copy that nobody uses into another epoch: no token that was ever drawn before is drawn again.
///
/// # Errors
/// [`StoreError::Failed`], [`StoreError::Full`].
pub async fn renew(path: &Path, epoch: u32) -> Result<Summary, StoreError> {
    let mut conn = change(path).await?;
    let sql = "UPDATE instance SET epoch = ?1, tokens_drawn = 0, commits = commits + 1 WHERE id = 1 AND epoch < ?1";
    sqlx::query(sql).bind(epoch).execute(&mut conn).await?;
    let found = summary(&mut conn, SCHEMA).await?;
    conn.close().await?;
    Ok(found)
}

/// For reading. A file without a log beside it is taken for one that nobody writes to, so that nothing is made beside it.
async fn look(path: &Path) -> Result<SqliteConnection, StoreError> {
    let missing = |why: String| StoreError::Unusable {
        what: format!("the database {} {why}: name another file", path.display()),
    };
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(missing("is not a file".into())),
        Err(error) => return Err(missing(format!("cannot be looked at: {error}"))),
    }
    let is_alone = std::fs::metadata(beside(path, "-wal")).map_or(true, |log| log.len() == 0);
    let options = open::options(path).read_only(true).immutable(is_alone);
    options.connect().await.map_err(|error| open::unusable(path, "cannot be opened", &error))
}

async fn change(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options: SqliteConnectOptions = open::options(path).journal_mode(SqliteJournalMode::Delete);
    options.connect().await.map_err(|error| open::unusable(path, "cannot be opened for writing", &error))
}

async fn summary(conn: &mut SqliteConnection, schema: i64) -> Result<Summary, StoreError> {
    let (instance, ledger) = Ledger::read(conn).await?;
    let jobs: i64 = sqlx::query_scalar("SELECT coalesce(sum(jobs), 0) FROM queue_counters").fetch_one(conn).await?;
    Ok(Summary {
        instance: instance.id,
        epoch: ledger.epoch,
        schema: u32::try_from(schema).unwrap_or(u32::MAX),
        commits: ledger.commits.unsigned_abs(),
        last_event: ledger.last_event.unsigned_abs(),
        jobs: jobs.unsigned_abs(),
    })
}

/// What was told beside a database, against it. Backups have nothing beside them.
async fn told(conn: &mut SqliteConnection, path: &Path) -> Vec<String> {
    let compared = async {
        let (instance, ledger) = Ledger::read(conn).await?;
        let mut problems = Vec::new();
        let marker: PathBuf = beside(path, ".instance");
        if let Ok(name) = std::fs::read_to_string(&marker)
            && name.trim() != instance.id
        {
            problems.push(format!(
                "it is instance {}, and {} names instance {}",
                instance.id,
                marker.display(),
                name.trim()
            ));
        }
        if let Some(told) = Told::read(&beside(path, ".head"), &instance.id) {
            problems.extend(told.compare(conn, &ledger).await?);
        }
        Ok::<_, super::error::Fault>(problems)
    };
    compared.await.unwrap_or_else(|fault| vec![format!("table instance cannot be read: {fault}")])
}

/// Of an earlier schema: that its tables can be read to the end.
async fn readable(conn: &mut SqliteConnection) -> Vec<String> {
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let tables: Vec<String> = match sqlx::query_scalar(tables).fetch_all(&mut *conn).await {
        Ok(tables) => tables,
        Err(error) => return vec![format!("the schema cannot be read: {error}")],
    };
    let mut problems = Vec::new();
    for table in tables {
        let count = AssertSqlSafe(format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\"")));
        if let Err(error) = sqlx::query(count).execute(&mut *conn).await {
            problems.push(format!("table {table} cannot be read to the end: {error}"));
        }
    }
    problems
}
