//! What a process occupies and has used up, for heartbeats. Reads `/proc/PID/status` and `/proc/PID/stat`, and nothing else.

use std::{fs::File, io::Read};

/// How many clock ticks a second has wherever `/proc` speaks of them, in milliseconds a tick.
const MS_PER_TICK: u64 = 10;

/// What a worker occupies and has used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
    /// Its peak, in bytes.
    pub peak_rss_bytes: u64,
    /// Time of processors, in milliseconds.
    pub cpu_ms: u64,
}

impl Usage {
    /// That of a process by its number, or of this one for `self`.
    #[must_use]
    pub fn of(process: &str) -> Self {
        let (rss_bytes, peak_rss_bytes) = resident_bytes(process);
        Self { rss_bytes, peak_rss_bytes, cpu_ms: cpu_ms(process) }
    }
}

/// Time of processors that a process and those of its children that it has reaped have used, in milliseconds; 0 where the system does not tell.
#[must_use]
pub fn cpu_ms(process: &str) -> u64 {
    let mut stat = Vec::new();
    let read = File::open(format!("/proc/{process}/stat")).and_then(|file| file.take(64 * 1024).read_to_end(&mut stat));
    if read.is_err() { 0 } else { ticks(&stat).unwrap_or(0).saturating_mul(MS_PER_TICK) }
}

/// The four times of a stat line. The program's name, in parentheses, may hold anything, parentheses included: fields are counted from the last one.
fn ticks(stat: &[u8]) -> Option<u64> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let fields = std::str::from_utf8(stat.get(after_name..)?).ok()?.split_ascii_whitespace();
    let times: Vec<u64> = fields.skip(11).take(4).map(str::parse).collect::<Result<_, _>>().ok()?;
    (times.len() == 4).then(|| times.into_iter().fold(0, u64::saturating_add))
}

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
    fn the_times_of_a_stat_line_are_found_whatever_the_program_is_called() {
        let rest = "S 1 77 77 0 -1 4194304 100 0 0 0 1 20 300 4000 20 0 1 0 4242 1000";
        for name in ["(sh)", "(a b)", "(x) S 1 2)"] {
            assert_eq!(ticks(format!("123 {name} {rest}").as_bytes()), Some(4321));
        }
        assert_eq!(ticks(b"1 (sh) S 1 77"), None);
    }

    #[test]
    fn this_process_occupies_memory() {
        let (resident, peak) = resident_bytes("self");
        assert!(resident > 0 && peak >= resident);
    }
}
