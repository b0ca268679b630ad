//! A real S3 server behind a proxy that spoils what passes: in scripted ways, each with what must come of it, and at random. Never is a corrupt read accepted, never is a checkpoint lost
//! that was committed, and what is not spoiled works.

#[cfg(test)]
#[path = "../../../../tests/support/chance.rs"]
mod chance;
#[cfg(test)]
#[path = "../../../../tests/support/header.rs"]
mod header;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod random;
#[cfg(test)]
#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../../../../tests/support/s3.rs"]
mod s3;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod works;
