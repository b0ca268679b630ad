//! The link as a worker's main sees it: dial, take the work, hand out handles, finish. It owns the connection's task; dropping it ends
//! the connection.

use std::{path::PathBuf, sync::Arc, time::Duration};

use mlctl_protocol::{
    launch::Launch,
    message::{ReportBody, Start, StopClass},
    result::WorkerResult,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    Handle, LinkError, Order,
    core::{Core, Pace},
    handle::Shared,
    result_file::{fit, sync_result, write_result},
    session::{Dialler, Session},
};

/// How long the link waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For a daemon to answer the first dial, tries included.
    pub dial: Duration,
    /// For the answer to a hello.
    pub answer: Duration,
    /// Between the first two tries to dial; each later pause is twice as long as the one before.
    pub first_pause: Duration,
    /// Between tries to dial at most.
    pub longest_pause: Duration,
    /// For the daemon to acknowledge the last report.
    pub last_ack: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(60),
            answer: Duration::from_secs(10),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
            last_ack: Duration::from_secs(10),
        }
    }
}

/// The connection to the daemon over the life of an attempt.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    attempt_dir: PathBuf,
    last_ack: Duration,
    tasks: [JoinHandle<()>; 2],
}

impl Link {
    /// Dials the daemon, says hello and takes the work. `worker` names the worker's build and its features. From here on SIGTERM is an
    /// order to stop, and the process no longer dies of it.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`] when no daemon answers for 60 s, [`LinkError::Refused`], [`LinkError::Terminated`], [`LinkError::Signal`].
    pub async fn dial(launch: Launch, worker: &str) -> Result<(Self, Start), LinkError> {
        Self::dial_with(launch, worker, Timing::default()).await
    }

    /// [`Self::dial`] with other waits than the usual.
    ///
    /// # Errors
    /// As [`Self::dial`].
    pub async fn dial_with(launch: Launch, worker: &str, timing: Timing) -> Result<(Self, Start), LinkError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(LinkError::Signal)?;
        let attempt_dir = launch.attempt_dir.clone();
        let dialler = Dialler::new(launch, worker.to_owned(), timing);
        let (stream, start) = tokio::select! {
            started = dialler.first_dial() => started?,
            _ = terminate.recv() => return Err(LinkError::Terminated),
        };
        let seconds = |count: u32| Duration::from_secs(count.max(1).into());
        let Timing { first_pause, longest_pause, .. } = timing;
        let pace = Pace { first_pause, longest_pause, lease: seconds(start.lease_seconds) };
        let shared = Arc::new(Shared::new(Core::new(pace, Instant::now().into_std())));
        let session = Session::new(dialler, seconds(start.heartbeat_seconds), Arc::clone(&shared));
        let tasks = [tokio::spawn(session.run(stream)), tokio::spawn(stop_on_signal(terminate, Arc::clone(&shared)))];
        Ok((Self { shared, attempt_dir, last_ack: timing.last_ack, tasks }, start))
    }

    /// What the computing thread holds.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// Ends the attempt: writes the result file, reports the result and waits for at most 10 s until the daemon has it and all
    /// reports before it. That no daemon is there is no error: it will find the file, which is synced then. Nothing can be reported afterwards.
    ///
    /// # Errors
    /// [`LinkError::ResultFile`]; the result has been reported all the same, if a daemon was there.
    pub async fn finish(self, result: WorkerResult) -> Result<(), LinkError> {
        let result = fit(result);
        // Before it is reported: the daemon may rely on the file from then on.
        let written = write_result(&self.attempt_dir, &result);
        let seq = self.shared.push_last(ReportBody::Finished { result: Box::new(result) })?;
        let settled = async {
            while !self.shared.is_acked(seq) && !self.shared.is_refused() {
                self.shared.settled.notified().await;
            }
        };
        if timeout(self.last_ack, settled).await.is_err() {
            tracing::warn!("the daemon did not acknowledge the result in time; it is in the result file");
        }
        let path = written?;
        if self.shared.is_acked(seq) {
            // The daemon is there and puts it on record.
            return Ok(());
        }
        tokio::task::spawn_blocking(move || sync_result(path)).await.unwrap_or(Err(LinkError::Closed))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.close();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn stop_on_signal(mut terminate: Signal, shared: Arc<Shared>) {
    while terminate.recv().await.is_some() {
        shared.give(Order::Stop(StopClass::Preempted));
    }
}
