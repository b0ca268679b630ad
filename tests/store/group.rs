//! Group commit and idempotency.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use mlctl::{
    domain::{Command, JobState, Uid},
    store::{NewJob, StoreError, Submitted},
};
use mlctl_protocol::{ExitClass, JobId};

use crate::rig::{self, Rig, USER, new_job};

/// The number of transactions that wrote events: each has a time of its own.
async fn groups(rig: &Rig) -> usize {
    let events = rig.store.events(None, 0, u32::MAX).await.unwrap();
    events.iter().map(|event| event.at).collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn many_submitters_share_a_commit() {
    let rig = Rig::new().await;
    let submits = (0..2_000).map(|index| rig.store.submit(new_job("one", &format!("key {index}"))));
    let answers = join_all(submits).await;
    let ids: BTreeSet<JobId> = answers.into_iter().map(|answer| answer.unwrap().id).collect();
    assert_eq!(ids.len(), 2_000);
    assert_eq!((ids.first(), ids.last()), (Some(&JobId(1)), Some(&JobId(2_000))), "without gaps");
    let groups = groups(&rig).await;
    assert!((4..=20).contains(&groups), "2,000 submits took {groups} transactions");
    rig.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submitters_on_many_threads_get_one_job_each() {
    let rig = Rig::new().await;
    let tasks = (0..32).map(|task| {
        let store = rig.store.clone();
        tokio::spawn(async move {
            let mut ids = Vec::new();
            for index in 0..20 {
                ids.push(store.submit(new_job("one", &format!("{task}/{index}"))).await.unwrap().id);
            }
            ids
        })
    });
    let ids: Vec<JobId> = join_all(tasks).await.into_iter().flat_map(|ids| ids.unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 640);
    rig.check().await;
}

#[tokio::test]
async fn one_command_that_the_schema_refuses_fails_alone() {
    let rig = Rig::new().await;
    let running = rig.submit("running").await;
    let fence = rig.claim(running).await;
    let before = groups(&rig).await;
    // An empty key breaks a CHECK; the API never lets one through.
    let keys = ["a", "b", "", "c"];
    let submits = join_all(keys.map(|key| rig.store.submit(new_job("one", key))));
    let end = rig.store.command(running, Some(fence), rig::end(ExitClass::Ok));
    let (answers, ended) = tokio::join!(submits, end);
    let kept: Vec<Option<JobId>> = answers.iter().map(|answer| answer.as_ref().ok().map(|new| new.id)).collect();
    assert_eq!(kept, [Some(JobId(2)), Some(JobId(3)), None, Some(JobId(4))], "and no id is lost");
    assert!(matches!(&answers[2], Err(StoreError::Failed(_))), "{:?}", answers[2]);
    assert_eq!(ended.unwrap().state, JobState::Succeeded);
    assert_eq!(groups(&rig).await - before, 4, "each of the others on its own");
    rig.check().await;
    // And the writer goes on with groups.
    join_all((0..100).map(|index| rig.store.submit(new_job("one", &format!("later {index}"))))).await;
    assert!(groups(&rig).await - before < 10);
    rig.check().await;
}

#[tokio::test]
async fn the_same_key_is_the_same_job() {
    let mut rig = Rig::new().await;
    let first = rig.store.submit(new_job("one", "key")).await.unwrap();
    assert_eq!(first, Submitted { id: JobId(1), existed: false });
    for _ in 0..2 {
        assert_eq!(rig.store.submit(new_job("one", "key")).await.unwrap(), Submitted { id: JobId(1), existed: true });
        rig.reopen().await;
    }
    let error = rig.store.submit(new_job("other", "key")).await.unwrap_err();
    assert_eq!(error.to_string(), "key \"key\" was used for job 1 with a different spec");
    // Another user's keys are other keys.
    let other = NewJob { user: Uid(USER.0 + 1), ..new_job("other", "key") };
    assert_eq!(rig.store.submit(other).await.unwrap(), Submitted { id: JobId(2), existed: false });
    // Even when the job has long ended.
    rig.store.command(JobId(1), None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(rig.store.submit(new_job("one", "key")).await.unwrap(), Submitted { id: JobId(1), existed: true });
    assert_eq!(rig.store.events(None, 0, 100).await.unwrap().len(), 3);
    rig.check().await;
}

#[tokio::test]
async fn the_same_key_in_one_group_is_one_job() {
    let rig = Rig::new().await;
    let names = ["one", "one", "other", "one"];
    let answers = join_all(names.map(|name| rig.store.submit(new_job(name, "key")))).await;
    let first = JobId(1);
    assert_eq!(*answers[0].as_ref().unwrap(), Submitted { id: first, existed: false });
    assert_eq!(*answers[1].as_ref().unwrap(), Submitted { id: first, existed: true });
    assert!(matches!(answers[2], Err(StoreError::KeyConflict { job, .. }) if job == first));
    assert_eq!(*answers[3].as_ref().unwrap(), Submitted { id: first, existed: true });
    rig.check().await;
}

#[tokio::test]
async fn keys_and_texts_of_any_characters_come_back_the_same() {
    let mut rig = Rig::new().await;
    let keys = ["'; DROP TABLE jobs; --", "\"", "\\u0000", "nul \0 inside", "ü\u{202e}\u{1f600}", " ", "%s", "[[1,2]]"];
    for (index, key) in keys.iter().enumerate() {
        let mut new = new_job("one", key);
        new.spec.labels = [((*key).to_owned(), (*key).to_owned())].into();
        let id = JobId(index as u64 + 1);
        assert_eq!(rig.store.submit(new.clone()).await.unwrap(), Submitted { id, existed: false }, "{key:?}");
        rig.reopen().await;
        assert_eq!(rig.store.submit(new.clone()).await.unwrap(), Submitted { id, existed: true }, "{key:?}");
        assert_eq!(rig.store.spec(id).await.unwrap(), new.spec);
        assert_eq!(rig.store.job(id).await.unwrap().job.labels, new.spec.labels);
    }
    rig.check().await;
}

#[tokio::test]
async fn all_that_happens_to_one_job_in_one_group_happens_in_order() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let before = groups(&rig).await;
    let fence = rig.claim(id).await;
    // Its end, a heartbeat of the attempt that is over by then, its next start, and a cancel of that.
    let (ended, claimed, cancelled) = tokio::join!(
        rig.store.command(id, Some(fence), rig::end(ExitClass::Preempted)),
        rig.store.claim(id, Vec::new(), [8; 32], rig.now()),
        rig.store.command(id, None, Command::Cancel { by: USER }),
    );
    assert_eq!(ended.unwrap().state, JobState::Queued { not_before: None });
    assert_eq!(claimed.unwrap().fence.attempt.0, 2);
    assert_eq!(cancelled.unwrap().state.name(), "running");
    assert_eq!(groups(&rig).await - before, 2);
    rig.check().await;
}
