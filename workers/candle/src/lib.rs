//! The worker's library: what a training or inference job does, from its data to its published result. `main.rs` wires it
//! to the daemon's socket; tests drive it through a recorded [`host::Host`].
//!
//! Rooms, arrows pointing down: `train` and `infer` use everything below them; `bundle` and `pth` know a model's files and `data`, below
//! them, a job's rows; `coverage`, `optim`, `loss` and `nn` know tensors; `storage`, `rng`, `device`, `job`, `pinned`, `orders`, `host` and `fault` know
//! nothing of these. Tensors stay in this crate.

pub mod bundle;
pub mod coverage;
pub mod data;
pub mod device;
pub mod evaluate;
pub mod fault;
pub mod host;
pub mod infer;
pub mod job;
pub mod loss;
pub mod nn;
pub mod optim;
pub mod orders;
pub mod pinned;
pub mod pth;
pub mod rng;
pub mod storage;
pub mod train;
