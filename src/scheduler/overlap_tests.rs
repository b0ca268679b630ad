//! Ticks that come while jobs of earlier ones have not ended, over a real database with a clock that is set by hand, and over kills.

use jiff::{SignedDuration, tz::TimeZone};
use mlctl_protocol::JobId;

use super::{
    cron_tests::{Room, at},
    failures,
};
use crate::{
    domain::{
        Change, Clock as _, Command, Edit, Intent, JobState, Terms, Uid,
        schedule::{Course, Crontab, Overlap, Policy, Timetable},
    },
    store::{Schedule, StoreError},
};

const MINUTES: [&str; 4] =
    ["2026-06-01T12:01:00Z", "2026-06-01T12:02:00Z", "2026-06-01T12:03:00Z", "2026-06-01T12:04:00Z"];

async fn room(overlap: Overlap) -> Room {
    let room = Room::at("2026-06-01T12:00:00Z").await;
    room.add_with("minutely", "* * * * *", "UTC", Policy { overlap, ..Policy::default() }).await;
    room
}

/// The state of each job there is, the oldest first.
async fn states(room: &Room) -> Vec<&'static str> {
    let mut states = Vec::new();
    for id in 1.. {
        match room.store().job(JobId(id)).await {
            Ok(detail) => states.push(detail.job.state.name()),
            Err(_) => break,
        }
    }
    assert_eq!(room.store().check().await.unwrap(), Vec::<String>::new());
    states
}

async fn cancel(room: &Room, job: u64) {
    room.store().command(JobId(job), None, Command::Cancel { by: Uid(7) }).await.unwrap();
}

async fn claim(room: &Room, job: u64) {
    let lease = at("2026-06-01T13:00:00Z");
    room.store().claim(JobId(job), Vec::new(), [1; 32], lease).await.unwrap();
}

async fn intent(room: &Room, job: u64) -> Option<Intent> {
    match room.store().job(JobId(job)).await.unwrap().job.state {
        JobState::Running { intent, .. } => intent,
        other => panic!("{other:?}"),
    }
}

async fn reasons(room: &Room) -> Vec<(String, String)> {
    let schedule = room.store().schedule("minutely").await.unwrap();
    let missed = room.store().missed_ticks(schedule.id, 10).await.unwrap();
    missed.into_iter().map(|tick| (tick.at.to_string(), tick.reason)).collect()
}

#[tokio::test]
async fn skipped_runs_are_told_and_the_next_one_after_the_end_runs() {
    let mut room = room(Overlap::Skip).await;
    room.wake(MINUTES[0]).await;
    claim(&room, 1).await;
    room.restart().await;
    room.wake(MINUTES[1]).await;
    assert_eq!(states(&room).await, ["running"]);
    let why = "job 1 has not ended, and overlapping runs are skipped";
    assert_eq!(reasons(&room).await, [(MINUTES[1].to_owned(), why.to_owned())]);
    room.wake(MINUTES[2]).await;
    assert_eq!((states(&room).await.len(), reasons(&room).await.len()), (1, 2));
    // Where the clock is set back, a tick that fired is told as one that did.
    room.wake("2026-06-01T12:00:30Z").await;
    room.wake(MINUTES[0]).await;
    assert_eq!((states(&room).await.len(), reasons(&room).await.len()), (1, 2));
}

#[tokio::test]
async fn of_buffered_runs_one_waits_or_all_do_in_order() {
    let mut one = room(Overlap::BufferOne).await;
    let mut all = room(Overlap::BufferAll).await;
    for moment in MINUTES {
        for room in [&mut one, &mut all] {
            room.wake(moment).await;
            room.restart().await;
        }
    }
    assert_eq!(states(&one).await, ["queued", "blocked"]);
    assert_eq!(states(&all).await, ["queued", "blocked", "blocked", "blocked"]);
    let why = "job 2 waits for an earlier run to end, and no more than one may";
    assert_eq!(reasons(&one).await, [MINUTES[3], MINUTES[2]].map(|at| (at.to_owned(), why.to_owned())));
    cancel(&one, 1).await;
    assert_eq!(states(&one).await, ["cancelled", "queued"]);
    one.wake("2026-06-01T12:05:00Z").await;
    assert_eq!(states(&one).await, ["cancelled", "queued", "blocked"]);
    // One in the middle is cancelled: who comes after it still waits for the one before.
    cancel(&all, 3).await;
    assert_eq!(states(&all).await, ["queued", "blocked", "cancelled", "blocked"]);
    cancel(&all, 1).await;
    assert_eq!(states(&all).await, ["cancelled", "queued", "cancelled", "blocked"]);
}

#[tokio::test]
async fn another_is_cancelled_in_the_transaction_of_the_tick_that_comes_instead() {
    for (overlap, asked) in [(Overlap::CancelOther, Intent::Stop), (Overlap::TerminateOther, Intent::Cancel)] {
        let mut room = room(overlap).await;
        room.wake(MINUTES[0]).await;
        room.wake(MINUTES[1]).await;
        assert_eq!(states(&room).await, ["cancelled", "queued"], "what waits is cancelled at once");
        claim(&room, 2).await;
        let mut ending = room.store().replacements();
        ending.mark_unchanged();
        room.wake(MINUTES[2]).await;
        assert!(ending.has_changed().unwrap(), "who runs it is told");
        room.restart().await;
        assert_eq!(states(&room).await, ["cancelled", "running", "blocked"]);
        assert_eq!(intent(&room, 2).await, Some(asked.clone()));
        room.wake(MINUTES[3]).await;
        assert_eq!(states(&room).await, ["cancelled", "running", "cancelled", "blocked"]);
        // A tick that fired before ends nothing when it comes again.
        room.wake("2026-06-01T12:02:30Z").await;
        room.wake(MINUTES[2]).await;
        assert_eq!(states(&room).await, ["cancelled", "running", "cancelled", "blocked"]);
    }
}

#[tokio::test]
async fn what_a_person_has_made_up_for_is_waited_for_ended_by_nothing_and_pauses_nothing() {
    let mut room = Room::at(MINUTES[0]).await;
    let policy = Policy { overlap: Overlap::TerminateOther, pause_on_failure: Some(1), ..Policy::default() };
    room.add_with("minutely", "* * * * *", "UTC", policy).await;
    let schedule = room.store().schedule("minutely").await.unwrap();
    let timetable = Timetable::new(Crontab::parse("* * * * *").unwrap(), TimeZone::UTC);
    let before = timetable.between(at("2026-06-01T11:01:00Z"), at("2026-06-01T11:02:00Z")).unwrap();
    for tick in before {
        let course = Overlap::BufferAll.course(&room.store().open_jobs(schedule.id).await.unwrap());
        let after = if let Course::After(after) = course { after } else { Vec::new() };
        room.store().backfill(&schedule, tick, &after, Uid(8)).await.unwrap().unwrap();
    }
    assert_eq!(states(&room).await, ["queued", "blocked"]);
    room.wake(MINUTES[1]).await;
    room.restart().await;
    room.wake(MINUTES[2]).await;
    assert_eq!(states(&room).await, ["queued", "blocked", "cancelled", "blocked"]);
    expire(&room, 1).await;
    failures::round(room.store()).await.unwrap();
    assert!(room.store().schedule("minutely").await.unwrap().enabled);
    assert_eq!(states(&room).await, ["failed", "queued", "cancelled", "blocked"]);
    cancel(&room, 2).await;
    expire(&room, 4).await;
    failures::round(room.store()).await.unwrap();
    assert!(!room.store().schedule("minutely").await.unwrap().enabled, "its own failures count");
}

/// A job that waits beyond its deadline fails.
async fn expire(room: &Room, job: u64) {
    let deadline = room.clock.now() + SignedDuration::from_secs(1);
    let terms = Terms { deadline: Some(Change::Set(deadline)), ..Terms::default() };
    let edit = Edit { terms, ..Edit::default() };
    room.store().command(JobId(job), None, Command::Edit { by: Uid(7), edit }).await.unwrap();
    room.clock.set(&(deadline + SignedDuration::from_secs(1)).to_string());
    assert_eq!(room.store().expire(room.clock.now()).await.unwrap(), 1);
}

#[tokio::test]
async fn failures_in_a_row_pause_and_a_resumed_schedule_begins_anew() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    let policy = Policy { pause_on_failure: Some(2), ..Policy::default() };
    assert!(!failures::round(room.store()).await.unwrap(), "nothing to look at");
    room.add_with("minutely", "* * * * *", "UTC", policy).await;
    room.wake(MINUTES[0]).await;
    expire(&room, 1).await;
    assert!(failures::round(room.store()).await.unwrap());
    assert!(room.store().schedule("minutely").await.unwrap().enabled, "one is not two");
    room.wake(MINUTES[1]).await;
    expire(&room, 2).await;
    let read = room.store().schedule("minutely").await.unwrap();
    failures::round(room.store()).await.unwrap();
    room.restart().await;
    let paused = room.store().schedule("minutely").await.unwrap();
    let why = "2 jobs in a row failed, the last of them job 2";
    assert_eq!((paused.enabled, paused.paused.as_deref()), (false, Some(why)));
    room.wake(MINUTES[2]).await;
    assert_eq!(states(&room).await, ["failed", "failed"]);
    assert!(room.store().resume_schedule("minutely", at(MINUTES[2]), Some(at(MINUTES[3]))).await.unwrap());
    failures::round(room.store()).await.unwrap();
    assert!(!room.store().pause_failing(&read, why.into()).await.unwrap(), "it was resumed meanwhile");
    let resumed = room.store().schedule("minutely").await.unwrap();
    assert_eq!((resumed.enabled, resumed.paused), (true, None));
    room.wake(MINUTES[3]).await;
    expire(&room, 3).await;
    failures::round(room.store()).await.unwrap();
    assert!(room.store().schedule("minutely").await.unwrap().enabled, "what failed before counts no more");
    let unknown = Schedule { name: "none".into(), ..read };
    assert!(matches!(room.store().pause_failing(&unknown, why.into()).await, Err(StoreError::NoSchedule(_))));
}
