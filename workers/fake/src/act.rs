//! Runs a script on the main thread while the link lives on the runtime's only worker thread, as a real worker does. State is one
//! number, the step, saved in checkpoints and taken up again.

use std::{
    io::{self, Write},
    ops::ControlFlow,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mlctl_artifacts::{
    ArtifactError, Stores, blake3_hex,
    checkpoint::{self, Header, Part},
    keys,
    manifest::Role,
    publish,
};
use mlctl_link::{Handle, LinkError, Order};
use mlctl_protocol::{
    ExitClass, FencingToken,
    launch::Launch,
    message::{ReportBody, Start, StopClass},
    progress::{MetricPoint, Metrics, Progress},
    result::{CheckpointRef, ModelRef, OutputRef, WorkerResult},
    spec::Work,
};
use tokio::runtime::Runtime;

use crate::{
    lie,
    script::{Lie, Step},
};

/// The largest checkpoint taken up, in bytes.
const MAX_CHECKPOINT_BYTES: u64 = 1024 * 1024;

/// Steps between checkpoints where the spec does not say.
const DEFAULT_EVERY: u64 = 5;

/// How a script ends.
#[derive(Debug)]
pub enum End {
    /// With a result, to be reported.
    Result(Box<WorkerResult>),
    /// With an exit code and without a word.
    Silent(u8),
}

/// What a step says about the rest of the script.
type Flow = ControlFlow<End>;

/// The fake at work.
pub struct Actor<'a> {
    /// The hand-over.
    pub launch: &'a Launch,
    /// The work.
    pub start: &'a Start,
    /// The link.
    pub handle: Handle,
    /// Where the link lives.
    pub runtime: &'a Runtime,
    stores: Stores,
    token: FencingToken,
    step: u64,
    steps: u64,
    saved: Option<CheckpointRef>,
    deaf: bool,
    loss: f64,
}

impl<'a> Actor<'a> {
    /// A fake that has been given its work.
    pub fn new(launch: &'a Launch, start: &'a Start, handle: Handle, runtime: &'a Runtime) -> Self {
        let (stores, token) = (stores(launch, start), start.token);
        Self { launch, start, handle, runtime, stores, token, step: 0, steps: 0, saved: None, deaf: false, loss: 1.0 }
    }

    /// Takes up the best checkpoint, then runs the script to its end.
    pub fn run(mut self, script: Vec<Step>) -> End {
        if let Flow::Break(end) = self.resume() {
            return end;
        }
        for step in script {
            if let Flow::Break(end) = self.act(step) {
                return end;
            }
        }
        self.publish()
    }

    fn act(&mut self, step: Step) -> Flow {
        match step {
            Step::Obey => self.work(10, Duration::from_millis(5)),
            Step::Work(steps, length) => self.work(steps, length),
            Step::Sleep(length) => self.wait(length),
            Step::Hang => self.hang(),
            Step::HangAlive => loop {
                sleep(Duration::from_secs(3600));
            },
            Step::Exit(code) => Flow::Break(End::Silent(code)),
            Step::Signal(number) => die(number),
            Step::Panic => {
                #[expect(clippy::panic, reason = "that is the order")]
                {
                    panic!("the script says so")
                }
            }
            Step::Flood(bytes) => self.must(flood(bytes)),
            Step::IgnoreTerm => {
                self.deaf = true;
                Flow::Continue(())
            }
            Step::Lie(lie) => self.lie(lie),
            Step::Fail(class, message) => self.end(class, message),
            Step::SpawnChild => self.must(spawn_child()),
            Step::Loss(factor) => {
                self.loss = factor;
                Flow::Continue(())
            }
            Step::FailAttempts(count) if self.start_attempt() <= count => die(9),
            Step::FailAttempts(_) => Flow::Continue(()),
        }
    }

    fn start_attempt(&self) -> u32 {
        self.launch.attempt.0
    }

    fn resume(&mut self) -> Flow {
        let mut skipped = Vec::new();
        for candidate in &self.start.resume {
            let read = self.runtime.block_on(checkpoint::read(&self.stores, candidate, MAX_CHECKPOINT_BYTES));
            let step = read.map_err(|error| error.to_string()).and_then(|found| {
                let state = found.part(keys::CHECKPOINT_STATE).ok_or("it has no state.json")?;
                serde_json::from_slice::<u64>(state).map_err(|error| error.to_string())
            });
            match step {
                Ok(step) => {
                    self.step = step;
                    self.saved = Some(candidate.clone());
                    say(&format!("resumed from step {step}"));
                    return self.report(ReportBody::Resumed { from: candidate.clone(), skipped });
                }
                Err(why) => skipped.push(format!("{}: {why}", candidate.uri)),
            }
        }
        Flow::Continue(())
    }

    fn work(&mut self, steps: u64, length: Duration) -> Flow {
        self.steps = steps;
        let every = self.start.spec.checkpoint.every_steps.unwrap_or(DEFAULT_EVERY);
        self.show_progress();
        while self.step < steps {
            sleep(length);
            self.step += 1;
            say(&format!("step {} of {steps}", self.step));
            self.show_progress();
            self.report_metrics(self.step)?;
            if self.step.is_multiple_of(every) || self.step == steps {
                self.save()?;
            }
            self.follow_orders()?;
        }
        Flow::Continue(())
    }

    fn wait(&mut self, length: Duration) -> Flow {
        let until = Instant::now() + length;
        loop {
            self.follow_orders()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Flow::Continue(());
            }
            sleep(left.min(Duration::from_millis(10)));
        }
    }

    /// Blocks the only thread that could send a heartbeat, as a deadlock in a driver would, and this one.
    fn hang(&self) -> Flow {
        self.runtime.spawn(async {
            loop {
                sleep(Duration::from_secs(3600));
            }
        });
        loop {
            sleep(Duration::from_secs(3600));
        }
    }

    fn follow_orders(&mut self) -> Flow {
        match self.handle.order() {
            None => Flow::Continue(()),
            Some(Order::Checkpoint) => self.save(),
            Some(Order::Refused(reason)) => self.end(ExitClass::Lost, reason),
            Some(_) if self.deaf => Flow::Continue(()),
            Some(Order::Stop(class)) => {
                self.save()?;
                let class = match class {
                    StopClass::Preempted => ExitClass::Preempted,
                    StopClass::Cancelled => ExitClass::Cancelled,
                    StopClass::Timeout => ExitClass::Timeout,
                };
                self.end(class, "stopped by order".into())
            }
            Some(Order::LeaseLost) => {
                self.save()?;
                self.end(ExitClass::Lost, "no daemon for the time of the lease".into())
            }
        }
    }

    fn save(&mut self) -> Flow {
        if self.saved.as_ref().is_some_and(|saved| saved.step == self.step) {
            return Flow::Continue(());
        }
        match self.runtime.block_on(self.write_checkpoint()) {
            Ok(checkpoint) => {
                self.saved = Some(checkpoint.clone());
                self.report(ReportBody::Checkpoint { checkpoint })
            }
            Err(error) => self.end(error.storage_class(), error.to_string()),
        }
    }

    async fn write_checkpoint(&self) -> Result<CheckpointRef, ArtifactError> {
        let part = |name: &str, role, bytes: Vec<u8>| Part { name: name.into(), role, bytes };
        let parts = vec![
            part(keys::CHECKPOINT_MODEL, Role::Model, empty_safetensors().to_vec()),
            part(keys::CHECKPOINT_STATE, Role::State, self.step.to_string().into_bytes()),
        ];
        let header = Header {
            job: self.launch.job,
            attempt: self.launch.attempt,
            token: self.start.token,
            step: self.step,
            epoch: 0,
            // The fake has no clock: what it writes is the same every time.
            created_at: "2026-01-01T00:00:00Z".into(),
            spec_digest: self.start.spec_digest.clone(),
            dataset_digest: blake3_hex(b""),
            parent: self.saved.as_ref().map(|saved| saved.uri.clone()),
            metrics: self.metrics(),
        };
        let attempt = self.stores.open(&self.start.storage.attempt_uri)?;
        checkpoint::write(&attempt, header, parts).await
    }

    fn lie(&mut self, lie: Lie) -> Flow {
        let caught = match lie {
            Lie::Token => {
                self.token = FencingToken(self.token.0 + 1);
                return Flow::Continue(());
            }
            Lie::StepBackwards => {
                let before = self.step.saturating_sub(1);
                self.handle.progress(Progress { step: Some(before), ..Progress::default() }, "cpu");
                return self.report_metrics(before);
            }
            Lie::Attempt => self.runtime.block_on(lie::dial_as_another_attempt(self.launch)),
            Lie::GarbageFrame => self.runtime.block_on(lie::send_garbage(self.launch)),
            Lie::HugeFrame => self.runtime.block_on(lie::send_huge(self.launch)),
            Lie::OtherVersion => self.runtime.block_on(lie::dial_in_another_version(self.launch)),
            Lie::News => self.runtime.block_on(lie::send_news(self.launch)),
        };
        match caught {
            Ok(true) => Flow::Continue(()),
            Ok(false) => self.end(ExitClass::Crash, format!("the daemon believed a lie: {lie:?}")),
            Err(error) => self.end(ExitClass::Crash, format!("could not lie: {error}")),
        }
    }

    /// A result for the kind of work, in the place for it.
    fn publish(&self) -> End {
        let done = self.runtime.block_on(async {
            let mut result = self.result(ExitClass::Ok, None);
            match &self.start.spec.work {
                Work::Train(_) => {
                    let uri = self.start.storage.model_uri.clone();
                    let model = (keys::MODEL.to_owned(), Bytes::from_static(empty_safetensors()));
                    let files = vec![model, (keys::MODEL_CONFIG.to_owned(), Bytes::from_static(b"{}"))];
                    publish::folder(&self.stores.open(&uri)?, files, keys::MODEL_CONFIG).await?;
                    result.model = Some(ModelRef { uri, digest: blake3_hex(b"") });
                }
                work @ (Work::Infer(_) | Work::Evaluate(_)) => {
                    let name = if matches!(work, Work::Infer(_)) { "predictions.jsonl" } else { "evaluation.json" };
                    let at = self.stores.open(&self.start.storage.output_uri)?.join(name)?;
                    publish::file(&at, Bytes::new()).await?;
                    result.output = Some(OutputRef { uri: at.uri().to_owned(), records: 0, errors: 0 });
                }
                Work::Retrain(_) | Work::Command(_) => {}
            }
            Ok(result)
        });
        End::Result(Box::new(
            done.unwrap_or_else(|error: ArtifactError| self.result(error.storage_class(), Some(error.to_string()))),
        ))
    }

    fn show_progress(&self) {
        let progress = Progress { step: Some(self.step), steps: Some(self.steps), ..Progress::default() };
        self.handle.progress(progress, "cpu");
    }

    fn report_metrics(&self, step: u64) -> Flow {
        self.report(ReportBody::Metrics { points: vec![MetricPoint { step, epoch: 0, values: self.metrics() }] })
    }

    fn metrics(&self) -> Metrics {
        #[expect(clippy::cast_precision_loss, reason = "a made-up loss")]
        let loss = self.loss / (1.0 + self.step as f64);
        [("train_loss".to_owned(), loss)].into()
    }

    fn report(&self, body: ReportBody) -> Flow {
        match self.handle.report(body) {
            Ok(()) => Flow::Continue(()),
            Err(LinkError::Refused(reason)) => self.end(ExitClass::Lost, reason),
            Err(error) => self.end(ExitClass::Crash, error.to_string()),
        }
    }

    fn must(&self, done: io::Result<()>) -> Flow {
        match done {
            Ok(()) => Flow::Continue(()),
            Err(error) => self.end(ExitClass::Crash, error.to_string()),
        }
    }

    fn end(&self, class: ExitClass, message: String) -> Flow {
        Flow::Break(End::Result(Box::new(self.result(class, Some(message)))))
    }

    fn result(&self, class: ExitClass, message: Option<String>) -> WorkerResult {
        WorkerResult {
            v: 1,
            job: self.launch.job,
            attempt: self.launch.attempt,
            token: self.token,
            class,
            message,
            hint: None,
            metrics: self.metrics(),
            model: None,
            output: None,
        }
    }
}

fn stores(launch: &Launch, start: &Start) -> Stores {
    Stores::with_s3(launch.s3.clone()).given_durable(start.storage.durable_uri.as_deref())
}

/// Dies of a signal. Some are caught once by the language's runtime, so it is sent until it works.
fn die(number: i32) -> Flow {
    let Some(signal) = rustix::process::Signal::from_named_raw(number) else { return Flow::Break(End::Silent(64)) };
    for _ in 0..100 {
        if rustix::process::kill_process(rustix::process::getpid(), signal).is_err() {
            break;
        }
        sleep(Duration::from_millis(10));
    }
    Flow::Break(End::Silent(64))
}

fn flood(bytes: u64) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let line = [b"0123456789".repeat(10), b"\n".to_vec()].concat();
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).map_or(line.len(), |left| left.min(line.len()));
        out.write_all(&line[..count])?;
        left -= count as u64;
    }
    out.flush()
}

/// A grandchild of the daemon that only the KILL of the whole group reaches.
fn spawn_child() -> io::Result<()> {
    let child =
        Command::new("/bin/sh").args(["-c", "trap '' TERM; while :; do sleep 1; done"]).stdin(Stdio::null()).spawn()?;
    say(&format!("child {}", child.id()));
    Ok(())
}

/// A safetensors file without tensors.
const fn empty_safetensors() -> &'static [u8] {
    b"\x02\0\0\0\0\0\0\0{}"
}

/// A line on standard output. That nobody reads it is no reason to die.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
