//! Opening and making the database: which SQLite, which file, which schema, which settings. A file that is not ours, newer, cut or gone is refused in words;
//! nothing is ever made in its place.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    StoreError, chain,
    error::{Meaning, is_no_room, meaning, primary_code},
    head::{Head, Told},
    ledger::Ledger,
    queues::{self, Queues},
    types::Instance,
};

/// The schema this program reads and writes: the number of migrations.
#[expect(clippy::cast_possible_wrap, reason = "there are a handful")]
pub(super) const SCHEMA: i64 = MIGRATIONS.len() as i64;

/// In order; only ever added to.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_jobs.sql"),
    include_str!("../../migrations/0002_schedules.sql"),
    include_str!("../../migrations/0003_control.sql"),
    include_str!("../../migrations/0004_pause.sql"),
    include_str!("../../migrations/0005_arrays.sql"),
    include_str!("../../migrations/0006_retries.sql"),
    include_str!("../../migrations/0007_halving.sql"),
    include_str!("../../migrations/0008_deadlines.sql"),
    include_str!("../../migrations/0009_gates.sql"),
    include_str!("../../migrations/0010_removal.sql"),
    include_str!("../../migrations/0011_order.sql"),
    include_str!("../../migrations/0012_gates_in_time.sql"),
    include_str!("../../migrations/0013_gates_in_line.sql"),
    include_str!("../../migrations/0014_commands.sql"),
    include_str!("../../migrations/0015_dependencies.sql"),
    include_str!("../../migrations/0016_queues.sql"),
    include_str!("../../migrations/0017_usage.sql"),
    include_str!("../../migrations/0018_newest.sql"),
    include_str!("../../migrations/0019_array_ends.sql"),
    include_str!("../../migrations/0020_missed_ticks.sql"),
    include_str!("../../migrations/0021_devices.sql"),
    include_str!("../../migrations/0022_used.sql"),
    include_str!("../../migrations/0023_kept.sql"),
    include_str!("../../migrations/0024_models.sql"),
    include_str!("../../migrations/0025_schedule_weights.sql"),
    include_str!("../../migrations/0026_datasets.sql"),
    include_str!("../../migrations/0027_pushed.sql"),
    include_str!("../../migrations/0028_schedule_policies.sql"),
    include_str!("../../migrations/0029_aliases.sql"),
    include_str!("../../migrations/0030_schedule_failures.sql"),
    include_str!("../../migrations/0031_backfill.sql"),
    include_str!("../../migrations/0032_kinds.sql"),
    include_str!("../../migrations/0033_retrain.sql"),
    include_str!("../../migrations/0034_notify.sql"),
];

/// `mlct` in ASCII, in the file's header: tells our databases from others.
const APPLICATION_ID: i64 = 0x6d6c_6374;

/// Earlier versions can corrupt a database when two connections write and checkpoint at once.
const OLDEST_SQLITE: (u32, u32, u32) = (3, 51, 3);

const READERS: u32 = 4;
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// An opened database.
pub(super) struct Opened {
    pub(super) writer: SqliteConnection,
    pub(super) checkpointer: SqliteConnection,
    pub(super) readers: SqlitePool,
    pub(super) instance: Instance,
    pub(super) ledger: Ledger,
    pub(super) head: Head,
    /// The write-ahead log, to be synced.
    pub(super) log: File,
    pub(super) queues: Arc<Queues>,
}

pub(super) async fn open(path: &Path, now: Timestamp, entropy: fn(&mut [u8])) -> Result<Opened, StoreError> {
    let options = options(path);
    let fresh = is_fresh(path)?;
    let mut writer =
        options.clone().create_if_missing(fresh).connect().await.map_err(|error| match meaning(&error) {
            Meaning::Damaged => not_ours(path, &error.to_string()),
            _ => unusable(path, "cannot be opened for writing", &error),
        })?;
    check_version(&mut writer).await?;
    let schema = identify(&mut writer, path, fresh).await?;
    start_wal(&mut writer, path).await?;
    migrate(&mut writer, path, schema, now, entropy).await?;
    if schema == 0 {
        // The file itself says from here on whose it is, even when its log is lost.
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut writer).await?;
    }
    let (instance, ledger) = Ledger::read(&mut writer).await.map_err(StoreError::from)?;
    if let Some(problem) = ledger.compare_head(&mut writer, &instance.id).await? {
        return Err(StoreError::Unusable {
            what: format!(
                "the database {} is damaged: {problem}; keep a copy of the file and restore a backup",
                path.display()
            ),
        });
    }
    mark(path, &instance)?;
    let queues = queues::all(&mut writer).await.map_err(StoreError::from)?;
    let head = compare_told(&mut writer, path, &instance, &ledger).await?;
    let checkpointer = options.clone().connect().await?;
    let log = start_syncing(&mut writer, path).await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .min_connections(1)
        .acquire_timeout(BUSY_LIMIT)
        // No timers: an idle daemon does nothing.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // Each has a cache of its own, and what is not in it is in the kernel's.
        .connect_with(options.read_only(true).pragma("query_only", "ON").pragma("cache_size", "-2048"))
        .await?;
    Ok(Opened { writer, checkpointer, readers, instance, ledger, head, queues, log })
}

pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_LIMIT)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Nothing in a damaged or planted schema may call functions with side effects.
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .pragma("mmap_size", "0")
        .pragma("temp_store", "MEMORY")
        .pragma("cache_size", "-8192")
        .pragma("journal_size_limit", "67108864")
        // Done by `wal`, beside the writer.
        .pragma("wal_autocheckpoint", "0")
        .disable_statement_logging()
}

/// Where a database leaves its name, so that it is missed when it is gone.
fn marker(path: &Path) -> PathBuf {
    beside(path, ".instance")
}

pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Whether a new database is to be made: no file, or an empty one, and no trace of an earlier one.
fn is_fresh(path: &Path) -> Result<bool, StoreError> {
    let missing = match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(StoreError::Unusable {
                what: format!("{} is not a file: name another database", path.display()),
            });
        }
        Ok(found) => found.len() == 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(unusable(path, "cannot be looked at", &error)),
    };
    if !missing {
        return Ok(false);
    }
    match fs::read_to_string(marker(path)) {
        Ok(name) => Err(StoreError::Unusable {
            what: format!(
                "the database {} is gone: jobs of instance {} were kept in it; put it back or restore a backup, or remove {} to begin with an empty one",
                path.display(),
                name.trim(),
                marker(path).display()
            ),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(unusable(&marker(path), "cannot be read", &error)),
    }
}

/// Leaves the database's name beside it, or compares it with the one that is there.
fn mark(path: &Path, instance: &Instance) -> Result<(), StoreError> {
    let marker = marker(path);
    match fs::read_to_string(&marker) {
        Ok(name) if name.trim() == instance.id => Ok(()),
        Ok(name) => Err(StoreError::Unusable {
            what: format!(
                "the database {} is instance {}, and the jobs kept here were those of instance {}; put that database back, or remove {} to go on with this one",
                path.display(),
                instance.id,
                name.trim(),
                marker.display()
            ),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_durably(&marker, &instance.id).map_err(|error| unusable(&marker, "cannot be written", &error))
        }
        Err(error) => Err(unusable(&marker, "cannot be read", &error)),
    }
}

/// Whether the database holds all that it once held. Returns where its commits are told from now on.
async fn compare_told(
    conn: &mut SqliteConnection,
    path: &Path,
    instance: &Instance,
    ledger: &Ledger,
) -> Result<Head, StoreError> {
    let file = beside(path, ".head");
    if let Some(told) = Told::read(&file, &instance.id)
        && let Some(problem) = told.compare(conn, ledger).await?
    {
        return Err(StoreError::Unusable {
            what: format!(
                "the database {} is damaged, or an old copy: {problem}; keep a copy of it with the files beside it and restore a backup, or remove {} to go on without them",
                path.display(),
                file.display()
            ),
        });
    }
    let mut head =
        Head::open(&file, &instance.id).map_err(|error| unusable(&file, "cannot be opened for writing", &error))?;
    head.tell(ledger);
    Ok(head)
}

pub(super) fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder(path)
}

/// Makes it last that a file is there.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

async fn check_version(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(conn).await?;
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= OLDEST_SQLITE {
        return Ok(());
    }
    let (major, minor, patch) = OLDEST_SQLITE;
    Err(StoreError::Unusable {
        what: format!(
            "this program runs with SQLite {version}, which can corrupt a database: build it with the bundled one, {major}.{minor}.{patch} or newer"
        ),
    })
}

/// Whose file it is. Returns the version of its schema, 0 for a new one.
pub(super) async fn identify(conn: &mut SqliteConnection, path: &Path, fresh: bool) -> Result<i64, StoreError> {
    let header = async {
        let application: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *conn).await?;
        let schema: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *conn).await?;
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *conn).await?;
        Ok::<_, sqlx::Error>((application, schema, tables))
    };
    let (application, schema, tables) = match header.await {
        Ok(header) => header,
        Err(error) if meaning(&error) == Meaning::Damaged => return Err(not_ours(path, &error.to_string())),
        Err(error) => return Err(unusable(path, "cannot be read", &error)),
    };
    // A daemon that was killed while it made its database left a header, and nothing that anybody was promised.
    let is_begun = application == 0 && schema == 0 && !marker(path).exists() && is_new_or_sqlite(path);
    if tables == 0 && (fresh || is_begun) {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(not_ours(path, "another program made it"));
    }
    if schema > SCHEMA {
        return Err(StoreError::Unusable {
            what: format!(
                "the database {} has schema {schema}, made by a newer mld, and this one knows {SCHEMA}: install the newer mld, or restore a backup made before the upgrade",
                path.display()
            ),
        });
    }
    Ok(schema)
}

/// Whether there is nothing in the file yet, as SQLite leaves it that takes a header back which was not finished, or it begins as SQLite's do: SQLite itself takes one that is shorter for empty.
fn is_new_or_sqlite(path: &Path) -> bool {
    let mut header = Vec::with_capacity(16);
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut header));
    read.is_ok() && (header.is_empty() || header == *b"SQLite format 3\0")
}

/// A file that is no database of ours: damaged, if there was one under this name.
fn not_ours(path: &Path, why: &str) -> StoreError {
    let path_shown = path.display();
    let what = if marker(path).exists() {
        format!("the database {path_shown} is damaged: {why}; keep a copy of the file and restore a backup")
    } else {
        format!("{path_shown} is not a database of mld: {why}; name another file")
    };
    StoreError::Unusable { what }
}

/// Not among the connection's settings: it would change a file that is not ours.
async fn start_wal(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let mode: Result<String, _> = sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(conn).await;
    match mode {
        Ok(mode) if mode == "wal" => Ok(()),
        Ok(mode) => Err(StoreError::Unusable {
            what: format!(
                "the database {} cannot use a write-ahead log (it stays at {mode}): put it on a local disk",
                path.display()
            ),
        }),
        Err(error) => Err(unusable(path, "cannot be written", &error)),
    }
}

/// From here on `sync` makes the writer's commits durable. Returns the log's file. Nothing of the database is locked through it, so that it may be opened beside SQLite.
async fn start_syncing(writer: &mut SqliteConnection, path: &Path) -> Result<File, StoreError> {
    let path = beside(path, "-wal");
    let log = File::open(&path).map_err(|error| unusable(&path, "cannot be opened", &error))?;
    let synced = log.sync_all().and_then(|()| sync_folder(&path));
    synced.map_err(|error| unusable(&path, "cannot be synced", &error))?;
    sqlx::query("PRAGMA synchronous = NORMAL").execute(writer).await?;
    Ok(log)
}

pub(super) async fn migrate(
    conn: &mut SqliteConnection,
    path: &Path,
    from: i64,
    now: Timestamp,
    entropy: fn(&mut [u8]),
) -> Result<(), StoreError> {
    let done = usize::try_from(from).unwrap_or(usize::MAX);
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        let steps = async {
            let mut transaction = conn.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
            if index == 0 {
                name_instance(&mut transaction, now, entropy).await?;
            }
            let stamp = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}", index + 1);
            sqlx::raw_sql(AssertSqlSafe(stamp)).execute(&mut *transaction).await?;
            transaction.commit().await
        };
        steps.await.map_err(|error| unusable(path, "cannot be brought to this version's schema", &error))?;
    }
    Ok(())
}

async fn name_instance(conn: &mut SqliteConnection, now: Timestamp, entropy: fn(&mut [u8])) -> Result<(), sqlx::Error> {
    let mut bytes = [0_u8; 8];
    entropy(&mut bytes);
    let name = format!("{:016x}", u64::from_be_bytes(bytes));
    let insert = "INSERT INTO instance (id, name, epoch, tokens_drawn, last_job_id, last_event_id, last_hash, commits, created_us) \
                  VALUES (1, ?1, 1, 0, 0, 0, ?2, 0, ?3)";
    let hash = chain::genesis(&name);
    sqlx::query(insert).bind(&name).bind(hash.as_slice()).bind(now.as_microsecond()).execute(conn).await?;
    Ok(())
}

pub(super) fn unusable(path: &Path, problem: &str, error: &(dyn std::error::Error + 'static)) -> StoreError {
    let sql = error.downcast_ref::<sqlx::Error>();
    if sql.is_some_and(is_no_room) {
        return StoreError::Full;
    }
    let code = sql.and_then(primary_code);
    let remedy = match code {
        Some(libsqlite3_sys::SQLITE_FULL) => return StoreError::Full,
        Some(libsqlite3_sys::SQLITE_CANTOPEN | libsqlite3_sys::SQLITE_READONLY | libsqlite3_sys::SQLITE_PERM) => {
            "its folder must exist and be writable for the user that runs mld"
        }
        Some(libsqlite3_sys::SQLITE_BUSY | libsqlite3_sys::SQLITE_LOCKED) => {
            "another program uses it: stop that program"
        }
        Some(libsqlite3_sys::SQLITE_CORRUPT | libsqlite3_sys::SQLITE_NOTADB) => {
            "keep a copy of the file and restore a backup"
        }
        _ => "check its folder, its permissions and the disk",
    };
    StoreError::Unusable { what: format!("the database {} {problem}: {error}; {remedy}", path.display()) }
}
