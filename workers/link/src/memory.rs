//! The memory that a process occupies, for heartbeats. Reads `/proc/PID/status` and nothing else.

use std::{fs::File, io::Read};

/// Resident memory and its peak in bytes of a process by its number, or of this one for `self`; zeros where the system does not tell.
#[must_use]
pub fn resident_bytes(process: &str) -> (u64, u64) {
    let mut status = String::new();
    let read =
        File::open(format!("/proc/{process}/status")).and_then(|file| file.take(64 * 1024).read_to_string(&mut status));
    if read.is_err() { (0, 0) } else { (field(&status, "VmRSS:"), field(&status, "VmHWM:")) }
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_and_scaled() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!((field(status, "VmRSS:"), field(status, "VmHWM:")), (1 << 20, 2 << 20));
        assert_eq!(field("VmRSS: much", "VmRSS:"), 0);
    }

    #[test]
    fn this_process_occupies_memory() {
        let (resident, peak) = resident_bytes("self");
        assert!(resident > 0 && peak >= resident);
    }
}
