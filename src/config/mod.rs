//! What the daemon is told: file < environment < flags, checked into [`Settings`]. Called by main functions; everybody else gets settings, never the places they
//! come from.

pub mod document;
mod settings;

pub use settings::{LimitSettings, LogFormat, LogSettings, Settings, StorageSettings, WorkerSettings};
