//! The engine driven through its own interfaces: the training loop with a recorded host and checkpoints in memory, and whole jobs over real files.

#[cfg(test)]
mod accumulation;
#[cfg(test)]
mod averages;
#[cfg(test)]
mod away;
#[cfg(test)]
mod background;
#[cfg(test)]
mod common;
#[cfg(test)]
mod datasets;
#[cfg(test)]
mod evaluate;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod gpt;
#[cfg(test)]
mod infer;
#[cfg(test)]
mod jobs;
#[cfg(test)]
mod parquet;
#[cfg(test)]
mod parquet_hostile;
#[cfg(test)]
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../../../../tests/support/puppet.rs"]
mod puppet;
#[cfg(test)]
mod pytorch;
#[cfg(test)]
mod resume;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod selection;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod streamed;
#[cfg(test)]
mod threads;
#[cfg(test)]
mod training;
