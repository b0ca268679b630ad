//! What persons do to jobs: hold, release, stop, edit.

use jiff::SignedDuration;
use mlctl::{
    domain::{Change, Command, Edit, Event, Hold, Intent, JobState, Refusal, Terms, Uid},
    store::{NewJob, StoreError},
};
use mlctl_protocol::{ExitClass, JobId, spec::RetryPolicy};

use crate::rig::{Rig, USER, checkpoint, new_job};

fn hold(reason: Option<&str>) -> Hold {
    Hold { by: USER, reason: reason.map(str::to_owned), not_before: None }
}

fn edit(priority: Option<u8>, labels: &[(&str, Option<&str>)]) -> Command {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
    Command::Edit { by: USER, edit: Edit { priority, labels, ..Edit::default() } }
}

/// A job that was submitted held, one that was held while it waited for a retry, and one that is being stopped.
pub async fn furnish(rig: &Rig) -> [JobId; 3] {
    let held = NewJob { hold: Some(hold(None)), ..new_job("held", "held") };
    let held = rig.store.submit(held).await.unwrap().id;
    let waiting = rig.submit("waiting").await;
    rig.crash(waiting).await;
    rig.crash(waiting).await;
    let reason = hold(Some("until the data is there"));
    rig.store.command(waiting, None, Command::Hold { hold: reason }).await.unwrap();
    rig.store.command(waiting, None, edit(Some(77), &[("stage", Some("final"))])).await.unwrap();
    let stopping = rig.submit("stopping").await;
    rig.claim(stopping).await;
    rig.store.command(stopping, None, Command::Stop { by: USER }).await.unwrap();
    [held, waiting, stopping]
}

/// Takes the jobs of [`furnish`] to their ends.
pub async fn go_on(rig: &Rig, [held, waiting, stopping]: [JobId; 3]) {
    assert_eq!(rig.state(held).await, JobState::Held(hold(None)));
    let job = rig.store.job(waiting).await.unwrap().job;
    assert_eq!(job.state, JobState::Held(hold(Some("until the data is there"))));
    assert_eq!((job.priority, job.attempt, job.labels["stage"].as_str()), (77, 2, "final"));
    for id in [held, waiting] {
        assert_eq!(rig.store.command(id, None, Command::Release { by: USER }).await.unwrap().state.name(), "queued");
        let fence = rig.claim(id).await;
        rig.end(fence, ExitClass::Ok).await;
    }
    let (job, attempt) = rig.store.running().await.unwrap().into_iter().find(|(job, _)| job.id == stopping).unwrap();
    assert!(matches!(job.state, JobState::Running { intent: Some(Intent::Stop), .. }));
    rig.end(attempt.fence, ExitClass::Preempted).await;
    assert_eq!(rig.state(stopping).await, JobState::Cancelled);
}

#[tokio::test]
async fn what_is_held_is_not_ready_until_it_is_released() {
    let rig = Rig::new().await;
    let jobs = furnish(&rig).await;
    rig.clock.forward(100_000);
    assert!(rig.store.ready(rig.now(), 10).await.unwrap().is_empty());
    assert_eq!(rig.store.next_ready_at(rig.now()).await.unwrap(), None, "nothing is waited for");
    for id in &jobs[..2] {
        let refused = rig.store.claim(*id, Vec::new(), [1; 32], rig.now()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Refused(Refusal::WrongState { state: "held", .. })), "{refused}");
    }
    let counts = rig.store.counts().await.unwrap();
    assert!(counts.contains(&("held".to_owned(), 2)) && counts.contains(&("queued".to_owned(), 0)), "{counts:?}");
    rig.check().await;
    rig.store.command(jobs[1], None, Command::Release { by: USER }).await.unwrap();
    let ready = rig.store.ready(rig.now(), 10).await.unwrap();
    assert_eq!(ready.iter().map(|ready| (ready.id, ready.priority)).collect::<Vec<_>>(), [(jobs[1], 77)]);
    rig.check().await;
}

#[tokio::test]
async fn holds_survive_a_restart_and_end_by_release_or_cancel() {
    let mut rig = Rig::new().await;
    let jobs = furnish(&rig).await;
    rig.reopen().await;
    go_on(&rig, jobs).await;
    let again = NewJob { hold: Some(hold(None)), ..new_job("again", "again") };
    let id = rig.store.submit(again.clone()).await.unwrap().id;
    assert!(rig.store.submit(again).await.unwrap().existed, "the same key is the same job, held or not");
    let events = rig.store.events(Some(id), 0, 10).await.unwrap();
    assert!(
        matches!(events[..], [ref first, ref second] if first.at == second.at && second.event == Event::Held { hold: hold(None) })
    );
    assert_eq!(rig.store.command(id, None, Command::Cancel { by: USER }).await.unwrap().state, JobState::Cancelled);
    let refused = rig.store.command(id, None, Command::Release { by: USER }).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("job {id} is cancelled and cannot be released"));
    rig.check().await;
}

#[tokio::test]
async fn a_pause_and_a_preemption_survive_a_restart_and_use_up_no_retry() {
    let mut rig = Rig::new().await;
    let plain = rig.submit("plain").await;
    rig.claim(plain).await;
    let refused = rig.store.command(plain, None, Command::Yield { to: JobId(9) }).await.unwrap_err();
    assert!(refused.to_string().ends_with("cannot be made to yield: it is not preemptible"), "{refused}");
    let mut fences = Vec::new();
    for name in ["paused", "preempted"] {
        let mut new = new_job(name, name);
        new.spec.preemptible = true;
        let id = rig.store.submit(new).await.unwrap().id;
        let fence = rig.claim(id).await;
        let checkpoint = checkpoint(&format!("file:///{name}"), 5);
        rig.store.command(id, Some(fence), Command::Checkpointed { checkpoint }).await.unwrap();
        fences.push(fence);
    }
    let [paused, preempted] = [fences[0].job, fences[1].job];
    rig.store.command(preempted, None, Command::Yield { to: plain }).await.unwrap();
    rig.store.command(paused, None, Command::Yield { to: plain }).await.unwrap();
    rig.store.command(paused, None, Command::Pause { hold: hold(Some("the demo")) }).await.unwrap();
    rig.check().await;
    rig.reopen().await;
    let intents: Vec<_> = rig.store.running().await.unwrap().into_iter().map(|(job, _)| job.state).collect();
    assert!(matches!(&intents[1], JobState::Running { intent: Some(Intent::Pause(hold)), .. } if hold.by == USER));
    assert!(matches!(&intents[2], JobState::Running { intent: Some(Intent::Yield { to }), .. } if *to == plain));
    for fence in fences {
        rig.end(fence, ExitClass::Preempted).await;
    }
    assert_eq!(rig.state(paused).await, JobState::Held(hold(Some("the demo"))));
    assert_eq!(rig.state(preempted).await, JobState::Queued { not_before: None });
    rig.check().await;
    rig.store.command(paused, None, Command::Release { by: USER }).await.unwrap();
    for id in [paused, preempted] {
        let claimed = rig.store.claim(id, Vec::new(), [7; 32], rig.now()).await.unwrap();
        assert_eq!((claimed.job.attempt, claimed.job.retries_used, claimed.resume[0].step), (2, 0, 5));
    }
    rig.check().await;
}

#[tokio::test]
async fn a_quarantine_survives_a_restart_and_a_release_gives_new_budgets() {
    let mut rig = Rig::new().await;
    let mut new = new_job("lost", "lost");
    new.spec.retry =
        RetryPolicy { limit: 9, on: Some(vec![ExitClass::Crash]), infrastructure_limit: 4, ..RetryPolicy::default() };
    let id = rig.store.submit(new).await.unwrap().id;
    for class in [ExitClass::Storage, ExitClass::Lost, ExitClass::Device] {
        rig.clock.forward(10_000);
        let fence = rig.claim(id).await;
        rig.end(fence, class).await;
        rig.check().await;
    }
    let job = rig.store.job(id).await.unwrap().job;
    assert_eq!((job.retries_used, job.infrastructure_retries_used, job.fruitless), (0, 3, 2));
    rig.clock.forward(10_000);
    let fence = rig.claim(id).await;
    rig.end(fence, ExitClass::Lost).await;
    rig.reopen().await;
    let held = rig.state(id).await;
    assert!(matches!(&held, JobState::Held(hold) if hold.is_quarantine()), "{held:?}");
    rig.check().await;
    rig.store.command(id, None, Command::Release { by: USER }).await.unwrap();
    let job = rig.store.job(id).await.unwrap().job;
    assert_eq!((job.infrastructure_retries_used, job.fruitless, job.retry.on), (0, 0, Some(vec![ExitClass::Crash])));
    let fence = rig.claim(id).await;
    rig.end(fence, ExitClass::Hang).await;
    assert_eq!(rig.state(id).await, JobState::Failed, "which is not named");
    rig.check().await;
}

/// With these terms changed.
fn terms(terms: Terms) -> Command {
    Command::Edit { by: USER, edit: Edit { terms, ..Edit::default() } }
}

/// A deadline so many seconds from now.
fn due(rig: &Rig, seconds: i64) -> Terms {
    let deadline = rig.now() + SignedDuration::from_secs(seconds);
    Terms { deadline: Some(Change::Set(deadline)), ..Terms::default() }
}

#[tokio::test]
async fn what_waits_beyond_its_deadline_fails_over_restarts_and_clock_jumps() {
    let mut rig = Rig::new().await;
    let mut changes = rig.store.deadline_changes();
    let (plain, running) = (rig.submit("plain").await, rig.submit("running").await);
    assert!(!changes.has_changed().unwrap(), "nobody has a deadline");
    let mut new = new_job("queued", "queued");
    new.spec.time.deadline = Some((rig.now() + SignedDuration::from_secs(100)).to_string());
    let queued = rig.store.submit(new).await.unwrap().id;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let held = rig.submit("held").await;
    rig.store.command(held, None, Command::Hold { hold: hold(None) }).await.unwrap();
    for (id, seconds) in [(held, 200), (running, 50)] {
        rig.store.command(id, None, terms(due(&rig, seconds))).await.unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
    }
    let fence = rig.claim(running).await;
    let next = rig.store.next_deadline().await.unwrap().unwrap();
    assert_eq!(Some(next), rig.store.job(queued).await.unwrap().job.deadline, "what runs is not waited for here");
    assert_eq!(rig.store.expire(rig.now()).await.unwrap(), 0);
    rig.reopen().await;
    rig.clock.forward(150);
    assert_eq!(rig.store.expire(rig.now()).await.unwrap(), 1);
    let job = rig.store.job(queued).await.unwrap().job;
    assert_eq!((job.state, job.attempt, job.exit.unwrap().class), (JobState::Failed, 0, ExitClass::Timeout));
    assert_eq!(rig.state(held).await.name(), "held");
    rig.check().await;
    // A clock set back gives it longer, one set forward less.
    rig.clock.forward(-1000);
    assert_eq!(rig.store.expire(rig.now()).await.unwrap(), 0);
    rig.clock.forward(100_000);
    let mut changes = rig.store.deadline_changes();
    changes.mark_unchanged();
    rig.end(fence, ExitClass::Crash).await;
    assert!(changes.has_changed().unwrap(), "it waits again, beyond its deadline");
    let refused = rig.store.claim(running, Vec::new(), [1; 32], rig.now()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused(Refusal::WrongState { .. })), "{refused}");
    assert_eq!(rig.store.expire(rig.now()).await.unwrap(), 2);
    assert_eq!((rig.state(held).await, rig.state(running).await), (JobState::Failed, JobState::Failed));
    assert_eq!(rig.store.next_deadline().await.unwrap(), None);
    assert_eq!(rig.state(plain).await.name(), "queued");
    rig.check().await;
}

#[tokio::test]
async fn more_late_jobs_than_one_transaction_takes_fail_in_the_next() {
    let rig = Rig::new().await;
    let deadline = (rig.now() + SignedDuration::from_secs(10)).to_string();
    for number in 0..501 {
        let mut new = new_job("late", &number.to_string());
        new.spec.time.deadline = Some(deadline.clone());
        rig.store.submit(new).await.unwrap();
    }
    rig.clock.forward(20);
    assert_eq!(rig.store.expire(rig.now()).await.unwrap(), 500);
    assert_eq!(rig.store.expire(rig.now()).await.unwrap(), 1);
    assert_eq!(rig.store.expire(rig.now()).await.unwrap(), 0);
    let counts = rig.store.counts().await.unwrap();
    assert!(counts.contains(&("failed".to_owned(), 501)) && counts.contains(&("queued".to_owned(), 0)), "{counts:?}");
    rig.check().await;
}

#[tokio::test]
async fn changed_terms_survive_a_restart() {
    let mut rig = Rig::new().await;
    let id = rig.submit("one").await;
    let begin = rig.now() + SignedDuration::from_secs(500);
    let all = Terms {
        begin: Some(Change::Set(begin)),
        time_limit_seconds: Some(Change::Set(60)),
        retries: Some(7),
        ..due(&rig, 1000)
    };
    rig.store.command(id, None, terms(all)).await.unwrap();
    assert!(rig.store.ready(rig.now(), 10).await.unwrap().is_empty(), "it is not its time");
    rig.reopen().await;
    let job = rig.store.job(id).await.unwrap().job;
    assert_eq!((job.state, job.retry.limit), (JobState::Queued { not_before: Some(begin) }, 7));
    assert_eq!(job.time_limit_seconds, Some(Change::Set(60)));
    rig.check().await;
    let none = Terms {
        begin: Some(Change::Clear),
        deadline: Some(Change::Clear),
        time_limit_seconds: Some(Change::Clear),
        retries: None,
    };
    rig.store.command(id, None, terms(none)).await.unwrap();
    assert_eq!(rig.store.ready(rig.now(), 10).await.unwrap().len(), 1);
    let job = rig.store.job(id).await.unwrap().job;
    assert_eq!((job.deadline, job.time_limit_seconds), (None, Some(Change::Clear)));
    let fence = rig.claim(id).await;
    rig.end(fence, ExitClass::Spec).await;
    rig.store.command(id, None, terms(due(&rig, 5))).await.unwrap();
    let refused = rig.store.command(id, None, edit(Some(1), &[])).await.unwrap_err();
    assert!(
        refused.to_string().contains("cannot be edited, but for its deadline, time limit and retries"),
        "{refused}"
    );
    rig.check().await;
}

#[tokio::test]
async fn a_changed_priority_changes_the_order_and_a_running_job_has_none_to_change() {
    let rig = Rig::new().await;
    let (one, two) = (rig.submit("one").await, rig.submit("two").await);
    rig.store.command(two, None, edit(Some(51), &[])).await.unwrap();
    let ready = rig.store.ready(rig.now(), 10).await.unwrap();
    assert_eq!(ready.iter().map(|ready| ready.id).collect::<Vec<_>>(), [two, one]);
    let fence = rig.claim(two).await;
    let refused = rig.store.command(two, None, edit(Some(1), &[])).await.unwrap_err();
    assert!(refused.to_string().contains("is running and cannot be given another priority"), "{refused}");
    let labels = [("team", Some("vision")), ("stage", Some("ü \"'\u{1}"))];
    rig.store.command(two, None, edit(None, &labels)).await.unwrap();
    rig.end(fence, ExitClass::Ok).await;
    let job = rig.store.job(two).await.unwrap().job;
    assert_eq!((job.priority, job.labels.len(), job.labels["team"].as_str()), (51, 2, "vision"));
    let refused = rig.store.command(two, None, edit(None, &[("team", None)])).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("job {two} is succeeded and cannot be edited"));
    assert_eq!(rig.store.spec(two).await.unwrap().priority, 50, "the spec is as it was submitted");
    rig.check().await;
}

#[tokio::test]
async fn a_row_that_says_held_without_a_holder_is_refused_by_the_schema() {
    use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let mut conn = SqliteConnectOptions::new().filename(rig.path()).connect().await.unwrap();
    for wrong in [
        "UPDATE jobs SET state = 'held'",
        "UPDATE jobs SET hold = '{}'",
        "UPDATE jobs SET state = 'held', hold = '3'",
        "UPDATE jobs SET state = 'frozen'",
        "UPDATE jobs SET intent = 'stop'",
        "UPDATE jobs SET state = 'running', attempt = 1, token = 1, started_us = 1, intent = 'pause'",
        "UPDATE jobs SET state = 'running', attempt = 1, token = 1, started_us = 1, intent = 'yield'",
        "UPDATE jobs SET yields_to = 1",
        "UPDATE queue_counters SET jobs = -1",
    ] {
        let error = sqlx::raw_sql(wrong).execute(&mut conn).await.expect_err(wrong);
        assert!(error.to_string().contains("CHECK constraint failed"), "{wrong}: {error}");
    }
    assert_eq!(rig.store.job(id).await.unwrap().job.user, Uid(1000));
    rig.check().await;
}
