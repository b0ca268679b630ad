//! Every process that descends from this one: found in `/proc`, measured and signalled. Called by `program`. Since orphans come to this process, all that the program ever started is
//! among them. A process is signalled through a descriptor that was opened before it was looked at again, so that no stranger is met who has its number by now.

use std::{collections::BTreeMap, fs, io};

use mlctl_link::{cpu_ms as cpu_ms_of, resident_bytes};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// A process, and what tells it from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    parent: u32,
    /// Whether it has ended and only waits to be reaped.
    ended: bool,
    start_ticks: u64,
}

/// The descendants of this process that have not ended.
///
/// # Errors
/// `/proc` cannot be read.
pub fn descendants() -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        // One that has ended since the folder was read is nobody's descendant any more.
        all.extend(pid.and_then(look));
    }
    Ok(below(std::process::id(), &all))
}

/// The processes below one, itself left out.
fn below(root: u32, all: &[Process]) -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(*process);
    }
    let (mut found, mut todo) = (Vec::new(), vec![root]);
    while let Some(parent) = todo.pop() {
        // Taken out: what the numbers of a moment make a circle is walked once.
        for child in children.remove(&parent).unwrap_or_default() {
            todo.push(child.pid);
            if !child.ended {
                found.push(child);
            }
        }
    }
    found
}

/// Sends a signal to each of them that still is who it was.
pub fn signal(processes: &[Process], signal: Signal) {
    for process in processes {
        let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { continue };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let is_same = look(process.pid).is_some_and(|now| now.start_ticks == process.start_ticks);
        if is_same
            && let Err(error) = pidfd_send_signal(&pidfd, signal)
            && error != Errno::SRCH
        {
            complain(process.pid, error.into());
        }
    }
}

#[expect(clippy::print_stderr, reason = "standard error is the attempt's log")]
fn complain(pid: u32, error: io::Error) {
    eprintln!("mlworker-command: process {pid} cannot be signalled: {error}");
}

/// Resident memory of all of them, in bytes.
pub fn memory(processes: &[Process]) -> u64 {
    processes.iter().map(|process| resident_bytes(&process.pid.to_string()).0).fold(0, u64::saturating_add)
}

/// Time of processors that all of them and this process have used, and what of those had ended, in milliseconds.
pub fn cpu_ms(processes: &[Process]) -> u64 {
    let of = |process: &Process| cpu_ms_of(&process.pid.to_string());
    processes.iter().map(of).fold(cpu_ms_of("self"), u64::saturating_add)
}

fn look(pid: u32) -> Option<Process> {
    parse(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The program's name, in parentheses, may hold anything, parentheses included: fields are counted from the last one.
fn parse(pid: u32, stat: &[u8]) -> Option<Process> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(stat.get(after_name..)?).ok()?.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    let parent = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Process { pid, parent, ended, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_all_below_and_circles_end() {
        let process = |pid, parent, ended| Process { pid, parent, ended, start_ticks: 0 };
        let all = [
            process(1, 0, false),
            process(10, 1, false),
            process(11, 10, true),
            process(12, 11, false),
            process(13, 10, false),
            process(20, 1, false),
            process(30, 31, false),
            process(31, 30, false),
        ];
        let mut found: Vec<u32> = below(10, &all).iter().map(|process| process.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [12, 13]);
        assert_eq!(below(30, &all).len(), 2);
        assert!(below(12, &all).is_empty());
    }

    #[test]
    fn a_stat_line_is_understood_whatever_the_program_is_called() {
        let rest = "1 77 77 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 4242 1000 10 18446744073709551615";
        for name in ["(sh)", "(a b)", "(x) S 1 2)"] {
            let line = format!("123 {name} S {rest}");
            let expected = Process { pid: 123, parent: 1, ended: false, start_ticks: 4242 };
            assert_eq!(parse(123, line.as_bytes()), Some(expected), "{line}");
        }
        assert_eq!(parse(1, b"1 (sh) S 1"), None);
    }

    #[test]
    fn a_child_is_found_measured_and_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = descendants().unwrap();
        let mine: Vec<Process> = found.into_iter().filter(|process| process.pid == child.id()).collect();
        assert_eq!(mine.len(), 1);
        assert!(memory(&mine) > 0);
        signal(&[Process { start_ticks: 1, ..mine[0] }], Signal::KILL);
        assert!(child.try_wait().unwrap().is_none(), "another process of that number is left alone");
        signal(&mine, Signal::KILL);
        assert!(!child.wait().unwrap().success());
    }
}
