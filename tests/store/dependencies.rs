//! Jobs that wait for others: settled in the transaction in which those end, whatever happens to them, and a wrong one is found.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use jiff::SignedDuration;
use mlctl::{
    domain::{Command, Event, Hold, JobState, dependency::Need},
    store::{NewJob, StoreError},
};
use mlctl_protocol::{
    ExitClass, JobId,
    spec::{After, AfterFailed, Concurrency, Wins},
};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::{
    arrays::array,
    chance::{Chance, cases},
    rig::{Rig, USER, new_job},
};

fn after(need: Need, on: JobId) -> After {
    After { need, job: on.to_string() }
}

fn waiting(name: &str, on: &[(Need, JobId)]) -> NewJob {
    let mut new = new_job(name, name);
    new.spec.after = on.iter().map(|(need, on)| after(*need, *on)).collect();
    new
}

fn kept(name: &str, on: &[(Need, JobId)]) -> NewJob {
    let mut new = waiting(name, on);
    new.spec.after_failed = AfterFailed::Keep;
    new
}

async fn submit(rig: &Rig, new: NewJob) -> JobId {
    rig.store.submit(new).await.unwrap().id
}

async fn run(rig: &Rig, id: JobId, class: ExitClass) {
    let fence = rig.claim(id).await;
    rig.end(fence, class).await;
}

async fn name_of(rig: &Rig, id: JobId) -> &'static str {
    rig.state(id).await.name()
}

async fn events(rig: &Rig, id: JobId) -> Vec<Event> {
    rig.store.events(Some(id), 0, 1000).await.unwrap().into_iter().map(|stored| stored.event).collect()
}

#[tokio::test]
async fn each_need_is_met_or_not_in_the_transaction_of_the_end() {
    let mut rig = Rig::new().await;
    let (well, badly) = (rig.submit("well").await, rig.submit("badly").await);
    let mut waiters = Vec::new();
    for (need, on) in [Need::Ok, Need::Any, Need::NotOk].into_iter().flat_map(|need| [(need, well), (need, badly)]) {
        waiters.push(submit(&rig, waiting(&format!("{}-{on}", need.name()), &[(need, on)])).await);
    }
    for id in &waiters {
        assert_eq!(name_of(&rig, *id).await, "blocked");
        let refused = rig.store.claim(*id, Vec::new(), [7; 32], rig.now()).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
    }
    assert_eq!(rig.store.ready(rig.now(), 100).await.unwrap().len(), 2, "who is blocked stands in no line");
    assert_eq!(rig.store.waiting().await.unwrap(), 8);
    rig.check().await;
    rig.reopen().await;
    let before = rig.store.events(None, 0, 1000).await.unwrap().len();
    let fence = rig.claim(well).await;
    rig.end(fence, ExitClass::Ok).await;
    let fence = rig.claim(badly).await;
    rig.end(fence, ExitClass::Spec).await;
    let mut states = Vec::new();
    for id in &waiters {
        states.push(name_of(&rig, *id).await);
    }
    assert_eq!(states, ["queued", "cancelled", "queued", "queued", "cancelled", "queued"]);
    let events = rig.store.events(None, 0, 1000).await.unwrap();
    for (end, settled_then) in [("succeeded", [0, 2, 4]), ("failed", [1, 3, 5])] {
        let ended = events[before..]
            .iter()
            .find(|stored| format!("{:?}", stored.event).to_lowercase().starts_with(end))
            .unwrap();
        for index in settled_then {
            let settled = events.iter().rfind(|stored| stored.job == waiters[index]).unwrap();
            assert_eq!(settled.at, ended.at, "one transaction has one time");
        }
    }
    let told = rig.store.job(waiters[1]).await.unwrap().job.exit.unwrap();
    assert_eq!(told.message.as_deref(), Some("job 2 failed (spec): it was spec\0 \"quoted\" ü"));
    rig.check().await;
}

#[tokio::test]
async fn what_has_ended_before_settles_a_job_at_its_submit() {
    let rig = Rig::new().await;
    let (well, badly, open) = (rig.submit("well").await, rig.submit("badly").await, rig.submit("open").await);
    run(&rig, well, ExitClass::Ok).await;
    run(&rig, badly, ExitClass::Spec).await;
    for (name, on, state) in [
        ("a", vec![(Need::Ok, well), (Need::NotOk, badly)], "queued"),
        ("b", vec![(Need::Ok, badly)], "cancelled"),
        ("c", vec![(Need::Ok, well), (Need::Any, open)], "blocked"),
        ("d", vec![(Need::Any, open), (Need::NotOk, well)], "cancelled"),
    ] {
        let id = submit(&rig, waiting(name, &on)).await;
        assert_eq!(name_of(&rig, id).await, state, "{name}");
    }
    let held = submit(&rig, kept("e", &[(Need::Ok, badly)])).await;
    let JobState::Held(hold) = rig.state(held).await else { panic!("it is not held") };
    assert!(hold.by == USER && hold.reason.unwrap().starts_with("job 2 failed (spec)"));
    let missing = rig.store.submit(waiting("f", &[(Need::Ok, JobId(99))])).await;
    assert!(matches!(&missing, Err(StoreError::NotFound(id)) if id == "99"), "{missing:?}");
    let itself = rig.store.submit(waiting("g", &[(Need::Ok, JobId(9))])).await;
    assert!(matches!(itself, Err(StoreError::NotFound(_))), "a job that is not there yet, as it is itself");
    let again = submit(&rig, waiting("a", &[(Need::Ok, well), (Need::NotOk, badly)])).await;
    assert_eq!(again, JobId(4), "the same key is the same job");
    rig.check().await;
}

#[tokio::test]
async fn persons_hold_release_cancel_edit_and_retry_what_waits() {
    let mut rig = Rig::new().await;
    let on = rig.submit("on").await;
    let hold = || Command::Hold { hold: Hold { by: USER, reason: None, not_before: None } };
    let release = || Command::Release { by: USER };
    let ids = join_all(["a", "b", "c", "d"].map(|name| submit(&rig, waiting(name, &[(Need::Ok, on)])))).await;
    let [a, b, c, d] = ids.as_slice() else { panic!() };
    for id in [*a, *b] {
        rig.store.command(id, None, hold()).await.unwrap();
        assert_eq!(name_of(&rig, id).await, "held");
    }
    rig.store.command(*a, None, release()).await.unwrap();
    assert_eq!(name_of(&rig, *a).await, "blocked", "what it waits for has not come about");
    rig.store.command(*c, None, Command::Cancel { by: USER }).await.unwrap();
    rig.store.command(*c, None, Command::Retry { by: USER }).await.unwrap();
    assert_eq!(name_of(&rig, *c).await, "blocked", "started anew, it waits for what has not ended");
    let begin = rig.now() + SignedDuration::from_secs(3600);
    let mut edit = mlctl::domain::Edit { priority: Some(90), ..Default::default() };
    edit.terms.begin = Some(mlctl::domain::Change::Set(begin));
    rig.store.command(*d, None, Command::Edit { by: USER, edit }).await.unwrap();
    rig.check().await;
    rig.reopen().await;
    run(&rig, on, ExitClass::Ok).await;
    assert_eq!(
        (name_of(&rig, *a).await, name_of(&rig, *b).await, name_of(&rig, *c).await),
        ("queued", "held", "queued")
    );
    assert_eq!(rig.state(*d).await, JobState::Queued { not_before: Some(begin) });
    rig.store.command(*b, None, release()).await.unwrap();
    assert_eq!(name_of(&rig, *b).await, "queued", "it has come about while it was held");
    assert_eq!(rig.store.ready(rig.now(), 100).await.unwrap().len(), 3);
    rig.clock.forward(4000);
    assert_eq!(rig.store.ready(rig.now(), 100).await.unwrap().len(), 4);
    rig.check().await;
}

#[tokio::test]
async fn who_waits_in_vain_is_started_anew_by_a_person_and_waits_for_what_is_open() {
    let mut rig = Rig::new().await;
    let (on, other) = (rig.submit("on").await, rig.submit("other").await);
    let cancelled = submit(&rig, waiting("cancelled", &[(Need::Ok, on), (Need::Ok, other)])).await;
    let held = submit(&rig, kept("held", &[(Need::Ok, on)])).await;
    run(&rig, on, ExitClass::Spec).await;
    assert_eq!((name_of(&rig, cancelled).await, name_of(&rig, held).await), ("cancelled", "held"));
    rig.store.command(on, None, Command::Retry { by: USER }).await.unwrap();
    assert_eq!(name_of(&rig, cancelled).await, "cancelled", "nobody else's retry wakes it");
    rig.store.command(cancelled, None, Command::Retry { by: USER }).await.unwrap();
    assert_eq!(name_of(&rig, cancelled).await, "blocked", "both have not ended");
    run(&rig, on, ExitClass::Spec).await;
    assert_eq!(name_of(&rig, cancelled).await, "cancelled", "again");
    rig.store.command(cancelled, None, Command::Retry { by: USER }).await.unwrap();
    assert_eq!(name_of(&rig, cancelled).await, "blocked", "for the other alone");
    assert!(events(&rig, cancelled).await.contains(&Event::Waived { on: vec![on] }));
    let awaited = rig.store.awaited(&[cancelled], true).await.unwrap().remove(&cancelled).unwrap();
    assert_eq!(
        awaited.iter().map(|one| (one.is_waived, one.is_open)).collect::<Vec<_>>(),
        [(true, false), (false, true)]
    );
    rig.check().await;
    rig.reopen().await;
    run(&rig, other, ExitClass::Ok).await;
    assert_eq!(name_of(&rig, cancelled).await, "queued");
    rig.store.command(held, None, Command::Release { by: USER }).await.unwrap();
    assert_eq!(name_of(&rig, held).await, "queued", "a release starts it all the same");
    rig.check().await;
}

#[tokio::test]
async fn arrays_are_waited_for_and_wait() {
    let rig = Rig::new().await;
    let id = rig.store.submit_array(array("sweep", 3, "k")).await.unwrap().id;
    let ok = submit(&rig, waiting("ok", &[(Need::Ok, id)])).await;
    let any = submit(&rig, waiting("any", &[(Need::Any, id)])).await;
    let one = submit(&rig, waiting("one", &[(Need::Ok, JobId(id.0 + 1))])).await;
    let mut second = array("second", 2, "k2");
    second.members.iter_mut().for_each(|(spec, _)| spec.after = vec![after(Need::Any, id)]);
    let second = rig.store.submit_array(second).await.unwrap().id;
    assert_eq!(rig.store.array(second).await.unwrap().counts, [("blocked".to_owned(), 2)].into());
    let kept_on = submit(&rig, kept("kept", &[(Need::Ok, id)])).await;
    run(&rig, JobId(id.0 + 1), ExitClass::Ok).await;
    assert_eq!((name_of(&rig, ok).await, name_of(&rig, one).await), ("blocked", "queued"));
    run(&rig, JobId(id.0 + 2), ExitClass::Spec).await;
    assert_eq!((name_of(&rig, ok).await, name_of(&rig, any).await), ("cancelled", "blocked"));
    assert_eq!(name_of(&rig, kept_on).await, "held");
    let told = rig.store.job(ok).await.unwrap().job.exit.unwrap().message.unwrap();
    assert_eq!(told, "of the 3 jobs of array 1, 1 failed");
    rig.check().await;
    rig.store.command(JobId(id.0 + 3), None, Command::Cancel { by: USER }).await.unwrap();
    assert_eq!(name_of(&rig, any).await, "queued");
    assert_eq!(rig.store.array(second).await.unwrap().counts, [("queued".to_owned(), 2)].into());
    let again = rig.store.submit_array(array("third", 2, "k3")).await.unwrap().id;
    let well = submit(&rig, waiting("well", &[(Need::Ok, again)])).await;
    run(&rig, JobId(again.0 + 1), ExitClass::Ok).await;
    run(&rig, JobId(again.0 + 2), ExitClass::Ok).await;
    assert_eq!(name_of(&rig, well).await, "queued", "all members succeeded");
    rig.check().await;
}

#[tokio::test]
async fn what_somebody_waits_for_is_not_removed() {
    let rig = Rig::new().await;
    let (on, open) = (rig.submit("on").await, rig.submit("open").await);
    run(&rig, on, ExitClass::Ok).await;
    let waits = submit(&rig, waiting("waits", &[(Need::Ok, on), (Need::Ok, open)])).await;
    let id = rig.store.submit_array(array("sweep", 1, "k")).await.unwrap().id;
    run(&rig, JobId(id.0 + 1), ExitClass::Ok).await;
    let for_array = submit(&rig, waiting("for array", &[(Need::Ok, id), (Need::Ok, open)])).await;
    let refused = rig.store.remove(&[on, JobId(id.0 + 1)], USER, true).await.unwrap();
    assert!(refused.iter().all(|answer| matches!(answer, Err(StoreError::Refused(_)))), "{refused:?}");
    assert_eq!(rig.store.oldest_finished(10).await.unwrap().0, [], "nor by the settings");
    for id in [waits, for_array] {
        rig.store.command(id, None, Command::Cancel { by: USER }).await.unwrap();
    }
    assert!(rig.store.remove(&[on, JobId(id.0 + 1)], USER, true).await.unwrap().iter().all(Result::is_ok));
    rig.check().await;
    rig.store.command(waits, None, Command::Retry { by: USER }).await.unwrap();
    assert_eq!(name_of(&rig, waits).await, "blocked", "for the one that is left");
    run(&rig, open, ExitClass::Ok).await;
    assert_eq!(name_of(&rig, waits).await, "queued");
    rig.store.command(waits, None, Command::Cancel { by: USER }).await.unwrap();
    assert!(rig.store.remove(&[waits], USER, false).await.unwrap()[0].is_ok(), "with its dependencies");
    rig.check().await;
}

#[tokio::test]
async fn who_is_blocked_takes_no_place_at_a_gate_and_fails_at_its_deadline() {
    let rig = Rig::new().await;
    let on = rig.submit("on").await;
    let concurrency = Some(Concurrency { key: "k".into(), limit: 1, wins: Wins::Oldest });
    let mut blocked = waiting("blocked", &[(Need::Ok, on)]);
    blocked.spec.concurrency.clone_from(&concurrency);
    let blocked = submit(&rig, blocked).await;
    let mut free = new_job("free", "free");
    free.spec.concurrency = concurrency;
    let free = submit(&rig, free).await;
    let ready = async || rig.store.ready(rig.now(), 100).await.unwrap().iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(ready().await, [on, free]);
    run(&rig, on, ExitClass::Ok).await;
    assert!(rig.store.job(blocked).await.unwrap().is_gated && ready().await == [free], "behind the gate now");
    run(&rig, free, ExitClass::Ok).await;
    assert_eq!(ready().await, [blocked]);
    let never = rig.submit("never").await;
    let mut late = waiting("late", &[(Need::Ok, never)]);
    late.spec.time.deadline = Some((rig.now() + SignedDuration::from_secs(60)).to_string());
    let late = submit(&rig, late).await;
    let last = submit(&rig, waiting("last", &[(Need::Ok, late)])).await;
    rig.clock.forward(100);
    assert_eq!(rig.store.expire(rig.now()).await.unwrap(), 1);
    assert_eq!((name_of(&rig, late).await, name_of(&rig, last).await), ("failed", "cancelled"));
    rig.check().await;
}

/// Waits until nothing is blocked any more.
async fn settled(rig: &Rig) {
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let counts: BTreeMap<String, u64> = rig.store.counts().await.unwrap().into_iter().collect();
        if counts["blocked"] == 0 {
            return;
        }
        assert!(Instant::now() < end, "{counts:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_chain_of_ten_thousand_falls_without_recursion_in_bounded_pieces() {
    const LINKS: u64 = 10_000;
    let mut rig = Rig::new().await;
    let first = rig.submit("first").await;
    let mut last = first;
    // A link is there when the next one is submitted.
    for number in 0..LINKS {
        last = submit(&rig, waiting(&format!("link {number}"), &[(Need::Ok, last)])).await;
    }
    let fence = rig.claim(first).await;
    let began = Instant::now();
    rig.end(fence, ExitClass::Spec).await;
    let acknowledged = began.elapsed();
    let slowest = {
        let began = Instant::now();
        rig.submit("in between").await;
        began.elapsed()
    };
    rig.reopen().await;
    settled(&rig).await;
    println!(
        "a chain of {LINKS}: the end acknowledged in {acknowledged:?}, a submit meanwhile in {slowest:?}, all in {:?}",
        began.elapsed()
    );
    let job = rig.store.job(last).await.unwrap().job;
    let told = job.exit.clone().unwrap().message.unwrap();
    assert!(
        job.state == JobState::Cancelled && told.starts_with("job 10000 was cancelled: job 1 failed (spec)"),
        "{told}"
    );
    assert!(acknowledged < Duration::from_secs(5) && slowest < Duration::from_secs(5), "{acknowledged:?} {slowest:?}");
    rig.check().await;
}

#[tokio::test]
async fn ten_thousand_that_wait_for_one_are_settled_in_bounded_pieces() {
    const WAITERS: u64 = 10_000;
    for class in [ExitClass::Ok, ExitClass::Spec] {
        let rig = Rig::new().await;
        let on = rig.submit("on").await;
        for group in 0..WAITERS / 500 {
            let names: Vec<String> = (0..500).map(|number| format!("{group} {number}")).collect();
            let submits = names.iter().map(|name| rig.store.submit(waiting(name, &[(Need::Ok, on)])));
            assert!(join_all(submits).await.into_iter().all(|answer| answer.is_ok()));
        }
        let fence = rig.claim(on).await;
        let began = Instant::now();
        rig.end(fence, class).await;
        let acknowledged = began.elapsed();
        settled(&rig).await;
        println!(
            "{WAITERS} that wait for one that ends as {class}: acknowledged in {acknowledged:?}, all in {:?}",
            began.elapsed()
        );
        let counts: BTreeMap<String, u64> = rig.store.counts().await.unwrap().into_iter().collect();
        assert_eq!(counts[if class == ExitClass::Ok { "queued" } else { "cancelled" }], WAITERS);
        assert!(acknowledged < Duration::from_secs(3), "{acknowledged:?}");
        rig.check().await;
    }
}

async fn planted(rig: &mut Rig, sql: &'static str) -> Vec<String> {
    rig.store.close().await;
    let mut conn = SqliteConnectOptions::new().filename(rig.path()).connect().await.unwrap();
    sqlx::query(sql).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    rig.reopen().await;
    rig.store.check().await.unwrap()
}

#[tokio::test]
async fn a_wrong_dependency_is_found() {
    let mut rig = Rig::new().await;
    let (one, other) = (rig.submit("one").await, rig.submit("other").await);
    run(&rig, one, ExitClass::Ok).await;
    let id = submit(&rig, waiting("waits", &[(Need::Ok, one), (Need::Any, other)])).await;
    assert_eq!(id, JobId(3));
    rig.check().await;
    let found = planted(&mut rig, "DELETE FROM dependencies WHERE on_job = 2").await;
    assert!(found.iter().any(|problem| problem.contains("all that it waits for has come about")), "{found:?}");
    assert!(
        found.iter().any(|problem| problem.contains("the events of job 3 say that it waits for others")),
        "{found:?}"
    );
    planted(&mut rig, "INSERT INTO dependencies (job_id, on_job, need) VALUES (3, 2, 'any')").await;
    rig.check().await;
    let found = planted(&mut rig, "UPDATE dependencies SET need = 'notok' WHERE on_job = 1").await;
    assert!(found.iter().any(|problem| problem.contains("of 1 can never come about")), "{found:?}");
    planted(&mut rig, "UPDATE dependencies SET need = 'ok' WHERE on_job = 1").await;
    rig.check().await;
    let found = planted(&mut rig, "UPDATE dependencies SET waived = 1 WHERE on_job = 1").await;
    assert!(found.iter().any(|problem| problem.contains("table dependencies")), "{found:?}");
}

/// What a job must have come to, by what it waits for and how those end that run: the rules in the simplest words.
#[derive(Debug, Clone)]
struct Plan {
    on: Vec<(Need, usize)>,
    keep: bool,
    class: ExitClass,
}

fn expected(plans: &[Plan], at: usize, known: &mut BTreeMap<usize, &'static str>) -> &'static str {
    if let Some(state) = known.get(&at) {
        return state;
    }
    let plan = &plans[at];
    let (mut in_vain, mut waits) = (false, false);
    for (need, on) in &plan.on {
        match (need, expected(plans, *on, known)) {
            // Who is kept does not end.
            (_, "held" | "blocked") => waits = true,
            (Need::Ok, "failed" | "cancelled") | (Need::NotOk, "succeeded") => in_vain = true,
            _ => {}
        }
    }
    let state = match (in_vain, waits, plan.class) {
        (true, ..) if plan.keep => "held",
        (true, ..) => "cancelled",
        (false, true, _) => "blocked",
        (false, false, ExitClass::Ok) => "succeeded",
        (false, false, ExitClass::Cancelled) => "cancelled",
        _ => "failed",
    };
    known.insert(at, state);
    state
}

async fn random(mut chance: Chance) {
    let mut rig = Rig::new().await;
    let plans: Vec<Plan> = (0..40)
        .map(|at| {
            let on: BTreeSet<usize> =
                (0..chance.below(4)).filter(|_| at > 0).map(|_| usize::try_from(chance.below(at)).unwrap()).collect();
            let on =
                on.into_iter().map(|on| (chance.pick(&[Need::Ok, Need::Ok, Need::Any, Need::NotOk]), on)).collect();
            let class =
                chance.pick(&[ExitClass::Ok, ExitClass::Ok, ExitClass::Ok, ExitClass::Spec, ExitClass::Cancelled]);
            Plan { on, keep: chance.once_in(3), class }
        })
        .collect();
    let mut submitted = 0;
    let mut idle = 0;
    while idle < 3 {
        let now = rig.now();
        let ready = rig.store.ready(now, 100).await.unwrap();
        if chance.once_in(3) && submitted < plans.len() {
            let plan = &plans[submitted];
            let on: Vec<(Need, JobId)> = plan.on.iter().map(|(need, on)| (*need, JobId(*on as u64 + 1))).collect();
            let name = format!("job {submitted}");
            let new = if plan.keep { kept(&name, &on) } else { waiting(&name, &on) };
            submit(&rig, new).await;
            submitted += 1;
        } else if !ready.is_empty() {
            let id = ready[usize::try_from(chance.below(ready.len() as u64)).unwrap()].id;
            let plan = &plans[usize::try_from(id.0 - 1).unwrap()];
            for (need, on) in &plan.on {
                let state = name_of(&rig, JobId(*on as u64 + 1)).await;
                let fits = match need {
                    Need::Ok => state == "succeeded",
                    Need::Any => ["succeeded", "failed", "cancelled"].contains(&state),
                    Need::NotOk => ["failed", "cancelled"].contains(&state),
                };
                assert!(fits, "job {id} may start, and {} is {state}", on + 1);
            }
            if plan.class == ExitClass::Cancelled {
                rig.store.command(id, None, Command::Cancel { by: USER }).await.unwrap();
            } else {
                run(&rig, id, plan.class).await;
            }
        } else if submitted == plans.len() {
            idle += 1;
        }
        if chance.once_in(20) {
            rig.reopen().await;
        }
        if chance.once_in(10) {
            rig.check().await;
        }
    }
    let mut known = BTreeMap::new();
    for at in 0..plans.len() {
        let state = name_of(&rig, JobId(at as u64 + 1)).await;
        assert_eq!(state, expected(&plans, at, &mut known), "job {} of {plans:?}", at + 1);
    }
    rig.check().await;
}

#[test]
fn whatever_waits_for_what_the_end_is_that_of_the_rules() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    cases(10, |chance| runtime.block_on(random(chance)));
}
