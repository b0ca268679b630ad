//! `mlctl`, the CLI.
fn main() {}
