//! Reads `/proc`: who a process is, who is in its group, whether the kernel killed for memory. Called by `supervisor::process` only. Reads;
//! never signals.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    time::Duration,
};

use crate::domain::event::ProcessIdentity;

/// The largest file read from `/proc`, in bytes: an environment may be megabytes, everything else is small.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The environment variable that marks every process of an attempt with the attempt's folder.
pub(super) const MARK: &str = "ML_RUN_DIR";

/// What tells a process from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Its process group.
    pub(super) group: u32,
    /// Whether it has ended and only waits to be reaped.
    pub(super) ended: bool,
    /// Start time in clock ticks since boot.
    pub(super) start_ticks: u64,
}

/// A process and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    /// Its pid at the time of the scan.
    pub(super) pid: u32,
    /// What it was then.
    pub(super) stat: Stat,
}

/// The process that has this pid now.
pub(super) fn stat(pid: u32) -> io::Result<Stat> {
    let text = read(Path::new(&format!("/proc/{pid}/stat")))?;
    parse_stat(&text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not understood")))
}

/// The second field is the program's name in parentheses and may hold anything, parentheses included: fields are counted from the last one.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let fields: Vec<&str> = std::str::from_utf8(text.get(after_name..)?).ok()?.split_ascii_whitespace().collect();
    let state = *fields.first()?;
    Some(Stat {
        group: fields.get(2)?.parse().ok()?,
        ended: matches!(state, "Z" | "X" | "x"),
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// How many clock ticks a second has wherever `/proc` speaks of them, whatever the kernel counts in.
const TICKS_PER_SECOND: u64 = 100;

/// How long ago a process was started, by the clock that counts since boot. Zero where that clock cannot be read: a process is then taken for a new one.
pub(super) fn age(start_ticks: u64) -> Duration {
    let ticks = ticks_now().saturating_sub(start_ticks);
    Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND))
}

/// The clock that counts since boot, in ticks; zero where it cannot be read.
pub(super) fn ticks_now() -> u64 {
    let text = read(Path::new("/proc/uptime")).unwrap_or_default();
    parse_uptime(&text).unwrap_or(0)
}

/// Since when a process has had its job, in ticks since boot.
pub(super) fn begun(identity: &ProcessIdentity) -> u64 {
    identity.ahead.as_ref().map_or(identity.start_ticks, |ahead| ahead.begun_ticks)
}

/// The first number, seconds with two decimals, in ticks.
fn parse_uptime(text: &[u8]) -> Option<u64> {
    let (seconds, hundredths) = std::str::from_utf8(text).ok()?.split_ascii_whitespace().next()?.split_once('.')?;
    let seconds: u64 = seconds.parse().ok()?;
    let hundredths: u64 = hundredths.parse().ok().filter(|_| hundredths.len() == 2)?;
    seconds.checked_mul(TICKS_PER_SECOND)?.checked_add(hundredths)
}

/// The processes of a group that have not ended.
pub(super) fn members(group: u32) -> io::Result<Vec<Member>> {
    let mut found = all()?;
    found.retain(|member| member.stat.group == group);
    Ok(found)
}

/// The processes that have not ended.
pub(super) fn all() -> io::Result<Vec<Member>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that ended since the folder was read is none any more.
        if let Ok(stat) = stat(pid)
            && !stat.ended
        {
            found.push(Member { pid, stat });
        }
    }
    Ok(found)
}

/// Whether a process was started with the mark of one of these folders.
pub(super) fn is_marked(pid: u32, dirs: &[&Path]) -> bool {
    let mark = |dir: &&Path| [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
    let marks: Vec<Vec<u8>> = dirs.iter().map(mark).collect();
    read(Path::new(&format!("/proc/{pid}/environ")))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| marks.iter().any(|mark| entry == mark)))
}

/// Whether a process was started with the mark of an attempt whose folder is under `dir`.
pub(super) fn is_marked_under(pid: u32, dir: &Path) -> bool {
    let mark = [MARK.as_bytes(), b"=", dir.as_os_str().as_bytes(), b"/"].concat();
    read(Path::new(&format!("/proc/{pid}/environ")))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry.starts_with(&mark)))
}

/// Whether a process has the same folder by the path `dir` as this one has. One in another mount namespace, of a container say, may know another folder by that path. No where it cannot be told.
pub(super) fn sees(pid: u32, dir: &Path) -> bool {
    let mut theirs = OsString::from(format!("/proc/{pid}/root"));
    theirs.push(dir);
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(Path::new(&theirs)), identity(dir)), (Ok(theirs), Ok(ours)) if theirs == ours)
}

/// The id the kernel drew at boot.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read(Path::new("/proc/sys/kernel/random/boot_id"))?).trim().to_owned())
}

/// How many processes the kernel's out-of-memory killer has ended since boot, in any cgroup. `None` where the kernel does not say.
pub(super) fn memory_kills() -> Option<u64> {
    let text = read(Path::new("/proc/vmstat")).ok()?;
    std::str::from_utf8(&text).ok()?.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_understood_whatever_the_program_is_called() {
        let rest = "1 77 77 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 4242 1000 10 18446744073709551615";
        for name in ["(sh)", "(a b)", "(x) S 1 2)", "(\u{fffd}))"] {
            for (state, ended) in [("S", false), ("R", false), ("T", false), ("Z", true), ("X", true)] {
                let line = format!("123 {name} {state} {rest}");
                let expected = Stat { group: 77, ended, start_ticks: 4242 };
                assert_eq!(parse_stat(line.as_bytes()), Some(expected), "{line}");
            }
        }
        for line in
            ["", "123", "123 (sh)", "123 (sh) S 1", "123 (sh) S 1 x 77 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 5", "123 sh S"]
        {
            assert_eq!(parse_stat(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn this_very_process_is_found_in_its_group() {
        let me = std::process::id();
        let stat = stat(me).unwrap();
        assert!(!stat.ended && stat.start_ticks > 0);
        assert!(members(stat.group).unwrap().contains(&Member { pid: me, stat }));
        assert!(super::stat(u32::MAX).is_err());
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(!is_marked(me, &[Path::new("/nowhere")]));
    }

    #[test]
    fn an_age_is_counted_by_the_clock_since_boot() {
        for (text, ticks) in [
            ("12345.67 99999.00\n", Some(1_234_567)),
            ("0.05 0.00", Some(5)),
            ("7 1", None),
            ("x.12 1", None),
            ("", None),
        ] {
            assert_eq!(parse_uptime(text.as_bytes()), ticks, "{text:?}");
        }
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let begun = std::time::Instant::now();
        let started = stat(child.id()).unwrap().start_ticks;
        let young = age(started);
        std::thread::sleep(Duration::from_millis(300));
        let grown = age(started).saturating_sub(young);
        let passed = begun.elapsed();
        child.kill().unwrap();
        child.wait().unwrap();
        let tick = Duration::from_millis(20);
        assert!(grown + tick >= Duration::from_millis(300) && grown <= passed + tick, "{grown:?} in {passed:?}");
        assert_eq!(age(u64::MAX), Duration::ZERO, "a clock that cannot be right makes nobody old");
    }
}
