//! Queues: kept, changed, removed; how many jobs stand in each; and what the planner sees of jobs that run and wait in them.

use mlctl::{
    domain::{
        Change, Command, Edit, Hold, Terms, Uid,
        queue::{Flow, Order, QueueEdit},
        share::day_of,
    },
    store::{NewJob, StoreError},
};
use mlctl_protocol::{ExitClass, JobId};

use crate::rig::{Rig, USER, new_job};

/// A queue with limits of its own.
pub async fn furnish(rig: &Rig) {
    let edit = QueueEdit { running: Some(Change::Set(2)), flow: Some(Flow::Paused), ..QueueEdit::default() };
    rig.store.edit_queue("night", edit, USER).await.unwrap();
}

fn into(queue: &str, name: &str) -> NewJob {
    let mut new = new_job(name, name);
    new.spec.queue = queue.to_owned();
    new
}

#[tokio::test]
async fn a_queue_lives_from_set_to_remove() {
    let mut rig = Rig::new().await;
    let mut changes = rig.store.queue_changes();
    assert!(rig.store.queues().is_empty());
    let limited = QueueEdit { running: Some(Change::Set(2)), gpus: Some(Change::Set(0)), ..QueueEdit::default() };
    let made = rig.store.edit_queue("night", limited, USER).await.unwrap();
    assert_eq!((made.queue.limits.running, made.queue.limits.gpus, made.queue.flow), (Some(2), Some(0), Flow::Open));
    assert_eq!(made.changed_by, USER);
    assert!(changes.has_changed().unwrap(), "who waits for it is told");
    assert_eq!(changes.borrow_and_update()["night"], made);
    let edit = QueueEdit {
        running: Some(Change::Clear),
        cpus: Some(Change::Set(4)),
        order: Some(Order::Strict),
        flow: Some(Flow::Paused),
        ..QueueEdit::default()
    };
    let changed = rig.store.edit_queue("night", edit, USER).await.unwrap();
    assert_eq!((changed.queue.limits.running, changed.queue.limits.cpus), (None, Some(4)));
    assert!(changed.changed_at > made.changed_at);
    rig.check().await;
    rig.reopen().await;
    assert_eq!(rig.store.queues()["night"], changed, "as it was before the restart");

    let job = rig.store.submit(into("night", "one")).await.unwrap().id;
    let error = rig.store.remove_queue("night").await.unwrap_err();
    assert!(matches!(error, StoreError::QueueInUse { jobs: 1, .. }), "{error}");
    rig.store.command(job, None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(rig.store.remove_queue("night").await.unwrap(), changed);
    assert!(rig.store.queues().is_empty());
    assert!(matches!(rig.store.remove_queue("night").await.unwrap_err(), StoreError::NoQueue(_)));
    rig.check().await;
    rig.reopen().await;
    assert!(rig.store.queues().is_empty());
}

#[tokio::test]
async fn jobs_are_counted_where_they_stand() {
    let rig = Rig::new().await;
    for (queue, name) in [("night", "a"), ("night", "b"), ("default", "c")] {
        rig.store.submit(into(queue, name)).await.unwrap();
    }
    let counts = async |queue: &str| {
        let mut counts = rig.store.queue_counts().await.unwrap();
        counts.remove(queue).unwrap_or_default().into_iter().collect::<Vec<_>>()
    };
    let fence = rig.claim(JobId(1)).await;
    let hold = Hold { by: USER, reason: None, not_before: None };
    rig.store.command(JobId(3), None, Command::Hold { hold }).await.unwrap();
    assert_eq!(counts("night").await, [("queued".to_owned(), 1), ("running".to_owned(), 1)]);
    assert_eq!(counts("default").await, [("held".to_owned(), 1)]);
    let moved = |queue: &str| Edit { queue: Some(queue.into()), ..Edit::default() };
    let edit = |edit| Command::Edit { by: USER, edit };
    let after = rig.store.command(JobId(2), None, edit(moved("default"))).await.unwrap();
    assert_eq!(after.queue, "default");
    let refused = rig.store.command(JobId(1), None, edit(moved("default"))).await.unwrap_err();
    assert!(refused.to_string().contains("has what it waited for"), "{refused}");
    rig.end(fence, ExitClass::Ok).await;
    assert_eq!(counts("night").await, [("succeeded".to_owned(), 1)]);
    assert_eq!(counts("default").await, [("held".to_owned(), 1), ("queued".to_owned(), 1)]);
    assert_eq!(rig.store.waiting().await.unwrap(), 2);
    rig.check().await;
}

#[tokio::test]
async fn short_jobs_are_seen_behind_long_ones() {
    let rig = Rig::new().await;
    let limited = |name: &str, limit| {
        let mut new = new_job(name, name);
        new.spec.time.limit_seconds = limit;
        new
    };
    for number in 0..20 {
        rig.store.submit(limited(&format!("endless-{number}"), None)).await.unwrap();
    }
    let short = rig.store.submit(limited("short", Some(60))).await.unwrap().id;
    let long = rig.store.submit(limited("long", Some(90_000))).await.unwrap().id;
    let seen = async || {
        let ready = rig.store.ready(rig.now(), 2).await.unwrap();
        ready.iter().map(|job| (job.id.0, job.limit_seconds)).collect::<Vec<_>>()
    };
    assert_eq!(seen().await, [(1, None), (2, None), (short.0, Some(60)), (long.0, Some(90_000))]);
    let limit = |limit| Terms { time_limit_seconds: Some(limit), ..Terms::default() };
    for (job, terms) in [(JobId(2), limit(Change::Set(30))), (short, limit(Change::Clear))] {
        let edit = Edit { terms, ..Edit::default() };
        rig.store.command(job, None, Command::Edit { by: USER, edit }).await.unwrap();
    }
    assert_eq!(seen().await, [(1, None), (2, Some(30)), (3, None), (long.0, Some(90_000))], "as the edits have it");
    let fence = rig.claim(JobId(2)).await;
    let job = rig.store.job(fence.job).await.unwrap().job;
    let running = rig.store.occupants().await.unwrap();
    assert_eq!(running.len(), 1);
    let ends_in = running[0].ends_by.unwrap().duration_since(job.started_at.unwrap());
    assert_eq!((running[0].id, ends_in.as_secs()), (JobId(2), 30));
}

#[tokio::test]
async fn what_was_used_is_kept_by_user_and_day() {
    let mut rig = Rig::new().await;
    let day = day_of(rig.now());
    for (user, cpus, number) in [(7, 2, 1), (7, 1, 2), (8, 1, 3)] {
        let mut new = NewJob { user: Uid(user), ..new_job("one", &format!("{number}")) };
        new.spec.resources.cpus = cpus;
        rig.store.submit(new).await.unwrap();
    }
    for job in 1..=3 {
        let fence = rig.claim(JobId(job)).await;
        rig.clock.forward(100);
        rig.end(fence, if job == 2 { ExitClass::Crash } else { ExitClass::Ok }).await;
    }
    rig.reopen().await;
    let seconds = async || {
        let used = rig.store.usage_since(day - 1).await.unwrap();
        used.iter().map(|of| (of.user.0, of.core_ms / 1000, of.gpu_ms)).collect::<Vec<_>>()
    };
    assert_eq!(seconds().await, [(7, 300, 0), (8, 100, 0)], "two cores and one, whatever came of it");
    assert_eq!(rig.store.usage_since(day + 2).await.unwrap(), []);
    rig.check().await;
}
