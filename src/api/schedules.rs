//! Handlers about schedules: add, list, show, preview, pause, resume, run now, remove. Called by the router. When a schedule runs is `domain::schedule`'s; that it does is the scheduler's.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use mlctl_protocol::{
    JobSpec,
    spec::{DataSource, Work},
};
use tracing::info;

use super::{
    Context, Shared,
    error::Failure,
    extract::{Asked, NamedSchedule, Sent},
    permit::{self, Peer},
    query::{DEFAULT_PREVIEW_RUNS, MAX_PREVIEW_RUNS, PreviewQuery},
    submit,
    types::{
        AddScheduleRequest, ErrorCode, PreviewView, RunScheduleRequest, SCHEMA, ScheduleDetail, ScheduleList,
        ScheduleView,
    },
    view,
};
use crate::{
    domain::{
        alias::{self, Pick},
        rules::{self, Problem},
        schedule::{Crontab, Policy, SCHEDULE_LABEL, Timetable, labelled, zone},
    },
    store::{NewSchedule, Schedule},
};

/// Schedules kept at most: each is looked at when the daemon starts.
pub(super) const MAX_SCHEDULES: usize = 1000;

/// Ticks that the answer about one schedule shows.
const SHOWN_TICKS: u32 = 10;

/// The zone of a schedule that names none.
const DEFAULT_ZONE: &str = "UTC";

/// `POST /v1/schedules`.
pub(super) async fn add(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Sent(request): Sent<AddScheduleRequest>,
) -> Result<Response, Failure> {
    let new = checked(&api, peer, request, false).await?;
    let name = new.name.clone();
    if api.store.schedules().await?.len() >= MAX_SCHEDULES && api.store.schedule(&name).await.is_err() {
        let message = format!("there are {MAX_SCHEDULES} schedules, and no more may be");
        return Err(Failure::new(ErrorCode::Busy, message, "remove some with `mlctl schedule rm`"));
    }
    let existed = api.store.add_schedule(new).await?;
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(seen(&api, &api.store.schedule(&name).await?).await?)).into_response())
}

/// The schedule that is asked for, when all is right with it. One that is said again may have ended meanwhile.
pub(super) async fn checked(
    api: &Shared,
    peer: Peer,
    request: AddScheduleRequest,
    may_have_ended: bool,
) -> Result<NewSchedule, Failure> {
    api.check_sound()?;
    let AddScheduleRequest { name, cron, zone, policy, spec } = request;
    let mut spec = submit::read(&spec, api.policy().max_spec_bytes)?;
    permit::check_spec(api, peer, &spec)?;
    let name = name.unwrap_or_else(|| spec.name.clone());
    let mut problems: Vec<_> = rules::schedule_name(&name).into_iter().collect();
    let timetable = timetable(&cron, zone.as_deref().unwrap_or(DEFAULT_ZONE), &mut problems);
    let timetable = timetable.map(|timetable| timetable.of(&name, policy));
    problems.extend(policy_problems(policy, timetable.as_ref().filter(|_| !may_have_ended), api.clock.now()));
    if !std::mem::take(&mut spec.after).is_empty() {
        let message = "a job that is submitted again and again waits for no others".to_owned();
        problems.push(Problem { path: "after".into(), message, hint: Some("take it away".into()) });
    }
    // What another version may be by the time of a tick is looked up then.
    let open = open_weights(&mut spec);
    let newest: Vec<_> =
        spec.work.sources_mut().data.into_iter().map(|(_, data)| data.newest_of().map(str::to_owned)).collect();
    let mistakes = submit::problems(api, &mut spec).await?;
    let sources = spec.work.sources_mut();
    for ((_, from), open) in sources.weights.into_iter().zip(open) {
        if let Some(open) = open {
            *from = open;
        }
    }
    for ((_, data), newest) in sources.data.into_iter().zip(newest) {
        if let (Some(newest), DataSource::Dataset { dataset, pinned, .. }) = (newest, data) {
            (*dataset, *pinned) = (newest, None);
        }
    }
    if mistakes.is_empty() {
        // As it will be when a tick submits it.
        problems.extend(rules::misfits(&labelled(&spec, &name, api.clock.now())));
    }
    problems.extend(mistakes);
    if spec.time.deadline.is_some() {
        let message = "a moment is no deadline for a job that is submitted again and again".to_owned();
        let hint = Some("take it away; `time.limit_seconds` bounds each run".to_owned());
        problems.push(Problem { path: "time.deadline".into(), message, hint });
    }
    if spec.time.begin.is_some() {
        let message = "when a schedule's jobs start is said by its crontab line".to_owned();
        problems.push(Problem { path: "time.begin".into(), message, hint: Some("take it away".into()) });
    }
    problems.extend(rival(api, &name, &spec).await?);
    let timetable = match timetable {
        Some(timetable) if problems.is_empty() => timetable,
        _ => return Err(Failure::mistakes("schedule", problems)),
    };
    let now = api.clock.now();
    let zone = timetable.zone().iana_name().unwrap_or(DEFAULT_ZONE).to_owned();
    let (cron, next) = (timetable.line().expression().to_owned(), timetable.after(now).next().map(|tick| tick.due));
    Ok(NewSchedule { name, cron, zone, spec, user: peer.uid, created_at: now, next, policy })
}

/// Two schedules that retrain one model would promote against each other.
async fn rival(api: &Shared, name: &str, spec: &JobSpec) -> Result<Option<Problem>, Failure> {
    let model_of = |spec: &JobSpec| match &spec.work {
        Work::Retrain(retrain) => Some(retrain.model.clone()),
        _ => None,
    };
    let Some(model) = model_of(spec) else { return Ok(None) };
    let schedules = api.store.schedules().await?;
    let mut others = schedules.iter().map(|(other, _)| other).filter(|other| other.name != name);
    Ok(others.find(|other| model_of(&other.spec).as_ref() == Some(&model)).map(|other| Problem {
        path: "retrain.model".into(),
        message: format!("schedule {} retrains model {model} already", other.name),
        hint: Some(format!("change that one, or `mlctl schedule rm {}` first", other.name)),
    }))
}

/// Which of the spec's weights come from a version that may be another by the time of a tick, in their order.
fn open_weights(spec: &mut JobSpec) -> Vec<Option<String>> {
    let is_open = |from: &str| alias::reference(from).is_some_and(|named| !matches!(named.pick, Pick::Number(_)));
    spec.work.sources_mut().weights.into_iter().map(|(_, from)| is_open(from).then(|| from.clone())).collect()
}

/// What is wrong with a policy, and with a line that has no tick within it.
fn policy_problems(policy: Policy, timetable: Option<&Timetable>, now: Timestamp) -> Vec<Problem> {
    let mut problems = policy.problems();
    if problems.is_empty()
        && let (Some(until), Some(timetable)) = (policy.until, timetable)
        && timetable.after(now).next().is_none()
    {
        let message = format!("it would never run: its line has no time between now and {until}");
        let hint = Some("name a later moment, or none".to_owned());
        problems.push(Problem { path: "policy.until".into(), message, hint });
    }
    problems
}

/// The timetable of a schedule that is kept.
pub(super) fn timetable_of(schedule: &Schedule) -> Result<Timetable, Failure> {
    let mut problems = Vec::new();
    match timetable(&schedule.cron, &schedule.zone, &mut problems) {
        Some(timetable) => Ok(timetable.of(&schedule.name, schedule.policy)),
        None => Err(Failure::mistakes("schedule", problems)),
    }
}

/// The timetable of a line in a zone, or what is wrong with them.
fn timetable(cron: &str, zone_name: &str, problems: &mut Vec<Problem>) -> Option<Timetable> {
    let mut problem = |path: &str, message: String, hint: String| {
        problems.push(Problem { path: path.into(), message, hint: Some(hint) });
    };
    let line = Crontab::parse(cron).map_err(|error| problem("cron", error.to_string(), error.hint)).ok();
    let zone = zone(jiff::tz::db(), zone_name).map_err(|error| problem("zone", error.message, error.hint)).ok();
    Some(Timetable::new(line?, zone?))
}

/// `GET /v1/schedules`.
pub(super) async fn list(State(api): State<Context>) -> Result<Json<ScheduleList>, Failure> {
    let names = api.users.names();
    let found = api.store.schedules().await?;
    let schedules = found.iter().map(|(schedule, last)| view::schedule::view(schedule, *last, &names)).collect();
    Ok(Json(ScheduleList { schema: SCHEMA, schedules }))
}

/// `GET /v1/schedules/{schedule}`.
pub(super) async fn show(
    State(api): State<Context>,
    NamedSchedule(name): NamedSchedule,
) -> Result<Json<ScheduleDetail>, Failure> {
    let found = api.store.schedule(&name).await?;
    let ticks = api.store.ticks(found.id, SHOWN_TICKS).await?;
    let names = api.users.names();
    let schedule = view::schedule::view(&found, ticks.first().copied(), &names);
    let ticks = ticks.into_iter().map(|tick| view::schedule::tick(tick, &names)).collect();
    let missed = api.store.missed_ticks(found.id, SHOWN_TICKS).await?;
    let missed = missed.into_iter().map(view::schedule::missed).collect();
    Ok(Json(ScheduleDetail { schedule, ticks, missed, spec: found.spec }))
}

/// `GET /v1/schedules/{schedule}/preview`.
pub(super) async fn preview(
    State(api): State<Context>,
    NamedSchedule(name): NamedSchedule,
    Asked(query): Asked<PreviewQuery>,
) -> Result<Json<PreviewView>, Failure> {
    let found = api.store.schedule(&name).await?;
    let timetable = timetable_of(&found)?;
    let from = query.from.unwrap_or_else(|| api.clock.now());
    let count = query.n.unwrap_or(DEFAULT_PREVIEW_RUNS).clamp(1, MAX_PREVIEW_RUNS);
    let ticks = timetable.after(from).take(usize::try_from(count).unwrap_or(usize::MAX));
    Ok(Json(PreviewView { schema: SCHEMA, runs: ticks.map(|tick| view::schedule::run(&tick, &timetable)).collect() }))
}

/// `POST /v1/schedules/{schedule}/pause`: it submits nothing until it is resumed.
pub(super) async fn pause(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedSchedule(name): NamedSchedule,
) -> Result<Json<ScheduleView>, Failure> {
    if api.store.pause_schedule(&name).await? {
        info!(schedule = %name, uid = peer.uid.0, "schedule {name} is paused");
    }
    Ok(Json(seen(&api, &api.store.schedule(&name).await?).await?))
}

/// `POST /v1/schedules/{schedule}/resume`: it goes on with its next tick. Those that came while it was paused are left out.
pub(super) async fn resume(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedSchedule(name): NamedSchedule,
) -> Result<Json<ScheduleView>, Failure> {
    let found = api.store.schedule(&name).await?;
    let now = api.clock.now();
    let next = timetable_of(&found)?.after(now).next().map(|tick| tick.due);
    if api.store.resume_schedule(&name, now, next).await? {
        info!(schedule = %name, uid = peer.uid.0, "schedule {name} goes on");
    }
    Ok(Json(seen(&api, &api.store.schedule(&name).await?).await?))
}

/// `POST /v1/schedules/{schedule}/run`: submits its job now, in the name of who asks, whether it is paused or not. Its ticks stay as they are.
pub(super) async fn run(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedSchedule(name): NamedSchedule,
    Sent(RunScheduleRequest { key }): Sent<RunScheduleRequest>,
) -> Result<Response, Failure> {
    submit::check_key(&key)?;
    let mut spec = api.store.schedule(&name).await?.spec;
    permit::check_spec(&api, peer, &spec)?;
    spec.labels.insert(SCHEDULE_LABEL.to_owned(), name);
    submit::keep(&api, peer.uid, (spec, key), false).await
}

/// `DELETE /v1/schedules/{schedule}`.
pub(super) async fn remove(
    State(api): State<Context>,
    NamedSchedule(name): NamedSchedule,
) -> Result<Json<ScheduleView>, Failure> {
    let view = seen(&api, &api.store.schedule(&name).await?).await?;
    api.store.remove_schedule(&name).await?;
    Ok(Json(view))
}

async fn seen(api: &Context, schedule: &Schedule) -> Result<ScheduleView, Failure> {
    let last = api.store.ticks(schedule.id, 1).await?.pop();
    Ok(view::schedule::view(schedule, last, &api.users.names()))
}
