//! A look at data by the worker's own readers, which say what it is: `mlctl` starts the worker's program as the person's own, hands it what to read, and takes its answer. It reads no data itself.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use mlctl_protocol::{
    dataset::{MAX_ANSWER_BYTES, Manifest, Survey, Surveyed},
    spec::DataSource,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

use crate::{
    api::types::DaemonView,
    cli::{Context, Failure, exit::Exit, output::gc::Spinner, output::text},
    config,
};

/// The verb of the worker's program.
const VERB: &str = "survey";

/// What the worker says of some data, read with the person's own rights: by the program that is named, else by the daemon's.
pub async fn of(context: &Context<'_>, source: DataSource, program: Option<PathBuf>) -> Result<Manifest, Failure> {
    let s3 = config::s3::own_access(context.environment)?;
    let program = match program {
        Some(program) => program,
        None => context.client.get::<DaemonView>("/v1/daemon").await?.worker.into(),
    };
    let failed = |what: &str, error: &dyn std::error::Error| {
        Failure::caused(format!("{what} the worker's program {}", program.display()), error)
            .hint("--worker names another")
    };
    let mut line =
        serde_json::to_vec(&Survey { v: 1, source, s3 }).map_err(|error| Failure::caused("ask for it", &error))?;
    line.push(b'\n');
    let mut worker = start(context, &program).map_err(|error| failed("start", &error))?;
    if let Some(mut input) = worker.stdin.take() {
        // One that has ended already says why by its answer, or by having none.
        let _ = input.write_all(&line).await;
    }
    let answer = listen(context, &mut worker).await.map_err(|error| failed("hear", &error))?;
    let status = worker.wait().await.map_err(|error| failed("wait for", &error))?;
    match answer {
        Some(Surveyed::Done { manifest }) => Ok(manifest),
        Some(Surveyed::Failed { is_temporary, message, hint }) => {
            let exit = if is_temporary { Exit::Failed } else { Exit::Invalid };
            let failure = Failure::new(exit, message);
            Err(match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            })
        }
        Some(Surveyed::Progress { .. }) | None => {
            let what = format!("the worker's program {} ended without an answer: {status}", program.display());
            Err(Failure::new(Exit::Failed, what)
                .hint("it must be the mlworker of this version; --worker names another"))
        }
    }
}

fn start(context: &Context<'_>, program: &Path) -> std::io::Result<Child> {
    let mut command = Command::new(context.environment.absolute(program));
    // What it prints besides is for nobody: what fails is in its answer.
    command.arg(VERB).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn()
}

/// The last that it says.
async fn listen(context: &Context<'_>, worker: &mut Child) -> std::io::Result<Option<Surveyed>> {
    let Some(output) = worker.stdout.take() else { return Ok(None) };
    let most = MAX_ANSWER_BYTES as u64;
    let mut lines = BufReader::new(output);
    let (spinner, mut last) = (Spinner::new(&context.out), None);
    loop {
        let mut line = Vec::new();
        if (&mut lines).take(most).read_until(b'\n', &mut line).await? == 0 {
            return Ok(last);
        }
        let heard: Surveyed = serde_json::from_slice(&line)?;
        if let Surveyed::Progress { records } = &heard {
            spinner.show(format!("{} read", text::count(*records)));
        }
        last = Some(heard);
    }
}
