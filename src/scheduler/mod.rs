//! Which job runs next. [`plan`] decides and is pure; [`run`] fetches, claims and hands over to the supervisor. [`cron`] submits what schedules say, [`failures`] pauses those whose jobs fail, [`deadlines`] fails what waits too long, [`retention`] removes what ended long ago, [`scan`] looks through the database, [`drain`] sees to the end. Whether anything is started at all is [`dispatch`]'s to say. Called by the daemon's lifecycle. It knows no
//! process, no file and no SQL.

mod claims;
pub mod cron;
#[cfg(test)]
mod cron_tests;
pub mod deadlines;
#[cfg(test)]
mod device_tests;
pub mod dispatch;
pub mod drain;
pub mod failures;
mod observer;
mod outlook;
#[cfg(test)]
mod overlap_tests;
mod plan;
mod pool;
mod preempt;
pub mod retention;
mod run;
pub mod scan;
mod snapshot;
#[cfg(test)]
mod tests;

pub use dispatch::{Dispatch, Standing};
pub use observer::Observer;
pub use outlook::{Outlook, Turn};
pub use plan::{Obstacle, Plan, Shared, Start, open_to_jobs, plan};
pub use run::{Scheduler, run};
pub use snapshot::Snapshot;
