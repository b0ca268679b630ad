//! `mlctl` on a terminal, as a person sees it: a bar, a Ctrl-C that ends the watching and not the job. `script` of util-linux makes the terminal.

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
};

use crate::support::{Daemon, Worker, programs, specs::fake, until};

/// A program on a terminal, ended when dropped.
struct OnTerminal(Child);

impl OnTerminal {
    /// Waits for its end; the exit code.
    fn end(&mut self) -> Option<i32> {
        until("the program on the terminal ends", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `mlctl` on a terminal of its own, what it shows in `shown`.
fn on_a_terminal(daemon: &Daemon, arguments: &str) -> OnTerminal {
    let line = format!("stty cols 100 rows 30; exec {} {arguments}", programs::mlctl().display());
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--command", &line]).arg(daemon.state_dir.join("shown"));
    script.env("MLCTL_SOCKET", &daemon.client.socket).env("TERM", "xterm").env_remove("NO_COLOR");
    OnTerminal(
        script.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("script is installed"),
    )
}

fn shown(daemon: &Daemon) -> String {
    let bytes = std::fs::read(daemon.state_dir.join("shown")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_bar_moves_while_a_job_is_followed_and_the_end_is_told() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = daemon.submit(&fake("moving", "steps:60:20"));
    let mut following = on_a_terminal(&daemon, &format!("follow {id}"));
    let code = following.end();
    let shown = shown(&daemon);
    assert_eq!(code, Some(0), "{shown}");
    // A line is drawn over, again and again.
    assert!(shown.matches('\r').count() > 5 && shown.contains("\u{1b}["), "{shown:?}");
    assert!(shown.contains("succeeded"), "{shown:?}");
}

#[test]
fn ctrl_c_ends_the_watching_and_the_job_runs_on() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = daemon.submit(&fake("watched", "steps:10000000:10"));
    let mut following = on_a_terminal(&daemon, &format!("follow {id}"));
    until("something is drawn", || shown(&daemon).contains("attempt 1").then_some(()));
    following.0.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    let code = following.end();
    let shown = shown(&daemon);
    assert_eq!(code, Some(130), "{shown:?}");
    assert!(shown.contains("runs on"), "{shown:?}");
    assert_eq!(daemon.job(&id)["state"], "running");
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}
