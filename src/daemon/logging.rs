//! The daemon's own log: structured lines on standard error, for a service manager to keep. Called once by `mld`'s main function.

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

use crate::config::LogFormat;

/// Starts logging. `level` is a level (`info`) or a filter (`info,mlctl::store=debug`).
///
/// # Errors
/// When `level` is neither.
pub fn start(level: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(level)?;
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a test has started logging already: its lines go there.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}
