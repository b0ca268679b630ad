//! `mlworker-fake`: a worker for tests that does what its script says. It speaks to the daemon through the same link as the real one and
//! stores its checkpoints in the same way; it computes nothing. The script is the spec's label `fake`, steps between semicolons:
//!
//! | step | does |
//! |---|---|
//! | `obey` (also without a label) | ten steps of 5 ms with progress, metrics and checkpoints |
//! | `steps:N:MS` | works until step N, MS milliseconds each; follows orders; a checkpoint every `checkpoint.every_steps` (5) |
//! | `sleep:MS` | waits; follows orders |
//! | `exit:CODE`, `no-result` | exits with the code, or 0, without a result |
//! | `signal:N`, `panic` | dies of the signal, of a panic |
//! | `hang` | sends nothing any more, heartbeats included, and keeps the connection; needs KILL |
//! | `hang-alive` | sends heartbeats, makes no progress, follows no order; needs KILL |
//! | `flood:BYTES` | writes to standard output |
//! | `ignore-term` | from here on no order to stop is followed, nor SIGTERM |
//! | `fail:CLASS:MESSAGE` | ends with that exit class |
//! | `fail-attempts:K` | dies of SIGKILL in the first K attempts, goes on in later ones |
//! | `spawn-child` | leaves a child behind that ignores SIGTERM, and prints `child PID` |
//! | `lie:attempt` | dials as another attempt; ends as `crash` if the daemon lets it |
//! | `lie:token` | signs its result with a token that is not its own |
//! | `lie:step-backwards` | reports progress and metrics of an earlier step |
//! | `garbage-frame`, `huge-frame` | sends what is no frame on a second connection; ends as `crash` if the daemon does not hang up |
//! | `skew:other-version` | dials in a version of the protocol that is not spoken yet; ends as `crash` if it is not told why that is refused |
//! | `skew:news` | says what only later workers say, on a second connection; ends as `crash` if it is not welcomed there |
//!
//! A script that reaches its end succeeds and publishes an empty model or an empty result. Checkpoints of earlier attempts are taken up: a
//! job that has done 7 of 10 steps does 3. Exit codes: 0 for `ok`, 1 for another class, 70 when there was no daemon to work for.

mod act;
mod lie;
mod script;

use std::process::ExitCode;

use mlctl_link::{Link, LinkError, begin_session, read_launch};
use mlctl_protocol::{ExitClass, launch::Launch, message::Start, result::WorkerResult};
use tokio::runtime::{Builder, Runtime};

use crate::act::{Actor, End};

/// What the hello says about this build.
const WORKER: &str = concat!("mlworker-fake ", env!("CARGO_PKG_VERSION"));

/// The label that holds the script.
const LABEL: &str = "fake";

#[expect(clippy::print_stderr, reason = "a worker's main says on standard error why it cannot work")]
#[expect(clippy::print_stdout, reason = "the version is what was asked for")]
fn main() -> ExitCode {
    // As `mlctl doctor` asks every worker.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "--version") {
        println!("{WORKER}");
        return ExitCode::SUCCESS;
    }
    begin_session();
    // One thread for the link, so that `hang` can stop it; the script has this one.
    let runtime = match Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mlworker-fake: cannot start: {error}");
            return ExitCode::from(70);
        }
    };
    let code = work(&runtime).unwrap_or_else(|error| {
        eprintln!("mlworker-fake: {error}");
        70
    });
    runtime.shutdown_background();
    ExitCode::from(code)
}

fn work(runtime: &Runtime) -> Result<u8, LinkError> {
    let (launch, link, start) = runtime.block_on(async {
        let launch = read_launch(tokio::io::stdin()).await?;
        let (link, start) = Link::dial(launch.clone(), WORKER).await?;
        Ok::<_, LinkError>((launch, link, start))
    })?;
    let script = start.spec.labels.get(LABEL).map_or("", String::as_str);
    let end = match script::parse(script) {
        Ok(steps) => Actor::new(&launch, &start, link.handle(), runtime).run(steps),
        Err(message) => End::Result(Box::new(not_understood(&launch, &start, message))),
    };
    match end {
        End::Silent(code) => Ok(code),
        End::Result(result) => {
            let code = u8::from(result.class != ExitClass::Ok);
            runtime.block_on(link.finish(*result))?;
            Ok(code)
        }
    }
}

fn not_understood(launch: &Launch, start: &Start, message: String) -> WorkerResult {
    WorkerResult {
        v: 1,
        job: launch.job,
        attempt: launch.attempt,
        token: start.token,
        class: ExitClass::Spec,
        message: Some(message),
        hint: Some("the steps are listed at the head of workers/fake/src/main.rs".into()),
        metrics: std::collections::BTreeMap::new(),
        model: None,
        output: None,
    }
}
