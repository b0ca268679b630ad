//! Two jobs, or two versions of models, in print side by side.

use serde_json::Value;

use super::{
    Output,
    table::{Column, Table},
    text,
};
use crate::{
    api::types::{JobView, VersionView},
    cli::{
        Failure,
        commands::{diff::JobComparison, model::Comparison},
    },
    config::OutputForm,
    domain::difference::{Difference, Pair},
};

/// Prints what two versions have in common, and what not.
pub fn show(out: &mut Output, compared: &Comparison) -> Result<(), Failure> {
    let Comparison { a, b, same_tensors, same_data, spec, metrics, .. } = compared;
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(compared),
        OutputForm::Name => {
            return [a, b].iter().try_for_each(|one| out.line(format!("{}/{}", one.model, one.version)));
        }
        OutputForm::Table | OutputForm::Wide => {}
    }
    for (letter, one) in [("A", a), ("B", b)] {
        out.line(format!("{letter}  {}", described(one)))?;
    }
    changes(out, metrics)?;
    out.line("")?;
    out.line(match same_data {
        Some(true) => "data     the same",
        Some(false) => "data     not the same",
        None => "data     not on record of both",
    })?;
    out.line(tensors(*same_tensors, "a checkpoint has no digest of its own"))?;
    match spec {
        Some(spec) => keys(out, spec),
        None => out.line("spec     not the same; a job that trained one was removed, and its spec with it"),
    }
}

/// Prints what two jobs have in common, and what not.
pub fn jobs(out: &mut Output, compared: &JobComparison) -> Result<(), Failure> {
    let JobComparison { a, b, same_tensors, spec, metrics, .. } = compared;
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(compared),
        OutputForm::Name => return [a, b].iter().try_for_each(|job| out.line(job.id.to_string())),
        OutputForm::Table | OutputForm::Wide => {}
    }
    for (letter, job) in [("A", a), ("B", b)] {
        out.line(format!("{letter}  {}", told(job)))?;
    }
    changes(out, metrics)?;
    out.line("")?;
    out.line(tensors(*same_tensors, "a model of each is needed"))?;
    keys(out, spec)
}

fn told(job: &JobView) -> String {
    let took = job.finished_at.zip(job.started_at).map(|(end, start)| format!(" after {}", text::between(start, end)));
    let took = took.unwrap_or_default();
    let step = job.progress.as_ref().and_then(|progress| progress.step);
    let step = step.map_or_else(String::new, |step| format!(" at step {}", text::count(step)));
    let on = job.worker.as_ref().and_then(|worker| worker.device.as_deref());
    let on = on.map_or_else(String::new, |device| format!(" on {}", text::visible_line(device)));
    format!("job {} ({}), {}: {}{took}{step}{on}", job.id, job.name, job.kind, job.state)
}

fn changes(out: &mut Output, metrics: &[Pair]) -> Result<(), Failure> {
    use Column::{Left, Right};
    if metrics.is_empty() {
        return Ok(());
    }
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), text::number);
    out.line("")?;
    let mut table = Table::new(&[("METRIC", Left), ("A", Right), ("B", Right), ("CHANGE", Right)]);
    for one in metrics {
        let change = one.change.map_or_else(
            || "-".to_owned(),
            |change| {
                let sign = if change > 0.0 { "+" } else { "" };
                format!("{sign}{}", text::number(change))
            },
        );
        table.row([one.name.as_str().into(), shown(one.a).into(), shown(one.b).into(), change.into()]);
    }
    out.table(&table)
}

fn tensors(are_same: Option<bool>, unknown: &str) -> String {
    match are_same {
        Some(true) => "tensors  the same to the bit".to_owned(),
        Some(false) => "tensors  not the same".to_owned(),
        None => format!("tensors  not comparable: {unknown}"),
    }
}

fn keys(out: &mut Output, spec: &[Difference]) -> Result<(), Failure> {
    use Column::{Flexible, Left};
    if spec.is_empty() {
        return out.line("spec     the same");
    }
    out.line("")?;
    let mut table = Table::new(&[("SPEC", Left), ("A", Flexible), ("B", Flexible)]);
    for one in spec {
        table.row([one.key.as_str().into(), value(one.a.as_ref()).into(), value(one.b.as_ref()).into()]);
    }
    out.table(&table)
}

fn described(one: &VersionView) -> String {
    let VersionView { model, version, job, created_at, size_bytes, step, aliases, .. } = one;
    let step = step.map_or_else(String::new, |step| format!(" at step {}", text::count(step)));
    let aliases = if aliases.is_empty() { String::new() } else { format!(", {}", aliases.join(", ")) };
    let (size, created_at) = (text::bytes(*size_bytes), created_at.strftime("%F %R UTC"));
    format!("{model}/{version}: job {job}{step}, {size}, registered {created_at}{aliases}")
}

fn value(value: Option<&Value>) -> String {
    match value {
        None => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}
