//! `POST /v1/arrays`: one spec and what varies become many jobs, each checked like any other, and are kept together. Called by the router. What is too large is refused before it is
//! made.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use mlctl_protocol::{
    JobSpec,
    spec::{After, DataSource, Wins, Work},
};
use serde_json::Value;

use super::{
    Context, Shared, after,
    error::Failure,
    extract::Sent,
    permit::{self, Peer},
    preflight, queues, submit,
    types::{ArrayDryRunView, ErrorCode, SCHEMA, SubmitArrayRequest},
};
use crate::{
    domain::{
        Hold, Machine,
        array::{Design, Halving, Metric, Params, Sweep, lay_over, member_name},
        rules::{self, Problem},
    },
    store::{NewArray, Submitted},
};

/// Bytes of all members' specs together, at most: they are in memory at once.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// What all members together wait for, at most.
const MAX_AWAITED: u64 = 100_000;

/// Mistakes that are listed; an array can have one a member.
const MAX_PROBLEMS: usize = 30;

/// A member's spec and what sets it apart.
type Member = (JobSpec, Params);

/// `POST /v1/arrays`.
pub(super) async fn submit(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Sent(request): Sent<SubmitArrayRequest>,
) -> Result<Response, Failure> {
    let SubmitArrayRequest { spec, key, sweep, metric, halving, parallel, dry_run, hold } = request;
    submit::check_key(&key)?;
    let spec = submit::read(&spec, api.policy().max_spec_bytes)?;
    permit::check_spec(&api, peer, &spec)?;
    let design = Design { sweep, metric, halving, parallel };
    let asked = digest(&spec, &design, hold)?;
    let (name, priority, labels) = (spec.name.clone(), spec.priority, spec.labels.clone());
    let admitted = admit(&api, spec, &design, dry_run).await;
    if dry_run {
        let members = admitted?;
        let params = members.iter().take(ArrayDryRunView::SHOWN as usize).map(|(_, params)| params.clone()).collect();
        let size = u32::try_from(members.len()).unwrap_or(u32::MAX);
        // A sweep without a mistake has a member.
        let Some((spec, _)) = members.into_iter().next() else { return Err(empty()) };
        let after = after::of_spec(&api, &spec).await?;
        return Ok(Json(ArrayDryRunView { schema: SCHEMA, dry_run, size, spec, params, after }).into_response());
    }
    let submitted = match admitted {
        Ok(members) => {
            let hold = hold.then_some(Hold { by: peer.uid, reason: None, not_before: None });
            let user = peer.uid;
            let new = NewArray { name, priority, labels, user, key, asked, hold, design, members };
            api.store.submit_array(new).await?
        }
        // What was acknowledged once stays so, whatever has become of the files or the queue in the meantime.
        Err(refused) => match api.store.keyed_array(peer.uid, &key, &asked).await? {
            Some(id) => Submitted { id, existed: true },
            None => return Err(refused),
        },
    };
    let status = if submitted.existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(api.array_view(submitted.id).await?)).into_response())
}

/// The members, if all of them can be taken.
async fn admit(api: &Shared, spec: JobSpec, design: &Design, dry_run: bool) -> Result<Vec<Member>, Failure> {
    let mut problems = design.sweep.problems();
    problems.extend(design.metric.as_ref().and_then(Metric::mistake).map(|message| Problem {
        path: "metric".into(),
        message,
        hint: None,
    }));
    problems.extend((design.parallel == Some(0)).then(|| Problem {
        path: "parallel".into(),
        message: "at least one member runs at once".into(),
        hint: Some("leave it out, and as many run as there is room for; `mlctl submit --hold` starts none".into()),
    }));
    problems.extend(rivals(&spec));
    problems.extend(design.halving.as_ref().and_then(|halving| uncompared(halving, &spec)));
    problems.extend((design.parallel.is_some() && spec.concurrency.is_some()).then(|| Problem {
        path: "parallel".into(),
        message: "the jobs have a concurrency key, which says how many run at once".into(),
        hint: Some(
            "keep one of them: --parallel for this array alone, --concurrency-limit for all with the key".into(),
        ),
    }));
    if !problems.is_empty() {
        return Err(Failure::mistakes("array", problems));
    }
    let size = bounded(&design.sweep, api.policy().max_array)?;
    let awaited = u64::from(size).saturating_mul(spec.after.len() as u64);
    if awaited > MAX_AWAITED {
        let message = format!("{size} jobs that wait for {} others each are too many", spec.after.len());
        let hint = "have one job wait for those, and the array wait for that one";
        return Err(Failure::new(ErrorCode::TooLarge, message, hint));
    }
    let (design, machine) = (design.clone(), api.supervisor.machine());
    // Ten thousand specs take longer than other requests should wait for.
    let made = tokio::task::spawn_blocking(move || members(&spec, &design, size, &machine)).await;
    let (mut members, mut mistakes) =
        made.map_err(|error| Failure::internal("the members of an array cannot be made", &error))??;
    resolve(api, &mut members, &mut mistakes).await?;
    let problems = mistakes.problems(size);
    if !problems.is_empty() {
        return Err(Failure::mistakes("array", problems));
    }
    let refused = members.iter().find_map(|(spec, _)| queues::problem(api, &spec.queue, &spec.resources));
    if let Some(problem) = refused {
        return Err(Failure::mistakes("array", vec![problem]));
    }
    if !dry_run {
        api.room.take(api, size).await?;
    }
    Ok(members)
}

/// What checkpoints of training jobs have.
const COMPARED: [&str; 4] = ["train_loss", "train_accuracy", "val_loss", "val_accuracy"];

/// Members that retrain one model would promote against each other.
fn rivals(spec: &JobSpec) -> Option<Problem> {
    matches!(spec.work, Work::Retrain(_)).then(|| Problem {
        path: "retrain".into(),
        message: "retrainings are no members of an array: they would promote against each other".into(),
        hint: Some("search with an array of kind train, and retrain with what is best".into()),
    })
}

/// Why members could not be compared by their checkpoints.
fn uncompared(halving: &Halving, spec: &JobSpec) -> Option<Problem> {
    let problem =
        |message: String, hint: &str| Some(Problem { path: "halving".into(), message, hint: Some(hint.into()) });
    if let Some(mistake) = halving.mistake() {
        return problem(mistake, "for example metric=val_loss,goal=min,eta=3,min-steps=100");
    }
    let name = halving.metric.name.as_str();
    match &spec.work {
        work @ (Work::Infer(_) | Work::Evaluate(_) | Work::Retrain(_) | Work::Command(_)) => problem(
            format!("a job of kind {} is not compared by its checkpoints", work.kind()),
            "training jobs alone are compared on the way",
        ),
        Work::Train(_) if !COMPARED.contains(&name) => problem(
            format!("no checkpoint of a training job has {name:?}"),
            "it has train_loss, train_accuracy, and where train.split.validation is set val_loss, val_accuracy",
        ),
        Work::Train(train) if name.starts_with("val_") && train.split.validation <= 0.0 => problem(
            format!("there is no {name} without rows to validate on"),
            "set train.split.validation, or take train_loss",
        ),
        Work::Train(_) => None,
    }
}

/// The size, if it is not too large.
fn bounded(sweep: &Sweep, most: u32) -> Result<u32, Failure> {
    let size = sweep.size();
    u32::try_from(size).ok().filter(|size| *size <= most).ok_or_else(|| {
        let message = format!("the array would have {size} members, and one has {most} at most");
        let hint = "draw some of them with --sample N, name fewer values, or raise limits.max_array of mld";
        Failure::new(ErrorCode::TooLarge, message, hint)
    })
}

fn empty() -> Failure {
    Failure::bad_request("the array has no members", "name at least one value of each key")
}

/// What was asked for, before anything named in it is looked up.
fn digest(spec: &JobSpec, design: &Design, hold: bool) -> Result<blake3::Hash, Failure> {
    let json = serde_json::to_vec(&("array", spec, design, hold));
    let json = json.map_err(|error| Failure::internal("the array cannot be written as JSON", &error))?;
    Ok(blake3::hash(&json))
}

/// Makes every member and checks it by the rules.
fn members(base: &JobSpec, design: &Design, size: u32, machine: &Machine) -> Result<(Vec<Member>, Mistakes), Failure> {
    let unwritable = |error| Failure::internal("the spec cannot be written as JSON", &error);
    let json = serde_json::to_value(base).map_err(unwritable)?;
    let bytes = serde_json::to_vec(&json).map_err(unwritable)?.len() as u64;
    if bytes.saturating_mul(size.into()) > MAX_BYTES {
        let message =
            format!("{size} specs of {bytes} bytes are more than the {MAX_BYTES} bytes that an array's may have");
        return Err(Failure::new(ErrorCode::TooLarge, message, "submit fewer members, or a smaller spec"));
    }
    let mut members = Vec::with_capacity(size as usize);
    let mut mistakes = Mistakes::default();
    for index in 1..=size {
        let params = design.sweep.params(index);
        match member(base, &json, index, &params) {
            Ok(mut spec) => {
                if let Some(halving) = &design.halving {
                    // Compared at the rungs and not some time after.
                    spec.checkpoint.every_steps.get_or_insert(halving.min_steps);
                }
                mistakes.add(index, &params, rules::problems(&spec));
                mistakes.add(index, &params, submit::too_large(&spec.resources, machine));
                mistakes.add(index, &params, replacing(&spec));
                members.push((spec, params));
            }
            Err(problem) => mistakes.add(index, &params, Some(problem)),
        }
    }
    Ok((members, mistakes))
}

/// Members that replaced each other would leave the last of them.
fn replacing(spec: &JobSpec) -> Option<Problem> {
    let newest = spec.concurrency.as_ref().is_some_and(|policy| policy.wins == Wins::Newest);
    newest.then(|| Problem {
        path: "concurrency.wins".into(),
        message: "the members of an array would replace each other".into(),
        hint: Some("let the oldest win, or `mlctl cancel` the array before".into()),
    })
}

fn member(base: &JobSpec, json: &Value, index: u32, params: &Params) -> Result<JobSpec, Problem> {
    let mut json = json.clone();
    lay_over(&mut json, params);
    let mut spec: JobSpec = serde_path_to_error::deserialize(json).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        Problem {
            path,
            message: error.into_inner().to_string(),
            hint: Some("`mlctl spec schema` shows every key".into()),
        }
    })?;
    spec.name = member_name(&base.name, index);
    Ok(spec)
}

/// Looks for the files that members name, once for each set of them, and puts into the specs what is to be kept.
async fn resolve(api: &Shared, members: &mut [Member], mistakes: &mut Mistakes) -> Result<(), Failure> {
    let broken = mistakes.paths();
    let mut known: HashMap<String, (Outside, Vec<Problem>)> = HashMap::new();
    for (index, (spec, params)) in (1..).zip(members) {
        let named = Outside::of(spec);
        let key = serde_json::to_string(&(&named.data, &named.weights, &named.program, &named.after));
        let key = key.map_err(|error| Failure::internal("the spec cannot be written as JSON", &error))?;
        if let Some((outside, problems)) = known.get(&key) {
            outside.put(spec);
            mistakes.add(index, params, problems.clone());
            mistakes.add(index, params, unbroken(&broken, preflight::of_pinned(spec)));
            continue;
        }
        let mut problems = Vec::new();
        preflight::resolve(api, spec, &mut problems).await?;
        let problems = unbroken(&broken, problems);
        mistakes.add(index, params, problems.clone());
        mistakes.add(index, params, unbroken(&broken, preflight::of_pinned(spec)));
        known.insert(key, (Outside::of(spec), problems));
    }
    Ok(())
}

/// Problems without those of what breaks a rule already: it is one mistake, not two.
fn unbroken(broken: &BTreeSet<String>, mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.retain(|problem| !broken.contains(&problem.path));
    problems
}

/// What a spec names outside itself.
struct Outside {
    data: Vec<DataSource>,
    weights: Vec<String>,
    /// A command's program, and the folder that it runs in.
    program: Option<(String, Option<String>)>,
    after: Vec<After>,
}

impl Outside {
    fn of(spec: &JobSpec) -> Self {
        let program = match &spec.work {
            Work::Command(command) => {
                command.arguments().into_iter().next().map(|program| (program, command.cwd.clone()))
            }
            Work::Train(_) | Work::Infer(_) | Work::Evaluate(_) | Work::Retrain(_) => None,
        };
        let weights = spec.work.weights().into_iter().map(str::to_owned).collect();
        Self { data: spec.work.data().into_iter().cloned().collect(), weights, program, after: spec.after.clone() }
    }

    fn put(&self, spec: &mut JobSpec) {
        spec.after.clone_from(&self.after);
        let sources = spec.work.sources_mut();
        for ((_, data), known) in sources.data.into_iter().zip(&self.data) {
            data.clone_from(known);
        }
        for ((_, from), known) in sources.weights.into_iter().zip(&self.weights) {
            from.clone_from(known);
        }
    }
}

/// The mistakes of all members: each once, with the first member that has it.
#[derive(Default)]
struct Mistakes {
    found: BTreeMap<(String, String), Mistake>,
    /// Different ones beyond those that are listed.
    more: u64,
}

struct Mistake {
    problem: Problem,
    members: u32,
    first: u32,
    params: Params,
}

impl Mistakes {
    fn add(&mut self, index: u32, params: &Params, problems: impl IntoIterator<Item = Problem>) {
        for problem in problems {
            let key = (problem.path.clone(), problem.message.clone());
            if let Some(known) = self.found.get_mut(&key) {
                known.members += 1;
            } else if self.found.len() < MAX_PROBLEMS {
                self.found.insert(key, Mistake { problem, members: 1, first: index, params: params.clone() });
            } else {
                self.more += 1;
            }
        }
    }

    fn paths(&self) -> BTreeSet<String> {
        self.found.keys().map(|(path, _)| path.clone()).collect()
    }

    fn problems(self, size: u32) -> Vec<Problem> {
        let told = self.found.into_values().map(|Mistake { problem, members, first, params }| {
            if members == size {
                return problem;
            }
            let params: Vec<_> = params.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let more = if members > 1 { format!(" and {} more", members - 1) } else { String::new() };
            let message = format!("{} (member {first}{more}: {})", problem.message, params.join(" "));
            Problem { message, ..problem }
        });
        let mut told: Vec<_> = told.collect();
        if self.more > 0 {
            let message = format!("and {} more mistakes like these", self.more);
            told.push(Problem { path: String::new(), message, hint: None });
        }
        told
    }
}
