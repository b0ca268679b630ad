//! One task per attempt: it feeds the attempt's machine ([`Attempt`](super::core::Attempt)) with what happens to the process and does what the machine says, in that order.
//! It decides nothing itself. Called by the handle (a new attempt) and by `adopt` (one that an earlier daemon started).

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
};

use mlctl_protocol::{
    AttemptNumber, ExitClass, JobId,
    launch::Launch,
    message::{Heartbeat, ReportBody},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::{
    Shared,
    core::{Answer, Attempt, Effect, End, Event},
    executor::{Program, Spare, Spent, StartError, Worker},
    link,
    live::Live,
    logs::Watched,
    remains, retention,
    secret::Secret,
    uploads,
};
use crate::{
    domain::{Command, Exit, Job, causes},
    store::{Claimed, StoreError},
};

/// An attempt's task.
pub(super) struct Task {
    shared: Arc<Shared>,
    live: Arc<Live>,
    woken: watch::Receiver<()>,
    worker: Option<Box<dyn Worker>>,
    /// What its worker is to be told once its process is on record.
    claimed: Option<Claimed>,
    attended: Option<Attended>,
    /// What the kernel counted of it, once it was reaped.
    spent: Option<Spent>,
    /// Whether this daemon has started it.
    is_new: bool,
    /// Whether something was asked of its job while that was claimed.
    is_asked: bool,
}

/// What goes on beside an attempt that runs.
struct Attended {
    logs: Watched,
    /// Beside this task: reading a checkpoint back takes long, and a kill must not wait for it.
    retention: AbortOnDropHandle<()>,
}

impl Task {
    pub(super) fn new(shared: Arc<Shared>, live: Arc<Live>) -> Self {
        let woken = live.woken();
        Self {
            shared,
            live,
            woken,
            worker: None,
            claimed: None,
            attended: None,
            spent: None,
            is_new: false,
            is_asked: false,
        }
    }

    /// The task of an attempt whose worker was found alive.
    pub(super) fn of(shared: Arc<Shared>, live: Arc<Live>, worker: Box<dyn Worker>) -> Self {
        live.runs_as(worker.identity());
        Self { worker: Some(worker), ..Self::new(shared, live) }
    }

    /// Launches a claimed attempt and stays with it to its end. `is_asked` when something was asked of its job while that was claimed.
    pub(super) async fn launch(
        mut self,
        claimed: Claimed,
        (secret, spare): (Secret, Option<Box<dyn Spare>>),
        is_asked: bool,
    ) {
        self.is_asked = is_asked;
        let event = self.start(claimed, &secret, spare).await;
        self.run(event).await;
    }

    /// Goes on from an event to the attempt's end. When the daemon stops first, the worker is left alone: the next daemon adopts it.
    pub(super) async fn run(mut self, first: Event) {
        let mut event = first;
        loop {
            let mut todo = VecDeque::from(self.live.step(event));
            while let Some(effect) = todo.pop_front() {
                if let Some(answer) = self.perform(effect).await {
                    todo.extend(self.live.step(answer));
                }
            }
            if self.live.with(Attempt::is_over) {
                return;
            }
            event = self.next().await;
        }
    }

    /// What happens next to the process, or that it is time to look.
    async fn next(&mut self) -> Event {
        let (alarm, is_attended, heeds_stop) =
            self.live.with(|core| (core.alarm(), core.is_attended(), core.heeds_stop()));
        let worker = self.worker.as_deref();
        let exited = async {
            match worker {
                Some(worker) if is_attended => worker.exited().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = exited => Event::Exited,
            () = self.shared.stop.cancelled(), if heeds_stop => Event::Stopping,
            // An error cannot come: the sender is in `live`.
            _ = self.woken.changed() => self.tick(),
            () = sleep_until(alarm.map_or_else(Instant::now, Instant::from_std)), if alarm.is_some() => self.tick(),
        }
    }

    fn tick(&self) -> Event {
        let needs_age = self.live.with(Attempt::needs_age);
        let age = self.worker.as_deref().filter(|_| needs_age).map(Worker::age);
        Event::Tick { wall: self.shared.clock.now(), age }
    }

    /// Does what the machine says, and says how it went where that is asked for.
    async fn perform(&mut self, effect: Effect) -> Option<Event> {
        let fence = self.live.fence;
        match effect {
            Effect::RecordLaunch => return Some(Event::Launched(self.record_launch().await)),
            Effect::Attend => self.attend(),
            Effect::Signal(signal) => {
                info!(job_id = %fence.job, attempt = %fence.attempt, ?signal, "a worker is signalled");
                if let Some(worker) = &self.worker {
                    worker.signal(signal);
                }
            }
            Effect::Reap => {
                let worker = self.worker.as_mut()?;
                worker.exited().await;
                let ended = worker.reap().await;
                self.spent = worker.spent();
                return Some(Event::Reaped(ended));
            }
            Effect::Vacate => {
                self.shared.vacate();
                if let Some(Attended { logs, retention }) = self.attended.take() {
                    drop(retention);
                    logs.finish().await;
                }
            }
            Effect::ReadResult => return Some(Event::Read(remains::read(&self.shared, fence).await)),
            Effect::AskStorage(result) => {
                let found = remains::is_published(&self.shared, &result).await;
                if let Err(error) = &found {
                    warn!(job_id = %fence.job, error, "a result is taken on the worker's word: storage does not answer");
                }
                return Some(Event::Published(found));
            }
            Effect::Salvage => {
                remains::salvage(&self.shared, &self.live).await;
                return Some(Event::Salvaged);
            }
            Effect::Record(end) => return Some(Event::Recorded(self.record(*end).await)),
            Effect::ReadJob if self.is_asked => self.catch_up().await,
            Effect::Forget => self.forget().await,
            // What is about a connection was done when it was decided, or is the connection's own.
            _ => {}
        }
        None
    }

    /// Starts the process, or engages one that has waited.
    async fn start(&mut self, claimed: Claimed, secret: &Secret, spare: Option<Box<dyn Spare>>) -> Event {
        let (shared, live) = (self.shared.clone(), self.live.clone());
        let fence = live.fence;
        let launch = Launch {
            v: 1,
            socket: shared.config.workers_socket.clone(),
            job: fence.job,
            attempt: fence.attempt,
            secret: secret.reveal().to_owned(),
            attempt_dir: shared.attempt_dir(fence.job, fence.attempt),
            s3: shared.config.s3.clone(),
        };
        if Program::of(&live.origin.kind) == Program::Command && !shared.tuning().has_commands {
            return Event::NotStarted(switched_off());
        }
        self.is_new = true;
        let is_spare = spare.is_some();
        let started = match spare {
            Some(spare) => spare.hand_over(&launch).await,
            None => shared.executor.start(&shared.kit_of(&live), &launch).await,
        };
        match started {
            Ok(mut worker) => {
                worker.confine(&live.origin.resources);
                live.runs_as(worker.identity());
                self.worker = Some(worker);
            }
            Err(error) => return Event::NotStarted(not_started(&shared, &live, &error)),
        }
        if !is_spare {
            self.claimed = Some(claimed);
            return Event::Started;
        }
        self.say_started();
        live.prepare(shared.start_message(&live, claimed.spec, claimed.job.spec_digest, claimed.resume));
        Event::Engaged
    }

    /// Puts the process on record; only then may it be told what to do.
    async fn record_launch(&mut self) -> Answer<()> {
        let fence = self.live.fence;
        let (Some(worker), Some(claimed)) = (&self.worker, self.claimed.take()) else { return Answer::Stale };
        let process = worker.identity().clone();
        match self.shared.store.command(fence.job, Some(fence), Command::Launched { process }).await {
            Ok(job) => {
                self.say_started();
                // As of an edit between the claim and the moment from which on one is handed to the attempt.
                self.live.retime(&job);
                self.live.obey(&job);
                let Claimed { job, spec, resume, .. } = claimed;
                self.live.prepare(self.shared.start_message(&self.live, spec, job.spec_digest, resume));
                Answer::Done(())
            }
            Err(error) => {
                warn!(job_id = %fence.job, error = causes(&error), "a worker cannot be put on record and is ended");
                link::answered(Err(error))
            }
        }
    }

    /// What was asked of the job, or changed of it, between the claim and the moment from which on it is handed to the attempt.
    async fn catch_up(&self) {
        match self.shared.store.job(self.live.fence.job).await {
            Ok(found) => {
                self.live.retime(&found.job);
                self.live.obey(&found.job);
            }
            Err(error) => {
                warn!(job_id = %self.live.fence.job, error = causes(&error), "a job that was started cannot be read");
            }
        }
    }

    fn say_started(&self) {
        let fence = self.live.fence;
        let pid = self.worker.as_ref().map(|worker| worker.identity().pid);
        info!(job_id = %fence.job, attempt = %fence.attempt, pid, "job {} started, attempt {}", fence.job, fence.attempt);
    }

    fn attend(&mut self) {
        let (shared, live) = (&self.shared, &self.live);
        if self.is_new {
            shared.replace(live);
        }
        let logs = shared.logs.watch(&shared.attempt_dir(live.fence.job, live.fence.attempt));
        let retention = AbortOnDropHandle::new(shared.tasks.spawn(retention::follow(shared.clone(), live.clone())));
        self.attended = Some(Attended { logs, retention });
    }

    /// The end, and before it in the same transaction what the worker said at last: its result, whose metrics are the job's, and how far it came.
    async fn record(&self, end: End) -> Answer<()> {
        let (shared, live, fence) = (&self.shared, &self.live, self.live.fence);
        let End { exit, model, output, beat, report } = end;
        let (class, message) = (exit.class, exit.message.clone().unwrap_or_default());
        let beat = counted(beat, self.spent, || live.heard());
        let beat = async {
            match beat {
                Some(heartbeat) => shared.store.heartbeat(link::beat(shared, live, heartbeat, true)).await,
                None => Ok(()),
            }
        };
        let report = async {
            let Some((seq, result)) = report else { return Ok(()) };
            shared.store.report(fence, seq, ReportBody::Finished { result }).await.map(|_| ())
        };
        let end = Command::End { exit, model, output, jitter: shared.chance() };
        // Asked for in this order at once, so that the writer finds them together.
        let ended = shared.store.command(fence.job, Some(fence), end);
        let (beat, report, ended) = tokio::join!(biased; beat, report, ended);
        if ended.is_ok()
            && let Err(error) = beat.and(report)
        {
            warn!(job_id = %fence.job, error = causes(&error), "what a worker said at last could not be kept");
        }
        match &ended {
            Ok(job) => {
                let state = job.state.name();
                info!(job_id = %fence.job, attempt = %fence.attempt, %class, state, "attempt {} of job {} ended: {class} {message}", fence.attempt, fence.job);
            }
            Err(error @ (StoreError::Refused(_) | StoreError::NotFound(_))) => {
                info!(job_id = %fence.job, attempt = %fence.attempt, error = causes(error), "an end came too late");
            }
            Err(StoreError::Stopping) => {}
            Err(error) => error!(job_id = %fence.job, error = causes(error), "an end cannot be put on record yet"),
        }
        link::answered(ended.map(|_: Job| ()))
    }

    async fn forget(&self) {
        let (shared, live) = (&self.shared, &self.live);
        shared.remove(live);
        uploads::clear(shared, live.fence).await;
        if live.has_saved() {
            retention::tidy(shared, live.fence.job, &live.keep).await;
        }
    }
}

/// The last heartbeat that is kept: with what the kernel counted, where it did, in the place of what the worker said of itself.
fn counted(
    unkept: Option<Heartbeat>,
    spent: Option<Spent>,
    newest: impl FnOnce() -> Option<Heartbeat>,
) -> Option<Heartbeat> {
    let Some(Spent { cpu_ms, peak_bytes }) = spent else { return unkept };
    let heartbeat = unkept.or_else(newest)?;
    let peak_rss_bytes = peak_bytes.unwrap_or(heartbeat.peak_rss_bytes);
    Some(Heartbeat { cpu_ms, peak_rss_bytes, ..heartbeat })
}

/// The job was taken when command jobs were allowed.
fn switched_off() -> Exit {
    Exit {
        class: ExitClass::Spec,
        message: Some("command jobs are switched off".into()),
        hint: Some("[commands] in mld.toml switches them on; `mlctl retry` then tries it again".into()),
    }
}

fn not_started(shared: &Shared, live: &Live, error: &StartError) -> Exit {
    error!(job_id = %live.fence.job, error = causes(error), "a worker cannot be started");
    let hint = match error {
        StartError::Command { command, .. } => {
            let key = match Program::of(&live.origin.kind) {
                Program::Worker => "workers.command",
                Program::Command => "commands.executable",
            };
            format!("check {key} in mld.toml: {} must be an executable file", command.display())
        }
        _ => format!("check the disk that holds {}", shared.config.attempts_dir.display()),
    };
    let class = if matches!(error, StartError::Folder { .. }) { ExitClass::Disk } else { ExitClass::Crash };
    Exit { class, message: Some(format!("the worker could not be started: {}", causes(error))), hint: Some(hint) }
}

/// The folder of an attempt.
pub(super) fn dir(attempts_dir: &Path, job: JobId, attempt: AttemptNumber) -> PathBuf {
    dir_of_job(attempts_dir, job).join(attempt.to_string())
}

/// The folder of a job's attempts.
pub(super) fn dir_of_job(attempts_dir: &Path, job: JobId) -> PathBuf {
    attempts_dir.join(job.to_string())
}
