//! How `mlctl` is linked.

fn main() {
    // At a fixed address: it is started for each command, and has 24,000 addresses to relocate otherwise. Stack, heap and libraries stay where chance puts them.
    println!("cargo::rustc-link-arg-bin=mlctl=-no-pie");
    println!("cargo::rerun-if-changed=build.rs");
}
