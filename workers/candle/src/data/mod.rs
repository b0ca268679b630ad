//! A job's data: where rows come from, how they are divided and scaled, and the rows in memory. `train` loads all of them, `infer`
//! walks over them; neither knows whether they come from a file or a generator. It knows no model and writes nothing.

pub mod columns;
pub mod csv;
pub mod examples;
pub(crate) mod load;
pub(crate) mod memory;
pub mod randn;
pub mod scaling;
pub mod split;

pub use load::{Dataset, Identity, load};
