//! A worker's end of the worker socket: the launch hand-over, dialling and redialling, numbered reports that are kept until the daemon has
//! them, heartbeats, orders, and the result file. Used by every worker; it knows nothing of what a job computes.
//!
//! What is decided here is in [`core`], which is public for the simulation alone. The daemon uses [`frame`] alone, for the accepting side of the same wire, so that both ends have one codec.

pub mod core;
mod error;
pub mod frame;
mod handle;
mod launch;
mod link;
mod orders;
mod outbox;
mod result_file;
mod session;
mod usage;

pub use error::LinkError;
pub use handle::Handle;
pub use launch::{begin_session, read_launch};
pub use link::{Link, Timing};
pub use orders::Order;
pub use usage::{Usage, cpu_ms, resident_bytes};
