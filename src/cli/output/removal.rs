//! What was removed, for people and programs.

use super::{Output, text};
use crate::{api::types::RemovedView, cli::Failure, config::OutputForm};

/// Prints that a job or an array is gone, and what of it is still there.
pub fn removed(out: &mut Output, view: &RemovedView) -> Result<(), Failure> {
    let RemovedView { id, name, jobs, kept, kept_count, left, left_count, .. } = view;
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => return out.json(view),
        OutputForm::Name => return out.line(id.to_string()),
        OutputForm::Table | OutputForm::Wide => {}
    }
    match jobs {
        1 => out.line(format!("job {id} ({name}) is removed"))?,
        many => out.line(format!("array {id} ({name}) is removed with its {} jobs", text::count(*many as u64)))?,
    }
    for (what, uris, count) in [("kept", kept, kept_count), ("could not be deleted", left, left_count)] {
        for uri in uris {
            out.line(format!("  {what}: {uri}"))?;
        }
        if *count > uris.len() {
            out.line(format!("  {what}: {} more", text::count((count - uris.len()) as u64)))?;
        }
    }
    Ok(())
}
