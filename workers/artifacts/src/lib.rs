//! Object storage as the workers and the daemon see it: bounded reads, durable writes, checkpoints that are whole or invisible,
//! results that are never seen half. Workers write through it; the daemon lists, verifies and collects.
//!
//! It knows no SQL and no tensors, reads no clock, and never returns a byte of a checkpoint that it has not verified.

mod body;
pub mod checkpoint;
pub mod chunks;
mod crc;
mod digest;
mod error;
pub mod files;
pub mod keys;
mod lanes;
mod local;
mod location;
pub mod manifest;
mod pieces;
pub mod probe;
pub mod publish;
pub mod references;
pub mod restore;
mod s3;
pub mod shards;
mod sharing;
pub mod spool;
mod stores;
pub mod streams;
mod transfer;
mod upload;
pub mod uploads;
pub mod uri;
mod walk;

pub use body::Body;
pub use digest::blake3_hex;
pub use error::ArtifactError;
pub use location::{Entry, Location};
pub use pieces::Pieces;
pub use s3::{check_authorities, install_tls};
pub use stores::Stores;
pub use upload::Upload;
pub use walk::{Found, Walk};
