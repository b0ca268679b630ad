//! Which job runs next. [`plan`] decides and is pure; [`run`] fetches, claims and hands over to the supervisor. Called by the daemon's lifecycle. It knows no
//! process, no file and no SQL.

mod plan;
mod run;
#[cfg(test)]
mod tests;

pub use plan::{Plan, plan};
pub use run::{Scheduler, run};
