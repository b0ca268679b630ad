//! Concurrency keys of which the newest job wins: who makes way, when, and that it is written with the job for which that happens.

use jiff::{SignedDuration, Timestamp};
use mlctl::{
    domain::{Command, Event, Hold, Intent, Job, JobState},
    store::NewJob,
};
use mlctl_protocol::{
    ExitClass, JobId,
    spec::{Concurrency, Wins},
};

use crate::{
    chance::{Chance, cases},
    rig::{Rig, USER, end, new_job},
};

fn keyed(name: &str, limit: u32, wins: Wins) -> NewJob {
    let mut new = new_job(name, name);
    new.spec.concurrency = Some(Concurrency { key: "k".into(), limit, wins });
    new
}

async fn submit(rig: &Rig, new: NewJob) -> JobId {
    rig.store.submit(new).await.unwrap().id
}

async fn newest(rig: &Rig, name: &str) -> JobId {
    submit(rig, keyed(name, 1, Wins::Newest)).await
}

async fn job(rig: &Rig, id: JobId) -> Job {
    rig.store.job(id).await.unwrap().job
}

async fn ready(rig: &Rig) -> Vec<JobId> {
    rig.store.ready(rig.now(), 100).await.unwrap().iter().map(|job| job.id).collect()
}

fn hold() -> Command {
    Command::Hold { hold: Hold { by: USER, reason: None, not_before: None } }
}

#[tokio::test]
async fn one_that_runs_is_asked_to_end_and_one_that_waits_is_cancelled() {
    let mut rig = Rig::new().await;
    let mut told = rig.store.replacements();
    let first = newest(&rig, "first").await;
    let fence = rig.claim(first).await;
    assert!(!told.has_changed().unwrap(), "it has replaced nobody");
    let second = newest(&rig, "second").await;
    told.changed().await.unwrap();
    let replaced = job(&rig, first).await;
    assert!(matches!(replaced.state, JobState::Running { intent: Some(Intent::Cancel), .. }), "{replaced:?}");
    assert_eq!(replaced.replaced_by, Some(second));
    let third = newest(&rig, "third").await;
    let replaced = job(&rig, second).await;
    assert_eq!((replaced.state.name(), replaced.replaced_by), ("cancelled", Some(third)));
    assert_eq!(job(&rig, first).await.replaced_by, Some(second), "it was asked before");
    assert!(ready(&rig).await.is_empty(), "the place is not free yet");
    rig.reopen().await;
    rig.check().await;
    rig.end(fence, ExitClass::Cancelled).await;
    assert_eq!(job(&rig, first).await.replaced_by, Some(second));
    assert_eq!(ready(&rig).await, [third]);
    let events = rig.store.events(Some(second), 0, 10).await.unwrap();
    assert_eq!(events.last().map(|stored| &stored.event), Some(&Event::Replaced { by: third }));
    rig.store.command(first, None, Command::Retry { by: USER }).await.unwrap();
    assert_eq!((ready(&rig).await, job(&rig, first).await.replaced_by), (vec![first], None), "it is the newest again");
    assert_eq!(job(&rig, third).await.replaced_by, Some(first));
    rig.check().await;
}

#[tokio::test]
async fn one_that_has_done_its_work_has_not_been_replaced() {
    let rig = Rig::new().await;
    let first = newest(&rig, "first").await;
    let fence = rig.claim(first).await;
    newest(&rig, "second").await;
    rig.end(fence, ExitClass::Ok).await;
    let first = job(&rig, first).await;
    assert_eq!((first.state.name(), first.replaced_by), ("succeeded", None));
    rig.check().await;
}

#[tokio::test]
async fn a_job_of_which_the_oldest_wins_makes_no_way() {
    let rig = Rig::new().await;
    let old = submit(&rig, keyed("old", 1, Wins::Oldest)).await;
    let fence = rig.claim(old).await;
    let (first, second) = (newest(&rig, "first").await, newest(&rig, "second").await);
    assert_eq!((job(&rig, old).await.replaced_by, job(&rig, first).await.replaced_by), (None, Some(second)));
    let waits = submit(&rig, keyed("waits", 1, Wins::Oldest)).await;
    assert_eq!(job(&rig, second).await.replaced_by, None);
    rig.end(fence, ExitClass::Ok).await;
    assert_eq!(ready(&rig).await, [second], "and those that wait go in their order");
    rig.store.command(second, None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(ready(&rig).await, [waits]);
    rig.check().await;
}

#[tokio::test]
async fn who_is_held_or_may_not_start_yet_replaces_nobody_and_is_not_replaced() {
    let mut rig = Rig::new().await;
    let later = |name: &str| {
        let mut new = keyed(name, 1, Wins::Newest);
        new.spec.time.begin = Some((rig.now() + SignedDuration::from_secs(3600)).to_string());
        new
    };
    let first = newest(&rig, "first").await;
    let (soon, sooner) = (submit(&rig, later("soon")).await, submit(&rig, later("sooner")).await);
    let held = submit(
        &rig,
        NewJob { hold: Some(Hold { by: USER, reason: None, not_before: None }), ..keyed("held", 1, Wins::Newest) },
    );
    let held = held.await;
    assert_eq!(ready(&rig).await, [first]);
    let second = newest(&rig, "second").await;
    assert_eq!(ready(&rig).await, [second]);
    rig.store.command(held, None, Command::Release { by: USER }).await.unwrap();
    assert_eq!(ready(&rig).await, [held]);
    assert_eq!(job(&rig, second).await.replaced_by, Some(held));
    rig.check().await;
    rig.reopen().await;
    rig.clock.forward(4000);
    assert_eq!(ready(&rig).await, [sooner], "their time has come, and of the two one was later");
    assert_eq!((job(&rig, held).await.replaced_by, job(&rig, soon).await.replaced_by), (Some(soon), Some(sooner)));
    rig.check().await;
}

#[tokio::test]
async fn who_waits_for_others_replaces_when_they_have_ended() {
    let rig = Rig::new().await;
    let on = rig.submit("on").await;
    let after = |name: &str, word: String| {
        let mut new = keyed(name, 1, Wins::Newest);
        new.spec.after = vec![word.parse().unwrap()];
        new
    };
    let waits = submit(&rig, after("waits", format!("ok:{on}"))).await;
    let first = newest(&rig, "first").await;
    let heir = submit(&rig, after("heir", format!("notok:{first}"))).await;
    assert_eq!(job(&rig, first).await.replaced_by, None);
    let fence = rig.claim(on).await;
    rig.end(fence, ExitClass::Ok).await;
    assert_eq!(job(&rig, first).await.replaced_by, Some(waits));
    assert_eq!(job(&rig, waits).await.replaced_by, Some(heir), "which that has let start in the same moment");
    assert_eq!(ready(&rig).await, [heir]);
    rig.check().await;
}

#[tokio::test]
async fn all_of_a_group_replace_in_the_order_in_which_they_came() {
    let rig = Rig::new().await;
    let names: Vec<String> = (0..600).map(|number| format!("n{number}")).collect();
    let submits = names.iter().map(|name| submit(&rig, keyed(name, 2, Wins::Newest)));
    let ids = futures_util::future::join_all(submits).await;
    let mut left = ids.clone();
    left.sort();
    assert_eq!(ready(&rig).await, left[598..]);
    for (before, id) in left.iter().zip(&left[2..]) {
        assert_eq!(job(&rig, *before).await.replaced_by, Some(*id));
    }
    rig.check().await;
}

/// What the rules say of the jobs with a key.
#[derive(Debug, Default)]
struct Model {
    /// Who runs or waits for a place and was not asked to end, with its limit, whether it makes way, and since when it is there.
    line: Vec<(Timestamp, JobId, u32, bool)>,
    replaced: Vec<(JobId, JobId)>,
}

impl Model {
    fn comes(&mut self, since: Timestamp, id: JobId, limit: u32, newest: bool) {
        self.line.retain(|(_, other, ..)| *other != id);
        self.line.sort();
        while newest && self.line.len() + 1 > limit as usize {
            let Some(at) = self.line.iter().position(|(.., newest)| *newest) else { break };
            let (_, gone, ..) = self.line.remove(at);
            self.replaced.push((gone, id));
        }
        self.line.push((since, id, limit, newest));
    }

    fn goes(&mut self, id: JobId) {
        self.line.retain(|(_, other, ..)| *other != id);
    }
}

/// Whether a job is in the line of [`Model`].
fn is_in_line(job: &Job, now: Timestamp) -> bool {
    match &job.state {
        JobState::Queued { not_before } => job.attempt > 0 || not_before.is_none_or(|time| time <= now),
        JobState::Running { intent, .. } => !intent.as_ref().is_some_and(Intent::ends),
        _ => false,
    }
}

async fn random(mut chance: Chance) {
    let mut rig = Rig::new().await;
    let (mut model, mut jobs, mut running) = (Model::default(), Vec::new(), Vec::new());
    for step in 0..80 {
        let before = states(&rig, &jobs).await;
        let asked = match chance.below(12) {
            0..=4 => {
                let wins = if chance.once_in(4) { Wins::Oldest } else { Wins::Newest };
                let mut new = keyed(&format!("j{step}"), 1 + u32::try_from(chance.below(3)).unwrap(), wins);
                if chance.once_in(5) {
                    let seconds = i64::try_from(chance.below(9000)).unwrap();
                    new.spec.time.begin = Some((rig.now() + SignedDuration::from_secs(seconds)).to_string());
                }
                if chance.once_in(6) {
                    new.hold = Some(Hold { by: USER, reason: None, not_before: None });
                }
                jobs.push(submit(&rig, new).await);
                None
            }
            5 | 6 => {
                if let Some(job) = ready(&rig).await.first() {
                    running.push(rig.claim(*job).await);
                }
                None
            }
            7 | 8 if !running.is_empty() => {
                let at = usize::try_from(chance.below(running.len() as u64)).unwrap();
                let class = chance.pick(&[ExitClass::Ok, ExitClass::Spec, ExitClass::Crash, ExitClass::Preempted]);
                let fence = running.swap_remove(at);
                Some((fence.job, Some(fence), end(class)))
            }
            9 if !jobs.is_empty() => {
                let commands =
                    [hold(), Command::Release { by: USER }, Command::Cancel { by: USER }, Command::Stop { by: USER }];
                let at = usize::try_from(chance.below(commands.len() as u64)).unwrap();
                Some((chance.pick(&jobs), None, commands[at].clone()))
            }
            10 if !jobs.is_empty() => Some((chance.pick(&jobs), None, Command::Retry { by: USER })),
            11 if chance.once_in(3) => {
                rig.reopen().await;
                None
            }
            _ => {
                rig.clock.forward(i64::try_from(chance.below(3000)).unwrap());
                None
            }
        };
        if let Some((job, fence, command)) = asked {
            // Some do not fit: so be it.
            drop(rig.store.command(job, fence, command).await);
        }
        // So that start times are seen when they come.
        ready(&rig).await;
        let now = rig.now();
        let after = states(&rig, &jobs).await;
        follow(&mut model, &before, &after, now);
        let line: Vec<JobId> = after.iter().filter(|job| is_in_line(job, now)).map(|job| job.id).collect();
        let mut expected: Vec<JobId> = model.line.iter().map(|(_, id, ..)| *id).collect();
        expected.sort();
        assert_eq!(line, expected, "step {step}");
        for (gone, by) in model.replaced.drain(..) {
            let job = after.iter().find(|job| job.id == gone).unwrap();
            assert_eq!(job.replaced_by, Some(by), "step {step}: {job:?}");
        }
        rig.check().await;
    }
}

async fn states(rig: &Rig, jobs: &[JobId]) -> Vec<Job> {
    let mut all = Vec::with_capacity(jobs.len());
    for id in jobs {
        all.push(job(rig, *id).await);
    }
    all
}

/// What a step does to the model: who goes without being replaced first, then who comes.
fn follow(model: &mut Model, before: &[Job], after: &[Job], now: Timestamp) {
    let was = |id: JobId| before.iter().find(|job| job.id == id);
    for job in after.iter().filter(|job| !is_in_line(job, now)) {
        let is_replaced =
            job.replaced_by.is_some() && was(job.id).is_none_or(|before| before.replaced_by != job.replaced_by);
        if !is_replaced {
            model.goes(job.id);
        }
    }
    let mut came: Vec<(Timestamp, &Job)> = Vec::new();
    for job in after {
        let is_new =
            job.replaced_by.is_some() && was(job.id).is_none_or(|before| before.replaced_by != job.replaced_by);
        let is_there = model.line.iter().any(|(_, id, ..)| *id == job.id);
        if !is_there && (is_in_line(job, now) || is_new) {
            let begin = match was(job.id).map(|job| &job.state) {
                Some(JobState::Queued { not_before }) => *not_before,
                _ => None,
            };
            came.push((begin.unwrap_or(now), job));
        }
    }
    came.sort_by_key(|(since, job)| (*since, job.id));
    for (since, job) in came {
        let gate = job.gate.as_ref().unwrap();
        model.comes(since, job.id, gate.limit, gate.newest);
    }
}

#[test]
fn whatever_happens_who_makes_way_is_who_the_rules_say() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    cases(8, |chance| runtime.block_on(random(chance)));
}
