//! HTTP/JSON over a Unix socket: translate, authorise, stream. Rules are in `domain`, SQL is in `store`, processes are in `supervisor`.

pub mod query;
pub mod types;
