//! Rounds over a real database with a clock that is set by hand, and the loop itself with one that runs by the test.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use mlctl_protocol::{
    JobSpec,
    spec::{DataFormat, DataSource, InitSpec, Work},
};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Dispatch,
    cron::{Cron, Rounds, Wait, run},
    run::LONGEST_SLEEP,
};
use crate::{
    domain::{
        Change, Clock, Command, Uid,
        alias::{CHAMPION, Change as Moved},
        queue::{Flow, QueueEdit},
        registry::{Content, Dataset},
        schedule::{Crontab, Misfire, Policy, SCHEDULE_LABEL, TICK_LABEL, Timetable, zone},
    },
    store::{ListFilter, NewDataset, NewJob, NewMove, NewSchedule, NewVersion, Store, StoreError},
};

const CEILING: Duration = Duration::from_secs(30);

/// A clock that stands where it was set. Timers that wait for it look at it often.
pub(super) struct Hand(AtomicI64);

impl Hand {
    pub(super) fn set(&self, moment: &str) {
        self.0.store(at(moment).as_microsecond(), Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.load(Ordering::SeqCst)).unwrap()
    }

    fn until(&self, moment: Timestamp) -> Duration {
        if moment > self.now() { Duration::from_millis(2) } else { Duration::ZERO }
    }
}

pub(super) fn at(moment: &str) -> Timestamp {
    moment.parse().unwrap()
}

fn spec() -> JobSpec {
    let spec = serde_json::json!({
        "version": 1, "name": "night",
        "train": {
            "model": {"type": "mlp", "layers": [2, 1]},
            "data": {"format": "randn", "rows": 4, "features": 2, "targets": 1},
            "loss": "mse", "optimizer": {"type": "sgd"}, "batch_size": 2, "max_steps": 10
        }
    });
    serde_json::from_value(spec).unwrap()
}

/// A daemon's cron without the daemon.
pub(super) struct Room {
    pub(super) clock: Arc<Hand>,
    rounds: Rounds,
    dir: tempfile::TempDir,
}

impl Room {
    pub(super) async fn at(moment: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hand(AtomicI64::new(0)));
        clock.set(moment);
        let rounds = Rounds { cron: cron(&dir.path().join("mld.db"), &clock).await, seen: None };
        Self { clock, rounds, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mld.db")
    }

    pub(super) fn store(&self) -> &Store {
        &self.rounds.cron.store
    }

    async fn add(&self, name: &str, line: &str, zone_name: &str) {
        self.add_with(name, line, zone_name, Policy::default()).await;
    }

    pub(super) async fn add_with(&self, name: &str, line: &str, zone_name: &str, policy: Policy) {
        self.add_of(name, (line, zone_name), policy, spec()).await;
    }

    async fn add_of(&self, name: &str, (line, zone_name): (&str, &str), policy: Policy, spec: JobSpec) {
        let now = self.clock.now();
        // A zone may be gone by the time it is used.
        let found = zone(jiff::tz::db(), zone_name).unwrap_or(TimeZone::UTC);
        let timetable = Timetable::new(Crontab::parse(line).unwrap(), found).of(name, policy);
        let next = timetable.after(now).next().map(|tick| tick.due);
        let (cron, zone) = (line.to_owned(), zone_name.to_owned());
        let (name, user) = (name.into(), Uid(7));
        let new = NewSchedule { name, cron, zone, spec, user, created_at: now, next, policy };
        assert!(!self.store().add_schedule(new).await.unwrap());
    }

    /// What the daemon does when the wall clock shows `moment`.
    pub(super) async fn wake(&mut self, moment: &str) -> Wait {
        self.clock.set(moment);
        self.rounds.round().await.unwrap()
    }

    /// Kills the daemon and starts another one.
    pub(super) async fn restart(&mut self) {
        self.store().close().await;
        self.rounds = Rounds { cron: cron(&self.path(), &self.clock).await, seen: None };
    }

    /// How many jobs each tick submitted, by schedule and tick, counted among the jobs themselves.
    async fn fired(&self) -> BTreeMap<(String, String), usize> {
        let filter = ListFilter { states: vec!["queued".into()], limit: u32::MAX, ..ListFilter::default() };
        let mut fired = BTreeMap::new();
        for detail in self.store().list(filter).await.unwrap().jobs {
            let label = |name: &str| detail.job.labels[name].clone();
            *fired.entry((label(SCHEDULE_LABEL), label(TICK_LABEL))).or_default() += 1;
        }
        fired
    }

    /// The ticks that fired, each once.
    async fn ticks(&self) -> Vec<String> {
        let fired = self.fired().await;
        let doubles: Vec<_> = fired.iter().filter(|(_, jobs)| **jobs != 1).collect();
        assert!(doubles.is_empty(), "fired more than once: {doubles:?}");
        assert_eq!(self.store().check().await.unwrap(), Vec::<String>::new());
        fired.into_keys().map(|(_, tick)| tick).collect()
    }
}

async fn cron(path: &std::path::Path, clock: &Arc<Hand>) -> Cron {
    let store = Store::open(path, clock.clone(), |bytes| bytes.fill(3)).await.unwrap();
    Cron {
        store,
        clock: clock.clone(),
        zones: jiff::tz::db().clone(),
        max_queued: watch::Sender::new(1000).subscribe(),
    }
}

#[tokio::test]
async fn a_tick_submits_its_job_when_it_comes_and_not_before() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    assert_eq!(room.wake("2026-06-01T12:00:00Z").await.until, None, "nothing to wait for");
    room.add("nightly", "30 2 * * *", "UTC").await;
    for moment in ["2026-06-01T12:00:01Z", "2026-06-02T02:29:59.999999Z"] {
        assert!(room.wake(moment).await.until.is_some());
        assert_eq!(room.ticks().await, [""; 0]);
    }
    room.wake("2026-06-02T02:30:00Z").await;
    room.wake("2026-06-02T02:30:00.5Z").await;
    assert_eq!(room.ticks().await, ["2026-06-02T02:30:00Z"]);
    let job = room.store().job(mlctl_protocol::JobId(1)).await.unwrap().job;
    assert_eq!((job.name.as_str(), job.user), ("night", Uid(7)));
    assert_eq!(job.labels[SCHEDULE_LABEL], "nightly");
    let schedule = room.store().schedule("nightly").await.unwrap();
    let ticks = room.store().ticks(schedule.id, 10).await.unwrap();
    assert_eq!(ticks.len(), 1);
    assert_eq!((ticks[0].job, ticks[0].at), (job.id, at("2026-06-02T02:30:00Z")));
    room.store().remove_schedule("nightly").await.unwrap();
    assert_eq!(room.wake("2026-06-03T02:30:00Z").await.until, None);
    assert_eq!(room.ticks().await.len(), 1, "the jobs stay, and no more come");
    assert!(matches!(room.store().remove_schedule("nightly").await, Err(StoreError::NoSchedule(_))));
}

/// Ticks of some days around a change, woken every seven minutes and at each tick, with a restart now and then.
async fn through(line: &str, zone_name: &str, begin: &str, hours: i64) -> (Vec<String>, Vec<String>) {
    let mut room = Room::at(begin).await;
    room.add("x", line, zone_name).await;
    let timetable = Timetable::new(Crontab::parse(line).unwrap(), zone(jiff::tz::db(), zone_name).unwrap());
    let end = at(begin) + SignedDuration::from_hours(hours);
    let due: Vec<Timestamp> = timetable.after(at(begin)).map(|tick| tick.at).take_while(|at| *at <= end).collect();
    let mut now = at(begin);
    for step in 0_u32.. {
        let tick = room.store().next_tick(now).await.unwrap();
        now = (now + SignedDuration::from_mins(7)).min(tick.unwrap_or(end)).min(end);
        room.wake(&now.to_string()).await;
        if step % 16 == 3 {
            room.restart().await;
        }
        if now >= end {
            break;
        }
    }
    (room.ticks().await, due.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn each_tick_fires_once_through_both_changes_of_the_offset_and_restarts() {
    let (fired, _) = through("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 60).await;
    assert_eq!(fired, ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z"], "02:30 is left out: at 03:00 summer time");
    let (fired, _) = through("30 2 * * *", "Europe/Berlin", "2026-10-23T12:00:00Z", 60).await;
    assert_eq!(fired, ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z"], "02:30 comes twice: the first");
    let (fired, due) = through("*/15 * * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", 6).await;
    assert_eq!((fired.len(), fired), (24, due), "both passes of the repeated hour");
    let (fired, due) = through("*/15 * * * *", "America/New_York", "2026-03-08T05:00:00Z", 4).await;
    assert_eq!(fired, due);
}

#[tokio::test]
async fn of_missed_ticks_the_latest_alone_is_made_up_for() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    room.add("hourly", "0 * * * *", "UTC").await;
    room.wake("2026-06-01T13:00:00Z").await;
    room.restart().await;
    room.wake("2026-06-03T09:20:00Z").await;
    room.wake("2026-06-03T10:00:00Z").await;
    assert_eq!(room.ticks().await, ["2026-06-01T13:00:00Z", "2026-06-03T09:00:00Z", "2026-06-03T10:00:00Z"]);
}

fn all(window: u32) -> Policy {
    Policy { misfire: Misfire::All, catch_up_seconds: Some(window), ..Policy::default() }
}

#[tokio::test]
async fn all_missed_ticks_within_the_window_run_oldest_first_over_kills_and_the_others_are_told() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    room.add_with("minutely", "* * * * *", "UTC", all(4 * 3600)).await;
    room.wake("2026-06-01T12:01:00Z").await;
    room.restart().await;
    // More than one round makes up for, and no other schedule waits for them.
    room.add("other", "* * * * *", "UTC").await;
    let wait = room.wake("2026-06-01T18:00:00Z").await;
    assert_eq!(wait, Wait { until: Some(Duration::ZERO), is_full: false });
    assert_eq!(room.fired().await.len(), 102);
    room.restart().await;
    let mut rounds = 1;
    while room.wake("2026-06-01T18:00:00.5Z").await.until == Some(Duration::ZERO) {
        rounds += 1;
        // Killed at some of them.
        if rounds == 2 {
            room.restart().await;
        }
    }
    room.store().remove_schedule("other").await.unwrap();
    let schedule = room.store().schedule("minutely").await.unwrap();
    let ticks = room.store().ticks(schedule.id, 1000).await.unwrap();
    assert_eq!(ticks.len(), 1 + 4 * 60 + 1, "12:01, and from 14:00 to 18:00");
    assert!(ticks.windows(2).all(|pair| pair[0].at > pair[1].at && pair[0].job > pair[1].job), "oldest first");
    assert_eq!(room.store().check().await.unwrap(), Vec::<String>::new());
    let missed = room.store().missed_ticks(schedule.id, 1).await.unwrap();
    assert!(missed[0].reason.ends_with("late, and no more than 4h is made up for"), "{missed:?}");
    // Set back, nothing fires twice.
    for moment in ["2026-06-01T17:00:00Z", "2026-06-01T17:30:00Z", "2026-06-01T18:00:01Z"] {
        room.wake(moment).await;
    }
    assert_eq!(room.store().ticks(schedule.id, 1000).await.unwrap().len(), ticks.len());
}

#[tokio::test]
async fn missed_ticks_are_made_up_for_as_there_is_room() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    room.rounds.cron.max_queued = watch::Sender::new(2).subscribe();
    room.add_with("minutely", "* * * * *", "UTC", all(3600)).await;
    assert!(room.wake("2026-06-01T12:05:00Z").await.is_full);
    assert_eq!(room.ticks().await, ["2026-06-01T12:01:00Z", "2026-06-01T12:02:00Z"]);
    room.rounds.cron.max_queued = watch::Sender::new(4).subscribe();
    assert!(room.wake("2026-06-01T12:05:30Z").await.is_full);
    room.rounds.cron.max_queued = watch::Sender::new(100).subscribe();
    assert!(!room.wake("2026-06-01T12:05:40Z").await.is_full);
    assert_eq!(room.ticks().await.len(), 5);
}

#[tokio::test]
async fn skipped_ticks_do_not_run_and_say_why() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    room.add_with("hourly", "0 * * * *", "UTC", Policy { misfire: Misfire::Skip, ..Policy::default() }).await;
    room.wake("2026-06-01T13:00:59Z").await;
    room.restart().await;
    room.wake("2026-06-01T15:01:01Z").await;
    room.wake("2026-06-01T16:00:00Z").await;
    assert_eq!(room.ticks().await, ["2026-06-01T13:00:00Z", "2026-06-01T16:00:00Z"]);
    let id = room.store().schedule("hourly").await.unwrap().id;
    let missed = room.store().missed_ticks(id, 10).await.unwrap();
    let told: Vec<_> = missed.iter().map(|tick| (tick.at.to_string(), tick.reason.as_str())).collect();
    assert_eq!(told, [("2026-06-01T15:00:00Z".to_owned(), "it was 1m 1s late, and missed runs are skipped")]);
}

#[tokio::test]
async fn a_tick_waits_for_its_jitter_and_keeps_its_name_and_none_comes_after_the_end() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    let (jitter_seconds, until) = (1800, Some(at("2026-06-01T14:00:00Z")));
    let (from, policy) = (Some(at("2026-06-01T13:00:00Z")), Policy::default());
    room.add_with("hourly", "0 * * * *", "UTC", Policy { jitter_seconds, from, until, ..policy }).await;
    for tick in ["2026-06-01T13:00:00Z", "2026-06-01T14:00:00Z"] {
        let due = room.store().schedule("hourly").await.unwrap().next.unwrap();
        assert!(due > at(tick) && due < at(tick) + SignedDuration::from_mins(30), "{due}");
        let before = room.ticks().await;
        room.wake(&(due - SignedDuration::from_millis(1)).to_string()).await;
        room.restart().await;
        assert_eq!(room.ticks().await, before);
        room.wake(&due.to_string()).await;
        assert_eq!(room.ticks().await.last().unwrap(), tick);
    }
    assert_eq!(room.store().schedule("hourly").await.unwrap().next, None);
    room.wake("2026-06-02T14:00:00Z").await;
    assert_eq!(room.ticks().await.len(), 2);
}

#[tokio::test]
async fn a_clock_that_jumps_forth_and_back_fires_no_tick_twice() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    room.add("quarterly", "*/15 * * * *", "UTC").await;
    let moments = [
        "2026-06-01T12:15:00Z",
        "2026-06-01T12:30:00Z",
        "2026-06-01T12:45:00Z",
        // Back by an hour, and through the same ticks again.
        "2026-06-01T11:50:00Z",
        "2026-06-01T12:00:00Z",
        "2026-06-01T12:15:00Z",
        "2026-06-01T12:30:01Z",
        "2026-06-01T12:45:00Z",
        "2026-06-01T13:00:00Z",
        // Two years ahead, a tick there, and back: the schedule does not wait two years.
        "2028-06-01T13:07:00Z",
        "2028-06-01T13:15:00Z",
        "2026-06-01T13:10:00Z",
        "2026-06-01T13:15:00Z",
    ];
    let mut expected = vec!["2026-06-01T12:00:00Z"];
    expected.extend(["2026-06-01T12:15:00Z", "2026-06-01T12:30:00Z", "2026-06-01T12:45:00Z", "2026-06-01T13:00:00Z"]);
    expected.extend(["2026-06-01T13:15:00Z", "2028-06-01T13:00:00Z", "2028-06-01T13:15:00Z"]);
    for moment in moments {
        room.wake(moment).await;
    }
    assert_eq!(room.ticks().await, expected);
    // The same over restarts.
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    room.add("quarterly", "*/15 * * * *", "UTC").await;
    for moment in moments {
        room.wake(moment).await;
        room.restart().await;
    }
    room.wake("2026-06-01T13:15:30Z").await;
    assert_eq!(room.ticks().await, expected);
}

/// The control: without the row and the key that a tick leaves, the detector finds a double.
#[tokio::test]
async fn without_its_row_a_tick_would_fire_twice_and_be_found() {
    for (forget, doubles) in [("", 1), ("DELETE FROM ticks; DELETE FROM idempotency", 2)] {
        let mut room = Room::at("2026-06-01T12:00:00Z").await;
        room.add("hourly", "0 * * * *", "UTC").await;
        room.wake("2026-06-01T13:00:00Z").await;
        room.store().close().await;
        let mut conn = SqliteConnectOptions::new().filename(room.path()).connect().await.unwrap();
        sqlx::raw_sql(forget).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        room.restart().await;
        room.wake("2026-06-01T12:30:00Z").await;
        room.wake("2026-06-01T13:00:00Z").await;
        let fired = room.fired().await;
        assert_eq!(fired.into_values().collect::<Vec<_>>(), [doubles], "{forget:?}");
    }
}

#[tokio::test]
async fn a_tick_waits_for_room_in_the_queue_and_one_run_makes_up_for_all() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    room.rounds.cron.max_queued = watch::Sender::new(1).subscribe();
    room.add("minutely", "* * * * *", "UTC").await;
    room.wake("2026-06-01T12:01:00Z").await;
    for moment in ["2026-06-01T12:02:00Z", "2026-06-01T12:03:00Z"] {
        assert!(room.wake(moment).await.is_full);
    }
    assert_eq!(room.ticks().await.len(), 1);
    room.rounds.cron.max_queued = watch::Sender::new(2).subscribe();
    assert!(!room.wake("2026-06-01T12:03:30Z").await.is_full);
    assert_eq!(room.ticks().await, ["2026-06-01T12:01:00Z", "2026-06-01T12:03:00Z"]);
}

#[tokio::test]
async fn a_tick_whose_queue_takes_no_job_is_missed_with_the_reason_and_the_next_one_tries_again() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    let mut spec = spec();
    spec.queue = "night".into();
    let (now, next) = (room.clock.now(), Some(at("2026-06-01T12:01:00Z")));
    let (cron, zone) = ("* * * * *".to_owned(), "UTC".to_owned());
    let (name, user, policy) = ("minutely".into(), Uid(7), Policy::default());
    let new = NewSchedule { name, cron, zone, spec, user, created_at: now, next, policy };
    assert!(!room.store().add_schedule(new).await.unwrap());
    let schedule = room.store().schedule("minutely").await.unwrap().id;
    let flow = |flow| QueueEdit { flow: Some(flow), ..QueueEdit::default() };
    let set = async |room: &Room, edit| drop(room.store().edit_queue("night", edit, Uid(7)).await.unwrap());
    set(&room, flow(Flow::Draining)).await;
    // However full it is: nobody waits for room in a queue that takes nothing.
    room.rounds.cron.max_queued = watch::Sender::new(0).subscribe();
    for moment in ["2026-06-01T12:01:00Z", "2026-06-01T12:02:00.5Z"] {
        let wait = room.wake(moment).await;
        assert!(!wait.is_full && wait.until.is_some(), "{wait:?}");
    }
    room.rounds.cron.max_queued = watch::Sender::new(1000).subscribe();
    set(&room, flow(Flow::Open)).await;
    room.wake("2026-06-01T12:03:00Z").await;
    set(&room, QueueEdit { cpus: Some(Change::Set(0)), ..QueueEdit::default() }).await;
    room.wake("2026-06-01T12:04:00Z").await;
    for job in [1, 2].map(mlctl_protocol::JobId) {
        drop(room.store().command(job, None, Command::Cancel { by: Uid(7) }).await);
    }
    room.store().remove_queue("night").await.unwrap();
    room.wake("2026-06-01T12:05:00Z").await;
    room.restart().await;
    let missed = room.store().missed_ticks(schedule, 10).await.unwrap();
    let told: Vec<_> = missed.iter().map(|tick| (tick.at.to_string(), tick.reason.as_str())).collect();
    let draining = "queue night is draining: it takes no more jobs";
    let expected = [
        ("2026-06-01T12:05:00Z", "there is no queue night"),
        ("2026-06-01T12:04:00Z", "queue night gives its jobs 0 cores at once, and this one needs 1"),
        ("2026-06-01T12:02:00Z", draining),
        ("2026-06-01T12:01:00Z", draining),
    ];
    assert_eq!(told, expected.map(|(at, why)| (at.to_owned(), why)));
    let ticks = async |room: &Room| {
        let ticks = room.store().ticks(schedule, 10).await.unwrap();
        assert_eq!(room.store().check().await.unwrap(), Vec::<String>::new());
        ticks.iter().map(|tick| tick.at.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ticks(&room).await, ["2026-06-01T12:03:00Z"]);
    // A clock that is set back gives what was missed another chance, and what fired none.
    set(&room, flow(Flow::Open)).await;
    for moment in ["2026-06-01T12:01:30Z", "2026-06-01T12:02:00Z", "2026-06-01T12:03:00Z"] {
        room.wake(moment).await;
    }
    assert_eq!(ticks(&room).await[..2], ["2026-06-01T12:03:00Z", "2026-06-01T12:02:00Z"]);
    let missed = room.store().missed_ticks(schedule, 10).await.unwrap();
    assert!(missed.iter().all(|tick| tick.at != at("2026-06-01T12:02:00Z")), "{missed:?}");
    // Only so many are kept.
    room.store().remove_queue("night").await.unwrap_err();
    set(&room, flow(Flow::Draining)).await;
    let begin = at("2026-06-02T00:00:00Z");
    for minute in 0..110 {
        room.wake(&(begin + SignedDuration::from_mins(minute)).to_string()).await;
    }
    assert_eq!(room.store().missed_ticks(schedule, 1000).await.unwrap().len(), 100);
    room.store().remove_schedule("minutely").await.unwrap();
    assert!(room.store().missed_ticks(schedule, 10).await.unwrap().is_empty());
    assert_eq!(room.store().check().await.unwrap(), Vec::<String>::new());
}

/// A version of a model that lies at `file:///v/NUMBER`.
async fn register(store: &Store, number: u32) {
    let new = NewJob { spec: spec(), user: Uid(7), key: number.to_string(), asked: None, hold: None };
    let content = Content {
        uri: format!("file:///v/{number}"),
        objects: Vec::new(),
        job: store.submit(new).await.unwrap().id,
        attempt: None,
        step: None,
        digest: None,
        spec_digest: String::new(),
        dataset_digest: None,
        metrics: BTreeMap::new(),
    };
    let new = NewVersion { model: "m".into(), content, by: Uid(7), once: false };
    store.register_version(new).await.unwrap();
}

#[tokio::test]
async fn a_tick_begins_with_what_the_alias_means_by_then() {
    let mut room = Room::at("2026-06-01T00:30:00Z").await;
    let mut nightly = spec();
    if let Work::Train(train) = &mut nightly.work {
        train.init = Some(InitSpec { from: "model:m@champion".into(), key: None });
    }
    register(room.store(), 1).await;
    register(room.store(), 2).await;
    room.add_of("hourly", ("0 * * * *", "UTC"), Policy::default(), nightly).await;
    room.wake("2026-06-01T01:00:00Z").await;
    let schedule = room.store().schedule("hourly").await.unwrap();
    let missed = room.store().missed_ticks(schedule.id, 10).await.unwrap();
    assert_eq!(missed[0].reason, "model m has no alias champion");
    for (version, moment) in [(1, "2026-06-01T02:00:00Z"), (2, "2026-06-01T03:00:00Z")] {
        let change = Moved::Set { alias: CHAMPION.into(), version };
        let new = NewMove { model: "m".into(), change, expect: None, by: Uid(7), job: None, reason: None };
        room.store().move_alias(new).await.unwrap();
        room.wake(moment).await;
        let tick = room.store().ticks(schedule.id, 1).await.unwrap()[0];
        let Work::Train(train) = room.store().spec(tick.job).await.unwrap().work else { panic!("it trains") };
        assert_eq!(train.init.unwrap().from, format!("file:///v/{version}"), "{moment}");
    }
}

#[tokio::test]
async fn a_tick_reads_the_newest_version_of_its_dataset() {
    let mut room = Room::at("2026-06-01T00:30:00Z").await;
    let mut nightly = spec();
    for (_, data) in nightly.work.sources_mut().data {
        let (targets, features) = (vec!["y".into()], Vec::new());
        *data = DataSource::Dataset { dataset: "d".into(), targets, features, tokenizer: None, pinned: None };
    }
    room.add_of("hourly", ("0 * * * *", "UTC"), Policy::default(), nightly).await;
    room.wake("2026-06-01T01:00:00Z").await;
    let schedule = room.store().schedule("hourly").await.unwrap();
    assert_eq!(room.store().missed_ticks(schedule.id, 10).await.unwrap()[0].reason, "no dataset d");
    for (version, moment) in [(1, "2026-06-01T02:00:00Z"), (2, "2026-06-01T03:00:00Z")] {
        let content = Dataset {
            manifest: format!("file:///m/{version}.json"),
            digest: version.to_string(),
            format: DataFormat::Csv,
            uri: "file:///d/x.csv".into(),
            targets_uri: None,
            rows: Some(7),
            columns: 2,
            objects: 1,
            size_bytes: 70,
        };
        let pinned = content.pinned();
        room.store().add_dataset(NewDataset { dataset: "d".into(), content, by: Uid(7) }).await.unwrap();
        room.wake(moment).await;
        let tick = room.store().ticks(schedule.id, 1).await.unwrap()[0];
        let read = room.store().spec(tick.job).await.unwrap();
        let [DataSource::Dataset { dataset, pinned: found, .. }] = read.work.data()[..] else { panic!("it reads") };
        assert_eq!((dataset.as_str(), found.as_ref()), (format!("d/{version}").as_str(), Some(&pinned)), "{moment}");
    }
}

#[tokio::test]
async fn a_zone_that_is_gone_holds_nobody_else_back() {
    let mut room = Room::at("2026-06-01T12:00:00Z").await;
    room.add("gone", "* * * * *", "Europe/Gone").await;
    room.add("utc", "* * * * *", "UTC").await;
    for minute in 1..=3 {
        let wait = room.wake(&format!("2026-06-01T12:0{minute}:00Z")).await;
        assert!(wait.until.is_some_and(|until| !until.is_zero() && until <= LONGEST_SLEEP), "{wait:?}");
    }
    let fired = room.fired().await;
    assert_eq!(fired.len(), 3, "{fired:?}");
    room.store().remove_schedule("utc").await.unwrap();
    let wait = room.wake("2026-06-01T12:04:00Z").await;
    assert_eq!(wait.until, Some(LONGEST_SLEEP), "it may come back, and until then nothing spins");
}

#[tokio::test]
async fn the_loop_wakes_at_ticks_and_when_a_schedule_is_added() {
    let room = Room::at("2026-06-01T12:00:00Z").await;
    let stop = CancellationToken::new();
    let dispatch = Dispatch::new(room.rounds.cron.store.clone(), room.rounds.cron.clock.clone());
    let running = tokio::spawn(run(room.rounds.cron.clone(), dispatch, stop.clone()));
    let wait_for = async |count: usize| {
        let arrived = async {
            while room.fired().await.len() < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(CEILING, arrived).await.expect("it fires in time");
    };
    // The loop has found nothing and waits without a timer by now, or will.
    room.add("minutely", "* * * * *", "UTC").await;
    for minute in 1..=5 {
        room.clock.set(&format!("2026-06-01T12:0{minute}:00Z"));
        wait_for(minute).await;
    }
    room.clock.set("2026-06-01T11:58:00Z");
    tokio::time::sleep(Duration::from_millis(50)).await;
    room.clock.set("2026-06-01T12:05:59Z");
    tokio::time::sleep(Duration::from_millis(50)).await;
    room.clock.set("2026-06-01T12:06:00Z");
    wait_for(6).await;
    stop.cancel();
    tokio::time::timeout(CEILING, running).await.expect("it stops").unwrap();
    let ticks = room.ticks().await;
    assert!(ticks.iter().all(|tick| tick.ends_with(":00Z")), "{ticks:?}");
}
