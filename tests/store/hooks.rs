//! How far hooks have come, and what has happened to what is no job: kept over a restart, written in the transaction in which it happens, and found out when it is changed behind our back.

use mlctl::{
    domain::notify::{Notice, Standing},
    store::StoreError,
};
use sqlx::{Connection as _, SqliteConnection};

use crate::{
    rig::{Rig, USER},
    schedules,
};

fn standing() -> Standing {
    let error = Some("HTTP 503: busy".to_owned());
    Standing { event: 17, notice: 2, until: Some(19), tries: 3, error, delivered: 5, ..Standing::default() }
}

/// Two hooks, and a notice.
pub async fn furnish(rig: &Rig) {
    rig.store.keep_hook("team", &standing()).await.unwrap();
    rig.store.keep_hook("mail", &Standing { event: 4, failing_since: Some(rig.now()), ..standing() }).await.unwrap();
    let schedule = rig.store.schedule("nightly").await.unwrap();
    assert!(rig.store.pause_failing(&schedule, "2 jobs in a row failed".into()).await.unwrap());
}

#[tokio::test]
async fn a_hook_stands_where_it_stood_after_a_restart_and_is_forgotten_for_good() {
    let mut rig = Rig::new().await;
    schedules::furnish(&rig).await;
    furnish(&rig).await;
    let moved = Standing { event: 20, until: None, ..standing() };
    rig.store.keep_hook("team", &moved).await.unwrap();
    rig.store.forget_hook("mail").await.unwrap();
    rig.store.forget_hook("none").await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            rig.store.hooks().await.unwrap().into_iter().collect::<Vec<_>>(),
            [("team".to_owned(), moved.clone())]
        );
        rig.reopen().await;
        rig.check().await;
    }
}

#[tokio::test]
async fn a_schedule_that_is_paused_for_its_jobs_leaves_a_notice_and_one_that_a_person_pauses_leaves_none() {
    let rig = Rig::new().await;
    schedules::furnish(&rig).await;
    assert_eq!(rig.store.newest_notice().await.unwrap(), 0);
    assert!(rig.store.pause_schedule("hourly").await.unwrap());
    furnish(&rig).await;
    let schedule = rig.store.schedule("nightly").await.unwrap();
    assert!(!rig.store.pause_failing(&schedule, "again".into()).await.unwrap(), "it is paused already");
    let unknown = mlctl::store::Schedule { name: "none".into(), ..schedule };
    assert!(matches!(rig.store.pause_failing(&unknown, "x".into()).await, Err(StoreError::NoSchedule(_))));
    let notices = rig.store.notices(0, 10).await.unwrap();
    let [(1, at, Notice::SchedulePaused { schedule, user, why })] = &notices[..] else { panic!("{notices:?}") };
    assert_eq!((schedule.as_str(), *user, why.as_str()), ("nightly", USER, "2 jobs in a row failed"));
    assert!(*at <= rig.now());
    assert_eq!((rig.store.newest_notice().await.unwrap(), rig.store.notices(1, 10).await.unwrap().len()), (1, 0));
    rig.check().await;
}

#[tokio::test]
async fn a_plausible_wrong_row_is_found() {
    let changes = [
        "UPDATE hooks SET standing = json_set(standing, '$.event', 18) WHERE name = 'team'",
        "UPDATE notices SET body = json_set(body, '$.schedule', 'hourly')",
    ];
    for change in changes {
        let rig = Rig::new().await;
        schedules::furnish(&rig).await;
        furnish(&rig).await;
        rig.check().await;
        let mut conn = SqliteConnection::connect(&format!("sqlite://{}", rig.path().display())).await.unwrap();
        sqlx::query(change).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let problems = rig.store.check().await.unwrap();
        assert!(problems.iter().any(|problem| problem.contains("does not fit its seal")), "{problems:?}");
    }
}
