//! `mld`, the daemon.
fn main() {}
