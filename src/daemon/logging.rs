//! The daemon's own log: structured lines on standard error, bounded, for a service manager to keep. Started once by `mld`'s main function; its level may change.

use std::sync::Arc;

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

use super::log_bounds::{Bounded, Stderr};
use crate::config::LogFormat;

/// Puts another filter in the place of the one that holds.
type Replace = Arc<dyn Fn(EnvFilter) + Send + Sync>;

/// Sets how much is logged. Cheap to clone.
#[derive(Clone)]
pub struct Level {
    replace: Replace,
}

impl Level {
    /// Of a log that nobody started.
    #[must_use]
    pub fn none() -> Self {
        Self { replace: Arc::new(|_| {}) }
    }

    /// `level` is a level (`info`) or a filter (`info,mlctl::store=debug`).
    ///
    /// # Errors
    /// When it is neither; the old one stays.
    pub fn set(&self, level: &str) -> Result<(), ParseError> {
        (self.replace)(EnvFilter::builder().parse(level)?);
        Ok(())
    }
}

/// Starts logging. `level` is a level (`info`) or a filter (`info,mlctl::store=debug`).
///
/// # Errors
/// When `level` is neither.
pub fn start(level: &str, format: LogFormat) -> Result<Level, ParseError> {
    let filter = EnvFilter::builder().parse(level)?;
    let writer = Bounded::new(format, Stderr);
    // An error of `try_init` means that a test has started logging already: its lines go there. One of `reload`, that nobody logs any more.
    let replace: Replace = match format {
        LogFormat::Text => {
            let lines = fmt().with_ansi(false).with_env_filter(filter).with_writer(writer);
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            let _ = lines.try_init();
            Arc::new(move |filter| drop(handle.reload(filter)))
        }
        LogFormat::Json => {
            let lines = fmt().json().flatten_event(true).with_env_filter(filter).with_writer(writer);
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            let _ = lines.try_init();
            Arc::new(move |filter| drop(handle.reload(filter)))
        }
    };
    Ok(Level { replace })
}
