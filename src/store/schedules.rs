//! The store's surface for schedules, and what is read about them. Writes go through the one writer like all others: a tick's row, its job and the schedule's next tick are
//! one transaction.

use jiff::{Timestamp, civil::DateTime};
use mlctl_protocol::JobId;
use sqlx::sqlite::SqliteRow;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard, watch};

use super::{
    Store, StoreError,
    ask::{Ask, Enabling, PreparedChange, PreparedSchedule, PreparedTurn},
    error::Fault,
    read::job_id,
    rows::{Fields, RowError, Rows},
    timers::schedule_columns,
    types::{MissedTick, NewSchedule, Schedule, ScheduleChange, Submitted, TickRow},
};
use crate::domain::{
    Uid,
    schedule::{Course, Open, Tick, Turn},
};

impl Store {
    /// Keeps a schedule. Returns whether the very same one was there already.
    ///
    /// # Errors
    /// [`StoreError::ScheduleExists`] when its name is another's.
    pub async fn add_schedule(&self, new: NewSchedule) -> Result<bool, StoreError> {
        let schedule = Box::new(PreparedSchedule::new(new)?);
        self.ask(|reply| Ask::AddSchedule { schedule, reply }).await
    }

    /// Adds, changes and removes schedules in one transaction, or does nothing when one is no longer as it was read. Returns whether it did. No two of the changes may be about one name.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn apply_schedules(&self, changes: Vec<ScheduleChange>) -> Result<bool, StoreError> {
        let changes = changes.into_iter().map(PreparedChange::new).collect::<Result<Vec<_>, _>>()?;
        self.ask(|reply| Ask::ApplySchedules { changes, reply }).await
    }

    /// Removes a schedule. The jobs that it submitted stay.
    ///
    /// # Errors
    /// [`StoreError::NoSchedule`].
    pub async fn remove_schedule(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.ask(|reply| Ask::RemoveSchedule { name, reply }).await
    }

    /// Has a schedule submit nothing until it is resumed. Returns whether it did.
    ///
    /// # Errors
    /// [`StoreError::NoSchedule`].
    pub async fn pause_schedule(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        self.ask(|reply| Ask::EnableSchedule { name, change: Enabling::Paused, reply }).await
    }

    /// Has a schedule as it was read submit nothing until it is resumed, since its jobs fail, and keeps why. Returns whether it did: not where it was resumed meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NoSchedule`].
    pub async fn pause_failing(&self, schedule: &Schedule, why: String) -> Result<bool, StoreError> {
        let (name, resumed) = (schedule.name.clone(), schedule.resumed);
        let change = Enabling::Failed { why, resumed };
        self.ask(|reply| Ask::EnableSchedule { name, change, reply }).await
    }

    /// Has a paused schedule go on: ticks up to `settled` are left out, and the nearest after it is `next`. Returns whether it was paused.
    ///
    /// # Errors
    /// [`StoreError::NoSchedule`].
    pub async fn resume_schedule(
        &self,
        name: &str,
        settled: Timestamp,
        next: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let name = name.to_owned();
        let change = Enabling::Resumed { settled, next };
        self.ask(|reply| Ask::EnableSchedule { name, change, reply }).await
    }

    /// Takes a schedule's turn: the job of the tick that fires, if it has not fired before, and the schedule's next tick, in one transaction. Where the course is to leave it out, the reason is kept in
    /// place of a job, as it is of a tick that came too late; jobs that another comes instead of are to end in the same transaction. Nothing is done when the schedule is gone or no longer as it was read.
    ///
    /// # Errors
    /// [`StoreError::KeyConflict`], [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn take_turn(
        &self,
        schedule: &Schedule,
        turn: Turn,
        course: Course,
    ) -> Result<Option<Submitted>, StoreError> {
        let turn = Box::new(PreparedTurn::new(schedule, turn, course)?);
        self.ask(|reply| Ask::Turn { turn, reply }).await
    }

    /// Has a tick that has passed made up for: its job, which waits until these have ended, unless the tick has one already. The schedule stays as it is, paused or not. Nothing is done when it is gone.
    ///
    /// # Errors
    /// [`StoreError::KeyConflict`], [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn backfill(
        &self,
        schedule: &Schedule,
        tick: Tick,
        after: &[JobId],
        by: Uid,
    ) -> Result<Option<Submitted>, StoreError> {
        let turn = Box::new(PreparedTurn::of_backfill(schedule, tick, after, by)?);
        self.ask(|reply| Ask::Turn { turn, reply }).await
    }

    /// For who looks which jobs of a schedule are open and takes its turn by that: nobody has a tick made up for meanwhile.
    pub async fn in_turn(&self) -> RwLockReadGuard<'_, ()> {
        self.inner.turns.read().await
    }

    /// For who looks which jobs of a schedule are open and has a tick made up for by that: no turn is taken meanwhile.
    pub async fn between_turns(&self) -> RwLockWriteGuard<'_, ()> {
        self.inner.turns.write().await
    }

    /// The jobs of these ticks of a schedule, in their order; `None` for one that has none.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn jobs_of_ticks(&self, schedule: i64, ticks: &[Tick]) -> Result<Vec<Option<JobId>>, StoreError> {
        let mut wanted = Rows::default();
        for tick in ticks {
            let nominal = tick.nominal.to_string();
            wanted.push(&[tick.at.into(), (&nominal).into(), i64::from(tick.pass.number()).into()]);
        }
        let found = sqlx::query_as(OF_TICKS).bind(schedule).bind(wanted.finish());
        let found: Vec<(i64, i64)> = found.fetch_all(&self.inner.readers).await?;
        let mut jobs = vec![None; ticks.len()];
        for (place, job) in found {
            if let Some(of_tick) = usize::try_from(place).ok().and_then(|place| jobs.get_mut(place)) {
                *of_tick = Some(job_id(job));
            }
        }
        Ok(jobs)
    }

    /// Grows when a schedule is added, removed, paused or resumed: wakes whoever waits for ticks.
    #[must_use]
    pub fn schedule_changes(&self) -> watch::Receiver<u64> {
        self.inner.schedule_changes.clone()
    }

    /// All schedules by name, each with the last tick that fired.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn schedules(&self) -> Result<Vec<(Schedule, Option<TickRow>)>, StoreError> {
        let found = sqlx::query(ALL).fetch_all(&self.inner.readers).await?;
        let all = found.iter().map(|row| Ok((schedule(row)?, maybe_tick(row)?)));
        Ok(all.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }

    /// A schedule by name.
    ///
    /// # Errors
    /// [`StoreError::NoSchedule`].
    pub async fn schedule(&self, name: &str) -> Result<Schedule, StoreError> {
        let row = sqlx::query(ONE).bind(name).fetch_optional(&self.inner.readers).await?;
        let row = row.ok_or_else(|| StoreError::NoSchedule(name.to_owned()))?;
        Ok(schedule(&row).map_err(Fault::from)?)
    }

    /// The enabled schedules whose next tick is at `now` or before.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn due_schedules(&self, now: Timestamp) -> Result<Vec<Schedule>, StoreError> {
        let found = sqlx::query(DUE).bind(now.as_microsecond()).fetch_all(&self.inner.readers).await?;
        Ok(found.iter().map(schedule).collect::<Result<_, _>>().map_err(Fault::from)?)
    }

    /// The enabled schedules that failures of their jobs pause.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn watched_schedules(&self) -> Result<Vec<Schedule>, StoreError> {
        let found = sqlx::query(WATCHED).fetch_all(&self.inner.readers).await?;
        Ok(found.iter().map(schedule).collect::<Result<_, _>>().map_err(Fault::from)?)
    }

    /// The jobs of a schedule's ticks that have not ended, oldest first, of the last thousand that were submitted.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn open_jobs(&self, schedule: i64) -> Result<Vec<Open>, StoreError> {
        let found: Vec<(i64, bool, bool)> =
            sqlx::query_as(OPEN).bind(schedule).bind(MOST_OPEN).fetch_all(&self.inner.readers).await?;
        let open = |(id, is_blocked, is_backfill)| Open { id: job_id(id), is_blocked, is_backfill };
        Ok(found.into_iter().rev().map(open).collect())
    }

    /// The last jobs of a schedule's ticks that succeeded or failed, newest first, at most `limit`, each with whether it failed; none that was submitted before the schedule was resumed, or that a person had made up for.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn outcomes(&self, schedule: &Schedule, limit: u32) -> Result<Vec<(JobId, bool)>, StoreError> {
        let since = schedule.resumed.map_or(i64::MIN, Timestamp::as_microsecond);
        let outcomes = sqlx::query_as(OUTCOMES).bind(schedule.id).bind(since).bind(limit);
        let found: Vec<(i64, bool)> = outcomes.fetch_all(&self.inner.readers).await?;
        Ok(found.into_iter().map(|(id, failed)| (job_id(id), failed)).collect())
    }

    /// The nearest tick after `now` of all enabled schedules.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn next_tick(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let nearest = sqlx::query_scalar(NEXT).bind(now.as_microsecond());
        let at: Option<i64> = nearest.fetch_one(&self.inner.readers).await?;
        Ok(at.and_then(|at| Timestamp::from_microsecond(at).ok()))
    }

    /// The ticks of a schedule that fired, newest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn ticks(&self, schedule: i64, limit: u32) -> Result<Vec<TickRow>, StoreError> {
        let found = sqlx::query(TICKS).bind(schedule).bind(limit).fetch_all(&self.inner.readers).await?;
        let ticks = found.iter().map(|row| tick(&Fields::new(row, "ticks", "job_id")?));
        Ok(ticks.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }
}

impl Store {
    /// The ticks of a schedule whose job could not be submitted, newest first, at most `limit`: the last hundred are kept.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn missed_ticks(&self, schedule: i64, limit: u32) -> Result<Vec<MissedTick>, StoreError> {
        let found = sqlx::query(MISSED).bind(schedule).bind(limit).fetch_all(&self.inner.readers).await?;
        let missed = found.iter().map(|row| {
            let fields = Fields::new(row, "missed_ticks", "id")?;
            Ok(MissedTick {
                at: fields.time("tick_us")?,
                nominal: nominal(&fields)?,
                pass: fields.number("pass")?,
                reason: fields.get("reason")?,
                missed_at: fields.time("missed_us")?,
            })
        });
        Ok(missed.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }
}

pub(super) const MISSED: &str = "SELECT id, tick_us, nominal, pass, reason, missed_us FROM missed_ticks WHERE schedule_id = ?1 ORDER BY tick_us DESC LIMIT ?2 + 0";

pub(super) const ALL: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    ", ticks.tick_us, ticks.nominal, ticks.pass, ticks.job_id, ticks.submitted_us, ticks.asked_by FROM schedules \
     LEFT JOIN ticks ON ticks.schedule_id = schedules.id \
     AND ticks.tick_us = (SELECT max(latest.tick_us) FROM ticks AS latest WHERE latest.schedule_id = schedules.id) ORDER BY schedules.name"
);

pub(super) const ONE: &str = concat!("SELECT ", schedule_columns!(), " FROM schedules WHERE schedules.name = ?1");

pub(super) const DUE: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    " FROM schedules WHERE enabled = 1 AND next_tick_us <= ?1 ORDER BY next_tick_us"
);

pub(super) const WATCHED: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    " FROM schedules INDEXED BY schedules_watched WHERE enabled = 1 AND policy ->> '$.pause_on_failure' IS NOT NULL"
);

/// Jobs of a schedule that are looked at, at most: no schedule has so many that wait for one another and a person who wants them.
const MOST_OPEN: u32 = 1000;

pub(super) const OPEN: &str = "SELECT jobs.id, jobs.state = 'blocked', last.asked_by IS NOT NULL \
     FROM (SELECT job_id, asked_by FROM ticks INDEXED BY ticks_jobs WHERE schedule_id = ?1 ORDER BY job_id DESC LIMIT ?2 + 0) AS last \
     CROSS JOIN jobs ON jobs.id = last.job_id WHERE jobs.state NOT IN ('succeeded', 'failed', 'cancelled') ORDER BY jobs.id DESC";

pub(super) const OUTCOMES: &str = "SELECT jobs.id, jobs.state = 'failed' FROM ticks INDEXED BY ticks_jobs CROSS JOIN jobs ON jobs.id = ticks.job_id \
     WHERE ticks.schedule_id = ?1 AND ticks.asked_by IS NULL AND ticks.submitted_us > ?2 AND jobs.state IN ('succeeded', 'failed') ORDER BY ticks.job_id DESC LIMIT ?3 + 0";

/// By either name of a tick.
pub(super) const OF_TICKS: &str = "\
     SELECT wanted.key, ticks.job_id FROM jsonb_each(?2) AS wanted \
     CROSS JOIN ticks ON ticks.schedule_id = ?1 AND ticks.tick_us = wanted.value ->> 0 \
     UNION ALL SELECT wanted.key, ticks.job_id FROM jsonb_each(?2) AS wanted \
     CROSS JOIN ticks ON ticks.schedule_id = ?1 AND ticks.nominal = wanted.value ->> 1 AND ticks.pass = wanted.value ->> 2";

pub(super) const NEXT: &str = "SELECT min(next_tick_us) FROM schedules WHERE enabled = 1 AND next_tick_us > ?1";

pub(super) const TICKS: &str = "SELECT tick_us, nominal, pass, job_id, submitted_us, asked_by FROM ticks WHERE schedule_id = ?1 ORDER BY tick_us DESC LIMIT ?2 + 0";

/// A schedule from [`schedule_columns`].
fn schedule(row: &SqliteRow) -> Result<Schedule, RowError> {
    let fields = Fields::new(row, "schedules", "id")?;
    Ok(Schedule {
        id: fields.id,
        name: fields.get("name")?,
        cron: fields.get("cron")?,
        zone: fields.get("zone")?,
        spec: fields.json("spec")?,
        user: Uid(fields.number("user_id")?),
        enabled: fields.get("enabled")?,
        next: fields.maybe_time("next_tick_us")?,
        settled: fields.time("settled_us")?,
        created_at: fields.time("created_us")?,
        policy: fields.maybe_json("policy")?.unwrap_or_default(),
        paused: fields.get("paused")?,
        resumed: fields.maybe_time("resumed_us")?,
    })
}

/// `None` where a left join found none.
fn maybe_tick(row: &SqliteRow) -> Result<Option<TickRow>, RowError> {
    let fields = Fields { row, table: "ticks", id: 0 };
    if fields.get::<Option<i64>>("job_id")?.is_none() {
        return Ok(None);
    }
    tick(&Fields::new(row, "ticks", "job_id")?).map(Some)
}

fn nominal(fields: &Fields<'_>) -> Result<DateTime, RowError> {
    let nominal: &str = fields.get("nominal")?;
    nominal.parse().map_err(|error| fields.error("nominal", error))
}

fn tick(fields: &Fields<'_>) -> Result<TickRow, RowError> {
    Ok(TickRow {
        at: fields.time("tick_us")?,
        nominal: nominal(fields)?,
        pass: fields.number("pass")?,
        job: JobId(fields.number("job_id")?),
        submitted_at: fields.time("submitted_us")?,
        asked_by: fields.get::<Option<u32>>("asked_by")?.map(Uid),
    })
}
