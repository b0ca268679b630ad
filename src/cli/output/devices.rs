//! GPUs in print.

use super::{
    Output,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{DeviceList, DeviceState, DeviceView},
    cli::Failure,
    config::OutputForm,
};

/// Prints GPUs: what is free of them, who has them, and who may.
pub fn list(out: &mut Output, list: &DeviceList) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.devices),
        OutputForm::Name => return list.devices.iter().try_for_each(|one| out.line(&one.uuid)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    if list.devices.is_empty() {
        out.say("jobs are given no GPUs: see [devices] in mld.toml");
        return Ok(());
    }
    use Column::{Flexible, Left, Right, Spare};
    let mut heads = vec![
        ("GPU", Right),
        ("NAME", Flexible),
        ("STATE", Left),
        ("MEMORY", Right),
        ("FREE", Right),
        ("JOBS", Left),
        ("OTHERS", Left),
        ("UUID", Spare),
    ];
    if out.is_wide() {
        heads.extend([("WORKER", Spare), ("CHANGED BY", Spare)]);
    }
    heads.push(("REASON", Flexible));
    let mut table = Table::new(&heads);
    for one in &list.devices {
        let jobs: Vec<String> = one.jobs.iter().map(ToString::to_string).collect();
        let mut cells: Vec<Cell> = vec![
            one.index.to_string().into(),
            one.name.as_str().into(),
            state(one).into(),
            text::mib(one.memory_mib).into(),
            text::mib(one.free_mib).into(),
            if jobs.is_empty() { "-".to_owned() } else { jobs.join(",") }.into(),
            others(one).into(),
            one.uuid.as_str().into(),
        ];
        if out.is_wide() {
            cells.extend([one.worker.as_str().into(), one.changed_by.as_deref().unwrap_or_default().into()]);
        }
        cells.push(one.reason.as_deref().unwrap_or_default().into());
        table.row(cells);
    }
    out.table(&table)
}

/// Prints what has become of a GPU.
pub fn changed(out: &mut Output, view: &DeviceView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => return out.line(&view.uuid),
        OutputForm::Table | OutputForm::Wide => {}
    }
    let standing = match view.state {
        DeviceState::Open => "is open to every job".to_owned(),
        DeviceState::Drained => "is drained: no job starts on it".to_owned(),
        DeviceState::Reserved => format!("is {}", state(view)),
    };
    let jobs: Vec<String> = view.jobs.iter().map(ToString::to_string).collect();
    let jobs = match jobs.as_slice() {
        [] => String::new(),
        [one] => format!("; job {one} has it and goes on"),
        several => format!("; jobs {} have it and go on", several.join(", ")),
    };
    out.line(format!("GPU {} {standing}{jobs}", view.index))
}

fn state(view: &DeviceView) -> String {
    match (view.state, &view.queue) {
        (DeviceState::Open, _) => "open".into(),
        (DeviceState::Drained, _) => "drained".into(),
        (DeviceState::Reserved, Some(queue)) => format!("reserved for queue {queue}"),
        (DeviceState::Reserved, None) => format!("reserved for {}", view.user.as_deref().unwrap_or("a user")),
    }
}

/// What others do with it.
fn others(view: &DeviceView) -> String {
    match (view.foreign_processes, view.foreign_mib) {
        (0, 0) => "-".into(),
        (0, mib) => text::mib(mib),
        (1, mib) => format!("{}, 1 process", text::mib(mib)),
        (processes, mib) => format!("{}, {processes} processes", text::mib(mib)),
    }
}
