//! Finding and listing jobs, events and counts.

use std::{collections::BTreeMap, sync::Arc};

use jiff::SignedDuration;
use mlctl::{
    domain::{Command, Filter, Hold, Uid},
    store::{ListFilter, Listed, NewJob, Sift, StoreError},
};
use mlctl_protocol::{ExitClass, JobId};

use crate::rig::{self, Rig, USER, new_job};

fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<JobId> {
    numbers.into_iter().map(JobId).collect()
}

#[tokio::test]
async fn jobs_are_found_by_id_by_unique_name_and_as_the_last() {
    let rig = Rig::new().await;
    assert!(matches!(rig.store.find("@last").await, Err(StoreError::NotFound(_))), "an empty database has no last job");
    for key in ["1", "2", "3"] {
        rig.store.submit(new_job("twice", key)).await.unwrap();
    }
    rig.submit("once").await;
    let find = |reference: &'static str| rig.store.find(reference);
    assert_eq!(find("@last").await.unwrap(), JobId(4));
    assert_eq!(find("2").await.unwrap(), JobId(2));
    assert_eq!(find("once").await.unwrap(), JobId(4));
    let ambiguous = find("twice").await.unwrap_err();
    assert_eq!(ambiguous.to_string(), "the name \"twice\" fits jobs 1 and 2: use an id");
    // Unfinished jobs have their names to themselves; among finished ones the newest is meant.
    for id in [1, 3] {
        rig.store.command(JobId(id), None, Command::Cancel { by: USER }).await.unwrap();
    }
    assert_eq!(find("twice").await.unwrap(), JobId(2));
    rig.store.command(JobId(2), None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(find("twice").await.unwrap(), JobId(3));
    for missing in ["", "5", "0", "99999999999999999999", "-1", "twic", "TWICE", "@first", "1 OR 1=1", "%", "\0"] {
        let error = rig.store.find(missing).await.unwrap_err();
        assert!(matches!(&error, StoreError::NotFound(name) if name == missing), "{missing:?}: {error}");
    }
}

#[tokio::test]
async fn a_list_shows_what_was_asked_for_newest_first() {
    let rig = Rig::new().await;
    // 1 to 4 succeeded, 5 and 6 failed, 7 cancelled, 8 and 9 running, 10 to 12 queued.
    for number in 1..=12_u64 {
        let user = if number % 2 == 0 { Uid(2) } else { Uid(1) };
        rig.store.submit(NewJob { user, ..new_job("job", &number.to_string()) }).await.unwrap();
    }
    // Ended in an order of its own: 4, 3, 2, 1, 6, 5.
    for (number, class) in
        [4, 3, 2, 1].map(|n| (n, ExitClass::Ok)).into_iter().chain([6, 5].map(|n| (n, ExitClass::Spec)))
    {
        let fence = rig.claim(JobId(number)).await;
        rig.end(fence, class).await;
    }
    rig.store.command(JobId(7), None, Command::Cancel { by: USER }).await.unwrap();
    for number in [8, 9] {
        rig.claim(JobId(number)).await;
    }
    let list = async |filter: ListFilter| -> Vec<u64> {
        rig.store.list(filter).await.unwrap().jobs.iter().map(|detail| detail.job.id.0).collect()
    };
    let all = ListFilter { finished: 10, limit: 100, ..ListFilter::default() };
    assert_eq!(list(all.clone()).await, (1..=12).rev().collect::<Vec<_>>());
    assert_eq!(
        list(ListFilter { finished: 3, ..all.clone() }).await,
        [12, 11, 10, 9, 8, 7, 6, 5],
        "the last to finish"
    );
    assert_eq!(list(ListFilter { finished: 0, ..all.clone() }).await, [12, 11, 10, 9, 8]);
    assert_eq!(list(ListFilter { limit: 4, ..all.clone() }).await, [12, 11, 10, 9]);
    assert_eq!(list(ListFilter { user: Some(Uid(2)), finished: 2, ..all.clone() }).await, [12, 10, 8, 6, 2]);
    assert_eq!(list(ListFilter { kind: Some("infer".into()), ..all.clone() }).await, Vec::<u64>::new());
    let of = |states: &[&str]| ListFilter { states: states.iter().map(|&s| s.to_owned()).collect(), ..all.clone() };
    assert_eq!(list(of(&["failed"])).await, [6, 5]);
    assert_eq!(list(of(&["cancelled", "running"])).await, [9, 8, 7]);
    assert_eq!(list(of(&["failed", "failed"])).await, [6, 5], "named twice, shown once");
    assert_eq!(list(of(&["dancing"])).await, Vec::<u64>::new());
    assert_eq!(list(ListFilter { limit: 2, ..of(&["succeeded"]) }).await, [4, 3]);
    assert_eq!(list(ListFilter { limit: 0, ..all.clone() }).await, Vec::<u64>::new());
    let counts = rig.store.counts().await.unwrap();
    let expected = [("queued", 3), ("running", 2), ("succeeded", 4), ("failed", 2), ("cancelled", 1)];
    for (state, count) in expected {
        assert!(counts.contains(&(state.to_owned(), count)), "{counts:?}");
    }
    rig.check().await;
}

#[tokio::test]
async fn a_list_is_sifted_by_label_queue_and_time_and_says_when_it_did_not_see_all() {
    let rig = Rig::new().await;
    let labels = |number: u64| -> BTreeMap<String, String> {
        let team = if number.is_multiple_of(3) { "vision \"a\"" } else { "audio" };
        [("team".to_owned(), team.to_owned()), ("run".to_owned(), number.to_string())].into()
    };
    // 1 to 5 succeed, one an hour; 6 fails, 7 is held, 8 and 9 wait.
    for number in 1..=9_u64 {
        let mut new = new_job("job", &number.to_string());
        new.spec.labels = labels(number);
        rig.store.submit(new).await.unwrap();
    }
    let begin = rig.now();
    for number in 1..=6 {
        rig.clock.forward(3600);
        let fence = rig.claim(JobId(number)).await;
        rig.end(fence, if number == 6 { ExitClass::Spec } else { ExitClass::Ok }).await;
    }
    rig.store
        .command(JobId(7), None, Command::Hold { hold: Hold { by: USER, reason: None, not_before: None } })
        .await
        .unwrap();
    let list = async |filter: ListFilter| -> (Vec<u64>, bool) {
        let Listed { jobs, is_partial } = rig.store.list(filter).await.unwrap();
        (jobs.iter().map(|detail| detail.job.id.0).collect(), is_partial)
    };
    let all = ListFilter { finished: 100, limit: 100, look_at: Some(100), ..ListFilter::default() };
    let of = |states: &[&str]| ListFilter { states: states.iter().map(|&s| s.to_owned()).collect(), ..all.clone() };
    let team = |name: &str| [("team".to_owned(), name.to_owned())].into();
    let since = |hours| Some(begin + SignedDuration::from_hours(hours));
    assert_eq!(list(all.clone()).await.0, (1..=9).rev().collect::<Vec<_>>());
    let vision = ListFilter { labels: team("vision \"a\""), ..all.clone() };
    assert_eq!(list(vision.clone()).await, (vec![9, 6, 3], false));
    assert_eq!(list(ListFilter { labels: team("vision"), ..all.clone() }).await.0, Vec::<u64>::new());
    assert_eq!(list(ListFilter { labels: labels(4), ..all.clone() }).await.0, [4], "with all of them");
    assert_eq!(
        list(ListFilter { labels: [("none".into(), String::new())].into(), ..all.clone() }).await.0,
        Vec::<u64>::new()
    );
    assert_eq!(list(ListFilter { queue: Some("default".into()), ..of(&["held", "failed"]) }).await.0, [7, 6]);
    assert_eq!(list(ListFilter { queue: Some("night".into()), ..all.clone() }).await.0, Vec::<u64>::new());
    assert_eq!(list(ListFilter { since: since(4), ..all.clone() }).await.0, [9, 8, 7, 6, 5, 4], "unfinished ones too");
    assert_eq!(list(ListFilter { since: since(4), ..of(&["succeeded", "held"]) }).await.0, [7, 5, 4]);
    assert_eq!(list(ListFilter { since: since(9), ..of(&["succeeded"]) }).await.0, Vec::<u64>::new());
    let last = rig.store.job(JobId(6)).await.unwrap().job.finished_at;
    assert_eq!(list(ListFilter { since: last, ..of(&["failed"]) }).await.0, [6], "that very moment is meant too");
    // Two of each state, or of those that ended, are looked at: 9 and 8, 7, 6 and 5.
    let few = |filter: ListFilter| ListFilter { look_at: Some(2), ..filter };
    assert_eq!(list(few(vision.clone())).await, (vec![9, 6], true));
    assert_eq!(list(few(all.clone())).await, ((1..=9).rev().collect(), false), "without a filter none is left out");
    assert_eq!(
        list(few(ListFilter { since: since(5), ..vision.clone() })).await,
        (vec![9, 6], false),
        "less is asked for"
    );
    assert_eq!(list(few(ListFilter { limit: 1, ..vision })).await, (vec![9], false), "it is full of the newest");
    assert_eq!(
        list(few(ListFilter { labels: team("audio"), limit: 2, ..of(&["succeeded"]) })).await,
        (vec![5, 4], false)
    );
    assert_eq!(list(few(ListFilter { since: since(0), ..of(&["succeeded"]) })).await, (vec![5], true));
    let sift = |text: &str| {
        let names = Arc::new([(USER.0, "ann".to_owned())].into());
        let sift = Sift { filter: Filter::parse(text).unwrap(), names, now: rig.now() };
        ListFilter { sift: Some(sift), members: true, ..all.clone() }
    };
    assert_eq!(list(sift("label.team~vision* or attempt=0 and user=ann")).await, (vec![9, 8, 7, 6, 3], false));
    assert_eq!(list(few(sift("label.team~a*"))).await, (vec![8, 7, 5], true));
    assert_eq!(list(ListFilter { limit: 2, ..sift("finished") }).await, (vec![6, 5], false));
    assert_eq!(list(ListFilter { limit: 0, ..sift("finished") }).await.0, Vec::<u64>::new());
    let since = ListFilter { since: since(4), ..sift("age>7h and not label.run=4") };
    assert_eq!(list(since).await, (Vec::new(), false), "nothing is that old");
}

#[tokio::test]
async fn what_is_ready_comes_by_priority_then_age() {
    let rig = Rig::new().await;
    for (key, priority) in [("a", 50), ("b", 90), ("c", 50), ("d", 0), ("e", 100), ("f", 90)] {
        let mut new = new_job("job", key);
        new.spec.priority = priority;
        rig.store.submit(new).await.unwrap();
    }
    let ready = async |limit| -> Vec<JobId> {
        rig.store.ready(rig.now(), limit).await.unwrap().iter().map(|ready| ready.id).collect()
    };
    assert_eq!(ready(10).await, ids([5, 2, 6, 1, 3, 4]));
    assert_eq!(ready(2).await, ids([5, 2]));
    rig.claim(JobId(2)).await;
    // A retry keeps the place that its age gives it.
    let fence = rig.claim(JobId(1)).await;
    rig.end(fence, ExitClass::Crash).await;
    assert_eq!(ready(10).await, ids([5, 6, 1, 3, 4]));
}

#[tokio::test]
async fn events_are_read_in_pages_of_all_jobs_or_of_one() {
    let rig = Rig::new().await;
    for name in ["a", "b", "c"] {
        let id = rig.submit(name).await;
        let fence = rig.claim(id).await;
        rig.end(fence, ExitClass::Ok).await;
    }
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = rig.store.events(None, after, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page.iter().map(|event| event.id));
    }
    assert_eq!(seen, (1..=9).collect::<Vec<_>>());
    assert_eq!(*rig.store.changes().borrow(), 9);
    let of_one = rig.store.events(Some(JobId(2)), 0, 10).await.unwrap();
    assert_eq!(of_one.iter().map(|event| event.id).collect::<Vec<_>>(), [4, 5, 6]);
    assert_eq!(rig.store.events(Some(JobId(2)), 5, 10).await.unwrap().len(), 1);
    assert!(rig.store.events(None, i64::MAX, 10).await.unwrap().is_empty());
    assert!(rig.store.events(Some(JobId(u64::MAX)), 0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn whoever_waits_is_woken_by_a_change_and_only_by_one() {
    let rig = Rig::new().await;
    let mut changes = rig.store.changes();
    let id = rig.submit("one").await;
    changes.changed().await.unwrap();
    assert_eq!(*changes.borrow_and_update(), 1);
    // Refused, repeated, or no event at all.
    let _ = rig.store.command(id, None, Command::Retry { by: USER }).await;
    rig.store.submit(new_job("one", "one")).await.unwrap();
    assert!(!changes.has_changed().unwrap());
    let fence = rig.claim(id).await;
    rig.end(fence, ExitClass::Ok).await;
    assert_eq!(*changes.borrow_and_update(), 3);
    let _ = rig::dump(&rig.store, rig.now()).await.unwrap();
    assert!(!changes.has_changed().unwrap());
}
