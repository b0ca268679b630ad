//! The pure middle: what a job is, which changes of it are legal, when it is retried, whether a spec makes sense. Called by every other
//! room; calls none. No I/O, no tokio, no SQL, no system clock: time and chance come in as arguments.

pub mod alias;
pub mod array;
mod causes;
pub mod clock;
pub mod dependency;
pub mod difference;
pub mod event;
pub mod filter;
pub mod gate;
pub mod job;
pub mod machine;
pub mod notify;
pub mod promotion;
pub mod queue;
pub mod registry;
pub mod retention;
pub mod retrain;
pub mod retry;
pub mod rules;
pub mod schedule;
pub mod share;
pub mod state;

pub use causes::causes;
pub use clock::Clock;
pub use dependency::{Dependencies, Dependency};
pub use event::{Command, Edit, Event, NeverMet, Refusal, Terms};
pub use filter::{Filter, FilterError};
pub use gate::Gate;
pub use job::{Change, Exit, Fence, Hold, Intent, Job, JobState, MICROSECONDS_A_POINT, Uid};
pub use machine::Machine;
