//! Arrays: all of one or nothing, counted right whatever happens to its members, and found by every name.

use std::collections::BTreeMap;

use mlctl::{
    domain::{
        Command, Hold, JobState,
        array::{Axis, Design, Goal, Metric, Sample, Sweep},
    },
    store::{Array, ArrayFilter, ListFilter, MemberFilter, NewArray, Store, StoreError, Submitted},
};
use mlctl_protocol::{ExitClass, JobId, JobSpec, message::ReportBody, progress::MetricPoint};
use serde_json::json;

use crate::rig::{Rig, USER, new_job, spec};

fn sweep(size: u32) -> Sweep {
    let values = (1..=size).map(|seed| json!(seed)).collect();
    Sweep { axes: vec![Axis { key: "train.seed".into(), values, range: None }], sample: None }
}

pub fn array(name: &str, size: u32, key: &str) -> NewArray {
    let sweep = sweep(size);
    let members =
        (1..=size).map(|index| (JobSpec { name: format!("{name}.{index}"), ..spec(name) }, sweep.params(index)));
    NewArray {
        name: name.into(),
        priority: 50,
        labels: BTreeMap::new(),
        user: USER,
        key: key.into(),
        asked: blake3::hash(format!("{name} {size}").as_bytes()),
        hold: None,
        members: members.collect(),
        design: Design { sweep, metric: None, halving: None, parallel: None },
    }
}

async fn counts(store: &Store, id: JobId) -> Vec<(String, u64)> {
    store.array(id).await.unwrap().counts.into_iter().collect()
}

fn of(pairs: &[(&str, u64)]) -> Vec<(String, u64)> {
    pairs.iter().map(|(state, jobs)| ((*state).to_owned(), *jobs)).collect()
}

#[tokio::test]
async fn an_array_is_kept_whole_and_its_members_are_jobs() {
    let mut rig = Rig::new().await;
    rig.submit("before").await;
    let Submitted { id, existed } = rig.store.submit_array(array("sweep", 3, "k")).await.unwrap();
    assert_eq!((id, existed), (JobId(2), false));
    assert_eq!(rig.submit("after").await, JobId(6), "its members' ids follow its own");
    let found: Array = rig.store.array(id).await.unwrap();
    assert_eq!((found.name.as_str(), found.size, found.kind.as_str()), ("sweep", 3, "train"));
    assert_eq!(found.counts, of(&[("queued", 3)]).into_iter().collect());
    let third = rig.store.job(JobId(5)).await.unwrap().job;
    let place = third.array.clone().unwrap();
    assert_eq!((third.name.as_str(), place.id, place.index), ("sweep.3", id, 3));
    assert_eq!(place.params, [("train.seed".to_owned(), json!(3))].into());
    rig.check().await;
    rig.reopen().await;
    assert_eq!(rig.store.job(JobId(5)).await.unwrap().job, third);
    rig.check().await;
}

#[tokio::test]
async fn the_key_of_an_array_is_the_array() {
    let rig = Rig::new().await;
    let first = rig.store.submit_array(array("sweep", 3, "k")).await.unwrap();
    let again = rig.store.submit_array(array("sweep", 3, "k")).await.unwrap();
    assert_eq!(again, Submitted { id: first.id, existed: true });
    let other = rig.store.submit_array(array("sweep", 4, "k")).await;
    assert!(matches!(other, Err(StoreError::KeyConflict { .. })), "{other:?}");
    let job = rig.store.submit(new_job("a job", "k")).await;
    assert!(matches!(job, Err(StoreError::KeyConflict { .. })), "{job:?}");
    let asked = blake3::hash(b"sweep 3");
    assert_eq!(rig.store.keyed_array(USER, "k", &asked).await.unwrap(), Some(first.id));
    assert_eq!(rig.store.counts().await.unwrap().iter().map(|(_, jobs)| jobs).sum::<u64>(), 3);
    rig.check().await;
}

#[tokio::test]
async fn every_name_leads_where_it_should() {
    let rig = Rig::new().await;
    let array = rig.store.submit_array(array("sweep", 3, "k")).await.unwrap().id;
    let is_array =
        |found: Result<JobId, StoreError>| matches!(found, Err(StoreError::IsArray { id, size: 3, .. }) if id == array);
    for name in ["1", "sweep", "@last"] {
        assert!(is_array(rig.store.find(name).await), "{name}");
        assert_eq!(rig.store.find_array(name).await.unwrap(), array, "{name}");
    }
    for name in ["1.2", "sweep.2", "3"] {
        assert_eq!(rig.store.find(name).await.unwrap(), JobId(3), "{name}");
        assert!(matches!(rig.store.find_array(name).await, Err(StoreError::NoArray { job: JobId(3) })), "{name}");
    }
    for name in ["1.0", "1.4", "2.1", "9.9", "1.x", "5", "99999999999999999999"] {
        assert!(matches!(rig.store.find(name).await, Err(StoreError::NotFound(_))), "{name}");
        assert!(matches!(rig.store.find_array(name).await, Err(StoreError::NotFound(_))), "{name}");
    }
    let job = rig.submit("sweep").await;
    let both = rig.store.find("sweep").await;
    assert!(matches!(both, Err(StoreError::Ambiguous { .. })), "an unfinished job and an unfinished array: {both:?}");
    assert_eq!(rig.store.find("@last").await.unwrap(), job);
    rig.store.command_members(array, &["queued"], &Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(rig.store.find("sweep").await.unwrap(), job, "the unfinished one is meant");
    rig.store.command(job, None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(rig.store.find("sweep").await.unwrap(), job, "the newest is meant");
}

#[tokio::test]
async fn counts_follow_every_change_of_a_member() {
    let rig = Rig::new().await;
    let id = rig.store.submit_array(array("sweep", 4, "k")).await.unwrap().id;
    let runs = rig.claim(JobId(2)).await;
    assert_eq!(counts(&rig.store, id).await, of(&[("queued", 3), ("running", 1)]));
    rig.end(runs, ExitClass::Ok).await;
    let fails = rig.claim(JobId(3)).await;
    rig.end(fails, ExitClass::Spec).await;
    rig.store.command(JobId(4), None, Command::Cancel { by: USER }).await.unwrap();
    let hold = Hold { by: USER, reason: None, not_before: None };
    rig.store.command(JobId(5), None, Command::Hold { hold }).await.unwrap();
    let all = [("cancelled", 1), ("failed", 1), ("held", 1), ("succeeded", 1)];
    assert_eq!(counts(&rig.store, id).await, of(&all));
    rig.check().await;
    let (taken, changed) =
        rig.store.command_members(id, &["failed", "cancelled"], &Command::Retry { by: USER }).await.unwrap();
    assert_eq!((taken.len(), changed), (2, 2));
    assert_eq!(counts(&rig.store, id).await, of(&[("held", 1), ("queued", 2), ("succeeded", 1)]));
    rig.check().await;
}

#[tokio::test]
async fn a_held_array_waits_whole_and_is_released_whole() {
    let rig = Rig::new().await;
    let hold = Some(Hold { by: USER, reason: None, not_before: None });
    let id = rig.store.submit_array(NewArray { hold, ..array("sweep", 3, "k") }).await.unwrap().id;
    assert_eq!(counts(&rig.store, id).await, of(&[("held", 3)]));
    assert!(rig.store.ready(rig.now(), 10).await.unwrap().is_empty());
    rig.store.command_members(id, &["held"], &Command::Release { by: USER }).await.unwrap();
    assert_eq!(rig.store.ready(rig.now(), 10).await.unwrap().len(), 3);
    rig.check().await;
}

#[tokio::test]
async fn a_command_reaches_every_member_of_a_long_array_and_no_other_job() {
    let rig = Rig::new().await;
    let other = rig.submit("other").await;
    let id = rig.store.submit_array(array("sweep", 1203, "k")).await.unwrap().id;
    let last = rig.submit("last").await;
    let running = rig.claim(JobId(3)).await;
    let unfinished = ["queued", "running"];
    let (taken, changed) = rig.store.command_members(id, &unfinished, &Command::Cancel { by: USER }).await.unwrap();
    assert_eq!((taken.len(), changed), (1203, 1203));
    assert_eq!(taken.last().unwrap().id, running.job, "those that run are asked last");
    assert_eq!(counts(&rig.store, id).await, of(&[("cancelled", 1202), ("running", 1)]));
    let again = rig.store.command_members(id, &unfinished, &Command::Cancel { by: USER }).await.unwrap();
    assert_eq!((again.0.len(), again.1), (1, 0), "asked before");
    for job in [other, last] {
        assert!(matches!(rig.state(job).await, JobState::Queued { .. }));
    }
    rig.check().await;
}

#[tokio::test]
async fn lists_show_arrays_or_their_members() {
    let rig = Rig::new().await;
    let id = rig.store.submit_array(array("sweep", 3, "k")).await.unwrap().id;
    let alone = rig.submit("alone").await;
    let done = rig.claim(JobId(2)).await;
    rig.end(done, ExitClass::Ok).await;
    let ids = async |filter: ListFilter| {
        let listed = rig.store.list(filter).await.unwrap().jobs;
        listed.iter().map(|detail| detail.job.id.0).collect::<Vec<_>>()
    };
    let all = ListFilter { finished: 10, limit: 10, ..ListFilter::default() };
    assert_eq!(ids(all.clone()).await, [alone.0]);
    assert_eq!(ids(ListFilter { members: true, ..all.clone() }).await, [5, 4, 3, 2]);
    let queued = ListFilter { states: vec!["queued".into()], limit: 10, ..ListFilter::default() };
    assert_eq!(ids(queued.clone()).await, [alone.0]);
    assert_eq!(ids(ListFilter { members: true, ..queued }).await, [5, 4, 3]);
    let members = async |states: &[&str], limit: u32| {
        let states = states.iter().map(|state| (*state).to_owned()).collect();
        let found = rig.store.members(id, &MemberFilter { states, limit }).await.unwrap();
        found.iter().map(|detail| detail.job.id.0).collect::<Vec<_>>()
    };
    assert_eq!(members(&[], 10).await, [2, 3, 4]);
    assert_eq!(members(&[], 2).await, [2, 3]);
    assert_eq!(members(&["succeeded"], 10).await, [2]);
    let arrays = async |states: &[&str], ended: u32| {
        let states = states.iter().map(|state| (*state).to_owned()).collect();
        let found = rig.store.arrays(&ArrayFilter { states, limit: 10, ended }).await.unwrap();
        found.iter().map(|array| array.id.0).collect::<Vec<_>>()
    };
    assert_eq!(arrays(&["queued"], 0).await, [id.0]);
    assert_eq!(arrays(&["failed"], 10).await, Vec::<u64>::new(), "it has not ended");
    rig.store.command_members(id, &["queued"], &Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(arrays(&["queued", "running"], 10).await, [id.0]);
    assert_eq!(arrays(&["queued", "running"], 0).await, Vec::<u64>::new());
}

#[tokio::test]
async fn the_best_members_are_found_by_their_last_value() {
    let rig = Rig::new().await;
    let id = rig.store.submit_array(array("sweep", 4, "k")).await.unwrap().id;
    for (job, losses) in [(2_u64, &[0.5, 0.9][..]), (3, &[0.7, 0.2]), (4, &[1.0])] {
        let fence = rig.claim(JobId(job)).await;
        for (seq, loss) in (1..).zip(losses) {
            let values = [("val_loss".to_owned(), *loss)].into();
            let points = vec![MetricPoint { step: seq, epoch: 0, values }];
            rig.store.report(fence, seq, ReportBody::Metrics { points }).await.unwrap();
        }
    }
    let best = async |metric: &str, goal, limit| {
        let found = rig.store.best_members(id, metric, goal, limit).await.unwrap();
        found.iter().map(|(detail, value)| (detail.job.id.0, *value)).collect::<Vec<_>>()
    };
    assert_eq!(best("val_loss", Goal::Min, 10).await, [(3, 0.2), (2, 0.9), (4, 1.0)]);
    assert_eq!(best("val_loss", Goal::Max, 1).await, [(4, 1.0)]);
    assert_eq!(best("nothing", Goal::Min, 10).await, []);
}

#[tokio::test]
async fn what_was_drawn_and_asked_for_comes_back() {
    let rig = Rig::new().await;
    let mut new = array("sweep", 2, "k");
    new.design.metric = Some(Metric { name: "test_accuracy".into(), goal: Goal::Max });
    new.design.sweep.sample = Some(Sample { count: 2, seed: u64::MAX });
    let design = new.design.clone();
    let id = rig.store.submit_array(new).await.unwrap().id;
    assert_eq!(rig.store.array(id).await.unwrap().design, design);
}
