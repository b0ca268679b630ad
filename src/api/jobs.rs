//! Handlers about jobs that are there: list, show, spec, attempts, events, metrics, why. Called by the router.

use std::{cmp::Reverse, collections::BTreeMap};

use axum::{
    Json,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use mlctl_protocol::{
    JobId,
    spec::{RetrainSpec, Work},
};

use super::{
    Context, Shared, after,
    error::Failure,
    extract::{Asked, Named},
    follow,
    query::{
        DEFAULT_FINISHED, DEFAULT_LIST_LIMIT, DEFAULT_PAGE_LIMIT, ListQuery, MAX_LABELS_BYTES, MAX_LIST_LIMIT,
        MAX_LOOKED_AT, MAX_PAGE_LIMIT, PageQuery, SortField,
    },
    stream,
    types::{ArrayView, AttemptList, EventList, JobList, JobView, MetricList, SCHEMA, SpecView, StageView, WhyView},
    view::{self, Planned, Scene},
};
use crate::{
    domain::{Filter, Job, JobState, array::is_final, retrain::Stage},
    scheduler::Outlook,
    store::{Array, ArrayFilter, Awaited, JobDetail, ListFilter, Listed, MemberFilter, Sift, StoreError},
};

/// Jobs that are named as what another waits for.
const SHOWN: u32 = 100;

/// Jobs of each class that are looked at to say what others wait for.
const HEADS: u32 = 16;

/// The same where one job's start is foreseen.
pub(super) const FORESEEN: u32 = 128;

/// `GET /v1/jobs`.
pub(super) async fn list(State(api): State<Context>, Asked(query): Asked<ListQuery>) -> Result<Json<JobList>, Failure> {
    let sort = query.sort.unwrap_or_default();
    let (array, members, by_index) =
        (query.array.clone(), query.members || query.filter.is_some(), query.array.is_some() && query.sort.is_none());
    let filter = filter(&api, query)?;
    let arrays = if array.is_none() && !members { api.arrays(&filter).await? } else { Vec::new() };
    let (mut details, is_partial) = match array {
        Some(array) => (api.members(&array, filter).await?, false),
        None => {
            let Listed { jobs, is_partial } = api.store.list(filter).await?;
            (jobs, is_partial)
        }
    };
    if !by_index {
        order(&mut details, sort);
    }
    let waits = details.iter().any(|detail| matches!(detail.job.state, JobState::Queued { .. }));
    let scene = if waits { api.scene_with_outlook(HEADS).await? } else { api.scene() };
    let scene = Scene { awaited: api.awaited(&details).await?, ..scene };
    let mut jobs = Vec::with_capacity(details.len());
    for detail in &details {
        jobs.push(view::job(detail, api.planned(detail).await?, &scene));
    }
    let note = is_partial.then(|| {
        format!("of each state only the newest {MAX_LOOKED_AT} jobs were looked at: others may fit too; `--since` asks for less")
    });
    Ok(Json(JobList { schema: SCHEMA, jobs, arrays, note }))
}

/// Puts a list into an order.
fn order(jobs: &mut [JobDetail], sort: SortField) {
    match sort {
        // As the store lists them; members of an array come by their index.
        SortField::Newest => jobs.sort_by_key(|detail| Reverse(detail.job.id)),
        SortField::Oldest => jobs.sort_by_key(|detail| detail.job.id),
        SortField::Priority => jobs.sort_by_key(|detail| (Reverse(detail.job.priority), detail.job.id)),
        SortField::Name => jobs.sort_by(|one, other| (&one.job.name, one.job.id).cmp(&(&other.job.name, other.job.id))),
        SortField::Finished => jobs.sort_by_key(|detail| Reverse(detail.job.finished_at.unwrap_or(Timestamp::MAX))),
    }
}

fn filter(api: &Shared, query: ListQuery) -> Result<ListFilter, Failure> {
    let ListQuery { state, kind, user, queue, labels, since, sort: _, finished, limit, array: _, members, filter } =
        query;
    let known = |what: &str, value: &str, known: &[&str]| {
        if known.contains(&value) {
            return Ok(());
        }
        let shown: String = value.chars().take(40).collect();
        Err(Failure::bad_request(format!("there is no {what} {shown:?}"), format!("there is {}", known.join(", "))))
    };
    let states: Vec<String> =
        state.iter().flat_map(|text| text.split(',')).map(|state| state.trim().to_owned()).collect();
    for state in &states {
        known("state", state, &JobState::names().collect::<Vec<_>>())?;
    }
    if let Some(kind) = &kind {
        known("kind", kind, &Work::KINDS)?;
    }
    let user = match user {
        None => None,
        Some(text) => Some(api.users.named(&text)?),
    };
    let limit = limit.unwrap_or(DEFAULT_LIST_LIMIT).min(MAX_LIST_LIMIT);
    let labels = labels.as_deref().map_or(Ok(BTreeMap::new()), read_labels)?;
    let sift = filter.as_deref().map(|text| sift(api, text)).transpose()?;
    let asks_for_all = since.is_some() || sift.is_some();
    let finished = finished.unwrap_or(if asks_for_all { MAX_LIST_LIMIT } else { DEFAULT_FINISHED });
    // Other states need not be looked at.
    let meant = sift.as_ref().filter(|_| states.is_empty()).and_then(|sift| sift.filter.states()).unwrap_or_default();
    let states = if meant.is_empty() { states } else { meant.into_iter().map(str::to_owned).collect() };
    let (members, look_at) = (members || sift.is_some(), Some(MAX_LOOKED_AT));
    Ok(ListFilter { states, finished, kind, user, queue, labels, since, limit, look_at, members, sift })
}

fn sift(api: &Shared, text: &str) -> Result<Sift, Failure> {
    let filter = Filter::parse(text).map_err(|errors| {
        let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let hint = errors.into_iter().next().map(|error| error.hint).unwrap_or_default();
        Failure::bad_request(format!("the filter cannot be read: {}", told.join("; ")), hint)
    })?;
    Ok(Sift { filter, names: api.users.names(), now: api.clock.now() })
}

fn read_labels(text: &str) -> Result<BTreeMap<String, String>, Failure> {
    let refused = |message: String| Failure::bad_request(message, r#"ask for labels as in {"team": "vision"}"#);
    if text.len() > MAX_LABELS_BYTES {
        return Err(refused(format!("the labels asked for have more than {MAX_LABELS_BYTES} bytes")));
    }
    serde_json::from_str(text).map_err(|error| refused(format!("the labels asked for are no JSON object: {error}")))
}

/// `GET /v1/jobs/{job}`.
pub(super) async fn show(State(api): State<Context>, Named(id): Named) -> Result<Json<JobView>, Failure> {
    let view = api.job_view(id).await?;
    let after = api.store.awaited(&[id], true).await?.remove(&id).unwrap_or_default();
    let (dependents, all) = api.waiters(id).await?;
    let after = after.into_iter().map(after::view).collect();
    let stages = if view.kind == RetrainSpec::KIND { stages(&api, id).await? } else { Vec::new() };
    Ok(Json(JobView { after, dependents, dependents_count: Some(all), stages, ..view }))
}

/// The jobs that the stages of a retraining are.
async fn stages(api: &Shared, run: JobId) -> Result<Vec<StageView>, Failure> {
    let run = api.store.job(run).await?.job;
    let mut stages = Vec::new();
    for stage in Stage::ALL {
        let job = api.store.stage(&run, stage).await?;
        let view = |job: Job| StageView { stage: stage.name().into(), job: job.id, state: job.state.name().into() };
        stages.extend(job.map(view));
    }
    Ok(stages)
}

/// `GET /v1/jobs/{job}/spec`.
pub(super) async fn spec(State(api): State<Context>, Named(id): Named) -> Result<Json<SpecView>, Failure> {
    Ok(Json(SpecView { schema: SCHEMA, id, spec: api.store.spec(id).await? }))
}

/// `GET /v1/jobs/{job}/attempts`.
pub(super) async fn attempts(State(api): State<Context>, Named(id): Named) -> Result<Json<AttemptList>, Failure> {
    let attempts = api.store.attempts(id).await?.iter().map(view::attempt).collect();
    Ok(Json(AttemptList { schema: SCHEMA, id, attempts }))
}

/// `GET /v1/jobs/{job}/events`.
pub(super) async fn events(
    State(api): State<Context>,
    Named(id): Named,
    Asked(query): Asked<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let after = query.after.unwrap_or(0);
    if query.follow {
        let after = stream::last_id(&headers)?.unwrap_or(after);
        return follow::events(&api, id, after);
    }
    let events = api.store.events(Some(id), after, page(query.limit)).await?;
    let scene = api.scene();
    let events = events.iter().map(|event| view::event::view(event, &scene)).collect();
    Ok(Json(EventList { schema: SCHEMA, id, events }).into_response())
}

/// `GET /v1/jobs/{job}/metrics`.
pub(super) async fn metrics(
    State(api): State<Context>,
    Named(id): Named,
    Asked(query): Asked<PageQuery>,
) -> Result<Json<MetricList>, Failure> {
    if query.follow {
        let hint = "`GET /v1/jobs/{job}/follow` has the metrics as they come";
        return Err(Failure::bad_request("metrics alone cannot be followed", hint));
    }
    let limit = page(query.limit);
    let points = api.store.metrics(id, query.after.unwrap_or(0), limit).await?;
    let full = points.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = points.last().filter(|_| full).map(|(id, _)| *id);
    Ok(Json(MetricList { schema: SCHEMA, id, points: points.into_iter().map(view::point).collect(), next }))
}

fn page(limit: Option<u32>) -> u32 {
    limit.unwrap_or(DEFAULT_PAGE_LIMIT).clamp(1, MAX_PAGE_LIMIT)
}

/// `GET /v1/jobs/{job}/why`.
pub(super) async fn why(State(api): State<Context>, Named(id): Named) -> Result<Json<WhyView>, Failure> {
    let detail = api.store.job(id).await?;
    let scene = api.scene_of(&detail).await?;
    let (reason, hint) = view::reason::why(&detail, Planned::of(&api.store.spec(id).await?), &scene);
    let starts_by = scene.outlook.as_ref().and_then(|outlook| outlook.latest_starts().remove(&id));
    let (name, state) = (detail.job.name, detail.job.state.name().to_owned());
    Ok(Json(WhyView { schema: SCHEMA, id, name, state, reason, starts_by, hint }))
}

impl Shared {
    /// The arrays that a list has beside its jobs.
    async fn arrays(&self, filter: &ListFilter) -> Result<Vec<ArrayView>, StoreError> {
        let ListFilter { states, finished, kind, user, queue, labels, since, limit, .. } = filter;
        let (states, ended) = match (states.is_empty(), since) {
            (false, _) => (states.clone(), 0),
            (true, None) => (JobState::UNFINISHED.map(str::to_owned).to_vec(), *finished),
            // When an array ended is not kept: those submitted since then.
            (true, Some(_)) => (JobState::UNFINISHED.map(str::to_owned).to_vec(), *limit),
        };
        let found = self.store.arrays(&ArrayFilter { states, limit: *limit, ended: ended.min(*limit) }).await?;
        let scene = self.scene();
        let fits = |array: &Array| {
            let is_open = array.counts.keys().any(|tally| !is_final(tally));
            kind.as_ref().is_none_or(|kind| *kind == array.kind)
                && user.is_none_or(|user| user == array.user)
                && queue.as_ref().is_none_or(|queue| *queue == array.queue)
                && labels.iter().all(|(key, value)| array.labels.get(key) == Some(value))
                && since.is_none_or(|since| is_open || array.submitted_at >= since)
        };
        let most = usize::try_from(*limit).unwrap_or(usize::MAX);
        Ok(found.into_iter().filter(fits).take(most).map(|array| view::array::view(array, &scene)).collect())
    }

    /// Members of an array, by index.
    async fn members(&self, array: &str, filter: ListFilter) -> Result<Vec<JobDetail>, StoreError> {
        let id = self.store.find_array(array).await?;
        let Some(sift) = filter.sift else {
            return self.store.members(id, &MemberFilter { states: filter.states, limit: filter.limit }).await;
        };
        // An array's size is bounded, so that all of it can be looked at.
        let mut members = self.store.members(id, &MemberFilter { states: filter.states, limit: u32::MAX }).await?;
        members.retain(|member| sift.fits(&member.job));
        members.truncate(usize::try_from(filter.limit).unwrap_or(usize::MAX));
        Ok(members)
    }

    /// What jobs are seen against at this moment, without what is planned.
    pub(super) fn scene(&self) -> Scene {
        Scene {
            now: self.clock.now(),
            names: self.users.names(),
            machine: (*self.supervisor.machine()).clone(),
            free: self.supervisor.free(),
            occupants: self.supervisor.occupants(),
            through: Vec::new(),
            awaited: BTreeMap::new(),
            standing: self.dispatch.standing(),
            outlook: None,
            grace_seconds: self.policy().grace_seconds,
            is_full: self.store.is_full(),
        }
    }

    /// The same with what the scheduler means to do: of the queue it sees the first `heads` jobs of each class.
    pub(super) async fn scene_with_outlook(&self, heads: u32) -> Result<Scene, StoreError> {
        let scene = self.scene();
        let snapshot = self.observer.look(scene.now, heads).await?;
        Ok(Scene { outlook: Some(Box::new(Outlook::new(snapshot))), ..scene })
    }

    /// What those of these jobs wait for that do.
    async fn awaited(&self, details: &[JobDetail]) -> Result<BTreeMap<JobId, Vec<Awaited>>, StoreError> {
        let blocked = details.iter().filter(|detail| matches!(detail.job.state, JobState::Blocked { .. }));
        let blocked: Vec<JobId> = blocked.map(|detail| detail.job.id).collect();
        self.store.awaited(&blocked, false).await
    }

    /// What jobs are seen against with what they wait for, without who is first in line.
    pub(super) async fn scene_with_awaited(&self, details: &[JobDetail]) -> Result<Scene, StoreError> {
        Ok(Scene { awaited: self.awaited(details).await?, ..self.scene() })
    }

    /// What one job is seen against, with all that says why it waits.
    async fn scene_of(&self, detail: &JobDetail) -> Result<Scene, StoreError> {
        let scene = match detail.job.state {
            JobState::Queued { .. } => self.scene_with_outlook(FORESEEN).await?,
            JobState::Blocked { .. } => self.scene_with_awaited(std::slice::from_ref(detail)).await?,
            _ => self.scene(),
        };
        let through = if detail.is_gated { self.store.through_gate(&detail.job, SHOWN).await? } else { Vec::new() };
        Ok(Scene { through, ..scene })
    }

    /// A job as it is now.
    pub(super) async fn job_view(&self, id: JobId) -> Result<JobView, StoreError> {
        let detail = self.store.job(id).await?;
        let scene = self.scene_of(&detail).await?;
        let spec = self.store.spec(id).await?;
        Ok(JobView { dataset: view::dataset(&spec), ..view::job(&detail, Planned::of(&spec), &scene) })
    }

    /// What is known of the spec of a job in a list: read only where its time left depends on it.
    async fn planned(&self, detail: &JobDetail) -> Result<Planned, StoreError> {
        let JobDetail { job, attempt, .. } = detail;
        let runs = matches!(job.state, JobState::Running { .. }) && job.kind == "train";
        let rate = attempt.as_ref().and_then(|attempt| attempt.progress.rows_per_second);
        if !runs || rate.is_none() {
            return Ok(Planned::default());
        }
        Ok(Planned { time_limit_seconds: None, ..Planned::of(&self.store.spec(job.id).await?) })
    }
}
