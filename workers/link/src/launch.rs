//! How a worker begins: in a session of its own, and with the hand-over at spawn, read from standard input once. Called by a worker's main before anything else; it never
//! repeats what it read, since that holds the attempt's secret.

use mlctl_protocol::launch::{Launch, MAX_LAUNCH_BYTES};
use rustix::process::{Pid, getpid, setpgid, setsid};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::LinkError;

/// The version of the hand-over this build understands.
const VERSION: u32 = 1;

/// Leaves the daemon's session for one of its own: no terminal reaches this process or what it starts any more, and a kernel that shares processors among sessions gives it a share. Does nothing where this
/// is not the process that the daemon has started, which leads a group: a wrapper's child stays in the wrapper's group, by which the daemon signals it.
///
/// To be called first of all, before there are other threads or processes.
pub fn begin_session() {
    let me = getpid();
    let Some(Place { parent, group, session }) = Place::of("self") else { return };
    if group != Some(me) || session == Some(me) {
        return;
    }
    let Some(others) = parent.and_then(|parent| Place::of(&parent.to_string())?.group) else { return };
    // Who leads a group cannot begin a session: for as long as two calls take it is in the daemon's, as every process is from its fork to its first call.
    if setpgid(None, Some(others)).is_ok() && setsid().is_err() {
        let _ = setpgid(None, Some(me));
    }
}

/// Where a process stands among others. What is in no sight of this PID namespace is `None`.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    parent: Option<Pid>,
    group: Option<Pid>,
    session: Option<Pid>,
}

impl Place {
    fn of(process: &str) -> Option<Self> {
        Self::parse(&std::fs::read(format!("/proc/{process}/stat")).ok()?)
    }

    /// The program's name, in parentheses, may hold anything, parentheses included: fields are counted from the last one.
    fn parse(stat: &[u8]) -> Option<Self> {
        let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let mut fields = std::str::from_utf8(stat.get(after_name..)?).ok()?.split_ascii_whitespace().skip(1);
        let mut next = || Some(Pid::from_raw(fields.next()?.parse().ok()?));
        Some(Self { parent: next()?, group: next()?, session: next()? })
    }
}

/// Reads one line of JSON of at most [`MAX_LAUNCH_BYTES`]. Waits for it as long as the daemon lives: a worker may be started before there is a job for it.
///
/// # Errors
/// [`LinkError::Launch`].
pub async fn read_launch(reader: impl AsyncRead + Unpin) -> Result<Launch, LinkError> {
    let mut line = Vec::new();
    let mut limited = BufReader::new(reader.take(MAX_LAUNCH_BYTES + 1));
    match limited.read_until(b'\n', &mut line).await {
        Err(error) => return Err(refuse(&format!("it cannot be read: {error}"))),
        Ok(0) => return Err(refuse("it is empty; workers are started by mld, not by hand")),
        Ok(_) if line.len() as u64 > MAX_LAUNCH_BYTES => return Err(refuse("it is too long")),
        Ok(_) => {}
    }
    let launch: Launch = serde_json::from_slice(&line)
        .map_err(|error| refuse(&format!("it is not a launch message, see byte {}", error.column())))?;
    if launch.v != VERSION {
        return Err(refuse(&format!("it has version {}, this build understands version {VERSION}", launch.v)));
    }
    Ok(launch)
}

fn refuse(why: &str) -> LinkError {
    LinkError::Launch(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"v":1,"socket":"/s","job":"7","attempt":2,"secret":"canary","attempt_dir":"/d"}"#;

    #[test]
    fn a_place_is_found_whatever_the_program_is_called() {
        let place = |parent, group, session| {
            let [parent, group, session] = [parent, group, session].map(Pid::from_raw);
            Some(Place { parent, group, session })
        };
        for name in ["(sh)", "(a b)", "(x) S 1 2)"] {
            assert_eq!(Place::parse(format!("9 {name} S 1 77 66 0 -1").as_bytes()), place(1, 77, 66));
        }
        assert_eq!(Place::parse(b"9 (sh) S 0 0 0 0"), place(0, 0, 0), "of another namespace");
        for wrong in ["", "9 (sh)", "9 (sh) S 1 77", "9 (sh) S 1 x 66"] {
            assert_eq!(Place::parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert!(Place::of("self").is_some());
    }

    #[tokio::test]
    async fn a_line_is_read_with_and_without_its_end() {
        for line in [format!("{GOOD}\n"), GOOD.to_owned(), format!("{GOOD}\nrest")] {
            let launch = read_launch(line.as_bytes()).await.unwrap();
            assert_eq!((launch.job.0, launch.attempt.0, launch.secret.as_str()), (7, 2, "canary"));
        }
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_refused_and_not_repeated() {
        let cases = [
            (String::new(), "empty"),
            ("{\n".into(), "not a launch"),
            (GOOD.replace("\"v\":1", "\"v\":2"), "version 2"),
            (GOOD.replace("\"attempt\":2", "\"attempt\":\"canary\""), "not a launch"),
            (format!("{GOOD}{}", " ".repeat(70_000)), "too long"),
        ];
        for (line, why) in cases {
            let error = read_launch(line.as_bytes()).await.unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("canary"), "{error}");
        }
    }
}
