//! The training loop driven through its own interfaces: a recorded host, checkpoints in memory, a problem small enough to interrupt everywhere.

#[cfg(test)]
mod common;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod threads;
#[cfg(test)]
mod training;
