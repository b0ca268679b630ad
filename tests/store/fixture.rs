//! Databases that earlier versions wrote must open, check clean and go on.

use std::{fs, path::PathBuf};

use mlctl::{
    domain::JobState,
    store::{Store, StoreError, Submitted},
};
use mlctl_protocol::JobId;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::{
    control, estate,
    furniture::{JOBS, furnish, submitted},
    rig::{self, Hand, Rig, entropy},
    schedules,
};

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fixtures", name].iter().collect()
}

/// Writes the database of the present version. Run once a schema, when it is released, and never for an older one.
#[tokio::test]
#[ignore = "makes the fixture of a new schema"]
async fn make() {
    let rig = Rig::new().await;
    furnish(&rig).await;
    schedules::furnish(&rig).await;
    control::furnish(&rig).await;
    estate::furnish(&rig).await;
    schedules::miss(&rig).await;
    rig.check().await;
    rig.store.close().await;
    let mut conn = SqliteConnectOptions::new().filename(rig.path()).connect().await.unwrap();
    sqlx::raw_sql("VACUUM").execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    fs::copy(rig.path(), fixture("db-v4.sqlite")).unwrap();
}

#[tokio::test]
async fn a_database_of_the_first_schema_opens_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mld.db");
    fs::copy(fixture("db-v1.sqlite"), &path).unwrap();
    let clock = Hand::new();
    clock.forward(86_400);
    let rig = Rig { store: Store::open(&path, clock.clone(), entropy).await.unwrap(), clock, dir };
    rig.check().await;
    let counts = rig.store.counts().await.unwrap();
    let expected = [("queued", 6), ("running", 3), ("succeeded", 3), ("failed", 3), ("cancelled", 3)];
    for (state, count) in expected {
        assert!(counts.contains(&(state.to_owned(), count)), "{counts:?}");
    }
    for number in 1..=JOBS {
        let id = JobId(number);
        assert_eq!(rig.store.submit(submitted(number)).await.unwrap(), Submitted { id, existed: true });
        assert_eq!(rig.store.spec(id).await.unwrap(), submitted(number).spec);
    }
    let waiting = JobId(3);
    assert!(matches!(rig.state(waiting).await, JobState::Queued { not_before: Some(_) }));
    assert_eq!(rig.store.metrics(waiting, 0, 100).await.unwrap().len(), 8);
    let claimed = rig.store.claim(waiting, Vec::new(), [1; 32], rig.now()).await.unwrap();
    assert_eq!((claimed.fence.attempt.0, claimed.resume.len()), (4, 3));
    assert_eq!(rig.submit("new").await, JobId(JOBS + 1));
    assert!(rig.store.schedules().await.unwrap().is_empty());
    assert_eq!(schedules::furnish(&rig).await, JobId(JOBS + 2), "what came with the second schema works");
    assert_eq!(control::furnish(&rig).await, [JOBS + 3, JOBS + 4, JOBS + 5].map(JobId), "and what with the third");
    rig::dump(&rig.store, rig.now()).await.unwrap();
    rig.check().await;
}

#[tokio::test]
async fn a_database_of_the_second_schema_opens_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mld.db");
    fs::copy(fixture("db-v2.sqlite"), &path).unwrap();
    let clock = Hand::new();
    clock.forward(86_400);
    let rig = Rig { store: Store::open(&path, clock.clone(), entropy).await.unwrap(), clock, dir };
    rig.check().await;
    let all = rig.store.schedules().await.unwrap();
    let names: Vec<_> = all.iter().map(|(schedule, last)| (schedule.name.as_str(), last.is_some())).collect();
    assert_eq!(names, [("hourly", true), ("nightly", false)]);
    let ticks = rig.store.ticks(all[0].0.id, 10).await.unwrap();
    assert_eq!(ticks.iter().map(|tick| tick.job).collect::<Vec<_>>(), [JobId(JOBS + 1)]);
    rig.store.remove_schedule("hourly").await.unwrap();
    assert_eq!(control::furnish(&rig).await, [JOBS + 2, JOBS + 3, JOBS + 4].map(JobId), "what is new works");
    rig::dump(&rig.store, rig.now()).await.unwrap();
    rig.check().await;
}

#[tokio::test]
async fn a_database_of_the_third_schema_opens_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mld.db");
    fs::copy(fixture("db-v3.sqlite"), &path).unwrap();
    let clock = Hand::new();
    clock.forward(86_400);
    let rig = Rig { store: Store::open(&path, clock.clone(), entropy).await.unwrap(), clock, dir };
    rig.check().await;
    let mut conn = SqliteConnectOptions::new().filename(rig.path()).read_only(true).connect().await.unwrap();
    let sql = "SELECT count(*), count(*) FILTER (WHERE waiting_us >= submitted_us) FROM jobs WHERE finished_us IS NULL";
    let (open, waiting): (i64, i64) = sqlx::query_as(sql).fetch_one(&mut conn).await.unwrap();
    assert!(open > 0 && waiting == open, "who was there before has its place, whatever it did at the moment");
    conn.close().await.unwrap();
    control::go_on(&rig, [JOBS + 2, JOBS + 3, JOBS + 4].map(JobId)).await;
    let command = serde_json::json!({"version": 1, "name": "c", "command": {"argv": ["true"], "cwd": "/"}});
    let mut new = submitted(JOBS + 9);
    (new.spec, new.asked) = (serde_json::from_value(command).unwrap(), None);
    let id = rig.store.submit(new).await.unwrap().id;
    assert_eq!(rig.store.job(id).await.unwrap().job.kind, "command", "a kind that came later");
    rig.check().await;
}

#[tokio::test]
async fn a_database_of_the_fourth_schema_opens_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mld.db");
    fs::copy(fixture("db-v4.sqlite"), &path).unwrap();
    let clock = Hand::new();
    clock.forward(864_000);
    let rig = Rig { store: Store::open(&path, clock.clone(), entropy).await.unwrap(), clock, dir };
    rig.check().await;
    estate::know(&rig).await;
    control::go_on(&rig, [JOBS + 2, JOBS + 3, JOBS + 4].map(JobId)).await;
    estate::go_on(&rig).await;
    let hourly = rig.store.schedule("hourly").await.unwrap();
    assert_eq!(rig.store.missed_ticks(hourly.id, 10).await.unwrap().len(), 1);
    assert!(hourly.policy.is_default(), "what schedules did before there were policies");
    schedules::miss(&rig).await;
    assert!(matches!(rig.store.find("removed").await, Err(StoreError::NotFound(_))));
    rig::dump(&rig.store, rig.now()).await.unwrap();
    rig.check().await;
}

/// What is written now is what the newest fixture has, so that a kind of row that came later is missed here.
#[tokio::test]
async fn the_newest_fixture_has_all_that_there_is() {
    let rig = Rig::new().await;
    estate::furnish(&rig).await;
    estate::know(&rig).await;
    estate::go_on(&rig).await;
}
