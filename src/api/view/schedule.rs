//! A schedule as a client sees it. Data in, data out.

use mlctl_protocol::JobId;

use crate::{
    api::{
        types::{BackfilledView, MissedTickView, RunView, SCHEMA, ScheduleView, TickView},
        users::Names,
    },
    domain::schedule::{Crontab, Tick, Timetable, zone},
    store::{MissedTick, Schedule, TickRow},
};

/// A schedule with the last tick that fired.
pub(in crate::api) fn view(schedule: &Schedule, last: Option<TickRow>, names: &Names) -> ScheduleView {
    let (line, found) = (Crontab::parse(&schedule.cron), zone(jiff::tz::db(), &schedule.zone));
    let problem = match (&line, &found) {
        (Err(error), _) => Some(format!("{error}; {}", error.hint)),
        (_, Err(error)) => Some(format!("{error}; {}", error.hint)),
        _ => None,
    };
    let next = schedule.next.filter(|_| schedule.enabled);
    let local = |zone: &jiff::tz::TimeZone| next.map(|next| next.to_zoned_datetime(zone.clone()).to_string());
    let uid = schedule.user.0;
    ScheduleView {
        schema: SCHEMA,
        name: schedule.name.clone(),
        cron: schedule.cron.clone(),
        zone: schedule.zone.clone(),
        policy: schedule.policy,
        enabled: schedule.enabled,
        paused: schedule.paused.clone(),
        user: names.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
        uid,
        created_at: schedule.created_at,
        job_name: schedule.spec.name.clone(),
        job_kind: schedule.spec.work.kind().to_owned(),
        next_at: next,
        next_local: found.as_ref().ok().and_then(local),
        last: last.map(|last| tick(last, names)),
        problem,
        remarks: line.map(|line| line.remarks().to_vec()).unwrap_or_default(),
    }
}

/// A run to come.
pub(in crate::api) fn run(tick: &Tick, timetable: &Timetable) -> RunView {
    let due = (timetable.policy().jitter_seconds > 0).then_some(tick.due);
    RunView { utc: tick.at, local: tick.local(timetable), note: tick.effect.map(|effect| effect.to_string()), due }
}

/// A tick that has passed and is to be made up for, with its job where it has one already.
pub(in crate::api) fn backfilled(tick: &Tick, timetable: &Timetable, job: Option<JobId>) -> BackfilledView {
    let RunView { utc, local, note, .. } = run(tick, timetable);
    BackfilledView { utc, local, note, job, existed: job.is_some() }
}

/// A tick that fired.
pub(in crate::api) fn tick(row: TickRow, names: &Names) -> TickView {
    let TickRow { at, nominal, pass, job, submitted_at, asked_by } = row;
    let asked_by = asked_by.map(|by| names.get(&by.0).cloned().unwrap_or_else(|| by.0.to_string()));
    TickView { at, nominal: nominal.to_string(), pass, job, submitted_at, asked_by }
}

/// A tick whose job could not be submitted.
pub(in crate::api) fn missed(tick: MissedTick) -> MissedTickView {
    let MissedTick { at, nominal, pass, reason, missed_at } = tick;
    MissedTickView { at, nominal: nominal.to_string(), pass, reason, missed_at }
}
