//! `POST /v1/jobs`: a spec is read, checked and kept. Called by the router. The rules are `domain::rules`', the files are `preflight`'s; here is the order of it.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use mlctl_protocol::{JobSpec, spec::Resources};
use serde_json::value::RawValue;

use super::{
    Context, Shared, after, datasets,
    error::Failure,
    extract::Sent,
    jobs::FORESEEN,
    permit::{self, Peer},
    preflight, queues,
    types::{DryRunView, ErrorCode, JobView, MAX_KEY_BYTES, PlacementView, SCHEMA, SubmitRequest},
    view::{
        self, Planned, Scene,
        turn::{self, imagined, turn},
    },
};
use crate::{
    domain::{
        Hold, Machine, Uid,
        rules::{self, Problem},
        schedule::KEY_PREFIX,
    },
    scheduler::Outlook,
    store::{NewJob, Submitted},
};

/// `POST /v1/jobs`.
pub(super) async fn submit(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Sent(request): Sent<SubmitRequest>,
) -> Result<Response, Failure> {
    let SubmitRequest { spec, key, dry_run, hold } = request;
    check_key(&key)?;
    let mut spec = read(&spec, api.policy().max_spec_bytes)?;
    permit::check_spec(&api, peer, &spec)?;
    if dry_run {
        admit(&api, &mut spec, true).await?;
        let after = after::of_spec(&api, &spec).await?;
        // One that waits for others is not in line yet.
        let placement = if after.is_empty() { Some(place(&api, &spec, peer.uid).await?) } else { None };
        return Ok(Json(DryRunView { schema: SCHEMA, dry_run, spec, after, placement }).into_response());
    }
    keep(&api, peer.uid, (spec, key), hold).await
}

/// Keeps a job that a user may submit, once for its key.
pub(super) async fn keep(
    api: &Shared,
    user: Uid,
    (mut spec, key): (JobSpec, String),
    hold: bool,
) -> Result<Response, Failure> {
    let (asked, planned) = (digest(&spec, hold)?, Planned::of(&spec));
    let mut dataset = None;
    let hold = hold.then_some(Hold { by: user, reason: None, not_before: None });
    let (submitted, kept) = match admit(api, &mut spec, false).await {
        Ok(()) => {
            dataset = view::dataset(&spec);
            api.store.submit_and_show(NewJob { spec, user, key, asked: Some(asked), hold }).await?
        }
        // What was acknowledged once stays so, whatever has become of the files or the queue in the meantime.
        Err(refused) => match api.store.keyed(user, &key, &asked).await? {
            Some(id) => (Submitted { id, existed: true }, None),
            None => return Err(refused),
        },
    };
    if submitted.existed {
        dataset = view::dataset(&api.store.spec(submitted.id).await?);
    }
    let status = if submitted.existed { StatusCode::OK } else { StatusCode::CREATED };
    let detail = match kept {
        Some(detail) => detail,
        None => api.store.job(submitted.id).await?,
    };
    // Who is first in line is not looked for: a submit is to be quick.
    let scene = api.scene_with_awaited(std::slice::from_ref(&detail)).await?;
    let view = JobView { dataset, ..view::job(&detail, planned, &scene) };
    Ok((status, Json(view)).into_response())
}

/// What would become of a job that is submitted now.
async fn place(api: &Shared, spec: &JobSpec, user: Uid) -> Result<PlacementView, Failure> {
    let scene = api.scene();
    let job = imagined(spec, user, scene.now);
    let snapshot = api.observer.look_ahead(scene.now, FORESEEN, job.needs.gpus > 0).await?.0;
    let outlook = Outlook::with(snapshot, job.clone());
    let starts_by = outlook.latest_starts().remove(&job.id);
    let scene = Scene { outlook: Some(Box::new(outlook)), ..scene };
    Ok(PlacementView { reason: turn(&job, &scene), starts_by })
}

/// Whether a job can be taken: its rules, what it names outside itself, which is put in its place, and room in the queue, which a dry run does not take.
async fn admit(api: &Shared, spec: &mut JobSpec, dry_run: bool) -> Result<(), Failure> {
    let problems = problems(api, spec).await?;
    if !problems.is_empty() {
        return Err(Failure::spec(problems));
    }
    if dry_run { Ok(()) } else { api.room.take(api, 1).await }
}

/// Everything that is wrong with a spec here and now. What it names outside itself is put in its place.
pub(super) async fn problems(api: &Shared, spec: &mut JobSpec) -> Result<Vec<Problem>, Failure> {
    let mut problems = rules::problems(spec);
    problems.extend(too_large(&spec.resources, &api.supervisor.machine()));
    problems.extend(queues::problem(api, &spec.queue, &spec.resources));
    problems.extend(too_late(spec, api.clock.now()));
    let mut outside = Vec::new();
    preflight::resolve(api, spec, &mut outside).await?;
    outside.extend(preflight::of_pinned(spec));
    // What breaks a rule already is one mistake, not two.
    outside.retain(|new| problems.iter().all(|known| known.path != new.path));
    problems.append(&mut outside);
    Ok(problems)
}

/// What was asked for, before anything named in it is looked up.
fn digest(spec: &JobSpec, hold: bool) -> Result<blake3::Hash, Failure> {
    let mut json =
        serde_json::to_vec(spec).map_err(|error| Failure::internal("the spec cannot be written as JSON", &error))?;
    if hold {
        json.extend_from_slice(b" held");
    }
    Ok(blake3::hash(&json))
}

pub(super) fn check_key(key: &str) -> Result<(), Failure> {
    let hint = "any text that no other submit of yours bears will do";
    if key.is_empty() {
        return Err(Failure::bad_request("the idempotency key is empty", hint));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(Failure::bad_request(format!("the idempotency key is longer than {MAX_KEY_BYTES} bytes"), hint));
    }
    if key.starts_with(KEY_PREFIX) {
        let message = format!("idempotency keys that begin with {KEY_PREFIX:?} are the daemon's own");
        return Err(Failure::bad_request(message, hint));
    }
    if key.chars().any(char::is_control) {
        return Err(Failure::bad_request("the idempotency key has control characters in it", hint));
    }
    Ok(())
}

/// The spec, or where it is none. Which version of a dataset it reads is the daemon's to say.
pub(super) fn read(raw: &RawValue, max_bytes: usize) -> Result<JobSpec, Failure> {
    let mut spec = parse(raw, max_bytes)?;
    datasets::unpin(&mut spec);
    Ok(spec)
}

fn parse(raw: &RawValue, max_bytes: usize) -> Result<JobSpec, Failure> {
    let json = raw.get();
    if json.len() > max_bytes {
        let message = format!("the job spec has {} bytes, more than the {max_bytes} that are taken", json.len());
        return Err(Failure::new(
            ErrorCode::TooLarge,
            message,
            "name data by URI, or raise limits.max_spec_bytes of mld",
        ));
    }
    // Where a mistake is costs time to know, and most have none.
    if let Ok(spec) = serde_json::from_str(json) {
        return Ok(spec);
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        // The place in the JSON is of no use to who wrote TOML.
        let message = error.into_inner().to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_owned();
        Failure::spec(vec![Problem { path, message, hint: Some("`mlctl spec schema` shows every key".into()) }])
    })
}

/// What must have ended already could only fail.
fn too_late(spec: &JobSpec, now: Timestamp) -> Option<Problem> {
    let deadline = rules::deadline(&spec.time).filter(|deadline| *deadline <= now)?;
    let message = format!("the deadline, {deadline}, has passed");
    let hint = Some("choose one that is to come".to_owned());
    Some(Problem { path: "time.deadline".into(), message, hint })
}

/// What no empty machine could hold would wait for ever.
pub(super) fn too_large(needs: &Resources, machine: &Machine) -> Option<Problem> {
    if machine.could_hold(needs) {
        return None;
    }
    let (path, hint) = if needs.cpus > machine.cpus {
        ("resources.cpus", "ask for less, or give jobs more with workers.cpus of mld")
    } else if needs.memory_mib > machine.memory_mib {
        ("resources.memory_mib", "ask for less, or give jobs more with workers.memory_mib of mld")
    } else if needs.gpus as usize > machine.gpus.len() {
        ("resources.gpus", "ask for less; `mlctl device ls` lists the GPUs that jobs are given")
    } else {
        ("resources.vram_mib", "ask for less; `mlctl device ls` says how much each GPU has")
    };
    Some(Problem {
        path: path.into(),
        message: format!("the job {}", turn::too_large(needs, machine)),
        hint: Some(hint.into()),
    })
}

/// How many more jobs may wait. Counted down with every submit and read again from the store's counters when used up, so that a submit costs no read. Jobs that
/// start in the meantime only make more room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Of how many at most.
    max: AtomicU32,
    left: AtomicI64,
}

impl Room {
    /// Takes the places of so many jobs, or none.
    pub(super) async fn take(&self, api: &Shared, jobs: u32) -> Result<(), Failure> {
        api.check_sound()?;
        let (jobs, max) = (i64::from(jobs), api.policy().max_queued);
        if self.max.swap(max, Ordering::Relaxed) != max {
            self.left.store(0, Ordering::Relaxed);
        }
        if self.left.fetch_sub(jobs, Ordering::Relaxed) >= jobs {
            return Ok(());
        }
        let queued = api.store.waiting().await?;
        let left = i64::from(max).saturating_sub(i64::try_from(queued).unwrap_or(i64::MAX));
        let fits = left >= jobs;
        self.left.store(if fits { left.saturating_sub(jobs) } else { 0 }, Ordering::Relaxed);
        if fits {
            return Ok(());
        }
        let message = match jobs {
            1 => format!("{queued} jobs wait, and no more than {max} may"),
            _ => format!("{queued} jobs wait, and {jobs} more would be more than the {max} that may"),
        };
        Err(Failure::new(ErrorCode::Busy, message, "try again when some have run, or raise limits.max_queued of mld"))
    }
}
