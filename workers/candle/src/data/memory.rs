//! How much of a dataset may be kept in memory: half of what is available when the job begins. Read from the kernel once; a
//! dataset that would need more is refused with a sentence, before the kernel ends the process without one.

/// Assumed where the system does not tell.
const UNKNOWN_BYTES: u64 = 4 << 30;

/// Bytes that rows may take up.
pub(crate) fn budget() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let cgroup = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).unwrap_or_default();
    half_of(&meminfo, &cgroup("memory.max"), &cgroup("memory.current"))
}

/// Half of the smaller of what the machine has left and what the group of processes has left.
fn half_of(meminfo: &str, max: &str, current: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<u64> = line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    let machine = kib.map(|kib| kib.saturating_mul(1024));
    let group = match (max.trim().parse::<u64>(), current.trim().parse()) {
        (Ok(max), Ok(current)) => Some(max.saturating_sub(current)),
        _ => None,
    };
    [machine, group].into_iter().flatten().min().unwrap_or(UNKNOWN_BYTES) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_bound_counts() {
        let meminfo = "MemTotal: 100 kB\nMemAvailable:   4096 kB\n";
        for (meminfo, max, current, half) in [
            (meminfo, "max\n", "17\n", 2 << 20),
            (meminfo, "3000\n", "1000\n", 1000),
            (meminfo, "", "", 2 << 20),
            (meminfo, "10\n", "20\n", 0),
            ("", "", "", UNKNOWN_BYTES / 2),
            ("MemAvailable: much", "max", "1", UNKNOWN_BYTES / 2),
        ] {
            assert_eq!(half_of(meminfo, max, current), half, "{max}");
        }
        assert!(budget() > 0);
    }
}
