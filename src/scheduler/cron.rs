//! The cron loop: submits what schedules say when they say it. It wakes at the nearest tick, when a schedule is added or removed, and once a minute while it waits for a tick,
//! since the wall clock may have been set meanwhile; it never polls. What is done at a moment is `domain::schedule`'s to decide, and that no tick fires twice is the store's. Called
//! once by the daemon's lifecycle.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::{Timestamp, tz::TimeZoneDatabase};
use mlctl_protocol::JobSpec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Dispatch,
    run::{LONGEST_SLEEP, PAUSE_AFTER_ERROR},
};
use crate::{
    domain::{
        Clock, alias, causes,
        queue::missing,
        schedule::{Course, Crontab, Overlap, Tick, Timetable, Turn, zone},
    },
    store::{Schedule, Store, StoreError},
};

/// What the loop works with.
#[derive(Clone)]
pub struct Cron {
    /// The database.
    pub store: Store,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// The zones that schedules are read in.
    pub zones: TimeZoneDatabase,
    /// Jobs that may wait: a tick that would add one to so many waits for room itself.
    pub max_queued: watch::Receiver<u32>,
}

/// Submits jobs by schedule until `stop`; none while the database is known to be damaged, as it would be lost with it.
pub async fn run(cron: Cron, dispatch: Dispatch, stop: CancellationToken) {
    let mut changes = cron.store.schedule_changes();
    let mut rounds = Rounds { cron, seen: None };
    while !stop.is_cancelled() {
        // Before reading: what changes from here on wakes the wait below.
        changes.mark_unchanged();
        let mut events = rounds.cron.store.changes();
        events.mark_unchanged();
        if stop.run_until_cancelled(dispatch.sound()).await.is_none() {
            return;
        }
        let wait = rounds.round().await.unwrap_or_else(|error| {
            // Of a full disk the store tells once.
            if !matches!(error, StoreError::Full) {
                warn!(error = causes(&error), "schedules cannot submit anything for the moment");
            }
            Wait { until: Some(PAUSE_AFTER_ERROR), is_full: false }
        });
        stop.run_until_cancelled(waited(wait, &mut changes, &mut events)).await;
    }
}

async fn waited(wait: Wait, changes: &mut watch::Receiver<u64>, events: &mut watch::Receiver<i64>) {
    let Wait { until, is_full } = wait;
    tokio::select! {
        // The senders live in the store, which the loop holds.
        _ = changes.changed() => {}
        _ = events.changed(), if is_full => {}
        () = tokio::time::sleep(until.unwrap_or_default()), if until.is_some() => {}
    }
}

/// What the next round is worth waiting for, besides a change of the schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// So long at most; `None`: there is no tick to wait for.
    pub(super) until: Option<Duration>,
    /// A tick waits for room in the queue, which any event may make.
    pub(super) is_full: bool,
}

/// Rounds over the schedules.
pub(super) struct Rounds {
    pub(super) cron: Cron,
    /// The wall clock at the last round; `None` before the first.
    pub(super) seen: Option<Timestamp>,
}

/// What kept a schedule from its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Nothing.
    Done,
    /// The queue is full.
    Full,
    /// It cannot be read, or its job cannot be submitted.
    Wrong,
    /// Other schedules: it has made up for many missed ticks, and there are more.
    More,
}

/// The turns of a schedule in a round: each is a transaction, and other schedules wait.
const MOST_TURNS: usize = 100;

impl Rounds {
    /// Takes the turns that are due. At the start, and when the clock was set back, that is every schedule's: the ticks to come may be other ones.
    pub(super) async fn round(&mut self) -> Result<Wait, StoreError> {
        let now = self.cron.clock.now();
        let all = self.seen.is_none_or(|seen| now < seen);
        let cron = &self.cron;
        let schedules = if all {
            cron.store
                .schedules()
                .await?
                .into_iter()
                .map(|(schedule, _)| schedule)
                .filter(|found| found.enabled)
                .collect()
        } else {
            cron.store.due_schedules(now).await?
        };
        let has_room = schedules.is_empty() || cron.has_room().await?;
        let turns = join_all(schedules.into_iter().map(|schedule| cron.turns(schedule, now, has_room))).await;
        let kept = turns.into_iter().collect::<Result<Vec<_>, _>>()?;
        self.seen = Some(now);
        let next = cron.store.next_tick(now).await?;
        let left = kept.iter().any(|kept| *kept != Kept::Done);
        let until = next.map(|next| self.cron.until(next)).or_else(|| left.then_some(LONGEST_SLEEP));
        let until = if kept.contains(&Kept::More) { Some(Duration::ZERO) } else { until };
        Ok(Wait { until, is_full: kept.contains(&Kept::Full) })
    }
}

impl Cron {
    async fn has_room(&self) -> Result<bool, StoreError> {
        Ok(self.store.waiting().await? < u64::from(*self.max_queued.borrow()))
    }

    /// Takes a schedule's turns: one, or several where more than one missed tick is made up for.
    async fn turns(&self, mut schedule: Schedule, now: Timestamp, mut has_room: bool) -> Result<Kept, StoreError> {
        let timetable = match self.timetable(&schedule) {
            Ok(timetable) => timetable,
            Err(why) => {
                let name = &schedule.name;
                warn!(schedule = %name, "schedule {name} submits nothing: {why}");
                return Ok(Kept::Wrong);
            }
        };
        for _ in 0..MOST_TURNS {
            let turn = timetable.turn(schedule.settled, now);
            let is_idle = turn.fire.is_none() && turn.left_out.is_none();
            if is_idle && turn.next == schedule.next && schedule.settled <= now {
                return Ok(Kept::Done);
            }
            let kept = self.turn(&schedule, &timetable, turn, has_room).await?;
            if kept != Kept::Done || turn.next.is_none_or(|next| next > now) {
                return Ok(kept);
            }
            (schedule.settled, schedule.next) = (turn.settled, turn.next);
            has_room = self.has_room().await?;
        }
        Ok(Kept::More)
    }

    async fn turn(
        &self,
        schedule: &Schedule,
        timetable: &Timetable,
        turn: Turn,
        has_room: bool,
    ) -> Result<Kept, StoreError> {
        let name = &schedule.name;
        let resolved = self.resolved(schedule).await?;
        let _turn = self.store.in_turn().await;
        let course = match turn.fire {
            Some(_) => self.course(schedule, resolved.as_ref().err()).await?,
            None => Course::default(),
        };
        let missed = if let Course::Leave(why) = &course { Some(why.clone()) } else { None };
        let schedule = resolved.as_ref().unwrap_or(schedule);
        if turn.fire.is_some() && missed.is_none() && !has_room {
            let most = *self.max_queued.borrow();
            warn!(schedule = %name, "schedule {name} waits: {most} jobs are queued, and no more than that may be");
            return Ok(Kept::Full);
        }
        let taken = self.store.take_turn(schedule, turn, course).await;
        if let (Ok(_), Some((tick, late))) = (&taken, turn.left_out) {
            let (local, why) = (tick.local(timetable), schedule.policy.reason(late));
            warn!(schedule = %name, tick = %tick.at, "schedule {name} left out the tick of {local}: {why}");
        }
        match taken {
            Ok(_) if let (Some(tick), Some(why)) = (&turn.fire, &missed) => {
                let local = tick.local(timetable);
                info!(schedule = %name, tick = %tick.at, "schedule {name} left out the tick of {local}: {why}");
                Ok(Kept::Done)
            }
            Ok(submitted) => {
                if let Some(tick) = &turn.fire {
                    let job = submitted.map(|submitted| submitted.id);
                    let late = self.clock.now().duration_since(tick.due).as_secs();
                    tell(schedule, timetable, tick, late, job.map(|job| job.to_string()).as_deref());
                }
                Ok(Kept::Done)
            }
            Err(error @ StoreError::KeyConflict { .. }) => {
                warn!(schedule = %name, error = causes(&error), "schedule {name} cannot submit its job");
                Ok(Kept::Wrong)
            }
            Err(error) => Err(error),
        }
    }

    /// A schedule whose job begins with what the version of a model that it names holds by now, and reads the newest version of its dataset; or why there is none.
    async fn resolved(&self, schedule: &Schedule) -> Result<Result<Schedule, String>, StoreError> {
        let mut schedule = schedule.clone();
        match self.resolve(&mut schedule.spec).await {
            Ok(()) => Ok(Ok(schedule)),
            Err(
                error @ (StoreError::NoModel(_)
                | StoreError::NoVersion { .. }
                | StoreError::Alias { .. }
                | StoreError::NoDataset(_)
                | StoreError::NoDatasetVersion { .. }),
            ) => Ok(Err(error.to_string())),
            Err(error) => Err(error),
        }
    }

    async fn resolve(&self, spec: &mut JobSpec) -> Result<(), StoreError> {
        let sources = spec.work.sources_mut();
        for (_, from) in sources.weights {
            if let Some(named) = alias::reference(from) {
                *from = self.store.model_version(&named.model, &named.pick).await?.content.uri;
            }
        }
        for (_, data) in sources.data {
            if let Some(name) = data.newest_of() {
                let newest = self.store.dataset_version(name, None).await?;
                newest.pin(data);
            }
        }
        Ok(())
    }

    /// What is done about a tick of it that is due now.
    async fn course(&self, schedule: &Schedule, unresolved: Option<&String>) -> Result<Course, StoreError> {
        if let Some(why) = self.refusal(schedule).or_else(|| unresolved.cloned()) {
            return Ok(Course::Leave(why));
        }
        match schedule.policy.overlap {
            Overlap::Allow => Ok(Course::Submit),
            overlap => Ok(overlap.course(&self.store.open_jobs(schedule.id).await?)),
        }
    }

    /// Why its job cannot be submitted now: who drains a queue does not want it filled by the clock.
    fn refusal(&self, schedule: &Schedule) -> Option<String> {
        let JobSpec { queue, resources, .. } = &schedule.spec;
        let problem = match self.store.queues().get(queue) {
            Some(row) => row.queue.refusal(resources),
            None => missing(queue),
        };
        problem.map(|problem| problem.message)
    }

    fn timetable(&self, schedule: &Schedule) -> Result<Timetable, String> {
        let line = Crontab::parse(&schedule.cron).map_err(|error| format!("{error}; {}", error.hint))?;
        let zone = zone(&self.zones, &schedule.zone).map_err(|error| format!("{error}; {}", error.hint))?;
        Ok(Timetable::new(line, zone).of(&schedule.name, schedule.policy))
    }

    fn until(&self, moment: Timestamp) -> Duration {
        // A millisecond more, since what is not yet due when looked at would be waited for again at once.
        self.clock.until(moment).saturating_add(Duration::from_millis(1)).min(LONGEST_SLEEP)
    }
}

/// Says what a tick came to.
fn tell(schedule: &Schedule, timetable: &Timetable, tick: &Tick, late_seconds: i64, job: Option<&str>) {
    let (name, local) = (&schedule.name, tick.local(timetable));
    let Some(job) = job else {
        debug!(schedule = %name, tick = %tick.at, "schedule {name}: the tick of {local} has fired before");
        return;
    };
    let is_first = timetable.after(schedule.settled).next().is_none_or(|first| first.at == tick.at);
    let missed = if is_first { "" } else { "; earlier ones that were missed are left out" };
    info!(schedule = %name, job_id = %job, tick = %tick.at, late_seconds, "schedule {name} submitted job {job} for {local}{missed}");
}
