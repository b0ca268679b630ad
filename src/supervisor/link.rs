//! The workers' socket: who dials is checked, told what to do, listened to. What a worker says is input: it is bounded, checked, and taken only while its
//! attempt holds the job. Called by the daemon's lifecycle; feeds the attempts' machines through [`Live`](super::live::Live) and does what they say. It decides nothing itself.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use mlctl_link::frame::{DaemonStream, FrameError, FrameReader, FrameWriter};
use mlctl_protocol::message::{FromWorker, Heartbeat, Hello, ReportBody, ToWorker};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Shared,
    core::{Answer, Effect, Event, Why, Word},
    live::{Connected, Live},
    remains, vram,
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
    #[error("the report could not be stored: {0}")]
    NotStored(String),
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

async fn connection(shared: &Arc<Shared>, stream: UnixStream) {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == rustix::process::geteuid().as_raw() => {}
        Ok(peer) => return warn!(uid = peer.uid(), "a connection of another user to the workers' socket was closed"),
        Err(error) => return warn!(%error, "a connection to the workers' socket does not say whose it is"),
    }
    let (mut reader, mut writer) = DaemonStream::new(stream).split();
    let greeted = timeout(HELLO_LIMIT, greet(shared, &mut reader)).await.unwrap_or(Err(LinkError::Slow));
    match greeted {
        Ok(Greeting::Known(live, hello)) => {
            let result = converse(shared, &live, &hello, (reader, writer)).await;
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

/// A connection at work.
struct Conversation<'a> {
    shared: &'a Arc<Shared>,
    live: &'a Live,
    line: u64,
    /// Acknowledgements on their way; a worker that does not read them is not read either.
    answers: mpsc::Sender<ToWorker>,
}

/// From the answer to the hello to the end of the connection.
async fn converse(
    shared: &Arc<Shared>,
    live: &Arc<Live>,
    hello: &Hello,
    (mut reader, mut writer): (Reader, Writer),
) -> Result<(), LinkError> {
    let (job_id, attempt) = (live.fence.job, live.fence.attempt);
    debug!(%job_id, %attempt, worker = hello.worker, started = hello.started, "a worker dialled");
    let (mut connected, said) = live.connect(hello.started);
    let close = connected.close.clone();
    let (answers, answering) = mpsc::channel(1);
    let (beats, mut beating) = watch::channel(None);
    let talk = Conversation { shared, live, line: connected.number, answers };
    let conversation = async {
        if !answer(live, said, &mut connected, &mut writer).await? {
            return Ok(());
        }
        tokio::select! {
            heard = talk.listen(&mut reader, &beats) => heard,
            told = tell(&mut writer, &mut connected.orders, answering) => told,
            kept = talk.keep_beats(&mut beating) => kept,
        }
    };
    let mut result = close.run_until_cancelled(conversation).await.unwrap_or(Ok(()));
    // How far it came at last, which its final heartbeat said.
    let unkept = unkept(&mut beating);
    result = result.and(talk.follow(Event::HungUp { line: talk.line, unkept }).await);
    if matches!(result, Err(LinkError::Stale)) {
        let reason = "the attempt no longer holds the job".to_owned();
        let _ = writer.send(ToWorker::Refused { reason }).await;
    }
    live.disconnect(&connected);
    result
}

/// Tells the worker what to do, or where it stands. Whether there is more to say to it.
async fn answer(
    live: &Live,
    said: Vec<Effect>,
    connected: &mut Connected,
    writer: &mut Writer,
) -> Result<bool, LinkError> {
    let mut goes_on = false;
    for effect in said {
        if let Effect::Say { word, .. } = effect {
            goes_on = !matches!(word, Word::Refused(_));
            writer.send(live.message(word)).await?;
            if !goes_on {
                return Ok(false);
            }
        }
    }
    if goes_on {
        return Ok(true);
    }
    // Its process is not on record yet.
    let first = timeout(START_LIMIT, connected.orders.recv()).await.map_err(|_| LinkError::Slow)?;
    let Some(first) = first else { return Ok(false) };
    let goes_on = matches!(first, ToWorker::Start(_));
    writer.send(first).await?;
    Ok(goes_on)
}

/// Sends orders and acknowledgements. A worker that has hung up may have said things that are still to be heard: what cannot be sent any more is dropped, and the
/// end of the connection is for [`Conversation::listen`] to find.
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

impl Conversation<'_> {
    /// Takes what the worker says until it hangs up.
    async fn listen(&self, reader: &mut Reader, beats: &watch::Sender<Option<Heartbeat>>) -> Result<(), LinkError> {
        let line = self.line;
        while let Some(message) = reader.recv().await? {
            match message {
                FromWorker::Heartbeat(heartbeat) => {
                    self.live.hear(&heartbeat);
                    vram::measure(self.shared, self.live);
                    let (progress, rss_bytes) = (heartbeat.progress.clone(), heartbeat.rss_bytes);
                    self.follow(Event::Beat { line, progress, rss_bytes }).await?;
                    beats.send_replace(Some(heartbeat));
                }
                FromWorker::Report(report) => {
                    let is_result = matches!(report.body, ReportBody::Finished { .. });
                    let in_file = is_result && remains::has_result(self.shared, self.live.fence);
                    self.follow(Event::Report { line, seq: report.seq, body: report.body, in_file }).await?;
                }
                FromWorker::Hello(_) => return Err(LinkError::Forbidden("a second hello".into())),
                FromWorker::Unknown => {}
            }
        }
        Ok(())
    }

    /// Takes an event to the attempt and does what follows from it.
    async fn follow(&self, event: Event) -> Result<(), LinkError> {
        let mut todo = VecDeque::from(self.live.step_by(self.line, event));
        while let Some(effect) = todo.pop_front() {
            let event = match effect {
                // The receiver lives as long as this connection.
                Effect::Say { word: word @ Word::Ack { .. }, .. } => {
                    let _ = self.answers.send(self.live.message(word)).await;
                    continue;
                }
                Effect::Say { .. } => return Err(LinkError::Stale),
                Effect::HangUp { why: Why::Lied(lie), .. } => return Err(LinkError::Forbidden(lie)),
                Effect::HangUp { why: Why::NotStored(error), .. } => return Err(LinkError::NotStored(error)),
                Effect::KeepReport { line, seq, body } => {
                    let answer = self.shared.store.report(self.live.fence, seq, body).await;
                    Event::Kept { line, seq, answer: answered(answer) }
                }
                Effect::KeepBeat { line, heartbeat } => Event::BeatKept { line, answer: self.keep(heartbeat).await },
                Effect::ReadJob => {
                    match self.shared.store.job(self.live.fence.job).await {
                        Ok(found) => self.live.obey(&found.job),
                        Err(error) => {
                            warn!(job_id = %self.live.fence.job, error = causes(&error), "whether the job goes on cannot be read; its next checkpoint tells");
                        }
                    }
                    continue;
                }
                // Nothing else follows from what a connection brings.
                _ => continue,
            };
            todo.extend(self.live.step_by(self.line, event));
        }
        Ok(())
    }

    /// Stores the newest heartbeat once in a while; the others are replaced by the last of them, and an attempt that ends soon is spared the first.
    async fn keep_beats(&self, beats: &mut watch::Receiver<Option<Heartbeat>>) -> Result<(), LinkError> {
        loop {
            if beats.changed().await.is_err() {
                return std::future::pending().await;
            }
            beats.mark_changed();
            tokio::time::sleep(BEAT_PAUSE).await;
            if let Some(heartbeat) = unkept(beats) {
                let answer = self.keep(heartbeat).await;
                self.follow(Event::BeatKept { line: self.line, answer }).await?;
            }
        }
    }

    async fn keep(&self, heartbeat: Heartbeat) -> Answer<()> {
        let kept = self.shared.store.heartbeat(beat(self.shared, self.live, heartbeat, false)).await;
        // What room there is on a full disk is for how jobs end: of that the store tells once.
        let is_full = matches!(kept, Err(StoreError::Full));
        let answer = answered(kept);
        if let Answer::Failed(error) = &answer
            && !is_full
        {
            // The lease that counts is the one in memory; the stored one is for readers and the next daemon.
            warn!(job_id = %self.live.fence.job, error, "a heartbeat cannot be stored");
        }
        answer
    }
}

/// What the store says, as far as it decides.
pub(super) fn answered<T>(answer: Result<T, StoreError>) -> Answer<T> {
    match answer {
        Ok(done) => Answer::Done(done),
        Err(StoreError::Refused(Refusal::Stale { .. } | Refusal::WrongState { .. }) | StoreError::NotFound(_)) => {
            Answer::Stale
        }
        Err(StoreError::Stopping) => Answer::Stopping,
        Err(error) => Answer::Failed(causes(&error)),
    }
}

/// The newest heartbeat, if it is not yet stored.
fn unkept(beats: &mut watch::Receiver<Option<Heartbeat>>) -> Option<Heartbeat> {
    // An error says that the sender is gone: what it had sent is still there.
    if beats.has_changed().unwrap_or(true) { beats.borrow_and_update().clone() } else { None }
}

/// A heartbeat as it is kept, beside the attempt's end where it `is_last`.
pub(super) fn beat(shared: &Shared, live: &Live, heartbeat: Heartbeat, is_last: bool) -> Beat {
    Beat {
        fence: live.fence,
        lease_until: shared.lease_until(),
        progress: heartbeat.progress,
        peak_rss_bytes: heartbeat.peak_rss_bytes,
        used: Used { cpu_ms: heartbeat.cpu_ms, peak_vram_bytes: live.peak_vram_bytes() },
        device: heartbeat.device.chars().take(100).collect(),
        is_last,
    }
}
