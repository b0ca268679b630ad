//! Schedules and their ticks: the row and the job are there together or not at all, and once.

use std::{
    fs::File,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use mlctl::{
    domain::{
        Uid,
        schedule::{Course, Crontab, Pass, Policy, TICK_LABEL, Timetable, zone},
    },
    store::{ListFilter, NewSchedule, Schedule, ScheduleChange, Store, StoreError},
};
use mlctl_protocol::{
    ExitClass, JobId,
    spec::{Concurrency, Wins},
};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::{
    chance::{cases, variable},
    rig::{Hand, Rig, USER, entropy, spec},
};

fn timetable(cron: &str) -> Timetable {
    Timetable::new(Crontab::parse(cron).unwrap(), zone(jiff::tz::db(), "UTC").unwrap())
}

fn new(name: &str, cron: &str, now: Timestamp) -> NewSchedule {
    let next = timetable(cron).after(now).next().map(|tick| tick.at);
    NewSchedule {
        name: name.into(),
        cron: cron.into(),
        zone: "UTC".into(),
        spec: spec(name),
        user: USER,
        created_at: now,
        next,
        policy: Policy::default(),
    }
}

/// A schedule that fired once.
pub async fn furnish(rig: &Rig) -> JobId {
    let now = rig.now();
    rig.store.add_schedule(new("hourly", "0 * * * *", now)).await.unwrap();
    rig.store.add_schedule(new("nightly", "30 2 * * *", now)).await.unwrap();
    let schedule = rig.store.schedule("hourly").await.unwrap();
    let turn = timetable(&schedule.cron).turn(schedule.settled, now + SignedDuration::from_hours(2));
    rig.store.take_turn(&schedule, turn, Course::Submit).await.unwrap().unwrap().id
}

/// A tick of the hourly schedule whose job could not be submitted.
pub async fn miss(rig: &Rig) {
    let schedule = rig.store.schedule("hourly").await.unwrap();
    let turn = timetable(&schedule.cron).turn(schedule.settled, schedule.settled + SignedDuration::from_hours(1));
    let why = "queue night is draining: it takes no more jobs";
    assert_eq!(rig.store.take_turn(&schedule, turn, Course::Leave(why.into())).await.unwrap(), None);
}

#[tokio::test]
async fn a_schedule_s_name_is_its_own() {
    let rig = Rig::new().await;
    let now = rig.now();
    assert!(!rig.store.add_schedule(new("x", "0 * * * *", now)).await.unwrap());
    assert!(rig.store.add_schedule(new("x", "0 * * * *", rig.now())).await.unwrap(), "the same once more");
    let other = rig.store.add_schedule(new("x", "1 * * * *", now)).await;
    assert!(matches!(other, Err(StoreError::ScheduleExists(name)) if name == "x"));
    let (removed, readded) =
        tokio::join!(rig.store.remove_schedule("x"), rig.store.add_schedule(new("x", "1 * * * *", now)));
    assert_eq!((removed.is_ok(), readded.unwrap()), (true, false), "in one group, in order");
    let (added, removed) =
        tokio::join!(rig.store.add_schedule(new("y", "1 * * * *", now)), rig.store.remove_schedule("y"));
    assert_eq!((added.unwrap(), removed.is_ok()), (false, true));
    let all = rig.store.schedules().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].0.cron.as_str(), all[0].0.spec.name.as_str(), all[0].0.created_at), ("1 * * * *", "x", now));
    rig.check().await;
}

#[tokio::test]
async fn a_policy_is_kept_with_its_schedule_over_turns_and_restarts() {
    let mut rig = Rig::new().await;
    let now = rig.now();
    let policy = Policy { jitter_seconds: 60, until: Some(now + SignedDuration::from_hours(2)), ..Policy::default() };
    let with = |policy| {
        let next = timetable("0 * * * *").of("x", policy).after(now).next().map(|tick| tick.due);
        NewSchedule { policy, next, ..new("x", "0 * * * *", now) }
    };
    assert!(!rig.store.add_schedule(with(policy)).await.unwrap());
    assert!(rig.store.add_schedule(with(policy)).await.unwrap(), "the same once more");
    let other = rig.store.add_schedule(with(Policy::default())).await;
    assert!(matches!(other, Err(StoreError::ScheduleExists(name)) if name == "x"));
    rig.store.add_schedule(new("plain", "0 * * * *", now)).await.unwrap();
    for _ in 0..2 {
        for (name, policy) in [("x", policy), ("plain", Policy::default())] {
            let schedule = rig.store.schedule(name).await.unwrap();
            assert_eq!(schedule.policy, policy);
            let timetable = timetable(&schedule.cron).of(name, policy);
            let turn = timetable.turn(schedule.settled, schedule.next.unwrap());
            rig.store.take_turn(&schedule, turn, Course::Submit).await.unwrap().unwrap();
        }
        rig.check().await;
        rig.reopen().await;
    }
    assert_eq!(rig.store.schedule("x").await.unwrap().next, None, "it has ended");
}

#[tokio::test]
async fn a_tick_is_taken_once_however_many_take_it() {
    let mut rig = Rig::new().await;
    let first = furnish(&rig).await;
    let schedule = rig.store.schedule("hourly").await.unwrap();
    let now = schedule.settled + SignedDuration::from_hours(1);
    let turn = timetable(&schedule.cron).turn(schedule.settled, now);
    // Of one state of the schedule, and twenty at once: in one group, and in several.
    let taken = join_all((0..20).map(|_| rig.store.take_turn(&schedule, turn, Course::Submit))).await;
    let jobs: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert!(!jobs[0].existed && jobs[0].id > first);
    // The clock is set back and the same tick comes again, to this daemon and to the next.
    for _ in 0..2 {
        let schedule = rig.store.schedule("hourly").await.unwrap();
        let back = schedule.settled - SignedDuration::from_mins(90);
        let turn = timetable(&schedule.cron).turn(schedule.settled, back);
        assert_eq!((turn.fire, rig.store.take_turn(&schedule, turn, Course::Submit).await.unwrap()), (None, None));
        let schedule = rig.store.schedule("hourly").await.unwrap();
        let turn = timetable(&schedule.cron).turn(schedule.settled, now);
        assert!(turn.fire.is_some());
        assert_eq!(rig.store.take_turn(&schedule, turn, Course::Submit).await.unwrap(), None, "it has its row");
        rig.reopen().await;
    }
    let schedule = rig.store.schedule("hourly").await.unwrap();
    let ticks = rig.store.ticks(schedule.id, 10).await.unwrap();
    assert_eq!(ticks.iter().map(|tick| tick.job).collect::<Vec<_>>(), [jobs[0].id, first]);
    let labels = rig.store.job(first).await.unwrap().job.labels;
    assert_eq!(labels[TICK_LABEL], ticks[1].at.to_string());
    rig.store.remove_schedule("hourly").await.unwrap();
    assert!(rig.store.ticks(schedule.id, 10).await.unwrap().is_empty());
    assert!(rig.store.job(first).await.is_ok(), "jobs stay");
    let turn = timetable(&schedule.cron).turn(schedule.settled, now + SignedDuration::from_hours(5));
    assert_eq!(
        rig.store.take_turn(&schedule, turn, Course::Submit).await.unwrap(),
        None,
        "a schedule that is gone does nothing"
    );
    rig.check().await;
}

#[tokio::test]
async fn a_set_of_schedules_is_applied_whole_or_not_at_all_and_a_changed_one_keeps_its_ticks() {
    let mut rig = Rig::new().await;
    furnish(&rig).await;
    let (hourly, nightly) = (rig.store.schedule("hourly").await.unwrap(), rig.store.schedule("nightly").await.unwrap());
    let settled = hourly.settled + SignedDuration::from_mins(7);
    let other = NewSchedule {
        zone: "Europe/Berlin".into(),
        user: Uid(8),
        policy: Policy { jitter_seconds: 60, ..Policy::default() },
        ..new("hourly", "*/10 * * * *", settled)
    };
    let changes = |of: &Schedule| {
        let of = Box::new(of.clone());
        let add = ScheduleChange::Add(new("weekly", "0 0 * * 1", settled));
        vec![
            ScheduleChange::Become { of, new: other.clone(), settled },
            add,
            ScheduleChange::Remove(Box::new(nightly.clone())),
        ]
    };
    let stale = Schedule { settled, ..hourly.clone() };
    assert!(!rig.store.apply_schedules(changes(&stale)).await.unwrap());
    assert_eq!(rig.store.schedules().await.unwrap().len(), 2, "nothing is done by halves");
    // A turn that was read before the change is not taken after it.
    let turn = timetable(&hourly.cron).turn(hourly.settled, settled + SignedDuration::from_hours(1));
    let (applied, taken) =
        tokio::join!(rig.store.apply_schedules(changes(&hourly)), rig.store.take_turn(&hourly, turn, Course::Submit));
    assert_eq!((applied.unwrap(), taken.unwrap()), (true, None));
    rig.check().await;
    rig.reopen().await;
    let all = rig.store.schedules().await.unwrap();
    assert_eq!(all.iter().map(|(one, _)| one.name.as_str()).collect::<Vec<_>>(), ["hourly", "weekly"]);
    let now = &all[0].0;
    assert_eq!((now.id, now.created_at, now.enabled), (hourly.id, hourly.created_at, true));
    assert_eq!((now.cron.as_str(), now.zone.as_str(), now.user), ("*/10 * * * *", "Europe/Berlin", Uid(8)));
    assert_eq!((now.settled, now.next, now.policy), (settled, other.next, other.policy));
    assert_eq!(rig.store.ticks(hourly.id, 10).await.unwrap().len(), 1);
    assert!(!rig.store.apply_schedules(changes(&hourly)).await.unwrap(), "they are no longer as they were read");
    rig.check().await;
}

#[tokio::test]
async fn a_tick_that_has_passed_is_made_up_for_once_and_the_schedule_stays_as_it_is() {
    let mut rig = Rig::new().await;
    let fired = furnish(&rig).await;
    miss(&rig).await;
    rig.store.pause_schedule("hourly").await.unwrap();
    let schedule = rig.store.schedule("hourly").await.unwrap();
    let missed = rig.store.missed_ticks(schedule.id, 10).await.unwrap()[0].at;
    let ticks = timetable(&schedule.cron).between(missed - SignedDuration::from_hours(3), missed).unwrap();
    assert_eq!(ticks.len(), 4);
    let made = async |rig: &Rig| {
        let mut made = Vec::new();
        for tick in &ticks {
            // Two at once, too.
            let after = [fired];
            let ask = || rig.store.backfill(&schedule, *tick, &after, Uid(8));
            let (one, other) = tokio::join!(ask(), ask());
            assert_eq!(other.unwrap(), None);
            made.push(one.unwrap().map(|submitted| submitted.id));
        }
        made
    };
    let mut jobs = made(&rig).await;
    assert_eq!(jobs.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false, true], "the third had fired");
    assert!(rig.store.missed_ticks(schedule.id, 10).await.unwrap().is_empty(), "it was not missed after all");
    rig.reopen().await;
    assert_eq!(made(&rig).await, [None; 4]);
    jobs[2] = Some(fired);
    assert_eq!(rig.store.jobs_of_ticks(schedule.id, &ticks).await.unwrap(), jobs);
    let rows = rig.store.ticks(schedule.id, 10).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.asked_by).collect::<Vec<_>>(),
        [Some(Uid(8)), None, Some(Uid(8)), Some(Uid(8))]
    );
    let job = rig.store.job(jobs[0].unwrap()).await.unwrap().job;
    assert_eq!(
        (job.labels[TICK_LABEL].clone(), job.user, job.state.name()),
        (ticks[0].at.to_string(), USER, "blocked")
    );
    let open = rig.store.open_jobs(schedule.id).await.unwrap();
    assert_eq!(open.iter().map(|job| job.is_backfill).collect::<Vec<_>>(), [false, true, true, true]);
    let now = rig.store.schedule("hourly").await.unwrap();
    assert_eq!((now.enabled, now.settled, now.next), (false, schedule.settled, schedule.next));
    rig.check().await;
    rig.store.remove_schedule("hourly").await.unwrap();
    assert_eq!(made(&rig).await, [None; 4], "a schedule that is gone does nothing");
    assert_eq!(rig.store.jobs_of_ticks(schedule.id, &ticks).await.unwrap(), [None; 4]);
}

#[tokio::test]
async fn a_tick_whose_moment_a_government_moved_has_fired() {
    let rig = Rig::new().await;
    let first = furnish(&rig).await;
    let schedule = rig.store.schedule("hourly").await.unwrap();
    let fired = rig.store.ticks(schedule.id, 1).await.unwrap()[0];
    let mut turn = timetable(&schedule.cron).turn(schedule.settled, schedule.settled + SignedDuration::from_hours(1));
    let tick = turn.fire.as_mut().unwrap();
    let due = tick.nominal;
    // The same local time as the last one, at a later moment; then the other of two such moments; then the next hour.
    tick.nominal = fired.nominal;
    assert_eq!(rig.store.take_turn(&schedule, turn, Course::Submit).await.unwrap(), None);
    for (nominal, pass) in [(fired.nominal, Pass::Second), (due, Pass::First)] {
        let schedule = rig.store.schedule("hourly").await.unwrap();
        let mut turn =
            timetable(&schedule.cron).turn(schedule.settled, schedule.settled + SignedDuration::from_hours(1));
        let tick = turn.fire.as_mut().unwrap();
        (tick.nominal, tick.pass) = (nominal, pass);
        assert!(
            rig.store.take_turn(&schedule, turn, Course::Submit).await.unwrap().is_some_and(|job| job.id > first),
            "{nominal}"
        );
    }
    rig.check().await;
}

const DATABASE: &str = "MLCTL_TEST_DATABASE";
const ACKS: &str = "MLCTL_TEST_ACKS";

/// Takes tick after tick of a schedule and notes each, until it is killed.
#[tokio::test]
#[ignore = "run by the test below, in a process that is killed"]
async fn child() {
    let store = Store::open(&PathBuf::from(variable(DATABASE).unwrap()), Hand::new(), entropy).await.unwrap();
    let mut acks = File::options().append(true).create(true).open(variable(ACKS).unwrap()).unwrap();
    let mut schedule = store.schedule("minutely").await.unwrap();
    loop {
        let now = schedule.next.unwrap();
        let turn = timetable(&schedule.cron).turn(schedule.settled, now);
        let taken = store.take_turn(&schedule, turn, Course::Submit).await.unwrap();
        acks.write_all(format!("{now} {}\n", taken.map_or_else(String::new, |job| job.id.to_string())).as_bytes())
            .unwrap();
        schedule = store.schedule("minutely").await.unwrap();
    }
}

/// What is wrong with the ticks of a database: jobs without a row, rows without a job, doubles, gaps.
async fn wrong(store: &Store, schedule: &Schedule) -> Vec<String> {
    let mut wrong = store.check().await.unwrap();
    let ticks = store.ticks(schedule.id, u32::MAX).await.unwrap();
    let filter = ListFilter { states: vec!["queued".into()], limit: u32::MAX, ..ListFilter::default() };
    let mut jobs: Vec<_> = store
        .list(filter)
        .await
        .unwrap()
        .jobs
        .into_iter()
        .map(|found| (found.job.labels[TICK_LABEL].clone(), found.job.id))
        .collect();
    let mut rows: Vec<_> = ticks.iter().map(|tick| (tick.at.to_string(), tick.job)).collect();
    jobs.sort();
    rows.sort();
    if jobs != rows {
        wrong.push(format!("{} jobs and {} rows", jobs.len(), rows.len()));
    }
    wrong.extend(jobs.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| format!("{} twice", pair[0].0)));
    let last = ticks.first().map_or(schedule.created_at, |tick| tick.at);
    let due = timetable(&schedule.cron).after(schedule.created_at).take_while(|tick| tick.at <= last).count();
    if due != ticks.len() {
        wrong.push(format!("{due} ticks were due, and {} fired", ticks.len()));
    }
    if schedule.settled < last {
        wrong.push("a tick fired and is not settled".into());
    }
    wrong
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn killed_at_any_moment_a_tick_has_its_row_and_its_job_or_neither() {
    cases(1, |mut chance| {
        let dir = tempfile::tempdir().unwrap();
        let (database, acks) = (dir.path().join("mld.db"), dir.path().join("acks"));
        let open = async || Store::open(&database, Hand::new(), entropy).await.unwrap();
        block_on(async {
            let store = open().await;
            store.add_schedule(new("minutely", "* * * * *", "2026-03-28T22:00:00Z".parse().unwrap())).await.unwrap();
            store.close().await;
        });
        let noted = || std::fs::read_to_string(&acks).unwrap_or_default();
        let mut kills = 0;
        while kills < 15 || (noted().lines().count() < 100 && kills < 300) {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .args(["--exact", "schedules::child", "--ignored", "--nocapture"])
                .env(DATABASE, &database)
                .env(ACKS, &acks);
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(chance.below(200)));
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        block_on(async {
            let store = open().await;
            let schedule = store.schedule("minutely").await.unwrap();
            assert_eq!(wrong(&store, &schedule).await, Vec::<String>::new(), "after {kills} kills");
            let ticks = store.ticks(schedule.id, u32::MAX).await.unwrap();
            let acknowledged = noted().lines().filter(|line| !line.ends_with(' ')).count();
            assert!(ticks.len() >= acknowledged, "{acknowledged} were acknowledged, {} are there", ticks.len());
            store.close().await;
            // The control: a tick without its row is found.
            let mut conn = SqliteConnectOptions::new().filename(&database).connect().await.unwrap();
            sqlx::raw_sql("DELETE FROM ticks WHERE job_id = 2").execute(&mut conn).await.unwrap();
            conn.close().await.unwrap();
            let store = open().await;
            assert_eq!(wrong(&store, &schedule).await.len(), 2, "it has a job and no row, and is missing in the row");
            store.close().await;
        });
    });
}

#[tokio::test]
async fn a_run_with_a_concurrency_key_waits_for_the_one_before_it() {
    let rig = Rig::new().await;
    let now = rig.now();
    let mut hourly = new("hourly", "0 * * * *", now);
    hourly.spec.concurrency = Some(Concurrency { key: "hourly".into(), limit: 1, wins: Wins::Oldest });
    rig.store.add_schedule(hourly).await.unwrap();
    let mut runs = Vec::new();
    for hours in [2, 3] {
        let schedule = rig.store.schedule("hourly").await.unwrap();
        let turn = timetable(&schedule.cron).turn(schedule.settled, now + SignedDuration::from_hours(hours));
        runs.push(rig.store.take_turn(&schedule, turn, Course::Submit).await.unwrap().unwrap().id);
    }
    let fence = rig.claim(runs[0]).await;
    assert!(rig.store.ready(rig.now(), 10).await.unwrap().is_empty(), "the second waits behind the first");
    rig.end(fence, ExitClass::Ok).await;
    assert_eq!(rig.store.ready(rig.now(), 10).await.unwrap()[0].id, runs[1]);
    rig.check().await;
}

#[tokio::test]
async fn a_run_of_which_the_newest_wins_replaces_the_one_before_it() {
    let rig = Rig::new().await;
    let now = rig.now();
    let mut hourly = new("hourly", "0 * * * *", now);
    hourly.spec.concurrency = Some(Concurrency { key: "hourly".into(), limit: 1, wins: Wins::Newest });
    rig.store.add_schedule(hourly).await.unwrap();
    let mut runs = Vec::new();
    for hours in [2, 3, 4] {
        let schedule = rig.store.schedule("hourly").await.unwrap();
        let turn = timetable(&schedule.cron).turn(schedule.settled, now + SignedDuration::from_hours(hours));
        runs.push(rig.store.take_turn(&schedule, turn, Course::Submit).await.unwrap().unwrap().id);
        if hours == 2 {
            rig.claim(runs[0]).await;
        }
    }
    let jobs = [rig.store.job(runs[0]).await.unwrap().job, rig.store.job(runs[1]).await.unwrap().job];
    assert_eq!(jobs.each_ref().map(|job| job.state.name()), ["running", "cancelled"]);
    assert_eq!(jobs.each_ref().map(|job| job.replaced_by), [Some(runs[1]), Some(runs[2])]);
    rig.check().await;
}
