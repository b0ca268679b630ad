//! A pull in print: a bar of bytes on a terminal, and what it came to.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Output, text};
use crate::{
    cli::{Failure, commands::pull::Pulled},
    config::OutputForm,
};

/// How often the bar is drawn anew while nothing comes.
const TICK: Duration = Duration::from_millis(250);

/// How far a pull has come.
pub struct Bar {
    bar: Option<ProgressBar>,
}

impl Bar {
    /// A bar where standard error is a terminal; nothing where programs read.
    pub fn new(out: &Output, size_bytes: u64) -> Self {
        let bar = (out.is_live && !out.is_json()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(size_bytes), ProgressDrawTarget::stderr());
            let template = "{bytes} of {total_bytes} {wide_bar} {bytes_per_sec} {eta}";
            // The template is a constant: where it is no template, the plain bar does.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar }
    }

    /// So many bytes more are to be moved.
    pub fn expect(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc_length(bytes);
        }
    }

    /// So many bytes more are there.
    pub fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Takes the bar away.
    pub fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.close();
    }
}

/// Prints what was pulled.
pub fn pulled(out: &mut Output, pulled: &Pulled) -> Result<(), Failure> {
    let dir = pulled.dir.display().to_string();
    match out.form {
        OutputForm::Json | OutputForm::Jsonl => out.json(pulled),
        OutputForm::Name => out.line(&dir),
        OutputForm::Table | OutputForm::Wide => {
            let what = match pulled.step {
                Some(step) => format!("the checkpoint of job {} at step {}", pulled.id, text::count(step)),
                None => format!("the model of job {}", pulled.id),
            };
            let size = text::bytes(pulled.size_bytes);
            out.line(format!("{what} is in {}: {} files, {size}, verified", text::visible_line(&dir), pulled.objects))
        }
    }
}
