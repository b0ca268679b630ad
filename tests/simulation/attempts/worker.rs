//! A worker as a process: it works in steps, saves, reports by the real link's machine, obeys or does not, and may be killed, stopped and woken at any moment.

use std::time::{Duration, Instant};

use mlctl::{domain::Fence, supervisor::executor::Ended};
use mlctl_link::{
    Order,
    core::{Core, Pace},
};
use mlctl_protocol::{
    ExitClass,
    message::{FromWorker, Heartbeat, Hello, Report, ReportBody, StopClass, Storage},
    progress::{MetricPoint, Progress},
    result::{CheckpointRef, ModelRef, WorkerResult},
};

/// Steps between checkpoints.
const EVERY: u64 = 3;

/// How long a worker waits for its last report to be acknowledged.
const LAST_ACK: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was started ahead and has not been told its job.
    Waiting,
    Alive,
    /// SIGSTOP.
    Stopped,
    Dead(Ended),
}

/// What a worker does next in its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// A step of its work, or a look whether it may end.
    Work,
    Beat {
        wire: u64,
    },
    Dial,
    /// A look whether the lease is over.
    Lease,
    /// A look whether the dial was answered.
    Answer {
        wire: u64,
    },
}

#[derive(Debug)]
pub struct Process {
    pub fence: Fence,
    storage: Storage,
    pub state: State,
    /// Its end of the link, once it was told what to do.
    pub core: Option<Core>,
    pub wire: Option<u64>,
    /// When it is tired of dialling for the first time.
    pub patience: Instant,
    pub pause: Duration,
    pub step: u64,
    pub steps: u64,
    /// It ignores what it is asked to do.
    pub deaf: bool,
    /// It makes no progress.
    pub hung: bool,
    /// SIGTERM came while it was stopped.
    pub termed: bool,
    /// Its result file.
    pub file: Option<WorkerResult>,
    pub result_seq: Option<u64>,
    finishing_since: Option<Instant>,
    /// What it has made durable in storage.
    pub saved: Vec<CheckpointRef>,
    pub published: bool,
}

/// What comes of a piece of work.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// It goes on.
    On,
    /// It exits.
    Exit(i32),
}

impl Process {
    pub fn new(fence: Fence, storage: Storage, (step, steps): (u64, u64), now: Instant) -> Self {
        Self {
            fence,
            storage,
            state: State::Alive,
            core: None,
            wire: None,
            patience: now + Duration::from_secs(60),
            pause: Duration::from_millis(50),
            step,
            steps,
            deaf: false,
            hung: false,
            termed: false,
            file: None,
            result_seq: None,
            finishing_since: None,
            saved: Vec::new(),
            published: false,
        }
    }

    pub const fn is_dead(&self) -> bool {
        matches!(self.state, State::Dead(_))
    }

    /// Whether it was told to work and may do so.
    pub const fn works(&self) -> bool {
        !self.is_dead() && self.core.is_some()
    }

    /// It is told what to do.
    pub fn begin(&mut self, pace: Pace, now: Instant) {
        self.core = Some(Core::new(pace, now));
    }

    pub fn progress(&self) -> Progress {
        Progress { step: Some(self.step), steps: Some(self.steps), ..Progress::default() }
    }

    pub fn heartbeat(&self) -> FromWorker {
        let progress = self.progress();
        FromWorker::Heartbeat(Heartbeat { progress, rss_bytes: 1, peak_rss_bytes: 1, cpu_ms: 1, device: "cpu".into() })
    }

    pub fn hello(&self) -> FromWorker {
        FromWorker::Hello(Hello {
            job: self.fence.job,
            attempt: self.fence.attempt,
            secret: self.fence.token.0.to_string(),
            pid: 0,
            worker: String::new(),
            started: self.core.is_some(),
        })
    }

    /// What goes by the connection now.
    pub fn outgoing(&mut self, now: Instant) -> Vec<FromWorker> {
        let mut frames = Vec::new();
        while let Some(report) = self.core.as_mut().and_then(Core::next_report) {
            if matches!(report, Report { body: ReportBody::Finished { .. }, .. }) {
                frames.push(self.heartbeat());
            }
            frames.push(FromWorker::Report(report));
        }
        if let (Some(core), false) = (&mut self.core, frames.is_empty()) {
            core.sent(now);
        }
        frames
    }

    /// A step, the end of one, or a look whether all was acknowledged. Each call is a moment between two of which it may be killed.
    pub fn work(&mut self, now: Instant) -> Done {
        let Some(core) = &mut self.core else { return Done::On };
        if let Some(since) = self.finishing_since {
            let seq = self.result_seq.unwrap_or_default();
            let settled = core.is_acked(seq) || matches!(core.ending(), Some(Order::Refused(_)));
            return if settled || now >= since + LAST_ACK { Done::Exit(0) } else { Done::On };
        }
        if let Some(file) = self.file.clone() {
            // Written a moment ago.
            let body = ReportBody::Finished { result: Box::new(file) };
            self.result_seq = core.push(body).ok();
            self.finishing_since = Some(now);
            return Done::On;
        }
        if self.hung {
            return Done::On;
        }
        match core.order() {
            Some(Order::Checkpoint) => self.save(),
            Some(Order::Refused(_)) => self.finish(ExitClass::Lost),
            Some(_) if self.deaf => self.advance(),
            Some(Order::Stop(class)) => {
                self.save();
                self.finish(match class {
                    StopClass::Preempted => ExitClass::Preempted,
                    StopClass::Cancelled => ExitClass::Cancelled,
                    StopClass::Timeout => ExitClass::Timeout,
                });
            }
            Some(Order::LeaseLost) => {
                self.save();
                self.finish(ExitClass::Lost);
            }
            None => self.advance(),
        }
        Done::On
    }

    fn advance(&mut self) {
        if self.step >= self.steps {
            if self.published {
                self.finish(ExitClass::Ok);
            }
            self.published = true;
            return;
        }
        self.step += 1;
        let points = vec![MetricPoint { step: self.step, epoch: 0, values: Default::default() }];
        self.report(ReportBody::Metrics { points });
        if self.step.is_multiple_of(EVERY) {
            self.save();
        }
    }

    fn save(&mut self) {
        if self.saved.last().is_some_and(|saved| saved.step == self.step) {
            return;
        }
        let checkpoint = CheckpointRef {
            step: self.step,
            epoch: 0,
            uri: format!("{}/checkpoints/{:012}", self.storage.attempt_uri, self.step),
            size_bytes: 1,
            manifest_digest: "0".repeat(64),
            metrics: Default::default(),
        };
        self.saved.push(checkpoint.clone());
        self.report(ReportBody::Checkpoint { checkpoint });
    }

    fn report(&mut self, body: ReportBody) {
        let core = self.core.as_mut().expect("it works");
        core.push(body).expect("it is small");
    }

    /// Writes the result file.
    fn finish(&mut self, class: ExitClass) {
        let model = ModelRef { uri: self.storage.model_uri.clone(), digest: "a".repeat(64) };
        self.file = Some(WorkerResult {
            v: 1,
            job: self.fence.job,
            attempt: self.fence.attempt,
            token: self.fence.token,
            class,
            message: None,
            hint: None,
            metrics: Default::default(),
            model: (class == ExitClass::Ok).then_some(model),
            output: None,
        });
    }
}
