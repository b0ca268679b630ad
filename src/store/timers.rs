//! Schedules in the writer's hands: read whole, changed in memory, written whole and sealed; and the row that each tick leaves, which keeps it from firing twice. Called by `unit`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::{Row as _, SqliteConnection};

use super::{
    StoreError,
    ask::{Enabling, Occasion, PreparedChange, PreparedSchedule, PreparedTurn},
    batch::Batch,
    error::Fault,
    rows::{Cell, Fields, Rows},
};
use crate::domain::Uid;

/// A row of table `schedules`.
#[derive(Debug, Clone)]
struct Held {
    /// Given by the database to a new one.
    id: Option<i64>,
    name: String,
    cron: String,
    zone: String,
    spec: String,
    user: u32,
    enabled: bool,
    next: Option<Timestamp>,
    settled: Timestamp,
    /// As read: what a change must find.
    settled_before: Timestamp,
    created: Timestamp,
    policy: Option<String>,
    paused: Option<String>,
    resumed: Option<Timestamp>,
    is_changed: bool,
    /// Whether it became another one, too.
    is_new: bool,
}

/// The schedules that a group of commands is about, and what it makes of them.
#[derive(Default)]
pub(super) struct Timers {
    held: BTreeMap<String, Held>,
    /// The ticks in question that have a row.
    fired: HashSet<(i64, i64)>,
    removed: Rows,
    ticks: Rows,
    missed: Rows,
}

impl Timers {
    /// Reads the schedules of these names, and which of these turns' ticks fired before.
    pub(super) async fn load(
        conn: &mut SqliteConnection,
        names: &BTreeSet<&str>,
        turns: &[&PreparedTurn],
    ) -> Result<Self, Fault> {
        let mut timers = Self::default();
        if names.is_empty() {
            return Ok(timers);
        }
        let mut wanted = Rows::default();
        names.iter().for_each(|name| wanted.push(&[(*name).into()]));
        for row in &sqlx::query(LOAD).bind(wanted.finish()).fetch_all(&mut *conn).await? {
            let fields = Fields::new(row, "schedules", "id")?;
            let name: String = fields.get("name")?;
            let settled = fields.time("settled_us")?;
            let held = Held {
                id: Some(fields.id),
                name: name.clone(),
                cron: fields.get("cron")?,
                zone: fields.get("zone")?,
                spec: fields.get("spec")?,
                user: fields.number("user_id")?,
                enabled: fields.get("enabled")?,
                next: fields.maybe_time("next_tick_us")?,
                settled,
                settled_before: settled,
                created: fields.time("created_us")?,
                policy: fields.get("policy")?,
                paused: fields.get("paused")?,
                resumed: fields.maybe_time("resumed_us")?,
                is_changed: false,
                is_new: false,
            };
            timers.held.insert(name, held);
        }
        let mut wanted = Rows::default();
        for turn in turns {
            for tick in turn.ticks() {
                let (nominal, pass) = (tick.nominal.to_string(), i64::from(tick.pass.number()));
                wanted.push(&[turn.schedule.into(), tick.at.into(), (&nominal).into(), pass.into()]);
            }
        }
        if !wanted.is_empty() {
            for row in &sqlx::query(FIRED).bind(wanted.finish()).fetch_all(conn).await? {
                timers.fired.insert((row.try_get(0)?, row.try_get(1)?));
            }
        }
        Ok(timers)
    }

    /// Keeps a schedule. Returns whether the same one was there already.
    pub(super) fn add(&mut self, new: &PreparedSchedule) -> Result<bool, StoreError> {
        let PreparedSchedule { name, cron, zone, spec, user, created, next, policy } = new;
        if let Some(held) = self.held.get(name) {
            let same =
                (&held.cron, &held.zone, &held.spec, &held.policy, held.user) == (cron, zone, spec, policy, user.0);
            return if same { Ok(true) } else { Err(StoreError::ScheduleExists(name.clone())) };
        }
        let held = Held {
            id: None,
            name: name.clone(),
            cron: cron.clone(),
            zone: zone.clone(),
            spec: spec.clone(),
            user: user.0,
            enabled: true,
            next: *next,
            settled: *created,
            settled_before: *created,
            created: *created,
            policy: policy.clone(),
            paused: None,
            resumed: None,
            is_changed: false,
            is_new: true,
        };
        self.held.insert(name.clone(), held);
        Ok(false)
    }

    /// Adds, changes and removes schedules, or does nothing when one is not as it was read. Returns whether it did.
    pub(super) fn apply(&mut self, changes: &[PreparedChange]) -> Result<bool, Fault> {
        let fits = |change: &PreparedChange| match (change, self.held.get(change.name())) {
            (PreparedChange::Add(_), held) => held.is_none(),
            (PreparedChange::Become { id, settled_before, .. }, Some(held)) => {
                held.id == Some(*id) && held.settled == *settled_before
            }
            (PreparedChange::Remove { id, .. }, Some(held)) => held.id == Some(*id),
            (_, None) => false,
        };
        if !changes.iter().all(fits) {
            return Ok(false);
        }
        for change in changes {
            match change {
                // There is none of that name: it cannot be another's.
                PreparedChange::Add(new) => drop(self.add(new)),
                PreparedChange::Become { settled, new, .. } => self.become_other(new, *settled),
                PreparedChange::Remove { name, .. } => drop(self.remove(name)?),
            }
        }
        Ok(true)
    }

    fn become_other(&mut self, new: &PreparedSchedule, settled: Timestamp) {
        let PreparedSchedule { name, cron, zone, spec, user, next, policy, .. } = new;
        if let Some(held) = self.held.get_mut(name) {
            (held.cron, held.zone, held.spec, held.policy) = (cron.clone(), zone.clone(), spec.clone(), policy.clone());
            (held.user, held.settled, held.next) = (user.0, settled, *next);
            (held.is_changed, held.is_new) = (true, true);
        }
    }

    /// Removes a schedule with its ticks; the jobs stay.
    pub(super) fn remove(&mut self, name: &str) -> Result<Result<(), StoreError>, Fault> {
        let Some(held) = self.held.remove(name) else { return Ok(Err(StoreError::NoSchedule(name.to_owned()))) };
        // One that was added in this very group was never written.
        if let Some(id) = held.id {
            self.removed.push(&[id.into()]);
        }
        Ok(Ok(()))
    }

    /// Has a schedule submit nothing, or go on with the ticks after those that are left out. Returns whether that changes anything.
    pub(super) fn enable(&mut self, name: &str, change: &Enabling) -> Result<bool, StoreError> {
        let Some(held) = self.held.get_mut(name) else { return Err(StoreError::NoSchedule(name.to_owned())) };
        match change {
            Enabling::Paused if held.enabled => held.enabled = false,
            // One that was resumed meanwhile has a new beginning, however its jobs fared before.
            Enabling::Failed { why, resumed } if held.enabled && held.resumed == *resumed => {
                (held.enabled, held.paused) = (false, Some(why.clone()));
            }
            Enabling::Resumed { settled, next } if !held.enabled => {
                (held.enabled, held.settled, held.next) = (true, *settled, *next);
                (held.paused, held.resumed) = (None, Some(*settled));
            }
            Enabling::Paused | Enabling::Failed { .. } | Enabling::Resumed { .. } => return Ok(false),
        }
        held.is_changed = true;
        Ok(true)
    }

    /// In whose name a schedule submits.
    pub(super) fn user(&self, name: &str) -> Option<Uid> {
        self.held.get(name).map(|held| Uid(held.user))
    }

    /// Whether a turn is still to be taken, and whether its tick fires.
    pub(super) fn stands(&self, turn: &PreparedTurn) -> Standing {
        let held = self.held.get(&turn.name).filter(|held| held.id == Some(turn.schedule));
        let held = held.filter(|held| match turn.occasion {
            Occasion::Time { settled_before, .. } => held.enabled && held.settled == settled_before,
            Occasion::Asked { .. } => true,
        });
        match (held, &turn.fire) {
            (None, _) => Standing::Stale,
            (Some(_), Some((tick, _))) if !self.fired.contains(&(turn.schedule, tick.at.as_microsecond())) => {
                Standing::Fires
            }
            _ => Standing::Settles,
        }
    }

    /// Takes a turn that stands, with the job that its tick submitted.
    pub(super) fn take(&mut self, turn: &PreparedTurn, job: Option<JobId>, now: Timestamp) -> Result<(), Fault> {
        if let (Some((tick, _)), Some(job)) = (&turn.fire, job) {
            let (nominal, pass) = (tick.nominal.to_string(), i64::from(tick.pass.number()));
            let asked_by = turn.occasion.asked_by().map_or(Cell::Absent, |by| by.0.into());
            let cells: [Cell<'_>; 7] = [
                turn.schedule.into(),
                tick.at.into(),
                (&nominal).into(),
                pass.into(),
                job.into(),
                now.into(),
                asked_by,
            ];
            self.ticks.push_sealed("ticks", &cells);
            self.fired.insert((turn.schedule, tick.at.as_microsecond()));
        }
        for (tick, why) in &turn.missed {
            if self.fired.contains(&(turn.schedule, tick.at.as_microsecond())) {
                continue;
            }
            let (nominal, pass) = (tick.nominal.to_string(), i64::from(tick.pass.number()));
            let cells: [Cell<'_>; 6] =
                [turn.schedule.into(), tick.at.into(), (&nominal).into(), pass.into(), why.into(), now.into()];
            self.missed.push_sealed("missed_ticks", &cells);
        }
        if let (Some(held), Occasion::Time { settled, next, .. }) = (self.held.get_mut(&turn.name), turn.occasion) {
            (held.settled, held.next, held.is_changed) = (settled, next, true);
        }
        Ok(())
    }

    /// Writes what changed, after the jobs that ticks submitted.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        let (mut new, mut changed, mut other) = (Rows::default(), Rows::default(), Rows::default());
        for held in self.held.values() {
            let enabled = i64::from(held.enabled);
            let cells: [Cell<'_>; 12] = [
                (&held.name).into(),
                (&held.cron).into(),
                (&held.zone).into(),
                (&held.spec).into(),
                held.user.into(),
                enabled.into(),
                held.next.into(),
                held.settled.into(),
                held.created.into(),
                held.policy.as_deref().map_or(Cell::Absent, Cell::Text),
                held.paused.as_deref().map_or(Cell::Absent, Cell::Text),
                held.resumed.map_or(Cell::Absent, Cell::from),
            ];
            match held.id {
                None => new.push_sealed("schedules", &cells),
                Some(id) if held.is_changed => {
                    let seal = super::rows::seal("schedules", &cells);
                    let before = held.settled_before.into();
                    let (next, settled) = (held.next.into(), held.settled.into());
                    let [_, cron, zone, spec, user, .., policy, paused, resumed] = cells;
                    if held.is_new {
                        other.push(&[id.into(), cron, zone, spec, user, policy]);
                    }
                    changed.push(&[id.into(), before, next, settled, seal.into(), enabled.into(), paused, resumed]);
                }
                Some(_) => {}
            }
        }
        batch.sweep(conn, FIRED_AFTER_ALL, self.ticks.clone()).await?;
        batch.write(conn, "ticks", TICKS, self.ticks).await?;
        batch.sweep(conn, MISSED, self.missed.clone()).await?;
        batch.sweep(conn, FORGOTTEN, self.missed).await?;
        batch.write(conn, "schedules", CHANGED, changed).await?;
        batch.write(conn, "schedules", OTHER, other).await?;
        batch.sweep(conn, REMOVE_TICKS, self.removed.clone()).await?;
        batch.sweep(conn, REMOVE_MISSED, self.removed.clone()).await?;
        batch.sweep(conn, REMOVE, self.removed).await?;
        // After the removals: a name may be free again.
        batch.sweep(conn, NEW, new).await
    }
}

/// Where a turn stands when it comes to the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The schedule is gone, or another turn was taken meanwhile: nothing is done.
    Stale,
    /// No tick, or one that fired before: only the schedule's own row changes.
    Settles,
    /// The tick submits its job.
    Fires,
}

/// The columns of a schedule.
macro_rules! schedule_columns {
    () => {
        "schedules.id, schedules.name, schedules.cron, schedules.zone, schedules.spec, schedules.user_id, schedules.enabled, \
         schedules.next_tick_us, schedules.settled_us, schedules.created_us, schedules.policy, schedules.paused, schedules.resumed_us"
    };
}

pub(super) use schedule_columns;

pub(super) const LOAD: &str = concat!(
    "SELECT ",
    schedule_columns!(),
    " FROM schedules WHERE schedules.name IN (SELECT value ->> 0 FROM jsonb_each(?1))"
);

/// By either name of a tick.
pub(super) const FIRED: &str = "
SELECT wanted.value ->> 0, wanted.value ->> 1 FROM jsonb_each(?1) AS wanted
CROSS JOIN ticks ON ticks.schedule_id = wanted.value ->> 0 AND ticks.tick_us = wanted.value ->> 1
UNION ALL
SELECT wanted.value ->> 0, wanted.value ->> 1 FROM jsonb_each(?1) AS wanted
CROSS JOIN ticks ON ticks.schedule_id = wanted.value ->> 0 AND ticks.nominal = wanted.value ->> 2 AND ticks.pass = wanted.value ->> 3";

const NEW: &str = "
INSERT INTO schedules (name, cron, zone, spec, user_id, enabled, next_tick_us, settled_us, created_us, policy, paused, resumed_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10,
    value ->> 11, value ->> 12
FROM jsonb_each(?)";

pub(super) const CHANGED: &str = "
UPDATE schedules SET next_tick_us = new.value ->> 2, settled_us = new.value ->> 3, seal = new.value ->> 4, enabled = new.value ->> 5,
    paused = new.value ->> 6, resumed_us = new.value ->> 7
FROM jsonb_each(?) AS new WHERE schedules.id = new.value ->> 0 AND schedules.settled_us = new.value ->> 1";

/// What a schedule became besides.
pub(super) const OTHER: &str = "
UPDATE schedules SET cron = new.value ->> 1, zone = new.value ->> 2, spec = new.value ->> 3, user_id = new.value ->> 4, policy = new.value ->> 5
FROM jsonb_each(?) AS new WHERE schedules.id = new.value ->> 0";

const TICKS: &str = "
INSERT INTO ticks (schedule_id, tick_us, nominal, pass, job_id, submitted_us, asked_by, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7 FROM jsonb_each(?)";

const MISSED: &str = "
INSERT INTO missed_ticks (schedule_id, tick_us, nominal, pass, reason, missed_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6 FROM jsonb_each(?) WHERE true
ON CONFLICT (schedule_id, tick_us) DO UPDATE SET reason = excluded.reason, missed_us = excluded.missed_us, nominal = excluded.nominal, pass = excluded.pass,
    seal = excluded.seal";

/// All but the last hundred of the schedules that missed one.
pub(super) const FORGOTTEN: &str = "
DELETE FROM missed_ticks WHERE id IN (
    SELECT missed.id FROM jsonb_each(?) AS new CROSS JOIN missed_ticks AS missed
    ON missed.schedule_id = new.value ->> 0 AND missed.tick_us < (
        SELECT tick_us FROM missed_ticks AS kept WHERE kept.schedule_id = new.value ->> 0 ORDER BY tick_us DESC LIMIT 1 OFFSET 99))";

/// What fires now and was missed before: the clock was set back, or a person has it made up for.
pub(super) const FIRED_AFTER_ALL: &str =
    "DELETE FROM missed_ticks WHERE (schedule_id, tick_us) IN (SELECT value ->> 0, value ->> 1 FROM jsonb_each(?))";

pub(super) const REMOVE_MISSED: &str =
    "DELETE FROM missed_ticks WHERE schedule_id IN (SELECT value ->> 0 FROM jsonb_each(?))";

pub(super) const REMOVE_TICKS: &str = "DELETE FROM ticks WHERE schedule_id IN (SELECT value ->> 0 FROM jsonb_each(?))";

pub(super) const REMOVE: &str = "DELETE FROM schedules WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?))";
