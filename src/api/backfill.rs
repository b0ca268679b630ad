//! The handler that has a schedule's ticks of a span of time made up for: one job for each that has none. Called by the router. Which ticks there are is `domain::schedule`'s; that none has two jobs is
//! the store's, and so whatever cuts this short is gone on with by asking again.

use axum::{Extension, Json, extract::State};
use jiff::Timestamp;
use mlctl_protocol::JobId;
use tracing::info;

use super::{
    Context, Shared,
    error::Failure,
    extract::{NamedSchedule, Sent},
    permit::{self, Peer},
    schedules, submit,
    types::{BackfillRequest, BackfillView, SCHEMA},
    view,
};
use crate::{
    domain::{
        Uid,
        rules::Problem,
        schedule::{Course, MAX_BACKFILL, Overlap, Tick, Timetable, TooMany},
    },
    store::{Schedule, StoreError},
};

/// `POST /v1/schedules/{schedule}/backfill`.
pub(super) async fn backfill(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedSchedule(name): NamedSchedule,
    Sent(request): Sent<BackfillRequest>,
) -> Result<Json<BackfillView>, Failure> {
    let found = api.store.schedule(&name).await?;
    let overlap = overlap(&found, &request)?;
    let timetable = schedules::timetable_of(&found)?;
    let ticks = ticks(&found, &timetable, &request, api.clock.now())?;
    let jobs = api.store.jobs_of_ticks(found.id, &ticks).await?;
    let mut runs: Vec<_> =
        ticks.iter().zip(jobs).map(|(tick, job)| view::schedule::backfilled(tick, &timetable, job)).collect();
    let missing = runs.iter().filter(|run| !run.existed).count();
    if missing > 0 {
        let schedule = admitted(&api, peer, found).await?;
        if !request.dry_run {
            api.room.take(&api, u32::try_from(missing).unwrap_or(u32::MAX)).await?;
            for (run, tick) in runs.iter_mut().zip(&ticks).filter(|(run, _)| !run.existed) {
                let (job, existed) = submit(&api, &schedule, *tick, (overlap, peer.uid)).await?;
                (run.job, run.existed) = (Some(job), existed);
            }
            info!(schedule = %name, uid = peer.uid.0, jobs = missing, "schedule {name}: {missing} runs that had passed are made up for");
        }
    }
    Ok(Json(BackfillView { schema: SCHEMA, dry_run: request.dry_run, overlap, runs }))
}

fn refused<T>(path: &str, message: String, hint: String) -> Result<T, Failure> {
    Err(Failure::mistakes("backfill", vec![Problem { path: path.into(), message, hint: Some(hint) }]))
}

/// Whether the jobs wait for one another.
fn overlap(schedule: &Schedule, request: &BackfillRequest) -> Result<Overlap, Failure> {
    match request.overlap {
        None => Ok(schedule.policy.overlap.of_backfill()),
        Some(overlap @ (Overlap::BufferAll | Overlap::Allow)) => Ok(overlap),
        Some(_) => {
            let message = "runs that are made up for wait for one another, or do not".to_owned();
            refused("overlap", message, "say `buffer_all` or `allow`".to_owned())
        }
    }
}

/// The ticks that are asked for, or what is wrong with that.
fn ticks(
    schedule: &Schedule,
    timetable: &Timetable,
    request: &BackfillRequest,
    now: Timestamp,
) -> Result<Vec<Tick>, Failure> {
    let BackfillRequest { from, to, .. } = *request;
    let policy = &schedule.policy;
    if to > now {
        let hint = "name a moment that has passed: the runs to come are the schedule's own".to_owned();
        return refused("to", format!("{to} is to come: it is {now:.0}"), hint);
    }
    if from > to {
        return refused("to", format!("it ends before it begins, at {from}"), "name a moment after `from`".to_owned());
    }
    if let Some(first) = policy.from.filter(|first| to < *first) {
        let hint = "add another schedule for the time before, or this one anew with an earlier --from".to_owned();
        return refused("to", format!("the schedule has no runs before {first}"), hint);
    }
    if let Some(last) = policy.until.filter(|last| from > *last) {
        return refused("from", format!("the schedule has no runs after {last}"), "name an earlier moment".to_owned());
    }
    let ticks = match timetable.between(from, to) {
        Ok(ticks) => ticks,
        Err(TooMany { last }) => {
            let message = format!("there are more than {MAX_BACKFILL} runs from {from} to {to}");
            let hint = format!("do it in parts of no more than {MAX_BACKFILL}: the first can end at {last}");
            return refused("to", message, hint);
        }
    };
    // When a schedule is resumed, what was due before is left out.
    let settled = if schedule.enabled { schedule.settled } else { now };
    if let Some(place) = ticks.iter().position(|tick| tick.due > settled) {
        let (own, last) = (ticks[place].at, place.checked_sub(1).map(|before| ticks[before].at));
        let hint = match last {
            Some(last) => format!("end at {last}, the last before it, or try again later"),
            None => "try again later".to_owned(),
        };
        return refused("to", format!("the schedule still has the run of {own} before it"), hint);
    }
    Ok(ticks)
}

/// The schedule with its job as it is submitted now, when that can be.
async fn admitted(api: &Shared, peer: Peer, found: Schedule) -> Result<Schedule, Failure> {
    api.check_sound()?;
    let mut spec = found.spec.clone();
    permit::check_spec(api, peer, &spec)?;
    let problems = submit::problems(api, &mut spec).await?;
    if problems.is_empty() { Ok(Schedule { spec, ..found }) } else { Err(Failure::spec(problems)) }
}

/// Submits the job of a tick. Returns it, and whether it was there already.
async fn submit(
    api: &Shared,
    schedule: &Schedule,
    tick: Tick,
    (overlap, by): (Overlap, Uid),
) -> Result<(JobId, bool), Failure> {
    let _turn = api.store.between_turns().await;
    let course = match overlap {
        Overlap::Allow => Course::Submit,
        _ => overlap.course(&api.store.open_jobs(schedule.id).await?),
    };
    let after = if let Course::After(jobs) = course { jobs } else { Vec::new() };
    if let Some(submitted) = api.store.backfill(schedule, tick, &after, by).await? {
        return Ok((submitted.id, submitted.existed));
    }
    match api.store.jobs_of_ticks(schedule.id, &[tick]).await?.first() {
        Some(Some(job)) => Ok((*job, true)),
        _ => Err(StoreError::NoSchedule(schedule.name.clone()).into()),
    }
}
