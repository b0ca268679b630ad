//! Queues in print.

use super::{
    Output,
    table::{Cell, Column, Table},
};
use crate::{
    api::types::{QueueList, QueueView},
    cli::Failure,
    config::OutputForm,
    domain::queue::Flow,
};

/// Prints queues: what they use of what they may, and how many jobs wait.
pub fn list(out: &mut Output, list: &QueueList) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.queues),
        OutputForm::Name => return list.queues.iter().try_for_each(|one| out.line(&one.name)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    use Column::{Flexible, Left, Right, Spare};
    let mut heads = vec![
        ("NAME", Flexible),
        ("STATE", Left),
        ("ORDER", Left),
        ("RUNNING", Right),
        ("CPUS", Right),
        ("GPUS", Right),
        ("PER USER", Right),
        ("WAITING", Right),
    ];
    if out.is_wide() {
        heads.extend([("HELD", Right), ("ENDED", Right), ("CHANGED BY", Spare)]);
    }
    let mut table = Table::new(&heads);
    for one in &list.queues {
        let mut cells: Vec<Cell> = vec![
            one.name.as_str().into(),
            one.state.name().into(),
            one.order.name().into(),
            used(jobs(one, &["running"]), one.running_limit).into(),
            used(one.used.cpus.into(), one.cpus_limit).into(),
            used(one.used.gpus.into(), one.gpus_limit).into(),
            one.per_user_limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string()).into(),
            jobs(one, &["queued", "blocked"]).to_string().into(),
        ];
        if out.is_wide() {
            cells.extend([
                jobs(one, &["held"]).to_string().into(),
                jobs(one, &["succeeded", "failed", "cancelled"]).to_string().into(),
                one.changed_by.as_deref().unwrap_or_default().into(),
            ]);
        }
        table.row(cells);
    }
    out.table(&table)
}

/// Prints what has become of a queue.
pub fn changed(out: &mut Output, view: &QueueView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => return out.line(&view.name),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let state = match view.state {
        Flow::Open => "is open",
        Flow::Paused => "is paused: nothing of it starts, and what runs goes on",
        Flow::Draining => "is draining: it takes no more jobs, and those that are there run",
    };
    let limit = |limit: Option<u32>, what: &str| limit.map(|limit| format!("{limit} {what}"));
    let limits: Vec<String> = [
        limit(view.running_limit, "jobs"),
        limit(view.cpus_limit, "cores"),
        limit(view.gpus_limit, "GPUs"),
        limit(view.per_user_limit, "jobs of a user"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let limits = if limits.is_empty() { "no limits".to_owned() } else { format!("at once {}", limits.join(", ")) };
    out.line(format!("queue {} {state}; {limits}; {}", view.name, view.order.name()))
}

/// Prints what was removed.
pub fn removed(out: &mut Output, view: &QueueView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(view),
        OutputForm::Name => out.line(&view.name),
        OutputForm::Table | OutputForm::Wide => out.line(format!("queue {} removed", view.name)),
    }
}

/// `2/4`, or `2` where there is no limit.
fn used(used: u64, limit: Option<u32>) -> String {
    limit.map_or_else(|| used.to_string(), |limit| format!("{used}/{limit}"))
}

/// Jobs in these states.
fn jobs(view: &QueueView, states: &[&str]) -> u64 {
    states.iter().filter_map(|state| view.jobs.get(*state)).sum()
}
