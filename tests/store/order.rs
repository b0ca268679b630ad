//! The order of the queue: by waiting and priority, and of each class only the first.

use mlctl::{
    domain::{Command, Edit, Hold, Uid},
    store::{NewJob, Ready},
};
use mlctl_protocol::JobId;

use crate::rig::{Rig, USER, new_job};

const HOUR: i64 = 3600;

async fn submit(rig: &Rig, name: &str, priority: u8) -> JobId {
    let mut new = new_job(name, name);
    new.spec.priority = priority;
    rig.store.submit(new).await.unwrap().id
}

async fn line(rig: &Rig, of_each: u32) -> Vec<Ready> {
    rig.store.ready(rig.now(), of_each).await.unwrap()
}

async fn ids(rig: &Rig) -> Vec<u64> {
    line(rig, 100).await.iter().map(|job| job.id.0).collect()
}

#[tokio::test]
async fn an_hour_of_waiting_is_worth_a_point_of_priority() {
    let mut rig = Rig::new().await;
    submit(&rig, "low", 40).await;
    submit(&rig, "middle", 50).await;
    submit(&rig, "high", 60).await;
    assert_eq!(ids(&rig).await, [3, 2, 1], "submitted together, the priority alone counts");
    rig.clock.forward(9 * HOUR);
    submit(&rig, "late", 50).await;
    assert_eq!(ids(&rig).await, [3, 2, 4, 1], "ten points are ten hours");
    rig.clock.forward(2 * HOUR);
    submit(&rig, "later", 50).await;
    assert_eq!(ids(&rig).await, [3, 2, 4, 1, 5], "who has waited eleven hours is not overtaken any more");
    rig.reopen().await;
    let edit = Edit { priority: Some(100), ..Edit::default() };
    rig.store.command(JobId(5), None, Command::Edit { by: USER, edit }).await.unwrap();
    assert_eq!(ids(&rig).await, [5, 3, 2, 4, 1]);
    rig.check().await;
}

#[tokio::test]
async fn who_was_held_waits_anew_and_who_is_tried_again_does_not() {
    let rig = Rig::new().await;
    for name in ["held", "crashes", "waits"] {
        rig.submit(name).await;
    }
    let hold = Hold { by: USER, reason: None, not_before: None };
    rig.store.command(JobId(1), None, Command::Hold { hold }).await.unwrap();
    rig.clock.forward(HOUR);
    rig.crash(JobId(2)).await;
    rig.store.command(JobId(1), None, Command::Release { by: USER }).await.unwrap();
    assert_eq!(ids(&rig).await, [2, 3, 1]);
}

#[tokio::test]
async fn of_each_class_the_first() {
    let rig = Rig::new().await;
    let new = |user: u32, cpus: u32, number: u32| {
        let mut new = NewJob { user: Uid(user), ..new_job("one", &format!("{user} {cpus} {number}")) };
        new.spec.resources.cpus = cpus;
        new
    };
    for number in 0..50 {
        for (user, cpus) in [(7, 900), (7, 1), (8, 1), (7, 2)] {
            rig.store.submit(new(user, cpus, number)).await.unwrap();
        }
    }
    let seen = line(&rig, 2).await;
    let seen: Vec<(u64, u32, u32)> = seen.iter().map(|job| (job.id.0, job.user.0, job.needs.cpus)).collect();
    assert_eq!(
        seen,
        [(1, 7, 900), (2, 7, 1), (3, 8, 1), (4, 7, 2), (5, 7, 900), (6, 7, 1), (7, 8, 1), (8, 7, 2)],
        "two of each, in order, whatever stands ahead"
    );
}
