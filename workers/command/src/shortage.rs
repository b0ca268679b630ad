//! Whether a program ended for want of memory: the kernel has killed, or has refused it memory. Called by `program`; what follows for the job is said in `end`.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use rustix::process::{Resource, WaitStatus, getrlimit};

/// What programs say that were refused memory: PyTorch and the C library, Python, the GNU tools, C++, Rust, Go and Java.
const REFUSALS: [&str; 7] = [
    "annot allocate memory",
    "MemoryError",
    "memory exhausted",
    "bad_alloc",
    "memory allocation of ",
    "runtime: out of memory",
    "java.lang.OutOfMemoryError",
];

/// How much of a program's last words is looked at.
const LAST_WORDS_BYTES: u64 = 4096;

/// What this process prints to, as do the programs that it starts.
const OUTPUT: &str = "/proc/self/fd/1";

/// What memory was wanting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// The kernel's out-of-memory killer has struck on this machine.
    Killed,
    /// The program says that it was refused memory, of which each process of the job may map so many bytes.
    Refused { bytes: u64 },
}

/// The kernel's count of out-of-memory kills when a program began.
#[derive(Debug, Clone, Copy)]
pub struct Before(Option<u64>);

impl Before {
    /// Now.
    pub fn now() -> Self {
        Self(kills())
    }

    /// What was wanting when a program ended like this, if anything was.
    pub fn shortage(self, status: WaitStatus) -> Option<Shortage> {
        if status.exit_status() == Some(0) {
            return None;
        }
        if status.signaled() && matches!((self.0, kills()), (Some(before), Some(after)) if after > before) {
            return Some(Shortage::Killed);
        }
        let bytes = getrlimit(Resource::Data).current?;
        tells_of_refusal(Path::new(OUTPUT)).unwrap_or(false).then_some(Shortage::Refused { bytes })
    }
}

/// How many processes the kernel's out-of-memory killer has ended since boot. `None` where the kernel does not say.
fn kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn tells_of_refusal(log: &Path) -> io::Result<bool> {
    if !fs::metadata(log)?.is_file() {
        return Ok(false);
    }
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
    let mut words = Vec::new();
    file.take(LAST_WORDS_BYTES).read_to_end(&mut words)?;
    let words = String::from_utf8_lossy(&words);
    Ok(REFUSALS.iter().any(|refusal| words.contains(refusal)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_known_by_the_last_words_alone() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("stdout.log");
        let padding = "x".repeat(5000);
        for (words, expected) in [
            ("", false),
            ("epoch 1\nall is well\n", false),
            ("Traceback (most recent call last):\n  File \"x.py\", line 1\nMemoryError\n", true),
            (
                "RuntimeError: can't allocate memory: you tried to allocate 12 bytes. Error code 12 (Cannot allocate memory)",
                true,
            ),
            ("terminate called after throwing an instance of 'std::bad_alloc'\n", true),
            (&format!("{padding}tail: memory exhausted\n"), true),
            (&format!("MemoryError, gone on without\n{padding}"), false),
        ] {
            fs::write(&log, words).unwrap();
            assert_eq!(tells_of_refusal(&log).unwrap(), expected, "{words}");
        }
        assert!(!tells_of_refusal(Path::new("/dev/null")).unwrap(), "nothing is read from what is no file");
    }
}
