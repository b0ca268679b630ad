//! The hand-over at spawn, read from standard input once. Called by a worker's main before anything else; it never repeats what it read,
//! since that holds the attempt's secret.

use mlctl_protocol::launch::{Launch, MAX_LAUNCH_BYTES};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::LinkError;

/// The version of the hand-over this build understands.
const VERSION: u32 = 1;

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
