//! The workers' socket: who dials is checked, told what to do, listened to. What a worker says is input: it is bounded, checked, and taken only while its
//! attempt holds the job. Called by the daemon's lifecycle; talks to the attempts through [`Live`](super::live::Live). It ends nobody itself.

use std::{io, sync::Arc, time::Duration};

use mlctl_link::frame::{DaemonStream, FrameError, FrameReader, FrameWriter};
use mlctl_protocol::{
    ExitClass,
    message::{FromWorker, Heartbeat, Hello, Report, ReportBody, ToWorker},
};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Shared, attempt, end,
    kill::Reason,
    live::{Connected, Live},
};
use crate::{
    domain::{Refusal, causes},
    store::{Beat, StoreError, Used},
};

/// Connections held at once. Only processes of the daemon's own user can connect.
const MAX_CONNECTIONS: usize = 4096;

/// How long a connection may take to say who it is, and to be answered.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a heartbeat waits for a newer one before it is stored.
const BEAT_PAUSE: Duration = Duration::from_millis(200);

/// Warnings of an attempt that are kept: each is an event, and events are for ever.
const MAX_WARNINGS: u32 = 1000;

/// A pause after a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Reader = FrameReader<ReadHalf<UnixStream>, FromWorker>;
type Writer = FrameWriter<WriteHalf<UnixStream>, ToWorker>;

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the worker said what it must not say: {0}")]
    Forbidden(String),
    #[error("nothing was said in time")]
    Slow,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the attempt no longer holds the job")]
    Stale,
    #[error("the report could not be stored")]
    Store(#[source] StoreError),
}

/// Serves the workers' socket until `stop`.
pub(super) async fn serve(shared: Arc<Shared>, listener: UnixListener, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (shared, stop) = (shared.clone(), stop.clone());
                    shared.tasks.clone().spawn(async move {
                        let _permit = permit;
                        stop.run_until_cancelled(connection(&shared, stream)).await;
                    });
                }
                Err(error) => {
                    warn!(%error, "a worker's connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

async fn connection(shared: &Shared, stream: UnixStream) {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == rustix::process::geteuid().as_raw() => {}
        Ok(peer) => return warn!(uid = peer.uid(), "a connection of another user to the workers' socket was closed"),
        Err(error) => return warn!(%error, "a connection to the workers' socket does not say whose it is"),
    }
    let (mut reader, mut writer) = DaemonStream::new(stream).split();
    let greeted = timeout(HELLO_LIMIT, greet(shared, &mut reader)).await.unwrap_or(Err(LinkError::Slow));
    match greeted {
        Ok(Greeting::Known(live, hello)) => {
            let connected = live.connect();
            let result = converse(shared, &live, &hello, connected, (reader, writer)).await;
            let (job_id, attempt) = (live.fence.job, live.fence.attempt);
            match result {
                Ok(()) => debug!(%job_id, %attempt, "a worker hung up"),
                Err(error @ LinkError::Frame(FrameError::Io(_))) => {
                    debug!(%job_id, %attempt, error = causes(&error), "a worker's connection broke");
                }
                Err(error) => warn!(%job_id, %attempt, error = causes(&error), "a worker's connection was closed"),
            }
        }
        Ok(Greeting::Refused(reason)) => {
            info!(reason, "a worker was refused");
            let _ = writer.send(ToWorker::Refused { reason }).await;
        }
        Ok(Greeting::Gone) => {}
        Err(error) => warn!(error = causes(&error), "a connection to the workers' socket was closed"),
    }
}

/// Who dials.
enum Greeting {
    Known(Arc<Live>, Hello),
    Refused(String),
    /// It hung up without a word.
    Gone,
}

async fn greet(shared: &Shared, reader: &mut Reader) -> Result<Greeting, LinkError> {
    let hello = match reader.recv().await {
        Ok(Some(FromWorker::Hello(hello))) => hello,
        Ok(Some(_)) => return Err(LinkError::Forbidden("something before its hello".into())),
        Ok(None) => return Ok(Greeting::Gone),
        Err(error @ FrameError::Version { .. }) => return Ok(Greeting::Refused(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    // One answer to every wrong hello: which part of it is wrong is nobody's business.
    let known = shared.live(hello.job).filter(|live| live.fence.attempt == hello.attempt);
    match known {
        Some(live) if live.secret.fits(&hello.secret) => Ok(Greeting::Known(live, hello)),
        _ => Ok(Greeting::Refused(format!("attempt {} of job {} is not under way here", hello.attempt, hello.job))),
    }
}

/// From the answer to the hello to the end of the connection.
async fn converse(
    shared: &Shared,
    live: &Arc<Live>,
    hello: &Hello,
    mut connected: Connected,
    (mut reader, mut writer): (Reader, Writer),
) -> Result<(), LinkError> {
    let (job_id, attempt) = (live.fence.job, live.fence.attempt);
    debug!(%job_id, %attempt, worker = hello.worker, started = hello.started, "a worker dialled");
    let close = connected.close.clone();
    let (answers, answering) = mpsc::channel(1);
    let (beats, mut beating) = watch::channel(None);
    let conversation = async {
        if !answer(live, hello, &mut writer).await? {
            return Ok(());
        }
        tokio::select! {
            heard = listen(shared, live, &mut reader, (&answers, &beats)) => heard,
            told = tell(&mut writer, &mut connected.orders, answering) => told,
            kept = keep_beats(shared, live, &mut beating) => kept,
        }
    };
    let mut result = close.run_until_cancelled(conversation).await.unwrap_or(Ok(()));
    // How far it came at last, which its final heartbeat said.
    if let Some(heartbeat) = unkept(&mut beating) {
        let beat = beat(shared, live, heartbeat);
        if live.vitals().result.is_some() {
            live.vitals().left.beat = Some(beat);
        } else {
            result = result.and(keep_beat(shared, live, beat).await);
        }
    }
    if matches!(result, Err(LinkError::Stale)) {
        live.end(Reason::Stale);
        let reason = "the attempt no longer holds the job".to_owned();
        let _ = writer.send(ToWorker::Refused { reason }).await;
    }
    live.disconnect(&connected);
    result
}

/// Tells the worker what to do, or where it stands. Whether there is more to say to it.
async fn answer(live: &Live, hello: &Hello, writer: &mut Writer) -> Result<bool, LinkError> {
    if hello.started {
        let ending = live.ending().borrow().clone();
        let acked = live.vitals().acked;
        writer.send(ToWorker::Welcome { acked }).await?;
        // Asked for while nobody was there to hear it.
        if let Some(class) = ending.as_ref().and_then(Reason::order) {
            writer.send(ToWorker::Stop { class }).await?;
        }
        return Ok(true);
    }
    let mut ending = live.ending();
    let first = timeout(START_LIMIT, async {
        tokio::select! {
            biased;
            _ = ending.wait_for(Option::is_some) => ToWorker::Refused { reason: "the attempt is being ended".into() },
            start = live.start() => ToWorker::Start(Box::new(start.as_ref().clone())),
        }
    });
    let first = first.await.map_err(|_| LinkError::Slow)?;
    let goes_on = matches!(first, ToWorker::Start(_));
    writer.send(first).await?;
    Ok(goes_on)
}

/// Sends orders and acknowledgements. A worker that has hung up may have said things that are still to be heard: what cannot be sent any more is dropped, and the
/// end of the connection is for [`listen`] to find.
async fn tell(
    writer: &mut Writer,
    orders: &mut mpsc::Receiver<ToWorker>,
    mut answers: mpsc::Receiver<ToWorker>,
) -> Result<(), LinkError> {
    let mut broken = false;
    loop {
        let message = tokio::select! {
            Some(message) = answers.recv() => message,
            Some(message) = orders.recv() => message,
            else => std::future::pending().await,
        };
        if !broken {
            match writer.send(message).await {
                Err(FrameError::Io(error)) if error.kind() != io::ErrorKind::TimedOut => broken = true,
                sent => sent?,
            }
        }
    }
}

/// Takes what the worker says until it hangs up.
async fn listen(
    shared: &Shared,
    live: &Live,
    reader: &mut Reader,
    (answers, beats): (&mpsc::Sender<ToWorker>, &watch::Sender<Option<Heartbeat>>),
) -> Result<(), LinkError> {
    while let Some(message) = reader.recv().await? {
        match message {
            FromWorker::Heartbeat(heartbeat) => {
                live.beat(&heartbeat.progress, Instant::now());
                if let Some(reason) = super::watchdog::memory(heartbeat.rss_bytes, &live.resources) {
                    live.end(reason);
                }
                beats.send_replace(Some(heartbeat));
            }
            FromWorker::Report(report) => {
                let seq = take(shared, live, report).await?;
                // The receiver lives as long as this connection.
                let _ = answers.send(ToWorker::Ack { seq }).await;
            }
            FromWorker::Hello(_) => return Err(LinkError::Forbidden("a second hello".into())),
            FromWorker::Unknown => {}
        }
    }
    Ok(())
}

/// Takes a report and answers up to which number reports are durable.
async fn take(shared: &Shared, live: &Live, Report { seq, body }: Report) -> Result<u64, LinkError> {
    let acked = live.vitals().acked;
    if seq <= acked {
        return Ok(acked);
    }
    if let Some(lie) = end::violation(&body, live.fence, &live.kind, &live.storage) {
        live.end(Reason::Lied(lie.clone()));
        return Err(LinkError::Forbidden(lie));
    }
    let body = match bounded(live, body) {
        // What survives this daemon is kept with the end, in one transaction.
        ReportBody::Finished { result } if attempt::has_result(shared, live.fence) => {
            live.finished(seq, *result);
            return Ok(seq);
        }
        body => body,
    };
    let noted = note(&body);
    let acked = shared.store.report(live.fence, seq, body).await.map_err(|error| match error {
        StoreError::Refused(Refusal::Stale { .. } | Refusal::WrongState { .. }) => LinkError::Stale,
        error => LinkError::Store(error),
    })?;
    live.vitals().acked = acked;
    match noted {
        ReportBody::Checkpoint { checkpoint } => {
            live.saved(checkpoint);
            // By the checkpoint it may have turned out that a member of an array is not worth going on with.
            match shared.store.job(live.fence.job).await {
                Ok(found) => attempt::obey(live, &found.job),
                Err(error) => {
                    warn!(job_id = %live.fence.job, error = causes(&error), "whether the job goes on cannot be read; its next checkpoint tells");
                }
            }
        }
        ReportBody::Resumed { .. } => live.vitals().moved_at = Instant::now(),
        ReportBody::Finished { result } => {
            live.vitals().result = Some(*result);
            live.end(Reason::Finished);
        }
        _ => {}
    }
    Ok(acked)
}

/// What of a report is needed after it was stored. Points are not: they may be many.
fn note(body: &ReportBody) -> ReportBody {
    match body {
        ReportBody::Metrics { .. } | ReportBody::Warning { .. } => ReportBody::Unknown,
        body => body.clone(),
    }
}

/// A report with its texts cut to size. Warnings beyond the limit are acknowledged and not kept.
fn bounded(live: &Live, body: ReportBody) -> ReportBody {
    match body {
        ReportBody::Warning { message } => {
            let mut vitals = live.vitals();
            vitals.warnings = vitals.warnings.saturating_add(1);
            match vitals.warnings {
                warnings if warnings < MAX_WARNINGS => ReportBody::Warning { message: end::shorten(&message) },
                MAX_WARNINGS => ReportBody::Warning { message: "further warnings of this attempt are not kept".into() },
                _ => ReportBody::Metrics { points: Vec::new() },
            }
        }
        ReportBody::Resumed { from, skipped } => {
            ReportBody::Resumed { from, skipped: skipped.iter().take(100).map(|why| end::shorten(why)).collect() }
        }
        ReportBody::Finished { mut result } => {
            result.message = result.message.as_deref().map(end::shorten);
            result.hint = result.hint.as_deref().map(end::shorten);
            if result.class != ExitClass::Ok {
                result.model = None;
                result.output = None;
            }
            ReportBody::Finished { result }
        }
        body => body,
    }
}

/// Stores the newest heartbeat once in a while; the others are replaced by the last of them, and an attempt that ends soon is spared the first.
async fn keep_beats(
    shared: &Shared,
    live: &Live,
    beats: &mut watch::Receiver<Option<Heartbeat>>,
) -> Result<(), LinkError> {
    loop {
        if beats.changed().await.is_err() {
            return std::future::pending().await;
        }
        beats.mark_changed();
        tokio::time::sleep(BEAT_PAUSE).await;
        if let Some(heartbeat) = unkept(beats) {
            keep_beat(shared, live, beat(shared, live, heartbeat)).await?;
        }
    }
}

/// The newest heartbeat, if it is not yet stored.
fn unkept(beats: &mut watch::Receiver<Option<Heartbeat>>) -> Option<Heartbeat> {
    // An error says that the sender is gone: what it had sent is still there.
    if beats.has_changed().unwrap_or(true) { beats.borrow_and_update().clone() } else { None }
}

fn beat(shared: &Shared, live: &Live, heartbeat: Heartbeat) -> Beat {
    Beat {
        fence: live.fence,
        lease_until: shared.lease_until(),
        progress: heartbeat.progress,
        peak_rss_bytes: heartbeat.peak_rss_bytes,
        used: Used { cpu_ms: heartbeat.cpu_ms },
        device: heartbeat.device.chars().take(100).collect(),
    }
}

async fn keep_beat(shared: &Shared, live: &Live, beat: Beat) -> Result<(), LinkError> {
    match shared.store.heartbeat(beat).await {
        Ok(()) => {}
        Err(StoreError::Refused(_)) => return Err(LinkError::Stale),
        // The lease that counts is the one in memory; the stored one is for readers and the next daemon.
        Err(error) => warn!(job_id = %live.fence.job, error = causes(&error), "a heartbeat cannot be stored"),
    }
    Ok(())
}
