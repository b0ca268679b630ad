//! Which files are opened, and what is said of the others. Nothing is ever made in the place of what cannot be opened.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use mlctl::store::{Store, StoreError};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::rig::{Hand, Rig, entropy};

async fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open(path, Hand::new(), entropy).await
}

/// Why it cannot be opened; the words have all three parts.
async fn refusal(path: &Path) -> String {
    match open(path).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(StoreError::Unusable { what }) => {
            assert!(what.contains(&path.display().to_string()), "names the file: {what}");
            what
        }
        Err(error) => panic!("{error}"),
    }
}

/// A closed database of two jobs.
async fn closed() -> Rig {
    let rig = Rig::new().await;
    rig.submit("one").await;
    let fence = rig.claim(rig.submit("two").await).await;
    rig.end(fence, mlctl_protocol::ExitClass::Ok).await;
    rig.store.close().await;
    rig
}

/// Runs SQL on a database that nobody has open.
async fn meddle(path: &Path, sql: &'static str) {
    let mut conn = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let rig = closed().await;
    meddle(&rig.path(), "PRAGMA user_version = 99").await;
    let before = fs::read(rig.path()).unwrap();
    let why = refusal(&rig.path()).await;
    let known = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
    let words = format!("has schema 99, made by a newer mld, and this one knows {known}: install the newer mld");
    assert!(why.contains(&words), "{why}");
    assert_eq!(fs::read(rig.path()).unwrap(), before);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let contents: [&[u8]; 4] =
        [b"a text, and a rather long one\n", b"x", &[0; 8192], b"SQLite format 3\0 and then something else altogether"];
    for content in contents {
        let path = dir.path().join("mld.db");
        fs::write(&path, content).unwrap();
        let why = refusal(&path).await;
        assert!(why.contains("is not a database of mld") && why.contains("name another file"), "{why}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[tokio::test]
async fn another_program_s_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut conn = options.connect().await.unwrap();
    sqlx::raw_sql("CREATE TABLE jobs (id)").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    let why = refusal(&path).await;
    assert!(why.contains("another program made it"), "{why}");
    assert_eq!(fs::read(&path).unwrap(), before, "not even its journal mode is changed");
}

#[tokio::test]
async fn a_database_that_was_never_finished_is_made_now() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mld.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut conn = options.connect().await.unwrap();
    // As far as a daemon comes that is killed before its first commit.
    sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    assert!(fs::metadata(&path).unwrap().len() > 0);
    let store = open(&path).await.unwrap();
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    store.close().await;
    // The same header where jobs were kept is a loss.
    for name in ["mld.db", "mld.db-wal", "mld.db-shm"] {
        let _ = fs::remove_file(dir.path().join(name));
    }
    let mut conn = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    assert!(refusal(&path).await.contains("is damaged: another program made it"));
}

#[tokio::test]
async fn a_folder_and_a_path_to_nowhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path()).await.contains("is not a file"));
    let why = refusal(&dir.path().join("missing/mld.db")).await;
    assert!(why.contains("its folder must exist and be writable"), "{why}");
}

#[tokio::test]
async fn a_read_only_folder_is_refused_with_words() {
    let rig = closed().await;
    let folder = |mode| fs::set_permissions(rig.dir.path(), fs::Permissions::from_mode(mode)).unwrap();
    folder(0o555);
    let written = fs::write(rig.dir.path().join("probe"), "");
    if written.is_ok() {
        println!("this user may write anywhere: tried with a read-only mount elsewhere");
        folder(0o755);
        return;
    }
    let why = refusal(&rig.path()).await;
    folder(0o755);
    assert!(why.contains("writable for the user that runs mld"), "{why}");
    open(&rig.path()).await.unwrap().check().await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_gone_is_missed() {
    let rig = closed().await;
    let aside = rig.dir.path().join("aside");
    fs::rename(rig.path(), &aside).unwrap();
    let why = refusal(&rig.path()).await;
    assert!(why.contains("is gone") && why.contains("restore a backup"), "{why}");
    assert!(!rig.path().exists(), "and nothing is made in its place");
    fs::write(rig.path(), "").unwrap();
    assert!(refusal(&rig.path()).await.contains("is gone"), "emptied is gone too");
    fs::rename(&aside, rig.path()).unwrap();
    assert_eq!(open(&rig.path()).await.unwrap().check().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn another_instance_s_database_is_not_taken_for_ours() {
    let (ours, other) = (closed().await, closed().await);
    fs::copy(other.path(), ours.path()).unwrap();
    let why = refusal(&ours.path()).await;
    assert!(why.contains("and the jobs kept here were those of instance"), "{why}");
}

#[tokio::test]
async fn a_truncated_database_is_found() {
    let rig = closed().await;
    // Pages that migrations left free hold nothing: what is lost of them is no loss.
    meddle(&rig.path(), "VACUUM").await;
    let whole = fs::read(rig.path()).unwrap();
    // At every page, and within some.
    for length in (1..whole.len()).step_by(2048) {
        // The rest of an empty page is nothing.
        if whole[length..].iter().all(|byte| *byte == 0) {
            continue;
        }
        fs::write(rig.path(), &whole[..length]).unwrap();
        match open(&rig.path()).await {
            Err(StoreError::Unusable { .. } | StoreError::Failed(_)) => {}
            Err(error) => panic!("{error}"),
            Ok(store) => {
                assert_ne!(store.check().await.unwrap(), Vec::<String>::new(), "cut to {length} bytes and not found");
                store.close().await;
            }
        }
    }
}

#[tokio::test]
async fn a_zeroed_page_is_found() {
    let rig = closed().await;
    // Pages that migrations left free hold nothing: what is lost of them is no loss.
    meddle(&rig.path(), "VACUUM").await;
    let whole = fs::read(rig.path()).unwrap();
    let (mut found, mut unused) = (0, 0);
    for page in 0..whole.len() / 4096 {
        let mut damaged = whole.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0);
        fs::write(rig.path(), &damaged).unwrap();
        let problems = match open(&rig.path()).await {
            Err(error) => vec![error.to_string()],
            Ok(store) => {
                let problems = store.check().await.unwrap();
                store.close().await;
                problems
            }
        };
        // An empty table's only page is as empty without its header; SQLite finds that too, as no page type is 0.
        if problems.is_empty() { unused += 1 } else { found += 1 }
    }
    assert_eq!(unused, 0, "{found} were found");
}

/// How a log gets lost: a copy or a backup of the database file alone.
#[tokio::test]
async fn a_write_ahead_log_that_is_missing_is_found() {
    let rig = Rig::new().await;
    rig.submit("one").await;
    let copy = tempfile::tempdir().unwrap();
    for name in ["mld.db", "mld.db.instance", "mld.db.head"] {
        fs::copy(rig.dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let why = refusal(&copy.path().join("mld.db")).await;
    assert!(why.contains("missing"), "{why}");
}
