//! Removal of finished jobs: whole or not at all, with the log still proved by its chain, and its beginning cut off behind a recorded head.

use futures_util::future::join_all;
use jiff::SignedDuration;
use mlctl::{
    domain::{Command, Event, JobState, Refusal},
    store::{Finished, Store, StoreError, Submitted},
};
use mlctl_protocol::{ExitClass, JobId};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    arrays,
    furniture::{JOBS, furnish},
    rig::{Hand, Rig, USER, entropy, new_job},
    schedules,
};

async fn finished(rig: &Rig, name: &str) -> JobId {
    let id = rig.submit(name).await;
    let fence = rig.claim(id).await;
    rig.end(fence, ExitClass::Spec).await;
    id
}

async fn remove(rig: &Rig, jobs: &[JobId]) -> Vec<Result<JobId, StoreError>> {
    let answers = rig.store.remove(jobs, USER, false).await.unwrap();
    answers.into_iter().map(|answer| answer.map(|job| job.id)).collect()
}

async fn conn(rig: &Rig) -> SqliteConnection {
    SqliteConnectOptions::new().filename(rig.path()).connect().await.unwrap()
}

async fn count(rig: &Rig, sql: &'static str) -> i64 {
    let mut conn = conn(rig).await;
    let count = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    count
}

#[tokio::test]
async fn a_removed_job_leaves_nothing_but_the_word_that_it_is_gone() {
    let mut rig = Rig::new().await;
    furnish(&rig).await;
    schedules::furnish(&rig).await;
    let before = rig.store.counts().await.unwrap();
    // 1 succeeded, 2 failed, 5 was cancelled, 6 waits, 4 runs.
    let answers = remove(&rig, &[1, 2, 5, 6, 4, 99, 1].map(JobId)).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, false, false, false, false]);
    let refused = |answer: &Result<JobId, StoreError>| match answer {
        Err(StoreError::Refused(Refusal::WrongState { state, verb, .. })) => format!("{state} {verb}"),
        Err(error) => error.to_string(),
        Ok(_) => String::new(),
    };
    let reasons: Vec<_> = answers[3..].iter().map(refused).collect();
    assert_eq!(reasons, ["queued removed", "running removed", "no job 99", "no job 1"]);
    for _ in 0..2 {
        rig.check().await;
        for number in [1, 2, 5] {
            assert!(matches!(rig.store.job(JobId(number)).await, Err(StoreError::NotFound(_))));
            assert!(rig.store.metrics(JobId(number), 0, 10).await.unwrap().is_empty());
            let left: Vec<_> = rig.store.events(Some(JobId(number)), 0, 100).await.unwrap();
            assert!(matches!(left.as_slice(), [last] if last.event == Event::Removed { by: USER }), "{left:?}");
        }
        assert_eq!(count(&rig, "SELECT count(*) FROM events WHERE body IS NULL").await, 10, "of 1, 2 and 5, behind 3");
        rig.reopen().await;
    }
    let after = rig.store.counts().await.unwrap();
    let sum = |counts: &[(String, u64)]| counts.iter().map(|(_, jobs)| jobs).sum::<u64>();
    assert_eq!(sum(&after), sum(&before) - 3);
    // The key is free again, the id is not.
    let again = rig.store.submit(new_job("job-1", "key 1 of a client")).await.unwrap();
    assert_eq!(again, Submitted { id: JobId(JOBS + 2), existed: false });
    rig.check().await;
}

#[tokio::test]
async fn the_last_job_and_the_last_token_are_remembered_when_they_are_gone() {
    let mut rig = Rig::new().await;
    let first = finished(&rig, "one").await;
    let last = finished(&rig, "two").await;
    assert!(remove(&rig, &[first, last]).await.iter().all(Result::is_ok));
    rig.check().await;
    assert_eq!(count(&rig, "SELECT count(*) FROM events").await, 1, "the newest event is never cut off");
    rig.reopen().await;
    rig.check().await;
    assert!(matches!(rig.store.find("@last").await, Err(StoreError::NotFound(_))));
    let third = rig.submit("three").await;
    assert_eq!(third, JobId(3), "an id is never used again");
    let fence = rig.claim(third).await;
    assert_eq!(fence.token.0 & 0xff, 3, "nor a token");
    rig.end(fence, ExitClass::Ok).await;
    rig.check().await;
    rig.reopen().await;
    rig.check().await;
}

#[tokio::test]
async fn a_tick_whose_job_is_removed_does_not_fire_again() {
    let rig = Rig::new().await;
    let job = schedules::furnish(&rig).await;
    let all = rig.store.schedules().await.unwrap();
    let hourly = all.iter().find(|(schedule, _)| schedule.name == "hourly").unwrap().0.id;
    let ticks = rig.store.ticks(hourly, 10).await.unwrap();
    let fence = rig.claim(job).await;
    rig.end(fence, ExitClass::Ok).await;
    assert!(remove(&rig, &[job]).await[0].is_ok());
    assert_eq!(rig.store.ticks(hourly, 10).await.unwrap(), ticks);
    rig.check().await;
    rig.store.remove_schedule("hourly").await.unwrap();
    rig.check().await;
}

#[tokio::test]
async fn the_beginning_of_the_log_is_cut_off_in_pieces_and_the_check_starts_there() {
    let mut rig = Rig::new().await;
    let submits = (0..1_100).map(|number| rig.store.submit(new_job("job", &number.to_string())));
    let mut ids: Vec<JobId> = join_all(submits).await.into_iter().map(|answer| answer.unwrap().id).collect();
    let cancels = ids.iter().map(|id| rig.store.command(*id, None, Command::Cancel { by: USER }));
    assert!(join_all(cancels).await.iter().all(Result::is_ok));
    ids.sort_unstable();
    let kept = ids.pop().unwrap();
    // All but the first: nothing can be cut off before it.
    assert!(remove(&rig, &ids[1..]).await.iter().all(Result::is_ok));
    rig.check().await;
    assert_eq!(count(&rig, "SELECT min(id) FROM events").await, 1);
    // With it goes the beginning, of which one piece is 2,000 events.
    assert!(remove(&rig, &ids[..1]).await[0].is_ok());
    rig.check().await;
    let head = count(&rig, "SELECT pruned_event_id FROM instance").await;
    assert_eq!(head, 1_099, "up to the submit of the one that is kept");
    let after = rig.store.events(None, 0, u32::MAX).await.unwrap();
    assert_eq!(after[0].id, head + 1, "a cursor from before the head goes on behind it");
    assert_eq!(after.len(), 2 + 1_099);
    assert!(remove(&rig, &[kept]).await[0].is_ok());
    assert_eq!(count(&rig, "SELECT count(*) FROM events").await, 1, "in two pieces");
    rig.check().await;
    let kept = rig.submit("kept").await;
    rig.reopen().await;
    rig.check().await;
    assert!(matches!(rig.state(kept).await, JobState::Queued { .. }));
    rig.clock.forward(60);
    rig.submit("new").await;
    rig.check().await;
}

#[tokio::test]
async fn an_array_goes_with_all_its_members_or_not_at_all() {
    let rig = Rig::new().await;
    let size = 5;
    let array = rig.store.submit_array(arrays::array("sweep", 5, "k")).await.unwrap().id;
    let members = rig.store.member_ids(array).await.unwrap();
    assert_eq!(members.len(), size);
    assert!(members.is_sorted_by(|one, other| one > other), "the first, which bears the key, last");
    for id in &members {
        rig.store.command(*id, None, Command::Cancel { by: USER }).await.unwrap();
    }
    let refusal = remove(&rig, &members[..1]).await.pop().unwrap().unwrap_err();
    assert!(refusal.to_string().contains("removed without its array"), "{refusal}");
    // Half of it, as a kill would leave it.
    assert!(rig.store.remove(&members[..1], USER, true).await.unwrap()[0].is_ok());
    rig.check().await;
    assert_eq!(rig.store.array(array).await.unwrap().counts.values().sum::<u64>(), size as u64 - 1);
    let rest = rig.store.member_ids(array).await.unwrap();
    assert!(rig.store.remove(&rest, USER, true).await.unwrap().iter().all(Result::is_ok));
    assert!(matches!(rig.store.array(array).await, Err(StoreError::NotFound(_))));
    for table in ["SELECT count(*) FROM arrays", "SELECT count(*) FROM array_counts", "SELECT count(*) FROM rungs"] {
        assert_eq!(count(&rig, table).await, 0, "{table}");
    }
    rig.check().await;
}

#[tokio::test]
async fn who_cancels_and_removes_at_once_gets_both_or_an_error() {
    let rig = Rig::new().await;
    let mut ids = Vec::new();
    for number in 0..50 {
        ids.push(rig.submit(&number.to_string()).await);
    }
    let work = ids.iter().map(|id| async {
        let cancel = rig.store.command(*id, None, Command::Cancel { by: USER });
        let jobs = [*id];
        let remove = rig.store.remove(&jobs, USER, false);
        let (cancelled, removed) = futures_util::future::join(cancel, remove).await;
        (cancelled.is_ok(), removed.unwrap()[0].is_ok())
    });
    let outcomes = join_all(work).await;
    let there = async |id: &JobId| rig.store.job(*id).await.is_ok();
    for (id, (cancelled, removed)) in ids.iter().zip(outcomes) {
        assert_eq!(there(id).await, !removed);
        assert!(cancelled, "a cancel comes first, or the removal is refused");
    }
    rig.check().await;
}

/// The control: what no removal leaves behind is a find.
#[tokio::test]
async fn an_erased_event_of_a_job_that_is_there_and_a_log_cut_elsewhere_are_found() {
    let changes = [
        ("UPDATE events SET body = NULL WHERE id = 9", "was not removed after it"),
        (
            "UPDATE events SET body = NULL WHERE body LIKE '{\"event\":\"removed\"%' AND id < (SELECT max(id) FROM events)",
            "was not removed after it",
        ),
        ("DELETE FROM jobs WHERE id = 5", "has events and no row"),
        (
            "UPDATE events SET job_id = 77 WHERE body IS NULL AND id > (SELECT pruned_event_id + 1 FROM instance)",
            "was not removed after it",
        ),
        ("UPDATE instance SET pruned_event_id = pruned_event_id - 1", "are missing"),
        ("UPDATE instance SET pruned_event_id = pruned_event_id + 1", "earlier ones are there"),
        ("UPDATE instance SET pruned_hash = zeroblob(32)", "does not fit its hash"),
        ("UPDATE instance SET removed_token = removed_token + 100", "the last token"),
        ("UPDATE instance SET pruned_job_id = 100", "the last job"),
        ("DELETE FROM events WHERE id = (SELECT min(id) FROM events)", "are missing"),
    ];
    for (change, expected) in changes {
        let mut rig = Rig::new().await;
        let mut ids = Vec::new();
        for number in 0..9 {
            ids.push(finished(&rig, &number.to_string()).await);
        }
        // The first two and their events go whole; of the sixth and seventh something stays.
        assert!(remove(&rig, &[ids[0], ids[1], ids[5], ids[6]]).await.iter().all(Result::is_ok));
        rig.check().await;
        rig.store.close().await;
        let mut conn = conn(&rig).await;
        sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut conn).await.unwrap();
        let done = sqlx::query(change).execute(&mut conn).await.unwrap();
        assert!(done.rows_affected() > 0, "{change} changes nothing");
        conn.close().await.unwrap();
        rig.store = Store::open(&rig.path(), Hand::new(), entropy).await.unwrap();
        let problems = rig.store.check().await.unwrap().join("; ");
        assert!(problems.contains(expected), "{change}: {problems}");
    }
}

#[tokio::test]
async fn an_old_head_file_fits_a_log_whose_beginning_is_gone() {
    let rig = Rig::new().await;
    let head = rig.dir.path().join("mld.db.head");
    let first = finished(&rig, "one").await;
    let old = std::fs::read(&head).unwrap();
    rig.clock.forward(SignedDuration::from_hours(1).as_secs());
    let second = finished(&rig, "two").await;
    assert!(remove(&rig, &[first, second]).await.iter().all(Result::is_ok));
    rig.store.close().await;
    std::fs::write(&head, old).unwrap();
    let store = Store::open(&rig.path(), rig.clock.clone(), entropy).await.unwrap();
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    store.close().await;
}

#[tokio::test]
async fn an_array_has_ended_with_its_last_member_and_counts_as_one() {
    let mut rig = Rig::new().await;
    let alone = finished(&rig, "alone").await;
    let array = rig.store.submit_array(arrays::array("sweep", 3, "k")).await.unwrap().id;
    let oldest = async |rig: &Rig| rig.store.oldest_finished(10).await.unwrap();
    let ids = |(oldest, all): (Vec<(Finished, jiff::Timestamp)>, u64)| {
        (oldest.into_iter().map(|(finished, _)| finished).collect::<Vec<_>>(), all)
    };
    let first = array.0 + 1;
    for number in first..first + 3 {
        assert_eq!(ids(oldest(&rig).await), (vec![Finished::Job(alone)], 1), "one has not ended");
        rig.store.command(JobId(number), None, Command::Cancel { by: USER }).await.unwrap();
        rig.check().await;
    }
    let both = (vec![Finished::Job(alone), Finished::Array(array)], 2);
    assert_eq!(ids(oldest(&rig).await), both);
    let ended = oldest(&rig).await.0[1].1;
    assert_eq!(Some(ended), rig.store.job(JobId(first + 2)).await.unwrap().job.finished_at);
    rig.store.command(JobId(first), None, Command::Retry { by: USER }).await.unwrap();
    assert_eq!(ids(oldest(&rig).await).1, 1, "it goes on");
    rig.check().await;
    rig.reopen().await;
    rig.store.command(JobId(first), None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(ids(oldest(&rig).await), both);
    assert!(oldest(&rig).await.0[1].1 > ended);
    let mut waits = new_job("waits", "waits");
    waits.spec.after =
        vec![format!("any:{first}").parse().unwrap(), format!("any:{}", rig.submit("open").await).parse().unwrap()];
    let waits = rig.store.submit(waits).await.unwrap().id;
    assert_eq!(ids(oldest(&rig).await), (vec![Finished::Job(alone)], 2), "one waits for a member");
    rig.store.command(waits, None, Command::Cancel { by: USER }).await.unwrap();
    // A part of it is gone, as after a kill.
    let members = rig.store.member_ids(array).await.unwrap();
    assert!(rig.store.remove(&members[..1], USER, true).await.unwrap()[0].is_ok());
    rig.check().await;
    assert_eq!(ids(oldest(&rig).await).0[1], Finished::Array(array));
    assert!(rig.store.remove(&members[1..], USER, true).await.unwrap().iter().all(Result::is_ok));
    assert_eq!(ids(oldest(&rig).await).0, [Finished::Job(alone), Finished::Job(waits)]);
    rig.check().await;
    // The control.
    rig.store.submit_array(arrays::array("open", 2, "k2")).await.unwrap();
    rig.store.close().await;
    let mut raw = conn(&rig).await;
    sqlx::query("UPDATE arrays SET ended_us = 1").execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    rig.reopen().await;
    let found = rig.store.check().await.unwrap();
    assert!(found.iter().any(|problem| problem.contains("it did not end when the row says so")), "{found:?}");
}
