//! Random histories: the store against the state machine on plain values.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use mlctl::domain::{Command, Edit, Event, Fence, Hold, Job, JobState, state};
use mlctl_protocol::{AttemptNumber, ExitClass, JobId};

use crate::{
    chance::{Chance, cases},
    rig::{self, Rig, USER},
};

/// A command that makes some sense for the job's state, or none at all.
fn command(job: &Job, chance: &mut Chance) -> Command {
    match chance.below(18) {
        12 => Command::Hold {
            hold: Hold { by: USER, reason: chance.once_in(2).then(|| "ü \" \0".into()), not_before: None },
        },
        13 | 14 => Command::Release { by: USER },
        15 => Command::Stop { by: USER },
        16 => {
            let priority = chance.once_in(2).then(|| u8::try_from(chance.below(101)).unwrap());
            let value = chance.once_in(2).then(|| format!("ü \" {}", chance.below(9)));
            Command::Edit {
                by: USER,
                edit: Edit { priority, labels: [("team".to_owned(), value)].into(), ..Edit::default() },
            }
        }
        0 => Command::Cancel { by: USER },
        1 | 2 => Command::Retry { by: USER },
        3 => Command::Warned { message: "ü \0 '".into() },
        4 | 5 => {
            let step = chance.below(4);
            Command::Checkpointed { checkpoint: rig::checkpoint(&format!("file:///{}/{step}", job.id), step) }
        }
        6 => Command::Resumed { step: 1, skipped: Vec::new() },
        _ => rig::end(chance.pick(&ExitClass::ALL)),
    }
}

fn fence(job: &Job, chance: &mut Chance) -> Option<Fence> {
    let JobState::Running { token, .. } = job.state else { return None };
    let attempt = if chance.once_in(20) { job.attempt.wrapping_sub(1) } else { job.attempt };
    Some(Fence { job: job.id, attempt: AttemptNumber(attempt), token })
}

/// What the log makes of a job.
async fn replay(rig: &Rig, id: JobId) -> Job {
    let events = rig.store.events(Some(id), 0, u32::MAX).await.unwrap();
    let fold = events.iter().fold(None, |job, stored| Some(state::apply(id, job, &stored.event, stored.at).unwrap()));
    fold.unwrap()
}

async fn live(mut chance: Chance) {
    let mut rig = Rig::new().await;
    let mut jobs: BTreeMap<JobId, Job> = BTreeMap::new();
    for _ in 0..80 {
        rig.clock.forward(i64::try_from(chance.below(15)).unwrap());
        let id = JobId(1 + chance.below(6));
        let Some(job) = jobs.get(&id).cloned() else {
            let id = rig.submit(&format!("job {}", jobs.len())).await;
            jobs.insert(id, rig.store.job(id).await.unwrap().job);
            continue;
        };
        if chance.once_in(3) {
            let due =
                matches!(job.state, JobState::Queued { not_before } if not_before.is_none_or(|time| time <= rig.now()));
            let claimed = rig.store.claim(id, Vec::new(), [1; 32], rig.now() + SignedDuration::from_secs(60)).await;
            assert_eq!(claimed.is_ok(), due, "{job:?}");
        } else {
            let command = command(&job, &mut chance);
            let fence = if command.is_fenced() { fence(&job, &mut chance) } else { None };
            let expected = state::decide(&job, fence, &command, rig.now()).map(|events| events.len());
            let answer = rig.store.command(id, fence, command.clone()).await;
            assert_eq!(answer.is_ok(), expected.is_ok(), "{command:?} on {job:?}");
        }
        let after = rig.store.job(id).await.unwrap();
        assert_eq!(after.job, replay(&rig, id).await);
        let open = after.attempt.is_some_and(|attempt| attempt.ended_at.is_none());
        assert_eq!(open, matches!(after.job.state, JobState::Running { .. }));
        jobs.insert(id, after.job);
        if chance.once_in(40) {
            rig.reopen().await;
        }
    }
    let mut there: BTreeMap<String, u64> = BTreeMap::new();
    for job in jobs.values() {
        *there.entry(job.state.name().to_owned()).or_default() += 1;
    }
    let counted = rig.store.counts().await.unwrap().into_iter().filter(|(_, count)| *count > 0);
    assert_eq!(counted.collect::<BTreeMap<_, _>>(), there);
    let events = rig.store.events(None, 0, u32::MAX).await.unwrap();
    let submitted = events.iter().filter(|stored| matches!(stored.event, Event::Submitted { .. })).count();
    assert_eq!(submitted, jobs.len());
    rig.check().await;
}

#[test]
fn the_store_does_what_the_state_machine_says() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    cases(15, |chance| runtime.block_on(live(chance)));
}
