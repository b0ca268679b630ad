//! One task per attempt: launch, watch, end. It alone ends the attempt, in the store and as a process, in this order: nothing of the worker lives any more, all it
//! said was heard, then the row. Called by the handle (a new attempt) and by `adopt` (one that an earlier daemon started).

use std::{
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mlctl_artifacts::{ArtifactError, checkpoint, keys};
use mlctl_protocol::{
    ExitClass,
    launch::Launch,
    message::{ReportBody, ToWorker},
    result::{MAX_RESULT_BYTES, RESULT_FILE, WorkerResult},
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use super::{
    Shared,
    end::{self, Facts, Testimony, Verdict},
    executor::{Ended, Program, Signal, Spare, StartError, Worker},
    kill::{Ending, Reason},
    live::{Live, Times},
    retention,
    secret::Secret,
    uploads,
    watchdog::{self, Limits, Seen, TimeLimit},
};
use crate::{
    domain::{Command, Exit, Fence, Intent, Job, JobState, causes},
    store::{Claimed, StoreError},
};

/// How long to listen to what a dead worker had still said.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// How long storage may take to say whether a result is there.
pub(super) const STORAGE_LIMIT: Duration = Duration::from_secs(20);

/// Pauses between tries to put an end on record.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Launches a claimed attempt and stays with it to its end.
pub(super) async fn launch(
    shared: Arc<Shared>,
    live: Arc<Live>,
    claimed: Claimed,
    (secret, spare): (Secret, Option<Box<dyn Spare>>),
) {
    match begin(&shared, &live, claimed, (&secret, spare)).await {
        Ok(worker) => {
            replace(&shared, &live);
            watch(shared, live, worker).await;
        }
        Err(Some(exit)) => finish(&shared, &live, Verdict { exit, model: None, output: None }, None).await,
        Err(None) => shared.remove(&live),
    }
}

/// Starts the process and puts it on record; only then may it be told what to do. An attempt without a process on record can be given up without proof that
/// there is none: one that slipped through was never told anything and is refused when it dials.
async fn begin(
    shared: &Shared,
    live: &Live,
    claimed: Claimed,
    (secret, spare): (&Secret, Option<Box<dyn Spare>>),
) -> Result<Box<dyn Worker>, Option<Exit>> {
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
    let program = Program::of(&live.kind);
    if program == Program::Command && !shared.config.has_commands {
        return Err(Some(switched_off()));
    }
    if let Some(spare) = spare {
        let told = spare.hand_over(&launch).await;
        let worker = told.map_err(|error| Some(not_started(shared, live, &error)))?;
        engaged(shared, live, claimed, worker.as_ref()).await;
        return Ok(worker);
    }
    let kit = shared.kit(&live.kind, live.resources.cpus, &live.gpus);
    let started = shared.executor.start(&kit, &launch).await;
    let mut worker = started.map_err(|error| Some(not_started(shared, live, &error)))?;
    let process = worker.identity().clone();
    let pid = process.pid;
    match shared.store.command(fence.job, Some(fence), Command::Launched { process }).await {
        Ok(job) => {
            info!(job_id = %fence.job, attempt = %fence.attempt, pid, "job {} started, attempt {}", fence.job, fence.attempt);
            obey(live, &job);
            live.release(shared.start_message(live, claimed.spec, claimed.job.spec_digest, claimed.resume));
            Ok(worker)
        }
        Err(error) => {
            warn!(job_id = %fence.job, error = causes(&error), "a worker cannot be put on record and is ended");
            worker.signal(Signal::Kill);
            worker.exited().await;
            worker.reap().await;
            Err(match error {
                StoreError::Refused(_) | StoreError::NotFound(_) | StoreError::Stopping => None,
                // Not the job's fault: it never began.
                error => Some(Exit {
                    class: ExitClass::Preempted,
                    message: Some(format!("the start could not be put on record: {error}")),
                    hint: None,
                }),
            })
        }
    }
}

/// A process that had waited is on record with the claim, and may be told what to do at once.
async fn engaged(shared: &Shared, live: &Live, claimed: Claimed, worker: &dyn Worker) {
    let fence = live.fence;
    let pid = worker.identity().pid;
    info!(job_id = %fence.job, attempt = %fence.attempt, pid, "job {} started, attempt {}", fence.job, fence.attempt);
    live.release(shared.start_message(live, claimed.spec, claimed.job.spec_digest, claimed.resume));
    // What was asked of the job, or changed of it, between the claim and the moment from which on it is handed to the attempt.
    match shared.store.job(fence.job).await {
        Ok(found) => {
            live.retime(&found.job);
            obey(live, &found.job);
        }
        Err(error) => warn!(job_id = %fence.job, error = causes(&error), "a job that was started cannot be read"),
    }
}

/// Has another process wait for the next job of its kind.
fn replace(shared: &Arc<Shared>, live: &Live) {
    if shared.config.ahead == 0 {
        return;
    }
    let kit = shared.kit(&live.kind, live.resources.cpus, &live.gpus);
    let shared = shared.clone();
    shared.tasks.clone().spawn(async move { shared.ahead.fill(shared.executor.as_ref(), &kit).await });
}

/// What was asked of the job before anybody could hand it to the attempt.
pub(super) fn obey(live: &Live, job: &Job) {
    let JobState::Running { intent: Some(intent), .. } = &job.state else { return };
    live.end(match intent {
        Intent::Cancel => Reason::Cancelled,
        Intent::Stop => Reason::Stopped,
        Intent::Pause(_) => Reason::Paused,
        Intent::Yield { to } => Reason::Preempted { to: *to },
    });
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
            let key = match Program::of(&live.kind) {
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

/// Stays with a worker to its end. When the daemon stops first, the worker is left alone: the next daemon adopts it.
pub(super) async fn watch(shared: Arc<Shared>, live: Arc<Live>, mut worker: Box<dyn Worker>) {
    let logs = shared.logs.watch(&shared.attempt_dir(live.fence.job, live.fence.attempt));
    // Beside this task: reading a checkpoint back takes long, and a kill must not wait for it.
    let retention = AbortOnDropHandle::new(shared.tasks.spawn(retention::follow(shared.clone(), live.clone())));
    let Some(reason) = attend(&shared, &live, worker.as_ref()).await else { return };
    let ended = worker.reap().await;
    shared.vacate(&live);
    drop(retention);
    logs.finish().await;
    conclude(&shared, &live, ended, reason.as_ref()).await;
}

/// Waits for the end of the process and brings it about when it is due. `None` when the daemon stops; else why the attempt was ended, if it was.
async fn attend(shared: &Shared, live: &Live, worker: &dyn Worker) -> Option<Option<Reason>> {
    let mut changes = live.ending();
    changes.mark_changed();
    let mut ending: Option<Ending> = None;
    let grace = shared.config.grace;
    let mut times = live.times();
    // Looked for where there is a limit.
    let mut begun = None;
    loop {
        let limits_now = *times.borrow_and_update();
        let time = (limits_now != Times::default()).then(|| {
            let begun = begun.get_or_insert_with(|| Begun { age: worker.age(), at: Instant::now() });
            bound(shared, limits_now, *begun)
        });
        let time = time.flatten();
        let alarm = match &ending {
            Some(ending) => {
                let limit = if ending.is_patient() { watchdog::limit(time, Instant::now()) } else { Ok(None) };
                let limit = limit.map_err(|late| live.end(late)).unwrap_or_default();
                ending.next(grace).map(|(at, _)| limit.map_or(at, |limit| at.min(limit)))
            }
            // A reason found here comes back as a change.
            None => {
                let looked = watchdog::look(seen(live), limits(shared, live), time, Instant::now());
                looked.map_err(|late| live.end(late)).ok()
            }
        };
        tokio::select! {
            biased;
            () = worker.exited() => return Some(live.ending().borrow().clone()),
            () = shared.stop.cancelled() => return None,
            // An error cannot come: the sender is in `live`.
            _ = times.changed() => {}
            _ = changes.changed() => {
                let reason = changes.borrow_and_update().clone();
                ending = match (ending, reason) {
                    (Some(ending), Some(reason)) => Some(ending.escalate(&reason, Instant::now())),
                    (None, Some(reason)) => Some(ask(live, &reason)),
                    (ending, None) => ending,
                };
            }
            () = sleep_until(alarm.unwrap_or_else(Instant::now)), if alarm.is_some() => {
                if let Some(ending) = &mut ending
                    && let Some((at, signal)) = ending.next(grace)
                    && at <= Instant::now()
                {
                    info!(job_id = %live.fence.job, attempt = %live.fence.attempt, ?signal, "a worker is signalled");
                    worker.signal(signal);
                    ending.sent(signal);
                }
            }
        }
    }
}

/// How long the worker may be silent or idle. What a command does is not seen: it may be busy without a sign of it.
fn limits(shared: &Shared, live: &Live) -> Limits {
    let limits = shared.config.limits;
    match Program::of(&live.kind) {
        Program::Worker => limits,
        Program::Command => Limits { hang: None, ..limits },
    }
}

/// How old a worker was at a moment.
#[derive(Clone, Copy)]
struct Begun {
    age: Duration,
    at: Instant,
}

/// What an attempt's time is bounded by at this moment: its limit or its job's deadline, whichever comes first.
fn bound(shared: &Shared, times: Times, begun: Begun) -> Option<TimeLimit> {
    let (now, grace) = (Instant::now(), shared.config.grace);
    let age = begun.age + now.duration_since(begun.at);
    let limit = times.limit_seconds.map(|seconds| TimeLimit::of(seconds, age, grace, now));
    let deadline = times.deadline.map(|at| TimeLimit::until(at, shared.clock.until(at), (age, grace), now));
    limit.into_iter().chain(deadline).min_by_key(TimeLimit::ask_at)
}

/// Begins the attempt's end, with a word to the worker where there is one to say.
fn ask(live: &Live, reason: &Reason) -> Ending {
    if *reason != Reason::Finished {
        info!(job_id = %live.fence.job, attempt = %live.fence.attempt, ?reason, "an attempt is being ended");
    }
    let asked = reason.order().is_some_and(|class| live.order(ToWorker::Stop { class }));
    Ending::begin(reason, asked, Instant::now())
}

fn seen(live: &Live) -> Seen {
    let linked = live.is_linked();
    let vitals = live.vitals();
    Seen { heard_at: vitals.heard_at, moved_at: vitals.moved_at, step: vitals.progress.step, linked }
}

/// Ends an attempt of which nothing lives any more.
pub(super) async fn conclude(shared: &Shared, live: &Live, ended: Ended, reason: Option<&Reason>) {
    if timeout(LAST_WORDS_LIMIT, live.silent()).await.is_err() {
        warn!(job_id = %live.fence.job, "a dead worker's connection does not end: someone else holds it");
        live.hang_up();
    }
    let testimony = testimony(shared, live).await;
    let result = match &testimony {
        Testimony::Result(result) => Some(result.clone()),
        _ => None,
    };
    let progressed = live.vitals().progressed;
    let verdict = end::judge(Facts { ended, testimony, reason, progressed });
    if verdict.exit.class != ExitClass::Ok {
        salvage(shared, live).await;
    }
    finish(shared, live, verdict, result.as_deref()).await;
}

/// Puts the end on record, however long that takes, and forgets the attempt.
pub(super) async fn finish(shared: &Shared, live: &Live, verdict: Verdict, result: Option<&WorkerResult>) {
    let fence = live.fence;
    let Verdict { exit, model, output } = verdict;
    let (class, message) = (exit.class, exit.message.clone().unwrap_or_default());
    let command = Command::End { exit, model, output, jitter: shared.chance() };
    let mut pause = FIRST_PAUSE;
    loop {
        match put_on_record(shared, live, result, command.clone()).await {
            Ok(job) => {
                let state = job.state.name();
                info!(job_id = %fence.job, attempt = %fence.attempt, %class, state, "attempt {} of job {} ended: {class} {message}", fence.attempt, fence.job);
                break;
            }
            // Someone else has ended it: this attempt had lost the job.
            Err(error @ (StoreError::Refused(_) | StoreError::NotFound(_))) => {
                info!(job_id = %fence.job, attempt = %fence.attempt, error = causes(&error), "an end came too late");
                break;
            }
            // The next daemon finds the worker dead and ends the attempt.
            Err(StoreError::Stopping) => return,
            Err(error) => {
                error!(job_id = %fence.job, error = causes(&error), "an end cannot be put on record yet");
                if shared.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    shared.remove(live);
    uploads::clear(shared, fence).await;
    if live.has_saved() {
        retention::tidy(shared, fence.job, live.keep).await;
    }
}

/// The end, and before it in the same transaction what the worker said at last: its result, whose metrics are the job's, and how far it came.
async fn put_on_record(
    shared: &Shared,
    live: &Live,
    result: Option<&WorkerResult>,
    end: Command,
) -> Result<Job, StoreError> {
    let fence = live.fence;
    let (beat, report) = {
        let vitals = live.vitals();
        // One that came as a file alone, since no daemon listened when the worker said it, is the next report.
        let seq = vitals.left.result.or_else(|| vitals.result.is_none().then(|| vitals.acked.saturating_add(1)));
        (vitals.left.beat.clone(), result.zip(seq))
    };
    let beat = async {
        match beat {
            Some(beat) => shared.store.heartbeat(beat).await,
            None => Ok(()),
        }
    };
    let report = async {
        let Some((result, seq)) = report else { return Ok(()) };
        let body = ReportBody::Finished { result: Box::new(result.clone()) };
        shared.store.report(fence, seq, body).await.map(|_| ())
    };
    // Asked for in this order at once, so that the writer finds them together.
    let (beat, report, ended) = tokio::join!(biased; beat, report, shared.store.command(fence.job, Some(fence), end));
    if ended.is_ok()
        && let Err(error) = beat.and(report)
    {
        warn!(job_id = %fence.job, error = causes(&error), "what a worker said at last could not be kept");
    }
    ended
}

/// Whether an attempt's result is in its file, and so known to the next daemon whatever becomes of this one.
pub(super) fn has_result(shared: &Shared, fence: Fence) -> bool {
    let file = shared.attempt_dir(fence.job, fence.attempt).join(RESULT_FILE);
    std::fs::symlink_metadata(file).is_ok_and(|found| found.is_file() && found.len() > 0)
}

/// What the worker left behind: the file, which it writes first, else the report.
async fn testimony(shared: &Shared, live: &Live) -> Testimony {
    let path = shared.attempt_dir(live.fence.job, live.fence.attempt).join(RESULT_FILE);
    let read =
        tokio::task::spawn_blocking(move || read_result(&path)).await.unwrap_or_else(|error| Err(error.to_string()));
    let result = match read {
        Ok(Some(result)) => result,
        Ok(None) => match live.vitals().result.clone() {
            Some(result) => result,
            None => return Testimony::None,
        },
        Err(problem) => return Testimony::Lie(format!("its result file is not understood: {problem}")),
    };
    match end::examine(result, live.fence, &live.kind, &live.storage) {
        Testimony::Result(result) if result.class == ExitClass::Ok => match is_published(shared, &result).await {
            Ok(true) => Testimony::Result(result),
            Ok(false) => Testimony::Lie("it reported success, and what it reported is not in storage".into()),
            Err(error) => {
                warn!(job_id = %live.fence.job, error, "a result is taken on the worker's word: storage does not answer");
                Testimony::Result(result)
            }
        },
        testimony => testimony,
    }
}

/// The file is the worker's: it is read with a limit, and only if it is a file.
fn read_result(path: &Path) -> Result<Option<WorkerResult>, String> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(|error| error.to_string())?;
    let file = match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is not a file".into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_RESULT_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.is_empty() {
        // The power went before it was on disk.
        return Ok(None);
    }
    if bytes.len() as u64 > MAX_RESULT_BYTES {
        return Err(format!("it is larger than {MAX_RESULT_BYTES} bytes"));
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string())
}

/// Whether what a successful worker claims is in storage.
async fn is_published(shared: &Shared, result: &WorkerResult) -> Result<bool, String> {
    let look = async {
        let mut sizes = Vec::new();
        if let Some(model) = &result.model {
            sizes.push(shared.artifacts.open(&model.uri)?.join(keys::MODEL_CONFIG)?.size().await?);
        }
        if let Some(output) = &result.output {
            sizes.push(shared.artifacts.open(&output.uri)?.size().await?);
        }
        Ok::<_, ArtifactError>(sizes.iter().all(Option::is_some))
    };
    match timeout(STORAGE_LIMIT, look).await {
        Ok(found) => found.map_err(|error| causes(&error)),
        Err(_) => Err("no answer in time".into()),
    }
}

/// Puts checkpoints on record that became durable while no daemon heard of it: their steps would be lost.
async fn salvage(shared: &Shared, live: &Live) {
    let fence = live.fence;
    let found = async {
        let attempt = shared.artifacts.open(&live.storage.attempt_uri)?;
        checkpoint::list(&attempt).await
    };
    let found = match timeout(STORAGE_LIMIT, found).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return warn!(job_id = %fence.job, error = causes(&error), "checkpoints cannot be looked for"),
        Err(_) => return warn!(job_id = %fence.job, "checkpoints cannot be looked for: storage does not answer"),
    };
    let known = match shared.store.checkpoints(fence.job).await {
        Ok(known) => known,
        Err(error) => return warn!(job_id = %fence.job, error = causes(&error), "checkpoints cannot be looked for"),
    };
    let newest = known.iter().filter(|(attempt, _)| *attempt == fence.attempt).map(|(_, known)| known.step).max();
    for damage in &found.damaged {
        warn!(job_id = %fence.job, error = causes(damage), "a checkpoint nobody had reported is damaged");
    }
    let mut missed = found.found;
    missed.retain(|checkpoint| newest.is_none_or(|newest| checkpoint.step > newest));
    missed.sort_by_key(|checkpoint| checkpoint.step);
    for checkpoint in missed {
        let step = checkpoint.step;
        let command = Command::Checkpointed { checkpoint: checkpoint.clone() };
        match shared.store.command(fence.job, Some(fence), command).await {
            Ok(_) => {
                info!(job_id = %fence.job, step, "a checkpoint nobody had reported is put on record");
                live.saved(checkpoint);
            }
            Err(error) => {
                return debug!(job_id = %fence.job, error = causes(&error), "a checkpoint is not put on record");
            }
        }
    }
}

/// The folder of an attempt.
pub(super) fn dir(attempts_dir: &Path, job: mlctl_protocol::JobId, attempt: mlctl_protocol::AttemptNumber) -> PathBuf {
    attempts_dir.join(job.to_string()).join(attempt.to_string())
}
