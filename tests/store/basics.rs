//! What each operation does, one at a time.

use jiff::{SignedDuration, Timestamp};
use mlctl::{
    domain::{Command, Exit, Hold, Intent, JobState, Refusal, Uid, event::ProcessIdentity},
    store::StoreError,
};
use mlctl_protocol::{AttemptNumber, ExitClass, FencingToken, JobId, message::ReportBody};

use crate::rig::{self, Rig, USER, new_job};

#[tokio::test]
async fn a_job_goes_through_its_life() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    assert_eq!(id, JobId(1));
    let ready = rig.store.ready(rig.now(), 10).await.unwrap();
    assert_eq!(ready.iter().map(|ready| ready.id).collect::<Vec<_>>(), [id]);
    let fence = rig.claim(id).await;
    assert_eq!((fence.attempt, fence.token), (AttemptNumber(1), FencingToken((1 << 40) + 1)));
    assert!(rig.store.ready(rig.now(), 10).await.unwrap().is_empty());
    let (job, attempt) = rig.store.running().await.unwrap().remove(0);
    assert_eq!((job.id, attempt.fence, attempt.secret_hash), (id, fence, [7; 32]));
    rig.end(fence, ExitClass::Ok).await;
    let detail = rig.store.job(id).await.unwrap();
    assert_eq!(detail.job.state, JobState::Succeeded);
    assert_eq!(detail.job.exit, Some(Exit { class: ExitClass::Ok, message: None, hint: None }));
    assert!(detail.attempt.unwrap().ended_at.is_some());
    assert_eq!(rig.store.events(Some(id), 0, 10).await.unwrap().len(), 3);
    rig.check().await;
}

#[tokio::test]
async fn what_a_state_does_not_allow_is_refused_and_changes_nothing() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let fence = rig.claim(id).await;
    let before = rig::dump(&rig.store, rig.now()).await.unwrap();
    let lease_until = rig.now();
    assert!(matches!(
        rig.store.claim(id, Vec::new(), [8; 32], lease_until).await,
        Err(StoreError::Refused(Refusal::WrongState { state: "running", verb: "started", .. }))
    ));
    let own_token = Command::Claim { token: FencingToken(1), gpus: Vec::new() };
    assert!(matches!(rig.store.command(id, None, own_token).await, Err(StoreError::Refused(_))));
    assert!(matches!(rig.store.command(id, None, Command::Retry { by: USER }).await, Err(StoreError::Refused(_))));
    assert!(matches!(rig.store.command(id, None, rig::end(ExitClass::Ok)).await, Err(StoreError::Refused(_))));
    let missing = JobId(99);
    assert!(matches!(
        rig.store.command(missing, None, Command::Cancel { by: USER }).await,
        Err(StoreError::NotFound(_))
    ));
    assert!(matches!(rig.store.claim(missing, Vec::new(), [8; 32], lease_until).await, Err(StoreError::NotFound(_))));
    assert!(matches!(rig.store.forget_checkpoints(missing, Vec::new()).await, Err(StoreError::NotFound(_))));
    assert!(matches!(rig.store.job(missing).await, Err(StoreError::NotFound(_))));
    assert!(matches!(rig.store.spec(missing).await, Err(StoreError::NotFound(_))));
    assert_eq!(rig::dump(&rig.store, rig.now()).await.unwrap(), before);
    // The token that a refused claim drew is given to the next.
    rig.end(fence, ExitClass::Preempted).await;
    assert_eq!(rig.claim(id).await.token, FencingToken(fence.token.0 + 1));
    rig.check().await;
}

#[tokio::test]
async fn a_cancel_that_was_acknowledged_holds() {
    let rig = Rig::new().await;
    let (waiting, running, done) = (rig.submit("w").await, rig.submit("r").await, rig.submit("d").await);
    let cancel = || Command::Cancel { by: Uid(7) };
    assert_eq!(rig.store.command(waiting, None, cancel()).await.unwrap().state, JobState::Cancelled);
    let fence = rig.claim(running).await;
    let asked = rig.store.command(running, None, cancel()).await.unwrap();
    assert_eq!(asked.state, JobState::Running { token: fence.token, intent: Some(Intent::Cancel) });
    // Asked twice is asked once.
    rig.store.command(running, None, cancel()).await.unwrap();
    assert_eq!(rig.store.events(Some(running), 0, 10).await.unwrap().len(), 3);
    rig.end(fence, ExitClass::Crash).await;
    assert_eq!(rig.state(running).await, JobState::Cancelled);
    // Work that is done counts.
    let fence = rig.claim(done).await;
    rig.store.command(done, None, cancel()).await.unwrap();
    rig.end(fence, ExitClass::Ok).await;
    assert_eq!(rig.state(done).await, JobState::Succeeded);
    assert!(rig.store.ready(rig.now(), 10).await.unwrap().is_empty());
    rig.check().await;
}

#[tokio::test]
async fn a_job_with_a_start_time_waits_for_it_and_is_in_nobodys_way() {
    let rig = Rig::new().await;
    let begin = rig.now().checked_add(SignedDuration::from_secs(3600)).unwrap();
    let mut keys = 0..;
    let mut submit = |begin: Timestamp| {
        let mut new = new_job("timed", &format!("timed {:?}", keys.next()));
        new.spec.time.begin = Some(begin.to_string());
        rig.store.submit(new)
    };
    let later = submit(begin).await.unwrap().id;
    let past = submit(rig.now().checked_sub(SignedDuration::from_secs(60)).unwrap()).await.unwrap().id;
    assert_eq!(rig.state(later).await, JobState::Queued { not_before: Some(begin) });
    let ready: Vec<_> = rig.store.ready(rig.now(), 10).await.unwrap().iter().map(|ready| ready.id).collect();
    assert_eq!(ready, [past], "one whose time is past starts at once");
    assert_eq!(rig.store.next_ready_at(rig.now()).await.unwrap(), Some(begin));
    assert!(matches!(rig.store.claim(later, Vec::new(), [7; 32], rig.now()).await, Err(StoreError::Refused(_))));
    rig.check().await;
    let hold = Hold { by: USER, reason: None, not_before: None };
    rig.store.command(later, None, Command::Hold { hold }).await.unwrap();
    rig.check().await;
    rig.store.command(later, None, Command::Release { by: USER }).await.unwrap();
    assert_eq!(rig.state(later).await, JobState::Queued { not_before: Some(begin) }, "a hold does not make it earlier");
    rig.check().await;
    rig.clock.forward(3600);
    assert_eq!(rig.store.ready(rig.now(), 10).await.unwrap().len(), 2);
    let fence = rig.claim(later).await;
    rig.end(fence, ExitClass::Spec).await;
    rig.store.command(later, None, Command::Retry { by: USER }).await.unwrap();
    assert_eq!(rig.state(later).await, JobState::Queued { not_before: None }, "a retry does not wait again");
    rig.check().await;
}

#[tokio::test]
async fn a_retry_waits_for_its_time_even_when_the_clock_is_set_back() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    rig.crash(id).await;
    rig.crash(id).await;
    let JobState::Queued { not_before: Some(due) } = rig.state(id).await else { panic!("no backoff") };
    assert_eq!(due.duration_since(rig.now()).as_secs(), 9, "ten seconds less a few microseconds");
    assert!(rig.store.ready(rig.now(), 10).await.unwrap().is_empty());
    assert_eq!(rig.store.next_ready_at(rig.now()).await.unwrap(), Some(due));
    let refused = rig.store.claim(id, Vec::new(), [7; 32], rig.now()).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    rig.clock.forward(10);
    assert_eq!(rig.store.ready(rig.now(), 10).await.unwrap().len(), 1);
    assert_eq!(rig.store.next_ready_at(rig.now()).await.unwrap(), None);
    // It was made ready, and now its time has not come yet after all.
    rig.clock.forward(-60);
    assert!(rig.store.ready(rig.now(), 10).await.unwrap().is_empty());
    assert_eq!(rig.store.next_ready_at(rig.now()).await.unwrap(), Some(due));
    rig.clock.forward(60);
    rig.claim(id).await;
    rig.check().await;
}

#[tokio::test]
async fn a_finished_job_is_tried_again_only_by_a_person_and_from_its_checkpoint() {
    let rig = Rig::new().await;
    let id = rig.submit("one").await;
    let fence = rig.claim(id).await;
    let checkpoint = rig::checkpoint("file:///c/5", 5);
    rig.store.report(fence, 1, ReportBody::Checkpoint { checkpoint: checkpoint.clone() }).await.unwrap();
    rig.end(fence, ExitClass::Spec).await;
    let failed = rig.store.job(id).await.unwrap().job;
    assert_eq!((failed.state.name(), failed.exit), ("failed", Some(rig::exit(ExitClass::Spec))));
    rig.store.command(id, None, Command::Retry { by: USER }).await.unwrap();
    let claimed = rig.store.claim(id, Vec::new(), [9; 32], rig.now()).await.unwrap();
    assert_eq!((claimed.fence.attempt, claimed.resume), (AttemptNumber(2), vec![checkpoint]));
    assert_eq!(claimed.spec, rig::spec("one"));
    assert_eq!(rig.store.attempts(id).await.unwrap().len(), 2);
    rig.check().await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let mut rig = Rig::new().await;
    for (name, class) in [("a", ExitClass::Ok), ("b", ExitClass::Crash), ("c", ExitClass::Spec)] {
        let id = rig.submit(name).await;
        let fence = rig.claim(id).await;
        rig.end(fence, class).await;
    }
    let running = rig.submit("d").await;
    let fence = rig.claim(running).await;
    let process = ProcessIdentity { pid: 4, start_ticks: 5, boot_id: "boot".into(), host: "here".into(), ahead: None };
    rig.store.command(running, Some(fence), Command::Launched { process: process.clone() }).await.unwrap();
    let (now, before) = (rig.now(), rig::dump(&rig.store, rig.now()).await.unwrap());
    rig.reopen().await;
    assert_eq!(rig::dump(&rig.store, now).await.unwrap(), before);
    assert_eq!(rig.store.running().await.unwrap()[0].1.process, Some(process));
    // Ids and tokens go on where they were.
    assert_eq!(rig.submit("e").await, JobId(5));
    assert_eq!(rig.claim(JobId(5)).await.token, FencingToken(fence.token.0 + 1));
    rig.check().await;
}

#[tokio::test]
async fn a_closed_store_says_that_the_daemon_stops() {
    let rig = Rig::new().await;
    let writers: Vec<_> = (0..100)
        .map(|index| {
            let store = rig.store.clone();
            tokio::spawn(async move { store.submit(new_job("one", &index.to_string())).await })
        })
        .collect();
    rig.store.close().await;
    let mut kept = 0;
    for writer in writers {
        match writer.await.unwrap() {
            Ok(_) => kept += 1,
            Err(error) => assert!(matches!(error, StoreError::Stopping), "{error}"),
        }
    }
    assert!(matches!(rig.store.submit(new_job("two", "two")).await, Err(StoreError::Stopping)));
    let mut rig = rig;
    rig.reopen().await;
    assert_eq!(rig.store.events(None, 0, 1_000).await.unwrap().len(), kept, "what was acknowledged, and no more");
    rig.check().await;
}
