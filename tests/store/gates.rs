//! Gates: of an array that runs so many at once, never more are let through and never fewer than there is room for, whatever happens to its members.

use jiff::SignedDuration;
use mlctl::{
    domain::{Command, Hold, JobState, Uid, array::gate},
    store::{NewArray, NewJob, StoreError},
};
use mlctl_protocol::{
    ExitClass, JobId,
    spec::{Concurrency, Wins},
};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::{
    arrays::array,
    chance::{Chance, cases},
    rig::{Rig, USER, new_job},
};

fn narrow(size: u32, parallel: u32) -> NewArray {
    let mut new = array("sweep", size, "k");
    new.design.parallel = Some(parallel);
    new
}

async fn ready(rig: &Rig) -> Vec<u64> {
    rig.store.ready(rig.now(), 100).await.unwrap().iter().map(|job| job.id.0).collect()
}

#[tokio::test]
async fn so_many_at_once_and_the_next_when_one_ends() {
    let mut rig = Rig::new().await;
    let id = rig.store.submit_array(narrow(5, 2)).await.unwrap().id;
    assert_eq!(id, JobId(1));
    assert_eq!(rig.store.job(JobId(2)).await.unwrap().job.gate, Some(gate(id, 2)));
    assert_eq!(ready(&rig).await, [2, 3], "the others wait behind the gate");
    rig.check().await;
    let refused = rig.store.claim(JobId(4), Vec::new(), [7; 32], rig.now()).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    let first = rig.claim(JobId(2)).await;
    assert_eq!(ready(&rig).await, [3], "who runs keeps its place");
    rig.reopen().await;
    rig.end(first, ExitClass::Ok).await;
    assert_eq!(ready(&rig).await, [3, 4]);
    rig.crash(JobId(3)).await;
    assert!(matches!(rig.state(JobId(3)).await, JobState::Queued { .. }), "it is tried again, and keeps its place");
    assert!(ready(&rig).await.contains(&4) && !ready(&rig).await.contains(&5));
    let hold = Command::Hold { hold: Hold { by: USER, reason: None, not_before: None } };
    rig.store.command(JobId(3), None, hold).await.unwrap();
    assert_eq!(ready(&rig).await, [4, 5], "who is held gives it up");
    rig.store.command(JobId(3), None, Command::Release { by: USER }).await.unwrap();
    assert!(rig.store.job(JobId(3)).await.unwrap().is_gated);
    assert_eq!(ready(&rig).await, [4, 5]);
    rig.store.command(JobId(4), None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(ready(&rig).await.len(), 2);
    rig.check().await;
    assert_eq!(rig.submit("free").await, JobId(7));
    assert!(ready(&rig).await.contains(&7), "a gate is nobody else's");
}

#[tokio::test]
async fn a_wrong_gate_is_found() {
    let mut rig = Rig::new().await;
    rig.store.submit_array(narrow(5, 2)).await.unwrap();
    for sql in ["UPDATE jobs SET gated = 0 WHERE id = 4", "UPDATE jobs SET gated = 1 WHERE id IN (3, 4)"] {
        rig.store.close().await;
        let mut conn = SqliteConnectOptions::new().filename(rig.path()).connect().await.unwrap();
        sqlx::query(sql).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        rig.reopen().await;
        let found = rig.store.check().await.unwrap();
        assert!(found.iter().any(|problem| problem.contains("lets 2 through at once")), "{found:?}");
    }
}

async fn random(mut chance: Chance) {
    let mut rig = Rig::new().await;
    let (size, parallel) = (8, 1 + u32::try_from(chance.below(4)).unwrap());
    let id = rig.store.submit_array(narrow(size, parallel)).await.unwrap().id;
    let mut running = Vec::new();
    for _ in 0..60 {
        let member = JobId(id.0 + 1 + chance.below(size.into()));
        let hold = Hold { by: USER, reason: None, not_before: None };
        match chance.below(10) {
            0..=3 => {
                if let Some(job) = ready(&rig).await.first() {
                    running.push(rig.claim(JobId(*job)).await);
                }
            }
            4 | 5 if !running.is_empty() => {
                let at = usize::try_from(chance.below(running.len() as u64)).unwrap();
                let class = chance.pick(&[ExitClass::Ok, ExitClass::Spec, ExitClass::Crash, ExitClass::Preempted]);
                let fence = running.swap_remove(at);
                rig.end(fence, class).await;
            }
            // Some do not fit: so be it.
            6 => drop(rig.store.command(member, None, Command::Hold { hold }).await),
            7 => drop(rig.store.command(member, None, Command::Release { by: USER }).await),
            8 => drop(rig.store.command(member, None, Command::Retry { by: USER }).await),
            9 if chance.once_in(3) => drop(rig.store.command(member, None, Command::Cancel { by: USER }).await),
            _ if chance.once_in(4) => rig.reopen().await,
            _ => {}
        }
        rig.clock.forward(3600);
        rig.check().await;
    }
}

#[test]
fn whatever_happens_the_gate_is_neither_too_wide_nor_shut() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    cases(10, |chance| runtime.block_on(random(chance)));
}

fn keyed(name: &str, key: &str, limit: u32) -> NewJob {
    let mut new = new_job(name, name);
    new.spec.concurrency = Some(Concurrency { key: key.into(), limit, wins: Wins::Oldest });
    new
}

async fn submit(rig: &Rig, new: NewJob) -> JobId {
    rig.store.submit(new).await.unwrap().id
}

#[tokio::test]
async fn jobs_of_one_key_wait_each_for_its_own_limit_and_none_passes_another() {
    let mut rig = Rig::new().await;
    for (name, key, limit) in [("a", "k", 2), ("b", "k", 1), ("c", "k", 2), ("d", "other", 1)] {
        submit(&rig, keyed(name, key, limit)).await;
    }
    let stranger = NewJob { user: Uid(7), ..keyed("e", "k", 1) };
    submit(&rig, stranger).await;
    assert_eq!(
        ready(&rig).await,
        [1, 4, 5],
        "b waits until nobody has a place, and c is behind it; other keys and users do not matter"
    );
    let mut urgent = keyed("f", "k", 1);
    urgent.spec.priority = 90;
    submit(&rig, urgent).await;
    rig.check().await;
    rig.reopen().await;
    let fence = rig.claim(JobId(1)).await;
    rig.end(fence, ExitClass::Ok).await;
    assert_eq!(ready(&rig).await, [6, 4, 5]);
    rig.store.command(JobId(6), None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(ready(&rig).await, [2, 3, 4, 5], "b had nobody before it, and c has one");
    rig.store.command(JobId(2), None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(ready(&rig).await, [3, 4, 5]);
    rig.check().await;
}

#[tokio::test]
async fn who_may_not_start_yet_takes_no_place_and_waits_for_one_then() {
    let rig = Rig::new().await;
    let mut later = keyed("later", "k", 1);
    later.spec.time.begin = Some((rig.now() + SignedDuration::from_secs(3600)).to_string());
    let (later, now) = (submit(&rig, later).await, submit(&rig, keyed("now", "k", 1)).await);
    assert_eq!(ready(&rig).await, [now.0]);
    rig.check().await;
    rig.clock.forward(4000);
    assert_eq!(ready(&rig).await, [now.0], "its place is taken");
    rig.check().await;
    rig.store.command(now, None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(ready(&rig).await, [later.0]);
    let mut alone = keyed("alone", "other", 1);
    alone.spec.time.begin = Some((rig.now() + SignedDuration::from_secs(3600)).to_string());
    let alone = submit(&rig, alone).await;
    rig.clock.forward(4000);
    assert_eq!(ready(&rig).await, [later.0, alone.0], "nobody had it");
    rig.check().await;
}

#[tokio::test]
async fn behind_a_gate_jobs_stand_as_in_the_queue() {
    let mut rig = Rig::new().await;
    submit(&rig, keyed("first", "k", 1)).await;
    let low = submit(&rig, keyed("low", "k", 1)).await;
    rig.clock.forward(11 * 3600);
    let mut urgent = keyed("urgent", "k", 1);
    urgent.spec.priority = 60;
    let urgent = submit(&rig, urgent).await;
    rig.reopen().await;
    rig.store.command(JobId(1), None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(ready(&rig).await, [low.0], "eleven hours of waiting are worth more than ten points");
    rig.store.command(low, None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(ready(&rig).await, [urgent.0]);
    rig.check().await;
}
