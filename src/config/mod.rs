//! What the programs are told: file < environment < flags, checked into [`Settings`]. Called by main functions; everybody else gets settings, never the places they
//! come from.

pub mod document;
pub mod env;
pub mod file;
mod load;
pub mod notify;
pub mod s3;
mod settings;

#[cfg(test)]
mod tests;

pub use env::Environment;
pub use file::OutputForm;
pub use load::{ConfigError, Overrides, SYSTEM_FILE, load, load_client, usual_sockets};
pub use settings::{
    BackupSettings, CommandSettings, DeviceSettings, GpuSettings, LimitSettings, LogFormat, LogSettings,
    RetentionSettings, S3Settings, SchedulerSettings, Settings, StorageSettings, WorkerSettings,
};
