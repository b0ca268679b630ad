//! The connection's task: speaks and listens at once, redials when the connection is lost, and says when the lease is. It moves what the
//! shared state holds and decides nothing about the job.

use std::{io, sync::Arc, time::Duration};

use mlctl_protocol::{
    launch::Launch,
    message::{FromWorker, Hello, Report, ReportBody, Start, ToWorker},
};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::UnixStream,
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};

use crate::{
    LinkError, Order, Timing,
    core::Core,
    frame::{FrameError, FrameReader, FrameWriter, WorkerStream},
    handle::Shared,
};

/// How long after it connected a worker is first heard of at the latest.
const FIRST_HEARTBEAT: Duration = Duration::from_millis(100);

type Stream = WorkerStream<UnixStream>;

/// Why a dial gave no conversation.
enum Unanswered {
    /// The daemon does not want this attempt.
    Refused(String),
    /// Nobody there, or nobody who makes sense; a later try may do.
    Failed(FrameError),
}

impl From<FrameError> for Unanswered {
    fn from(error: FrameError) -> Self {
        match error {
            // A daemon of another major version; it cannot be asked again in words that both know.
            FrameError::Version { .. } => Self::Refused(error.to_string()),
            error => Self::Failed(error),
        }
    }
}

impl From<io::Error> for Unanswered {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Connects and says hello.
#[derive(Debug)]
pub(crate) struct Dialler {
    launch: Launch,
    worker: String,
    timing: Timing,
}

impl Dialler {
    pub(crate) fn new(launch: Launch, worker: String, timing: Timing) -> Self {
        Self { launch, worker, timing }
    }

    /// Dials until the daemon gives the work, refuses, or the time is over.
    pub(crate) async fn first_dial(&self) -> Result<(Stream, Start), LinkError> {
        let deadline = Instant::now() + self.timing.dial;
        let mut pause = self.timing.first_pause;
        loop {
            let source = match self.hello(false).await {
                Ok((stream, ToWorker::Start(start))) => return Ok((stream, *start)),
                Ok(_) => unexpected(),
                Err(Unanswered::Refused(reason)) => return Err(LinkError::Refused(reason)),
                Err(Unanswered::Failed(error)) => error,
            };
            if Instant::now() + pause >= deadline {
                return Err(LinkError::Unreachable { socket: self.launch.socket.clone(), source });
            }
            sleep(pause).await;
            pause = self.timing.longest_pause.min(pause * 2);
        }
    }

    /// Dials until the daemon welcomes this attempt back, with the number it has acknowledged, or refuses it.
    async fn redial(&self, shared: &Shared) -> Result<(Stream, u64), String> {
        loop {
            let pause = shared.with(Core::next_pause);
            sleep(pause).await;
            let error = match self.hello(true).await {
                Ok((stream, ToWorker::Welcome { acked })) => return Ok((stream, acked)),
                Ok(_) => unexpected(),
                Err(Unanswered::Refused(reason)) => return Err(reason),
                Err(Unanswered::Failed(error)) => error,
            };
            tracing::debug!(error = %error, "no daemon yet");
        }
    }

    async fn hello(&self, started: bool) -> Result<(Stream, ToWorker), Unanswered> {
        let mut stream = WorkerStream::new(UnixStream::connect(&self.launch.socket).await?);
        let hello = Hello {
            job: self.launch.job,
            attempt: self.launch.attempt,
            secret: self.launch.secret.clone(),
            pid: std::process::id(),
            worker: self.worker.clone(),
            started,
        };
        stream.send(FromWorker::Hello(hello)).await?;
        let answer = timeout(self.timing.answer, answer(&mut stream)).await;
        match answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))? {
            ToWorker::Refused { reason } => Err(Unanswered::Refused(reason)),
            answer => Ok((stream, answer)),
        }
    }
}

/// The first message of a known type.
async fn answer(stream: &mut Stream) -> Result<ToWorker, FrameError> {
    loop {
        match stream.recv().await? {
            Some(ToWorker::Unknown) => {}
            Some(answer) => return Ok(answer),
            None => return Err(closed()),
        }
    }
}

fn closed() -> FrameError {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed the connection").into()
}

fn unexpected() -> FrameError {
    io::Error::new(io::ErrorKind::InvalidData, "the daemon did not answer the hello").into()
}

/// How a conversation ended.
enum Ended {
    /// The daemon says that the attempt is not valid any more.
    Refused(String),
    /// The connection is lost.
    Lost(FrameError),
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Self {
        Self::Lost(error)
    }
}

/// The life of the connection after the first dial.
#[derive(Debug)]
pub(crate) struct Session {
    dialler: Dialler,
    heartbeat: Duration,
    shared: Arc<Shared>,
}

impl Session {
    pub(crate) fn new(dialler: Dialler, heartbeat: Duration, shared: Arc<Shared>) -> Self {
        Self { dialler, heartbeat, shared }
    }

    /// Runs until the daemon refuses the attempt or the link is dropped.
    pub(crate) async fn run(self, mut stream: Stream) {
        let reason = loop {
            match self.converse(stream).await {
                Ended::Refused(reason) => break reason,
                Ended::Lost(error) => tracing::warn!(error = %error, "lost the daemon; dialling again"),
            }
            self.shared.with(|core| core.lost(Instant::now().into_std()));
            match self.reconnect().await {
                Ok((again, acked)) => {
                    tracing::info!(acked, "the daemon is back");
                    self.shared.welcomed(acked);
                    stream = again;
                }
                Err(reason) => break reason,
            }
        };
        tracing::warn!(reason, "the daemon refused this attempt");
        self.shared.give(Order::Refused(reason));
    }

    /// Redials; gives up the lease, once, when its time since the last contact is over, and goes on.
    async fn reconnect(&self) -> Result<(Stream, u64), String> {
        let lease_until = Instant::from_std(self.shared.with(|core| core.lease_until()));
        let redial = self.dialler.redial(&self.shared);
        tokio::pin!(redial);
        tokio::select! {
            biased;
            answered = &mut redial => return answered,
            () = sleep_until(lease_until) => {}
        }
        tracing::warn!("no daemon for the time of the lease");
        self.shared.give(Order::LeaseLost);
        redial.await
    }

    /// Speaks and listens at once: if one waited for the other, two full socket buffers would stop both ends.
    async fn converse(&self, stream: Stream) -> Ended {
        let (reader, writer) = stream.split();
        tokio::select! {
            ended = self.listen(reader) => ended,
            error = self.speak(writer) => error.into(),
        }
    }

    async fn speak(&self, mut writer: FrameWriter<WriteHalf<UnixStream>, FromWorker>) -> FrameError {
        // A job that is over by then is spared it: the last one comes with the result.
        let mut heartbeat = interval_at(Instant::now() + self.heartbeat.min(FIRST_HEARTBEAT), self.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                biased;
                _ = heartbeat.tick() => FromWorker::Heartbeat(self.shared.heartbeat()),
                report = self.shared.next_report() => FromWorker::Report(report),
            };
            // How far the attempt came at last: without it, a finished job would show the progress of seconds ago.
            if let FromWorker::Report(Report { body: ReportBody::Finished { .. }, .. }) = &message
                && let Err(error) = writer.send(FromWorker::Heartbeat(self.shared.heartbeat())).await
            {
                return error;
            }
            if let Err(error) = writer.send(message).await {
                return error;
            }
            self.shared.with(|core| core.sent(Instant::now().into_std()));
        }
    }

    async fn listen(&self, mut reader: FrameReader<ReadHalf<UnixStream>, ToWorker>) -> Ended {
        loop {
            match reader.recv().await {
                Ok(Some(message)) => {
                    if let Err(reason) = self.shared.heard(message) {
                        return Ended::Refused(reason);
                    }
                }
                Ok(None) => return closed().into(),
                Err(error) => return error.into(),
            }
        }
    }
}
