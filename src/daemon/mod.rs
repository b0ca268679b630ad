//! The daemon: wires the rooms together and sees to their beginning and end. Called by `mld`'s main function. No logic of its own: what is decided here is the order
//! in which things start and stop.

pub mod clock;
pub mod entropy;
mod hardware;
pub mod lock;
mod log_bounds;
pub mod logging;
pub mod offline;
pub mod reload;
pub mod run;
mod service_manager;
pub mod signals;
pub mod socket;

pub use run::{DaemonError, Surroundings, run};
