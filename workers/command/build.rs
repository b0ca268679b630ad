//! How `mlworker-command` is linked.

fn main() {
    // At a fixed address: one is started for each command, and to relocate it takes a third of its own time. Stack, heap and libraries stay where chance puts them.
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rerun-if-changed=build.rs");
}
