//! Notifications in print.

use super::{
    Output,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{HookList, HookView, TestedView},
    cli::Failure,
    config::OutputForm,
};

/// Prints hooks: whom they lead to, what they are told of, and whether it arrives.
pub fn list(out: &mut Output, list: &HookList) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json_list(list, &list.hooks),
        OutputForm::Name => return list.hooks.iter().try_for_each(|one| out.line(&one.name)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    if list.hooks.is_empty() {
        out.say("nobody is told of anything: see [[notify]] in mld.toml");
        return Ok(());
    }
    use Column::{Flexible, Left, Right, Spare};
    let mut heads = vec![
        ("NAME", Flexible),
        ("STATE", Left),
        ("CHANNEL", Left),
        ("TARGET", Flexible),
        ("ON", Flexible),
        ("DELIVERED", Right),
        ("LAST", Left),
        ("FAILING SINCE", Left),
        ("GIVEN UP", Right),
    ];
    if out.is_wide() {
        heads.extend([("MISSED", Right), ("TRIES", Right), ("NEXT TRY", Left), ("FILTER", Spare)]);
    }
    heads.push(("ERROR", Flexible));
    let mut table = Table::new(&heads);
    for one in &list.hooks {
        table.row(row(one, out.is_wide()));
    }
    out.table(&table)
}

fn row(one: &HookView, is_wide: bool) -> Vec<Cell> {
    let moment =
        |at: Option<jiff::Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.strftime("%F %TZ").to_string());
    let mut cells: Vec<Cell> = vec![
        one.name.as_str().into(),
        one.state.name().into(),
        one.channel.as_str().into(),
        one.target.as_str().into(),
        one.on.join(",").into(),
        text::count(one.delivered).into(),
        moment(one.delivered_at).into(),
        moment(one.failing_since).into(),
        text::count(one.given_up).into(),
    ];
    if is_wide {
        cells.extend([
            text::count(one.missed).into(),
            one.tries.to_string().into(),
            moment(one.next_try).into(),
            one.filter.as_deref().unwrap_or_default().into(),
        ]);
    }
    cells.push(one.error.as_deref().unwrap_or_default().into());
    cells
}

/// Prints what came of a test.
pub fn tested(out: &mut Output, view: &TestedView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => return out.line(&view.name),
        OutputForm::Table | OutputForm::Wide => {}
    }
    match &view.error {
        None => out.line(format!("hook {}: the test message has arrived", view.name)),
        Some(why) => out.line(format!("hook {}: it did not arrive: {}", view.name, text::visible_line(why))),
    }
}
