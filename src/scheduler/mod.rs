//! Which job runs next. [`plan`] decides and is pure; [`run`] fetches, claims and hands over to the supervisor. [`cron`] submits what schedules say, [`deadlines`] fails what waits too long, [`retention`] removes what ended long ago. Called by the daemon's lifecycle. It knows no
//! process, no file and no SQL.

pub mod cron;
#[cfg(test)]
mod cron_tests;
pub mod deadlines;
mod plan;
mod preempt;
pub mod retention;
mod run;
#[cfg(test)]
mod tests;

pub use plan::{Plan, plan};
pub use run::{Scheduler, run};
