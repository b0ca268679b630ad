//! A training job: the data is prepared, the best checkpoint taken, the loop run, the model published. The loop itself is
//! `session`; everything around it is here or beside it.

pub mod curve;
pub mod evaluate;
pub mod examples;
pub mod fit;
pub mod learner;
pub mod orders;
pub mod plan;
pub mod resume;
pub mod saver;
pub mod session;
pub mod state;
pub mod vault;
