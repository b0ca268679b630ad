//! `mlworker`: one process, one job. The daemon starts it, hands over on standard input where to dial, and sends the job over its socket;
//! everything a job does is in the library. This file wires the two: the link, a thread with a big stack, panics, the exit code.
//!
//! Exit codes: 0 for `ok`, 1 for another class, 2 for wrong arguments, 70 when there was no daemon to work for. Standard error is the
//! attempt's log.

use std::{
    any::Any,
    io::IsTerminal,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use mlctl_artifacts::{Stores, uploads::UPLOADS_FILE};
use mlctl_link::{Handle, Link, LinkError, begin_session, read_launch};
use mlctl_protocol::{
    ExitClass,
    launch::Launch,
    message::{ReportBody, Start},
    progress::{Progress, StorageAway},
    result::WorkerResult,
    spec::Work,
};
use mlworker::{
    data::survey,
    device, evaluate,
    fault::Fault,
    host::{Done, Host, Order},
    infer,
    job::Job,
    storage, train,
};
use tokio::runtime::{Builder, Runtime};

/// What the hello and `--version` say about this build.
#[cfg(feature = "cuda")]
const WORKER: &str = concat!("mlworker ", env!("CARGO_PKG_VERSION"), " (cpu, cuda)");
/// What the hello and `--version` say about this build.
#[cfg(not(feature = "cuda"))]
const WORKER: &str = concat!("mlworker ", env!("CARGO_PKG_VERSION"), " (cpu)");

/// The backward pass recurses once per operation of the graph. Only what is used of it takes memory.
const STACK_BYTES: usize = 512 * 1024 * 1024;

const USAGE: &str = "\
mlworker runs one job for mld, which starts it and speaks to it over a socket; it does nothing by hand.
To run a job, submit it:   mlctl submit config/jobs/digits.toml
To see what this build is: mlworker --version
`mlctl dataset add` runs `mlworker survey`, which reads data and says what it is, without a daemon.";

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a main function speaks to the person who called it")]
fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [] if std::io::stdin().is_terminal() => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
        [] => {}
        [only] if only == "--version" || only == "-V" => {
            println!("{WORKER}");
            return ExitCode::SUCCESS;
        }
        [only] if only == "survey" => return look_at_data(),
        [only] if only == "--help" || only == "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("mlworker: takes no arguments but survey, --version and --help\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    begin_session();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    // Two threads for the link and for storage; arithmetic has its own, by the number that the daemon set.
    let runtime = match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mlworker: cannot start: {error}");
            return ExitCode::from(70);
        }
    };
    let code = work(&runtime).unwrap_or_else(|error| {
        eprintln!("mlworker: {error}");
        70
    });
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Answers on standard output what the data is that is named on standard input.
#[expect(clippy::print_stderr, reason = "it is a main function")]
fn look_at_data() -> ExitCode {
    let answered = Builder::new_multi_thread().worker_threads(2).enable_all().build().and_then(|runtime| {
        let answered = survey::answer(std::io::stdin().lock(), std::io::stdout().lock(), runtime.handle());
        runtime.shutdown_background();
        answered
    });
    match answered {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mlworker: {error}");
            ExitCode::from(70)
        }
    }
}

fn work(runtime: &Runtime) -> Result<u8, LinkError> {
    let (launch, link, start) = runtime.block_on(async {
        let launch = read_launch(tokio::io::stdin()).await?;
        let (link, start) = Link::dial(launch.clone(), WORKER).await?;
        Ok::<_, LinkError>((launch, link, start))
    })?;
    tracing::info!(job_id = %launch.job, attempt = %launch.attempt, "job {} started: {}", launch.job, start.spec.work.kind());
    let outside = Outside {
        handle: link.handle(),
        device: device::open(&start.spec.resources).map_or_else(|_| "cpu".into(), |device| device::name(&device)),
        began: Instant::now(),
    };
    let result = result(&launch, &start, on_big_stack(|| run(&launch, &start, &outside, runtime)));
    if result.class == ExitClass::Ok {
        tracing::info!("job {} is done", launch.job);
    } else {
        tracing::error!(class = %result.class, "{}", result.message.as_deref().unwrap_or_default());
    }
    let code = u8::from(result.class != ExitClass::Ok);
    runtime.block_on(link.finish(result))?;
    Ok(code)
}

fn run(launch: &Launch, start: &Start, host: &Outside, runtime: &Runtime) -> Result<Done, Fault> {
    let stores = Stores::with_s3(launch.s3.clone())
        .given_durable(start.storage.durable_uri.as_deref())
        .on_record(launch.attempt_dir.join(UPLOADS_FILE));
    let (id, attempt, runtime) = (launch.job, launch.attempt, runtime.handle());
    let job = Job { id, attempt, start, host, stores: &stores, runtime, pinned: None };
    storage::check(job)?;
    match &start.spec.work {
        Work::Train(spec) => train::run(job, spec),
        Work::Infer(spec) => infer::run(job, spec),
        Work::Evaluate(spec) => evaluate::run(job, spec),
        // The daemon runs it, and each of its stages is a job of its own.
        Work::Retrain(_) => Err(Fault::new(ExitClass::Crash, "a retraining is run by the daemon, not by a worker")),
        Work::Command(_) => Err(Fault::new(ExitClass::Crash, "this worker trains and predicts, and runs no commands")
            .with_hint(
                "name the program of each in its own setting: workers.command and commands.executable in mld.toml",
            )),
    }
}

/// Runs a job on a thread of its own. A panic becomes its fault, with the message and the place.
fn on_big_stack(job: impl FnOnce() -> Result<Done, Fault> + Send) -> Result<Done, Fault> {
    // The hook outlives this call, so it keeps what it saw in a value of its own.
    let seen = std::sync::Arc::new(Mutex::new(None));
    let hook = std::sync::Arc::clone(&seen);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        *hook.lock().unwrap_or_else(PoisonError::into_inner) = info.location().map(ToString::to_string);
        usual(info);
    }));
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("job".into()).stack_size(STACK_BYTES);
        let spawned = thread.spawn_scoped(scope, || catch_unwind(AssertUnwindSafe(job)));
        let joined = match spawned {
            Ok(thread) => thread.join(),
            Err(error) => {
                return Err(Fault::new(ExitClass::OomHost, format!("cannot start the job's thread: {error}")));
            }
        };
        joined.and_then(|caught| caught).unwrap_or_else(|payload| {
            let at = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
            Err(panicked(payload.as_ref(), at))
        })
    })
}

fn panicked(payload: &(dyn Any + Send), at: Option<String>) -> Fault {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    let at = at.map_or_else(String::new, |at| format!(" at {at}"));
    Fault::new(ExitClass::Crash, format!("the worker panicked{at}: {text}"))
        .with_hint("this is a bug in mlworker; its log has more")
}

fn result(launch: &Launch, start: &Start, end: Result<Done, Fault>) -> WorkerResult {
    let (class, message, hint, done) = match end {
        Ok(done) => (ExitClass::Ok, None, None, done),
        Err(Fault { class, message, hint }) => (class, Some(message), hint, Done::default()),
    };
    let Done { metrics, model, output } = done;
    let (job, attempt, token) = (launch.job, launch.attempt, start.token);
    WorkerResult { v: 1, job, attempt, token, class, message, hint, metrics, model, output }
}

/// The outside of a job: the daemon's socket and the system's clocks.
struct Outside {
    handle: Handle,
    device: String,
    began: Instant,
}

impl Host for Outside {
    fn progress(&self, progress: Progress) {
        self.handle.progress(progress, &self.device);
    }

    fn storage_away(&self, away: Option<StorageAway>) {
        self.handle.storage_away(away);
    }

    fn report(&self, body: ReportBody) -> Result<(), Fault> {
        if let ReportBody::Warning { message } = &body {
            tracing::warn!("{message}");
        }
        self.handle.report(body).map_err(|error| {
            let class = match error {
                LinkError::Refused(_) => ExitClass::Lost,
                _ => ExitClass::Crash,
            };
            Fault::new(class, format!("cannot report to the daemon: {error}"))
        })
    }

    fn order(&self) -> Option<Order> {
        self.handle.order()
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "the worker's one look at the wall clock, for people to read")]
    fn now_rfc3339(&self) -> String {
        jiff::Timestamp::now().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_crash_with_its_message_and_place() {
        for (message, job) in
            [("index 3", (|| panic!("index {}", 3)) as fn() -> Result<Done, Fault>), ("plain", || panic!("plain"))]
        {
            let fault = on_big_stack(job).unwrap_err();
            assert_eq!(fault.class, ExitClass::Crash);
            assert!(fault.message.contains(message) && fault.message.contains("main.rs"), "{}", fault.message);
        }
        assert_eq!(on_big_stack(|| Ok(Done::default())), Ok(Done::default()));
    }

    #[test]
    fn the_stack_is_deep_enough_for_a_long_graph() {
        fn deep(left: u32) -> u64 {
            let frame = std::hint::black_box([u64::from(left); 64]);
            if left == 0 { 0 } else { frame[7] + deep(left - 1) }
        }
        // 100,000 frames of more than 512 bytes: far more than the 8 MiB of a usual stack.
        on_big_stack(|| {
            assert!(std::hint::black_box(deep(100_000)) > 0);
            Ok(Done::default())
        })
        .unwrap();
    }
}
