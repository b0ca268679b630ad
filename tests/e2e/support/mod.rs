//! What end-to-end tests stand on: the real programs, a daemon of one's own, its API and the CLI, and eyes for processes. Every wait has a ceiling, and says what it waited for.

pub mod cli;
pub mod daemon;
pub mod http;
pub mod mount;
pub mod processes;
pub mod programs;
pub mod specs;

use std::time::{Duration, Instant};

pub use daemon::{Daemon, Setup};
pub use programs::Worker;

/// No wait takes longer. It is long because a machine under load is slow, and costs nothing where all goes well.
pub const CEILING: Duration = Duration::from_secs(180);

/// Asks again and again until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < CEILING, "{what}: not within {CEILING:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
