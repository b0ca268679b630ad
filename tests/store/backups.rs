//! Backups and the way back: what comes back is what was there, what is damaged is refused with nothing touched, and nothing of the time after a backup is ever met again.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mlctl::{
    domain::{Clock as _, Refusal},
    store::{Instance, Store, StoreError},
    vault::{self, Backup, Plan, Source, Vault, VaultError},
};
use mlctl_artifacts::Stores;
use mlctl_protocol::ExitClass;
use tokio::sync::watch;

use crate::{
    chance::cases,
    furniture::furnish,
    rig::{Hand, Rig, dump, end, entropy, new_job},
};

/// The vault of a database, with its backups in `objects` beside it.
fn vault(database: &Path, objects: &Path, clock: Arc<Hand>) -> Vault {
    let storage_url = format!("file://{}", objects.display());
    let plan = watch::Sender::new(Plan { every_hours: 1, keep: 2, settle: Duration::ZERO }).subscribe();
    let backups_url = format!("{storage_url}/backups");
    let config = vault::Config { database: database.to_owned(), storage_url, backups_url, plan, entropy };
    Vault::new(config, Stores::new(), clock)
}

struct Kept {
    rig: Rig,
    vault: Vault,
}

impl Kept {
    async fn new() -> Self {
        let rig = Rig::new().await;
        furnish(&rig).await;
        let vault = vault(&rig.path(), &rig.dir.path().join("objects"), rig.clock.clone());
        Self { rig, vault }
    }

    async fn backup(&self) -> Backup {
        self.vault.backup(Source::Live(&self.rig.store), None).await.unwrap()
    }

    async fn restore(&mut self) {
        self.rig.store.close().await;
        self.vault.restore("latest", None).await.unwrap();
        self.rig.store = Store::open(&self.rig.path(), self.rig.clock.clone(), entropy).await.unwrap();
    }
}

/// Every file under a folder.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                found.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn what_comes_back_is_what_was_there() {
    let mut kept = Kept::new().await;
    let now = kept.rig.now();
    let before = dump(&kept.rig.store, now).await.unwrap();
    let backup = kept.backup().await;
    assert_eq!((backup.manifest.epoch, &backup.manifest.instance), (1, &kept.rig.store.instance().id));
    let lost = kept.rig.submit("of the lost time").await;
    kept.restore().await;
    kept.rig.check().await;
    assert!(matches!(kept.rig.store.job(lost).await, Err(StoreError::NotFound(_))));
    let after = dump(&kept.rig.store, now).await.unwrap();
    assert_eq!(after.replace("epoch: 2 }", "epoch: 1 }"), before, "the epoch alone is another");
    // Those of the old one are beside it, and are a database.
    let old = contents(kept.rig.dir.path()).into_iter().map(|(path, _)| path);
    let old: Vec<_> = old.filter(|path| path.to_str().unwrap().contains(".before-")).collect();
    let database =
        old.iter().find(|path| path.extension().is_some_and(|ending| ending.to_str().unwrap().ends_with('Z')));
    let (_, examined) = kept.vault.check(database.cloned()).await.unwrap();
    assert_eq!(examined.problems, Vec::<String>::new(), "{old:?}");
    assert!(examined.summary.unwrap().last_event > backup.manifest.last_event);
    // It goes on like any other, over restarts too.
    kept.rig.submit("of the new time").await;
    kept.rig.reopen().await;
    kept.rig.check().await;
}

#[tokio::test]
async fn the_tokens_and_names_of_the_lost_time_are_never_met_again() {
    let mut kept = Kept::new().await;
    let job = kept.rig.submit("runs").await;
    let running = kept.rig.claim(job).await;
    kept.backup().await;
    kept.rig.end(running, ExitClass::Crash).await;
    let lost = kept.rig.claim(kept.rig.submit("lost").await).await;
    for epoch in 2..=4 {
        kept.restore().await;
        assert_eq!(kept.rig.store.instance().epoch, epoch, "the same backup, and another epoch each time");
        let stale = kept.rig.store.command(lost.job, Some(lost), end(ExitClass::Ok)).await;
        assert!(
            matches!(stale, Err(StoreError::Refused(Refusal::Stale { .. }) | StoreError::NotFound(_))),
            "{stale:?}"
        );
        // The attempt of before the backup is the job's, until whoever runs the database ends it.
        assert_eq!(Instance::epoch_of(running.token), 1);
        kept.rig.end(running, ExitClass::Preempted).await;
        let other = kept.rig.claim(kept.rig.submit("other").await).await;
        assert_eq!(other.job, lost.job, "a job of the lost time has its number again, and nothing else");
        assert!(other.token > lost.token, "{other:?} {lost:?}");
        assert_eq!(Instance::epoch_of(other.token), epoch);
        let instance = kept.rig.store.instance();
        assert_ne!(instance.name_in(epoch), instance.name_in(1));
        assert_eq!(instance.names().count(), usize::try_from(epoch).unwrap());
        let stale = kept.rig.store.command(lost.job, Some(lost), end(ExitClass::Ok)).await;
        assert!(matches!(stale, Err(StoreError::Refused(Refusal::Stale { .. }))), "{stale:?}");
        kept.rig.check().await;
    }
}

/// Not the state directory's files say which epochs there were, but the store that holds the objects.
#[tokio::test]
async fn a_wiped_state_directory_does_not_make_an_epoch_come_again() {
    let kept = Kept::new().await;
    kept.backup().await;
    let objects = kept.rig.dir.path().join("objects");
    for epoch in [2, 3] {
        let empty = tempfile::tempdir().unwrap();
        let database = empty.path().join("mld.db");
        let restored = vault(&database, &objects, Hand::new()).restore("latest", None).await.unwrap();
        assert_eq!((restored.summary.epoch, restored.kept), (epoch, None));
        let store = Store::open(&database, Hand::new(), entropy).await.unwrap();
        assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
        store.close().await;
    }
}

#[test]
fn a_damaged_backup_is_refused_and_nothing_is_touched() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kept = runtime.block_on(Kept::new());
    let backup = runtime.block_on(kept.backup());
    runtime.block_on(kept.rig.store.close());
    let file = PathBuf::from(backup.uri.strip_prefix("file://").unwrap()).join("mld.db");
    let whole = fs::read(&file).unwrap();
    let mut refused = 0;
    cases(60, |mut chance| {
        let mut bytes = whole.clone();
        let byte = usize::try_from(chance.below(bytes.len() as u64)).unwrap();
        if chance.once_in(4) {
            bytes.truncate(byte);
        } else {
            bytes[byte] ^= 1 << chance.below(8);
        }
        fs::write(&file, bytes).unwrap();
        let before = contents(kept.rig.dir.path());
        let error = runtime.block_on(kept.vault.restore("latest", None)).unwrap_err();
        assert!(matches!(error, VaultError::Corrupt { .. }), "byte {byte}: {error}");
        assert!(contents(kept.rig.dir.path()) == before, "byte {byte}: files were touched");
        refused += 1;
    });
    println!("{refused} damaged backups were refused");
    // Without its manifest, what is wrong must be seen in the rows: a spec that was changed, say.
    let spec = whole
        .windows(7)
        .rposition(|window| window == b"\"adam\",")
        .or_else(|| whole.windows(4).rposition(|window| window == b"adam"));
    let mut bytes = whole.clone();
    bytes[spec.unwrap() + 1] ^= 1;
    let other = kept.rig.dir.path().join("other.db");
    fs::write(&other, bytes).unwrap();
    let before = contents(kept.rig.dir.path());
    let error = runtime.block_on(kept.vault.restore(other.to_str().unwrap(), None)).unwrap_err();
    assert!(matches!(error, VaultError::Unsound { .. }), "{error}");
    assert!(contents(kept.rig.dir.path()) == before);
    // The control: the whole one is taken, as a backup and as a file.
    fs::write(&file, &whole).unwrap();
    runtime.block_on(kept.vault.restore("latest", None)).unwrap();
    fs::write(&other, &whole).unwrap();
    runtime.block_on(kept.vault.restore(other.to_str().unwrap(), None)).unwrap();
}

#[tokio::test]
async fn backups_are_listed_and_the_oldest_go() {
    let kept = Kept::new().await;
    let missing = kept.vault.restore("latest", None).await.unwrap_err();
    assert!(matches!(missing, VaultError::Missing(_)), "{missing}");
    let mut made = Vec::new();
    for number in 0..4 {
        kept.rig.clock.forward(3600);
        kept.rig.submit(&format!("job {number}")).await;
        made.push(kept.backup().await);
    }
    made.reverse();
    assert_eq!(kept.vault.list(None).await.unwrap().backups, made);
    let instance = kept.rig.store.instance().id.clone();
    // One that was given up half-way is none, and goes with those before it.
    let half = kept.rig.dir.path().join("objects/backups").join(&instance).join("20200101T000000.000Z");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("mld.db"), "half").unwrap();
    assert_eq!(kept.vault.prune(&instance, 2).await.unwrap(), 3);
    assert_eq!(kept.vault.list(None).await.unwrap().backups, made[..2]);
    assert!(!half.exists());
    assert_eq!(kept.vault.newest_of(&instance).await.unwrap().as_ref(), made.first());
}

/// By the plan: one at once where there is none, and no other before its time.
#[tokio::test]
async fn the_loop_makes_one_when_it_is_due() {
    let kept = Kept::new().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(vault::keeper::run(kept.vault.clone(), kept.rig.store.clone(), stop.clone()));
    let made = async {
        loop {
            let backups = kept.vault.list(None).await.unwrap().backups;
            if !backups.is_empty() {
                return backups;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let made = tokio::time::timeout(Duration::from_secs(20), made).await.expect("a backup is made");
    assert_eq!(made.len(), 1);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(kept.vault.list(None).await.unwrap().backups, made);
    stop.cancel();
    running.await.unwrap();
    assert!(!kept.vault.plan().is_overdue(Some(made[0].manifest.made_at), kept.rig.clock.now()));
    kept.rig.clock.forward(3 * 3600);
    assert!(kept.vault.plan().is_overdue(Some(made[0].manifest.made_at), kept.rig.clock.now()));
}

#[tokio::test]
async fn a_backup_is_one_moment_of_a_database_that_is_written_to() {
    let kept = Kept::new().await;
    let store = kept.rig.store.clone();
    let writing = tokio::spawn(async move {
        for number in 0..400 {
            store.submit(new_job(&format!("load {number}"), &format!("load {number}"))).await.unwrap();
        }
    });
    let mut seen = Vec::new();
    while !writing.is_finished() {
        kept.rig.clock.forward(1);
        // Each is looked through before it counts.
        seen.push(kept.backup().await.manifest.jobs);
    }
    writing.await.unwrap();
    assert!(seen.is_sorted(), "{seen:?}");
}
