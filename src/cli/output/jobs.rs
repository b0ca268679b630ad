//! Jobs in print: the list, one in full, how one ended. Pure where it can be: views in, lines out.

use jiff::Timestamp;
use mlctl_protocol::{
    JobId, JobSpec,
    spec::{Resources, RetrainSpec},
};
use serde::Serialize;

use super::{
    Output, arrays, state_style,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{ArrayView, AttemptList, EventList, JobList, JobView, PlacementView, WhyView},
    cli::Failure,
    config::OutputForm,
};

/// Prints a list of jobs.
pub fn list(out: &mut Output, list: &JobList, now: Timestamp) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json => out.json(list),
        OutputForm::Jsonl => {
            list.arrays.iter().try_for_each(|array| out.json(array))?;
            list.jobs.iter().try_for_each(|job| out.json(job))
        }
        OutputForm::Name => rows(list).iter().try_for_each(|row| out.line(row.id().to_string())),
        OutputForm::Table | OutputForm::Wide => {
            let table = table(&rows(list), out.is_wide(), now);
            out.table(&table)
        }
    }
}

/// A row of a list.
enum Listed<'a> {
    Job(&'a JobView),
    Array(&'a ArrayView),
}

impl Listed<'_> {
    const fn id(&self) -> JobId {
        match self {
            Self::Job(job) => job.id,
            Self::Array(array) => array.id,
        }
    }
}

/// Jobs in the order in which they were listed, each array before the first job that is older, and at the end where there is none.
fn rows(list: &JobList) -> Vec<Listed<'_>> {
    let mut arrays = list.arrays.iter().peekable();
    let mut rows = Vec::with_capacity(list.jobs.len() + list.arrays.len());
    for job in &list.jobs {
        while let Some(array) = arrays.next_if(|array| array.id > job.id) {
            rows.push(Listed::Array(array));
        }
        rows.push(Listed::Job(job));
    }
    rows.extend(arrays.map(Listed::Array));
    rows
}

fn table(rows: &[Listed<'_>], is_wide: bool, now: Timestamp) -> Table {
    use Column::{Flexible, Left, Right, Spare, SpareRight};
    let mut heads = vec![("ID", Right), ("NAME", Flexible), ("KIND", Spare), ("STATE", Left), ("QUEUE", Spare)];
    heads.extend([("PRIO", SpareRight), ("PROGRESS", Right), ("ETA", SpareRight), ("AGE", Right)]);
    if is_wide {
        heads.extend([
            ("USER", Spare),
            ("TRY", SpareRight),
            ("CPUS", SpareRight),
            ("GPUS", SpareRight),
            ("LABELS", Spare),
        ]);
    }
    heads.push(("REASON", Flexible));
    let mut table = Table::new(&heads);
    for row in rows {
        let job = match row {
            Listed::Job(job) => job,
            Listed::Array(array) => {
                table.row(array_row(array, is_wide, now));
                continue;
            }
        };
        let progress = job.progress.as_ref().filter(|_| job.state != "succeeded");
        let eta = job.eta_seconds.filter(|_| job.state == "running").map(text::duration);
        let mut cells: Vec<Cell> = vec![
            job.id.to_string().into(),
            job.name.as_str().into(),
            job.kind.as_str().into(),
            Cell::from(job.state.as_str()).styled(state_style(&job.state)),
            job.queue.as_str().into(),
            job.priority.to_string().into(),
            progress.map(text::progress).unwrap_or_default().into(),
            eta.unwrap_or_default().into(),
            text::between(job.submitted_at, now).into(),
        ];
        if is_wide {
            let labels: Vec<_> = job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            cells.extend([
                job.user.as_str().into(),
                job.attempt.map_or_else(String::new, |attempt| attempt.to_string()).into(),
                job.resources.cpus.to_string().into(),
                job.resources.gpus.to_string().into(),
                labels.join(",").into(),
            ]);
        }
        cells.push(job.reason.as_deref().unwrap_or_default().into());
        table.row(cells);
    }
    table
}

/// An array among jobs.
fn array_row(array: &ArrayView, is_wide: bool, now: Timestamp) -> Vec<Cell> {
    let labels: Vec<_> = array.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut cells: Vec<Cell> = vec![
        array.id.to_string().into(),
        array.name.as_str().into(),
        array.kind.as_str().into(),
        Cell::from(array.state.as_str()).styled(state_style(&array.state)),
        array.queue.as_str().into(),
        array.priority.to_string().into(),
        arrays::progress(array).into(),
        "".into(),
        text::between(array.submitted_at, now).into(),
    ];
    if is_wide {
        cells.extend([array.user.as_str().into(), "".into(), "".into(), "".into(), labels.join(",").into()]);
    }
    let standing = arrays::standing(array);
    let standing = if standing.is_empty() { String::new() } else { format!(": {standing}") };
    cells.push(format!("array of {}{standing}", text::count(array.size.into())).into());
    cells
}

/// Prints that something was done to a job: the sentence for people, the job for programs.
pub fn changed(out: &mut Output, job: &JobView, sentence: &str) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(job),
        OutputForm::Name => out.line(job.id.to_string()),
        OutputForm::Table | OutputForm::Wide => out.line(sentence),
    }
}

/// Prints how a job ended, in a few lines for people.
pub fn ended(out: &mut Output, job: &JobView) -> Result<(), Failure> {
    if out.form == OutputForm::Name {
        return Ok(());
    }
    let state = out.styled(state_style(&job.state), &job.state);
    let took = job.finished_at.zip(job.started_at).map(|(end, start)| format!(" after {}", text::between(start, end)));
    out.line(format!("job {} ({}) {state}{}", job.id, job.name, took.unwrap_or_default()))?;
    let metrics = text::metrics(&job.metrics);
    if !metrics.is_empty() {
        out.line(format!("  {metrics}"))?;
    }
    if let Some(model) = &job.model {
        out.line(format!("  model   {}", text::visible_line(&model.uri)))?;
    }
    if let Some(output) = &job.output {
        out.line(format!("  output  {}", text::visible_line(&output.uri)))?;
    }
    if let Some(conclusion) = &job.conclusion {
        out.line(format!("  outcome {}", text::visible_line(&conclusion.told)))?;
    }
    if job.needs_a_person() || job.unmet.is_some() {
        out.line(format!("  {}", text::visible_line(job.reason.as_deref().unwrap_or_default())))?;
    }
    if job.state == "failed" || job.needs_a_person() {
        for line in exit(job) {
            out.line(format!("  {line}"))?;
        }
        out.flush()?;
        out.say(format!("more: mlctl show {}", job.id));
    }
    Ok(())
}

/// What is known of how the last attempt ended.
fn exit(job: &JobView) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(class) = job.exit_class.as_deref().filter(|class| *class != "ok") {
        let message = job.exit_message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        lines.push(text::visible_line(&format!("{class}{message}")));
    }
    lines.extend(job.exit_hint.as_ref().map(|hint| format!("hint: {}", text::visible_line(hint))));
    lines
}

/// Prints everything about a job for people. `log` are its last lines, where they matter.
pub fn show(out: &mut Output, job: &JobView, log: &[String], now: Timestamp) -> Result<(), Failure> {
    let state = out.styled(state_style(&job.state), &job.state);
    out.line(format!("job {} ({}), {}: {state}", job.id, job.name, job.kind))?;
    for (name, value) in facts(job, now, out.is_wide()) {
        out.line(format!("  {name:<11}{}", text::visible_line(&value)))?;
    }
    for line in exit(job) {
        out.line(format!("  {line}"))?;
    }
    if !log.is_empty() {
        out.line("  last lines of its log:")?;
        for line in log {
            out.line(format!("    {line}"))?;
        }
    }
    if let Some(command) = suggestion(job) {
        out.line(format!("  next: {command}"))?;
    }
    Ok(())
}

/// What is known of a job, in the order in which it is asked for.
fn facts(job: &JobView, now: Timestamp, is_wide: bool) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    let mut fact =
        |name, value: Option<String>| facts.extend(value.filter(|value| !value.is_empty()).map(|value| (name, value)));
    // That of a failed job is how it failed, which stands at the end.
    fact("reason", job.reason.clone().filter(|_| job.state != "failed"));
    fact("asked to", job.intent.clone());
    fact("progress", job.progress.as_ref().map(text::progress_in_full));
    fact("ends in", job.eta_seconds.filter(|_| job.state == "running").map(text::duration));
    fact("metrics", Some(text::metrics(&job.metrics)));
    fact("submitted", Some(format!("{} by {}", text::moment(job.submitted_at, now), job.user)));
    fact("not before", job.not_before.map(|at| text::moment(at, now)));
    fact("deadline", job.deadline.map(|at| text::moment(at, now)));
    fact("started", job.started_at.map(|at| text::moment(at, now)));
    fact("finished", job.finished_at.map(|at| text::moment(at, now)));
    fact("took", job.finished_at.zip(job.started_at).map(|(end, start)| text::between(start, end)));
    fact("time limit", job.time_limit_seconds.map(|seconds| text::duration(seconds.into())));
    let place =
        job.array.as_ref().map(|array| format!("{}.{}: {}", array.id, array.index, arrays::params(&array.params)));
    fact("member", place);
    let awaited: Vec<_> = job.after.iter().map(ToString::to_string).collect();
    fact("after", Some(some(&awaited, awaited.len() as u64)));
    let dependents: Vec<_> = job.dependents.iter().map(ToString::to_string).collect();
    fact("dependents", Some(some(&dependents, job.dependents_count.unwrap_or(0))));
    let may_yield = if job.preemptible { ", preemptible" } else { "" };
    fact("queue", Some(format!("{}, priority {}{may_yield}", job.queue, job.priority)));
    fact("resources", Some(resources(&job.resources)));
    fact("GPUs", (!job.gpus.is_empty()).then(|| job.gpus.join(", ")));
    let attempts = job.attempt.map_or_else(|| "not started yet".to_owned(), |attempt| format!("started {attempt}x"));
    let infrastructure = match job.infrastructure_retries_used {
        0 => String::new(),
        used => format!(", {used} of {} after faults of the infrastructure", job.infrastructure_retry_limit),
    };
    let used = format!("{} of {} retries used{infrastructure}", job.retries_used, job.retry_limit);
    // A retraining has none: its stages have.
    fact("attempts", (job.kind != RetrainSpec::KIND).then(|| format!("{attempts}, {used}")));
    let worker = job.worker.as_ref().map(|worker| {
        let process = worker.pid.map(|pid| format!("process {pid}"));
        let parts = [worker.device.clone(), worker.host.clone(), process];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    });
    fact("worker", worker);
    fact("memory", job.peak_rss_bytes.map(|peak| format!("{} at most", text::bytes(peak))));
    fact("GPU memory", job.peak_vram_bytes.map(|peak| format!("{} at most, as seen at heartbeats", text::bytes(peak))));
    fact("CPU time", job.cpu_seconds.map(|seconds| format!("{seconds:.2} s")));
    fact(
        "checkpoint",
        job.checkpoint.as_ref().map(|place| format!("step {} at {}", text::count(place.step), place.uri)),
    );
    fact("dataset", job.dataset.clone());
    fact("model", job.model.as_ref().map(|model| model.uri.clone()));
    fact("digest", job.model.as_ref().map(|model| model.digest.clone()));
    let output = job.output.as_ref().map(|output| {
        let errors = if output.errors > 0 { format!(", {} errors", text::count(output.errors)) } else { String::new() };
        format!("{} ({} rows{errors})", output.uri, text::count(output.records))
    });
    fact("output", output);
    let stages = job.stages.iter().map(|stage| format!("{} {} {}", stage.stage, stage.job, stage.state));
    fact("stages", Some(stages.collect::<Vec<_>>().join(", ")));
    fact("outcome", job.conclusion.as_ref().map(|found| found.outcome.name().to_owned()));
    for check in job.conclusion.iter().flat_map(|found| &found.checks) {
        fact("gate", Some(format!("{} {}: {}", if check.passed { "passed" } else { "FAILED" }, check.key, check.told)));
    }
    let labels: Vec<_> = job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    fact("labels", Some(labels.join(" ")));
    fact("spec", is_wide.then(|| job.spec_digest.clone()));
    facts
}

/// Dependencies or dependents that are named one by one.
const MAX_NAMED: usize = 10;

/// The first of so many, and how many more there are.
pub fn some(named: &[String], all: u64) -> String {
    let shown = named.get(..MAX_NAMED.min(named.len())).unwrap_or_default();
    match all.saturating_sub(shown.len() as u64) {
        0 => shown.join(", "),
        more => format!("{} and {} more", shown.join(", "), text::count(more)),
    }
}

/// The one command that is most likely wanted next.
fn suggestion(job: &JobView) -> Option<String> {
    let id = job.id;
    match (job.state.as_str(), job.exit_class.as_deref(), &job.checkpoint) {
        ("held", ..) => Some(format!("mlctl release {id}")),
        ("running" | "queued" | "blocked", ..) => Some(format!("mlctl follow {id}")),
        ("failed", Some("spec"), _) => Some("correct the spec or the data, and submit it again".into()),
        ("failed" | "cancelled", _, Some(place)) => {
            Some(format!("mlctl retry {id}   (goes on from step {})", text::count(place.step)))
        }
        ("failed" | "cancelled", _, None) => Some(format!("mlctl retry {id}")),
        _ => None,
    }
}

/// Prints a job's attempts.
pub fn attempts(out: &mut Output, list: &AttemptList, now: Timestamp) -> Result<(), Failure> {
    if out.is_json() {
        return out.json_list(list, &list.attempts);
    }
    use Column::{Flexible, Left, Right};
    let has_vram = list.attempts.iter().any(|attempt| attempt.peak_vram_bytes.is_some());
    let mut columns = vec![
        ("ATTEMPT", Right),
        ("STARTED", Left),
        ("TOOK", Right),
        ("END", Left),
        ("PROGRESS", Right),
        ("PEAK", Right),
    ];
    columns.extend(has_vram.then_some(("VRAM", Right)));
    columns.extend([("CPU", Right), ("MESSAGE", Flexible)]);
    let mut table = Table::new(&columns);
    for attempt in &list.attempts {
        let mut cells: Vec<Cell> = vec![
            attempt.attempt.to_string().into(),
            text::moment(attempt.started_at, now).into(),
            text::between(attempt.started_at, attempt.ended_at.unwrap_or(now)).into(),
            attempt.exit_class.as_deref().unwrap_or("runs").into(),
            text::progress(&attempt.progress).into(),
            attempt.peak_rss_bytes.map(text::bytes).unwrap_or_default().into(),
        ];
        cells.extend(has_vram.then(|| Cell::from(attempt.peak_vram_bytes.map(text::bytes).unwrap_or_default())));
        cells.push(attempt.cpu_seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default().into());
        cells.push(attempt.exit_message.as_deref().unwrap_or_default().into());
        table.row(cells);
    }
    out.table(&table)
}

/// Prints what was submitted, now or before under the same key.
pub fn submitted(out: &mut Output, job: &JobView, is_new: bool, now: Timestamp) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(job),
        OutputForm::Name => return out.line(job.id.to_string()),
        OutputForm::Table | OutputForm::Wide => {}
    }
    if !is_new {
        let (id, name, state) = (job.id, &job.name, &job.state);
        return out.line(format!("job {id} ({name}) was submitted before under this key: it is {state}"));
    }
    let reason = job.reason.as_deref().map(text::visible_line).unwrap_or_default();
    let held = match job.state.as_str() {
        "held" if job.unmet.is_none() => ", which is held".to_owned(),
        "held" => format!(", which is {reason}"),
        "blocked" => format!(", which {reason}"),
        "cancelled" => format!(", which was {reason}"),
        _ => String::new(),
    };
    let begin = job.not_before.filter(|at| *at > now);
    let begin = begin.map(|at| format!(", not to start before {}", text::moment(at, now)));
    out.line(format!("submitted job {} ({}){held}{}", job.id, job.name, begin.unwrap_or_default()))
}

/// Prints what would become of a job.
pub fn placed(out: &mut Output, placement: &PlacementView, now: Timestamp) -> Result<(), Failure> {
    let at = placement.starts_by.filter(|at| *at > now);
    let at = at.map(|at| format!("; it would start by {}", text::moment(at, now))).unwrap_or_default();
    out.line(format!("  it {}{at}", text::visible_line(&placement.reason)))
}

/// Prints why a job is where it is.
pub fn why(out: &mut Output, why: &WhyView, now: Timestamp) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(why);
    }
    let reason = text::visible_line(&why.reason);
    out.line(format!("job {} ({}) is {}: {reason}", why.id, why.name, why.state))?;
    if let Some(at) = why.starts_by.filter(|at| *at > now) {
        out.line(format!("  by the time limits of those before it, it starts by {}", text::moment(at, now)))?;
    }
    match &why.hint {
        Some(hint) => out.line(format!("  hint: {}", text::visible_line(hint))),
        None => Ok(()),
    }
}

/// Prints a job's events.
pub fn events(out: &mut Output, list: &EventList) -> Result<(), Failure> {
    if out.is_json() {
        return out.json_list(list, &list.events);
    }
    for event in &list.events {
        let at = event.at.strftime("%Y-%m-%d %H:%M:%S");
        out.line(format!("{at} UTC  {:<14}{}", event.event, text::visible_line(&event.text)))?;
    }
    Ok(())
}

/// A spec that was checked and not submitted.
#[derive(Debug, Serialize)]
pub struct CheckedSpec {
    /// The version of the CLI's documents.
    pub schema: u32,
    /// Always true: a spec that is wrong is an error.
    pub valid: bool,
    /// The spec, with defaults filled in and paths made absolute.
    pub spec: JobSpec,
}

/// Prints that a spec is right.
pub fn checked(out: &mut Output, file: &str, checked: &CheckedSpec) -> Result<(), Failure> {
    if out.is_json() {
        return out.json(checked);
    }
    let CheckedSpec { spec, .. } = checked;
    out.line(format!("{} is a valid {} job ({})", text::visible_line(file), spec.work.kind(), spec.name))
}

/// `CPUs 2, GPUs 1 with 6.0 GiB, memory 8.0 GiB`.
fn resources(needs: &Resources) -> String {
    let Resources { cpus, gpus, memory_mib, vram_mib } = *needs;
    let vram = if vram_mib > 0 { format!(" with {}", text::mib(vram_mib)) } else { String::new() };
    let memory = if memory_mib > 0 { format!(", memory {}", text::mib(memory_mib)) } else { String::new() };
    format!("CPUs {cpus}, GPUs {gpus}{vram}{memory}")
}
