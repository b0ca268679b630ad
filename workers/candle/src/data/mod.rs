//! A job's data: where rows come from, how they are divided and scaled, and the rows in memory. `train` loads all of them, `infer`
//! walks over them; neither knows whether they come from a file or many, compressed or not, or a generator. It knows no model and writes nothing.

pub mod blocks;
pub mod columns;
pub mod csv;
pub mod examples;
mod files;
mod indexing;
pub mod jsonl;
pub mod lines;
pub(crate) mod load;
pub(crate) mod memory;
pub mod npy;
pub mod order;
pub mod parquet;
mod parquet_column;
pub mod pinned;
mod pool;
pub mod randn;
pub mod record;
pub mod row;
pub mod rows;
pub mod scaling;
pub mod split;
pub mod stream;
pub mod streamed;
pub mod survey;
pub mod table;
pub mod text;
mod thrift;
pub mod tokenizer;

pub use load::{Dataset, Identity, Rows, load};
