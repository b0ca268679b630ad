//! A collection of what nothing needs, in print.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    Output,
    table::{Cell, Column, Table},
    text,
};
use crate::{
    api::types::{GcView, SumView},
    cli::Failure,
    config::OutputForm,
};

/// How often the line is drawn anew while nothing comes.
const TICK: Duration = Duration::from_millis(250);

/// Folders that are listed for people at most.
const MAX_SHOWN: usize = 50;

/// How far it has come, on a terminal.
pub struct Spinner {
    bar: Option<ProgressBar>,
}

impl Spinner {
    /// One where standard error is a terminal; nothing where programs read.
    pub fn new(out: &Output) -> Self {
        let bar = (out.is_live && !out.is_json()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar }
    }

    /// So far it is.
    pub fn show(&self, message: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(message);
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `12 objects, 3.4 MB`.
fn sum(sum: SumView) -> String {
    format!("{} objects, {}", text::count(sum.objects), text::bytes(sum.size_bytes))
}

/// How far one has come, in a line.
pub fn so_far(view: &GcView) -> String {
    format!("{} looked at; {} needed by nothing", sum(view.seen), sum(view.garbage))
}

/// Prints what was found and done.
pub fn collected(out: &mut Output, view: &GcView) -> Result<(), Failure> {
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => return view.folders.iter().try_for_each(|one| out.line(&one.uri)),
        OutputForm::Table | OutputForm::Wide => {}
    }
    if !view.folders.is_empty() {
        use Column::{Flexible, Right};
        let mut table = Table::new(&[("FOLDER", Flexible), ("OBJECTS", Right), ("SIZE", Right)]);
        for one in view.folders.iter().take(MAX_SHOWN) {
            table.row([Cell::from(&one.uri), text::count(one.objects).into(), text::bytes(one.size_bytes).into()]);
        }
        out.table(&table)?;
        if view.has_more || view.folders.len() > MAX_SHOWN {
            out.say("there are more folders than these; `-o json` lists the first thousand");
        }
    }
    let what = if view.dry_run { "would be deleted" } else { "deleted" };
    let gone = if view.dry_run { view.garbage } else { view.deleted };
    out.line(format!("{} {what}; {} needed", sum(gone), sum(view.needed)))?;
    if view.young.objects > 0 {
        out.line(format!(
            "{} that nothing needs are younger than {}",
            sum(view.young),
            text::duration(view.grace_seconds)
        ))?;
    }
    if view.foreign.objects > 0 {
        out.line(format!("{} of other databases, or of nobody known, were left alone", sum(view.foreign)))?;
    }
    if view.failed > 0 {
        out.line(format!("{} objects could not be deleted: the daemon's log says why", text::count(view.failed)))?;
    }
    Ok(())
}
