//! Flipped bits in committed data: found, or without any effect on what is read. Never silently wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use jiff::Timestamp;
use mlctl::store::{Store, offline};
use mlctl_protocol::JobId;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    chance::{Chance, cases},
    devices,
    furniture::{JOBS, furnish, submitted},
    hooks, queues,
    rig::{self, Hand, Rig, USER, entropy},
    schedules,
};

/// The files of a database, and what is to be read from them.
struct Whole {
    files: Vec<(&'static str, Vec<u8>)>,
    dump: String,
    now: Timestamp,
    /// Jobs that were removed.
    gone: &'static [u64],
}

const FILES: [&str; 4] = ["mld.db", "mld.db-wal", "mld.db.instance", "mld.db.head"];

impl Whole {
    async fn read(rig: &Rig) -> Self {
        let now = rig.now();
        let dump = rig::dump(&rig.store, now).await.unwrap();
        let found = FILES.iter().filter_map(|name| Some((*name, fs::read(rig.dir.path().join(name)).ok()?)));
        Self { files: found.collect(), dump, now, gone: &[] }
    }

    /// A closed database, everything in its one file, without remains of earlier versions of its pages: all in it is alive.
    async fn closed() -> Self {
        Self::closed_without(&[]).await
    }

    async fn closed_without(gone: &'static [u64]) -> Self {
        let mut rig = Rig::new().await;
        furnish(&rig).await;
        schedules::furnish(&rig).await;
        queues::furnish(&rig).await;
        devices::furnish(&rig).await;
        hooks::furnish(&rig).await;
        let removed: Vec<JobId> = gone.iter().map(|number| JobId(*number)).collect();
        assert!(rig.store.remove(&removed, USER, false).await.unwrap().iter().all(Result::is_ok));
        rig.store.close().await;
        let mut conn = connect(&rig.path()).await;
        sqlx::raw_sql("VACUUM").execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        rig.reopen().await;
        let mut whole = Self::read(&rig).await;
        rig.store.close().await;
        whole.files.retain(|(name, _)| *name != "mld.db-wal");
        whole.files[0].1 = fs::read(rig.path()).unwrap();
        whole.gone = gone;
        whole
    }

    fn file(&self, name: &str) -> &[u8] {
        &self.files.iter().find(|(file, _)| *file == name).unwrap().1
    }

    /// The files once more, one of them with a bit flipped.
    fn flipped(&self, name: &str, byte: usize, bit: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for (file, bytes) in &self.files {
            let mut bytes = bytes.clone();
            if file == &name {
                bytes[byte] ^= 1 << bit;
            }
            fs::write(dir.path().join(file), bytes).unwrap();
        }
        let path = dir.path().join("mld.db");
        (dir, path)
    }

    async fn judge(&self, path: &Path) -> Verdict {
        let store = match Store::open(path, Hand::new(), entropy).await {
            Ok(store) => store,
            Err(error) => return Verdict::Found(error.to_string()),
        };
        let verdict = self.judge_open(&store).await;
        store.close().await;
        verdict
    }

    async fn judge_open(&self, store: &Store) -> Verdict {
        match store.check().await {
            Ok(problems) if problems.is_empty() => {}
            Ok(problems) => return Verdict::Found(problems.join("; ")),
            Err(error) => return Verdict::Found(error.to_string()),
        }
        match rig::dump(store, self.now).await {
            Ok(dump) if dump == self.dump => {}
            Ok(_) => return Verdict::Silent("other rows are read"),
            Err(error) => return Verdict::Found(error.to_string()),
        }
        // The keys are read by a submit alone.
        for answer in join_all(
            (1..=JOBS).filter(|number| !self.gone.contains(number)).map(|number| store.submit(submitted(number))),
        )
        .await
        {
            match answer {
                Ok(answer) if answer.existed => {}
                Ok(_) => return Verdict::Silent("a key was forgotten"),
                Err(error) => return Verdict::Found(error.to_string()),
            }
        }
        Verdict::Harmless
    }
}

#[derive(Debug)]
enum Verdict {
    Found(String),
    Harmless,
    Silent(&'static str),
}

async fn connect(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Flips bits at random in a file. Returns how many were found.
fn storm(whole: &Whole, name: &'static str, count: u64) -> u64 {
    let (mut found, mut harmless) = (0, 0);
    cases(count, |mut chance| {
        let (byte, bit) = place(whole.file(name), &mut chance);
        let (_dir, path) = whole.flipped(name, byte, bit);
        match block_on(whole.judge(&path)) {
            Verdict::Found(what) => {
                assert!(!what.is_empty(), "found without a word");
                found += 1;
            }
            Verdict::Harmless => harmless += 1,
            Verdict::Silent(why) => panic!("bit {bit} of byte {byte} of {name}: {why}"),
        }
    });
    println!("{name}, {} bytes: {found} flips found, {harmless} harmless", whole.file(name).len());
    found
}

fn place(bytes: &[u8], chance: &mut Chance) -> (usize, u32) {
    (usize::try_from(chance.below(bytes.len() as u64)).unwrap(), u32::try_from(chance.below(8)).unwrap())
}

/// Everything in a folder.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn the_check_without_a_daemon_finds_flipped_bits_and_changes_nothing() {
    let whole = block_on(Whole::closed());
    let (mut found, mut harmless) = (0, 0);
    let examine = |path: &Path| match block_on(offline::examine(path)) {
        Ok(examined) => examined.problems,
        Err(error) => vec![error.to_string()],
    };
    cases(200, |mut chance| {
        let (byte, bit) = place(whole.file("mld.db"), &mut chance);
        let (dir, path) = whole.flipped("mld.db", byte, bit);
        let before = contents(dir.path());
        let problems = examine(&path);
        assert!(contents(dir.path()) == before, "bit {bit} of byte {byte}: the check changed files");
        if !problems.is_empty() {
            found += 1;
            return;
        }
        let verdict = block_on(whole.judge(&path));
        assert!(matches!(verdict, Verdict::Harmless), "bit {bit} of byte {byte} is missed: {verdict:?}");
        harmless += 1;
    });
    println!("{found} flips found, {harmless} harmless");
    assert!(found > 20, "the rest is free space in pages");
    // The control: nothing is found where nothing is flipped.
    let (_dir, path) = whole.flipped("mld.db", 0, 0);
    fs::write(&path, whole.file("mld.db")).unwrap();
    assert_eq!(examine(&path), Vec::<String>::new());
}

#[test]
fn a_flipped_bit_in_the_database_is_found_or_harmless() {
    let whole = block_on(Whole::closed());
    storm(&whole, "mld.db", 300);
}

/// With events that are erased, and a log that begins later.
#[test]
fn a_flipped_bit_in_a_database_with_removed_jobs_is_found_or_harmless() {
    let whole = block_on(Whole::closed_without(&[1, 2, 5, 7, 8, 11]));
    storm(&whole, "mld.db", 200);
}

#[test]
fn a_flipped_bit_in_the_write_ahead_log_is_found_or_harmless() {
    for copied in [false, true] {
        let whole = block_on(async {
            let rig = Rig::new().await;
            furnish(&rig).await;
            if copied {
                // The pages are in the database file too; the log is read all the same, up to its first bad frame.
                let mut conn = connect(&rig.path()).await;
                sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut conn).await.unwrap();
                return Whole::read(&rig).await;
            }
            Whole::read(&rig).await
        });
        storm(&whole, "mld.db-wal", 100);
    }
}

#[test]
fn a_flipped_bit_in_the_file_that_tells_the_newest_commit_is_harmless() {
    let whole = block_on(Whole::closed());
    assert_eq!(storm(&whole, "mld.db.head", 40), 0, "its own damage is not the database's");
}

/// Where a key is not in its place, a walk in the order of keys comes by the same rows again: it must end all the same.
#[test]
fn a_key_out_of_order_is_found_in_time() {
    let whole = block_on(Whole::closed());
    let bytes = whole.file("mld.db");
    // The last step of an attempt's curve: before its text stand, in this order, the row's number, the record's head and three small numbers.
    let text = br#"{"step":8,"epoch":1"#;
    let points: Vec<usize> = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
    assert!(points.len() > 10, "{points:?}");
    let flips =
        points.iter().rev().flat_map(|at| (9..15).flat_map(move |before| (0..8).map(move |bit| (at - before, bit))));
    for (byte, bit) in flips {
        let (_dir, path) = whole.flipped("mld.db", byte, bit);
        let judged = block_on(async { tokio::time::timeout(Duration::from_secs(30), whole.judge(&path)).await });
        match judged {
            Err(_) => panic!("bit {bit} of byte {byte}: the check does not end"),
            Ok(Verdict::Silent(why)) => panic!("bit {bit} of byte {byte}: {why}"),
            Ok(Verdict::Found(what)) if what.contains("is not where its key belongs") => return,
            Ok(_) => {}
        }
    }
    panic!("none of them put the last key out of order");
}

/// The control: a flip in an event is always found, wherever it is.
#[test]
fn a_flipped_bit_in_an_event_is_always_found() {
    let whole = block_on(Whole::closed());
    let bytes = whole.file("mld.db");
    // SQLite leaves remains of moved rows on its pages: what is there once is alive.
    let mut bodies = Vec::new();
    for row in block_on(event_rows(&whole)) {
        let mut places = bytes.windows(row.len()).enumerate().filter(|(_, window)| *window == row);
        if let (Some((place, _)), None) = (places.next(), places.next()) {
            bodies.push(place);
        }
    }
    assert!(bodies.len() > 50, "{} events", bodies.len());
    cases(100, |mut chance| {
        let byte = chance.pick(&bodies) + usize::try_from(chance.below(30)).unwrap();
        let bit = u32::try_from(chance.below(8)).unwrap();
        let (_dir, path) = whole.flipped("mld.db", byte, bit);
        let verdict = block_on(whole.judge(&path));
        assert!(matches!(verdict, Verdict::Found(_)), "bit {bit} of byte {byte}: {verdict:?}");
    });
}

/// The body and the hash of every event, as they lie in the file.
async fn event_rows(whole: &Whole) -> Vec<Vec<u8>> {
    let (_dir, path) = whole.flipped("none", 0, 0);
    let mut conn = connect(&path).await;
    let rows = sqlx::query_scalar("SELECT CAST(body AS BLOB) || hash FROM events").fetch_all(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    rows
}

/// What the seals are for: values that are well formed, plausible and wrong.
#[test]
fn a_plausible_wrong_value_is_found_in_every_table() {
    let whole = block_on(Whole::closed());
    let changes = [
        "UPDATE jobs SET priority = priority + 1 WHERE id = 6",
        "UPDATE jobs SET retries_used = 0 WHERE retries_used > 0",
        "UPDATE job_specs SET spec = replace(spec, '0.001', '0.002') WHERE job_id = 1",
        "UPDATE idempotency SET key = 'kez 1 of a client' WHERE job_id = 1",
        "UPDATE attempts SET secret_hash = zeroblob(32) WHERE ended_us IS NULL",
        "UPDATE attempts SET lease_until_us = lease_until_us + 1",
        "UPDATE attempts SET metrics = replace(metrics, '0.125', '0.126')",
        "UPDATE attempts SET device = 'cpv' WHERE token % 2 = 0",
        "UPDATE attempts SET last_seq = last_seq + 1",
        "UPDATE checkpoints SET checkpoint = replace(checkpoint, '\"step\":8', '\"step\":9')",
        "UPDATE metrics SET point = replace(point, '0.125', '0.126')",
        "UPDATE metrics SET step = step + 1 WHERE id = 3",
        "UPDATE schedules SET cron = '1 * * * *' WHERE name = 'hourly'",
        "UPDATE schedules SET enabled = 0",
        "UPDATE schedules SET settled_us = settled_us - 1",
        "UPDATE schedules SET next_tick_us = next_tick_us + 60000000 WHERE name = 'nightly'",
        "UPDATE schedules SET spec = replace(spec, '0.001', '0.002')",
        "UPDATE ticks SET tick_us = tick_us + 1",
        "UPDATE ticks SET pass = 2",
        "UPDATE ticks SET job_id = 1",
        "UPDATE queue_counters SET jobs = jobs + 1 WHERE state = 'queued'",
        "INSERT INTO queue_counters (queue, state, jobs) VALUES ('night', 'queued', 3)",
        "UPDATE queues SET max_running = 3",
        "UPDATE queues SET flow = 'open'",
        "UPDATE devices SET reason = 'none'",
        "UPDATE jobs SET gpu_uuids = '[\"GPU-9\"]'",
        "UPDATE jobs SET vram_mib = 5",
        "UPDATE instance SET epoch = 2",
        "UPDATE instance SET tokens_drawn = tokens_drawn - 1",
        "UPDATE instance SET last_job_id = last_job_id - 1",
        "UPDATE instance SET commits = commits - 1",
        "UPDATE events SET at_us = at_us + 1 WHERE id = 7",
        "UPDATE events SET job_id = 2 WHERE id = 1",
        "DELETE FROM events WHERE id = (SELECT max(id) FROM events)",
    ];
    for change in changes {
        let (_dir, path) = whole.flipped("none", 0, 0);
        block_on(async {
            let mut conn = connect(&path).await;
            let done = sqlx::query(change).execute(&mut conn).await.unwrap();
            assert!(done.rows_affected() > 0, "{change} changes nothing");
            conn.close().await.unwrap();
            let verdict = whole.judge(&path).await;
            assert!(matches!(verdict, Verdict::Found(_)), "{change}: {verdict:?}");
        });
    }
    let (_dir, path) = whole.flipped("none", 0, 0);
    let verdict = block_on(whole.judge(&path));
    assert!(matches!(verdict, Verdict::Harmless), "undamaged: {verdict:?}");
}
