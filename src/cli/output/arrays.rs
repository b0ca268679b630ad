//! Arrays in print: one in full with its best members, how one ended, what was done to one. Views in, lines out.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Output,
    jobs::some,
    state_style,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{AfterView, ArrayChangeView, ArrayDetail, ArrayDryRunView, ArrayView, MemberView},
    cli::Failure,
    config::OutputForm,
    domain::array::{Axis, Halving, Params, Range, Scale},
};

/// Values of an axis that are listed.
const MAX_VALUES: usize = 10;

/// How far an array is: `34/100`.
pub fn progress(array: &ArrayView) -> String {
    format!("{}/{}", text::count(array.finished), text::count(array.counts.values().sum()))
}

/// How many members stand where, but for those that succeeded: `2 running, 3 failed`.
pub fn standing(array: &ArrayView) -> String {
    let counts = array.counts.iter().filter(|(state, _)| *state != "succeeded");
    counts.map(|(state, jobs)| format!("{} {state}", text::count(*jobs))).collect::<Vec<_>>().join(", ")
}

/// Parameters in a line, by the last part of their keys where that is enough: `learning_rate=0.01 batch_size=32`.
pub fn params(params: &Params) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let shown = params.iter().map(|(key, value)| {
        let is_one = params.keys().filter(|other| last(other) == last(key)).count() == 1;
        format!("{}={}", if is_one { last(key) } else { key.clone() }, plain(value))
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// A value as one writes it: strings without quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn axis(axis: &Axis) -> String {
    match &axis.range {
        Some(Range { low, high, scale, whole }) => {
            let scale = match scale {
                Scale::Log => "log",
                Scale::Uniform => "uniform",
            };
            let whole = if *whole { ", whole numbers" } else { "" };
            format!("{scale} from {low} to {high}{whole}")
        }
        None => {
            let mut shown: Vec<String> = axis.values.iter().take(MAX_VALUES).map(plain).collect();
            let more = axis.values.len().saturating_sub(MAX_VALUES);
            shown.extend((more > 0).then(|| format!("and {more} more")));
            shown.join(", ")
        }
    }
}

/// Prints everything about an array.
pub fn show(out: &mut Output, detail: &ArrayDetail, now: Timestamp) -> Result<(), Failure> {
    let array = &detail.array;
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(detail),
        OutputForm::Name => return out.line(array.id.to_string()),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let state = out.styled(state_style(&array.state), &array.state);
    out.line(format!(
        "array {} ({}) of {} {} jobs: {state}",
        array.id,
        array.name,
        text::count(array.size.into()),
        array.kind
    ))?;
    let counts: Vec<_> = array.counts.iter().map(|(state, jobs)| format!("{} {state}", text::count(*jobs))).collect();
    let mut facts = vec![("finished", format!("{}: {}", progress(array), counts.join(", ")))];
    facts.extend(array.axes.iter().map(|varied| ("varies", format!("{}: {}", varied.key, axis(varied)))));
    facts.extend(
        array.sample.map(|sample| ("drawn", format!("{} with seed {}", text::count(sample.count.into()), sample.seed))),
    );
    facts.extend(array.parallel.map(|parallel| ("at once", format!("{parallel} at most"))));
    facts.extend(array.halving.as_ref().map(|halving| {
        let steps: Vec<_> = halving.steps(3).into_iter().map(text::count).collect();
        let Halving { metric, eta, .. } = halving;
        ("halving", format!("at {}, … steps one of every {eta} goes on, by {}", steps.join(", "), metric.name))
    }));
    facts.push(("submitted", format!("{} by {}", text::moment(array.submitted_at, now), array.user)));
    facts.push(("queue", format!("{}, priority {}", array.queue, array.priority)));
    let labels: Vec<_> = array.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    facts.extend((!labels.is_empty()).then(|| ("labels", labels.join(" "))));
    let awaited: Vec<_> = detail.after.iter().map(ToString::to_string).collect();
    let dependents: Vec<_> = detail.dependents.iter().map(ToString::to_string).collect();
    facts.push(("after", some(&awaited, awaited.len() as u64)));
    facts.push(("dependents", some(&dependents, detail.dependents_count)));
    for (name, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
        out.line(format!("  {name:<11}{}", text::visible_line(&value)))?;
    }
    let Some(metric) = &detail.compared_by else {
        return out.line(format!("  members    mlctl ls --array {}", array.id));
    };
    out.line(format!(
        "  best by {}, {} first:",
        metric.name,
        if metric.goal.prefers(0.0, 1.0) { "the least" } else { "the greatest" }
    ))?;
    let table = members(&detail.best);
    out.table(&table)
}

fn members(best: &[MemberView]) -> Table {
    use Column::{Flexible, Left, Right};
    let mut table = Table::new(&[
        ("MEMBER", Right),
        ("ID", Right),
        ("VALUE", Right),
        ("STEP", Right),
        ("STATE", Left),
        ("PARAMETERS", Flexible),
    ]);
    for member in best {
        table.row([
            member.index.to_string().into(),
            member.id.to_string().into(),
            text::number(member.value).into(),
            member.step.map(text::count).unwrap_or_default().into(),
            Cell::from(member.state.as_str()).styled(state_style(&member.state)),
            params(&member.params).into(),
        ]);
    }
    table
}

/// Prints what was done to the members of an array.
pub fn changed(out: &mut Output, changed: &ArrayChangeView, done: &str) -> Result<(), Failure> {
    let ArrayChangeView { changed: members, array, .. } = changed;
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(changed),
        OutputForm::Name => out.line(array.id.to_string()),
        OutputForm::Table | OutputForm::Wide => out.line(format!(
            "array {} ({}): {} of {} jobs {done}",
            array.id,
            array.name,
            text::count(*members),
            text::count(array.size.into())
        )),
    }
}

/// Prints how an array ended.
pub fn ended(out: &mut Output, array: &ArrayView) -> Result<(), Failure> {
    if out.form == OutputForm::Name {
        return out.line(array.id.to_string());
    }
    let state = out.styled(state_style(&array.state), &array.state);
    let mut counts: Vec<_> =
        array.counts.iter().map(|(state, jobs)| format!("{} {state}", text::count(*jobs))).collect();
    if array.quarantined > 0 {
        counts.push(format!("{} of them quarantined", text::count(array.quarantined)));
    }
    out.line(format!("array {} ({}) {state}: {}", array.id, array.name, counts.join(", ")))?;
    out.flush()?;
    if array.quarantined > 0 {
        out.say(format!(
            "they died too often: `mlctl why {}.N` says of what, `mlctl release {0}` lets them go on",
            array.id
        ));
    }
    out.say(format!("more: mlctl show {}", array.id));
    Ok(())
}

/// Prints what a job would wait for.
pub fn awaited(out: &mut Output, after: &[AfterView]) -> Result<(), Failure> {
    let named: Vec<_> = after.iter().map(ToString::to_string).collect();
    if named.is_empty() { Ok(()) } else { out.line(format!("  after {}", some(&named, named.len() as u64))) }
}

/// Prints what an array would be.
pub fn checked(out: &mut Output, file: &str, checked: &ArrayDryRunView, name: &str) -> Result<(), Failure> {
    let kind = checked.spec.work.kind();
    let size = text::count(checked.size.into());
    out.line(format!(
        "{} and its parameters make {size} valid {kind} jobs: {name}.1 to {name}.{} would be submitted",
        text::visible_line(file),
        checked.size
    ))?;
    awaited(out, &checked.after)?;
    let mut table = Table::new(&[("MEMBER", Column::Right), ("PARAMETERS", Column::Flexible)]);
    for (index, found) in (1_u32..).zip(&checked.params) {
        table.row([Cell::from(index.to_string()), params(found).into()]);
    }
    out.table(&table)
}
