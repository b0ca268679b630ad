//! `mld`, a daemon that keeps ML training and inference jobs in a SQLite queue and runs them as worker processes, and `mlctl`, its CLI.
//!
//! The rooms, and what each may use (ARCHITECTURE.md has the whole map; `tests/architecture.rs` knows the arrows):
//!
//! - [`domain`]: ids, rules, the state machine, retries. Data in, data out: no I/O, no clock of its own.
//! - [`config`]: file < environment < flags, checked into settings.
//! - [`store`]: the only SQL. One writer with group commit, many readers.
//! - [`scheduler`]: which job runs next.
//! - [`supervisor`]: attempts as processes.
//! - [`pipeline`]: retrainings in stages, and who is told of what jobs have come to.
//! - [`api`]: HTTP/JSON over a Unix socket.
//! - [`daemon`]: wires everything; the lifecycle.
//! - [`vault`]: the database as a thing to check, copy and put back.
//! - [`cli`]: parse, call, print.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod domain;
pub mod pipeline;
pub mod registry;
pub mod scheduler;
pub mod store;
pub mod supervisor;
pub mod vault;
