//! The training loop driven through its own interfaces: a recorded host, checkpoints in memory, a problem small enough to interrupt everywhere.

mod common;
mod resume;
mod training;
