//! A model as files: how it is published, what its `config.json` says, and how weights are read back and checked. Used by `train` to publish
//! and by `infer` to read; see `docs/model.md`. No rows and no loop here.

pub mod config;
pub mod incoming;
mod publish;
pub mod read;
pub mod tensors;

pub use config::ModelConfig;
pub use publish::publish;
