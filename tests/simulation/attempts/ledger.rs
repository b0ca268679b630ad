//! The model of the store: jobs by the real state machine, attempts by the rules of `store/unit/attempts`. It keeps what it takes, and says when that should not have been taken.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mlctl::{
    domain::{Command, Event, Fence, Job, JobState, Uid, state},
    store::Instance,
    supervisor::core::{Answer, End},
};
use mlctl_protocol::{
    AttemptNumber, FencingToken, JobId,
    message::ReportBody,
    progress::Progress,
    result::{CheckpointRef, WorkerResult},
    spec::{Resources, RetryPolicy},
};

use super::{super::chance::Chance, Rules};

/// A write that the daemon asks for.
#[derive(Debug, Clone)]
pub enum Write {
    Launch { fence: Fence, pid: u32 },
    Report { fence: Fence, seq: u64, body: ReportBody },
    Beat { fence: Fence, progress: Progress },
    Salvage { fence: Fence, found: Vec<CheckpointRef> },
    End { fence: Fence, end: Box<End> },
    Wish { job: JobId, command: Command },
}

/// An attempt's row.
#[derive(Debug, Clone)]
pub struct Row {
    pub fence: Fence,
    pub process: Option<u32>,
    pub last_seq: u64,
    pub result: Option<WorkerResult>,
    pub progress: Progress,
    pub ended: bool,
    points: BTreeSet<u64>,
    pub checkpoints: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
pub struct Ledger {
    rules: Rules,
    pub jobs: BTreeMap<JobId, Job>,
    logs: BTreeMap<JobId, Vec<(Event, Timestamp)>>,
    pub rows: BTreeMap<FencingToken, Row>,
    /// Who was given each job last, kept apart from the rows.
    holders: BTreeMap<JobId, FencingToken>,
    tokens: u64,
    /// Grows with every restore; the high bits of tokens.
    pub epoch: u64,
    /// Writes of attempts that do not hold their job, which were refused.
    pub refused: u64,
    /// Reports that came again.
    pub repeated: u64,
    pub broken: Vec<String>,
}

impl Ledger {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            jobs: BTreeMap::new(),
            logs: BTreeMap::new(),
            rows: BTreeMap::new(),
            holders: BTreeMap::new(),
            tokens: 0,
            epoch: 0,
            refused: 0,
            repeated: 0,
            broken: Vec::new(),
        }
    }

    pub fn submit(&mut self, chance: &mut Chance, now: Timestamp) {
        let id = JobId(self.jobs.len() as u64 + 1);
        let deadline = chance.once_in(8).then(|| 20 + i64::try_from(chance.below(200)).expect("it is small"));
        let event = Event::Submitted {
            name: format!("job-{id}"),
            kind: "train".into(),
            user: Uid(1),
            queue: "default".into(),
            priority: 50,
            labels: BTreeMap::new(),
            resources: Resources { cpus: 1, ..Resources::NONE },
            retry: RetryPolicy {
                limit: u32::try_from(chance.below(4)).expect("it is small"),
                backoff_seconds: 1,
                max_backoff_seconds: 10,
                ..RetryPolicy::default()
            },
            spec_digest: String::new(),
            not_before: None,
            deadline: deadline.map(|after| now + jiff::SignedDuration::from_secs(after)),
            preemptible: true,
            array: None,
            gate: None,
            after: None,
        };
        let job = state::apply(id, None, &event, now).expect("a first event");
        self.jobs.insert(id, job);
        self.logs.insert(id, vec![(event, now)]);
    }

    /// What was kept of an earlier moment takes its place, in an epoch of its own.
    pub fn put_back(&mut self, kept: Self) {
        let epoch = self.epoch + 1;
        let (refused, repeated, broken) = (self.refused, self.repeated, std::mem::take(&mut self.broken));
        *self = Self { epoch, tokens: epoch << 40, refused, repeated, broken, ..kept };
    }

    /// Gives a job to an attempt. Its process is on record with it where it had waited.
    pub fn claim(&mut self, id: JobId, process: Option<u32>, now: Timestamp) -> Option<Fence> {
        let token = FencingToken(self.tokens + 1);
        if !self.decide(id, None, &Command::Claim { token, gpus: Vec::new() }, now) {
            return None;
        }
        self.tokens += 1;
        self.holders.insert(id, token);
        let fence = Fence { job: id, attempt: AttemptNumber(self.jobs[&id].attempt), token };
        let row = Row {
            fence,
            process,
            last_seq: 0,
            result: None,
            progress: Progress::default(),
            ended: false,
            points: BTreeSet::new(),
            checkpoints: BTreeSet::new(),
        };
        self.rows.insert(token, row);
        Some(fence)
    }

    /// Whether an attempt is of before the last restore.
    pub fn is_outdated(&self, token: FencingToken) -> bool {
        u64::from(Instance::epoch_of(token)) < self.epoch
    }

    pub fn holds(&self, fence: Fence) -> bool {
        self.jobs.get(&fence.job).is_some_and(|job| state::holds(job, fence))
    }

    /// The attempts under way.
    pub fn running(&self) -> Vec<Row> {
        self.rows.values().filter(|row| self.holds(row.fence)).cloned().collect()
    }

    /// Takes a write or refuses it. A report is answered with the number up to which reports are durable.
    pub fn take(&mut self, write: &Write, now: Timestamp) -> Answer<u64> {
        let (Write::Launch { fence, .. }
        | Write::Report { fence, .. }
        | Write::Beat { fence, .. }
        | Write::Salvage { fence, .. }
        | Write::End { fence, .. }) = write
        else {
            let Write::Wish { job, command } = write else { return Answer::Stale };
            return if self.decide(*job, None, command, now) { Answer::Done(0) } else { Answer::Stale };
        };
        let fence = *fence;
        let is_taken = self.rules.no_fences && matches!(self.jobs[&fence.job].state, JobState::Running { .. });
        if !self.holds(fence) && !is_taken {
            self.refused += 1;
            return Answer::Stale;
        }
        if self.holders.get(&fence.job) != Some(&fence.token) {
            self.broken.push(format!("E2: a stale attempt has written: {write:?}"));
        }
        match write {
            Write::Launch { pid, .. } => self.row(fence).process = Some(*pid),
            Write::Beat { progress, .. } => self.row(fence).progress = progress.clone(),
            Write::Report { seq, body, .. } => return self.report(fence, (*seq, body), true, now),
            Write::Salvage { found, .. } => {
                for checkpoint in found {
                    self.checkpointed(fence, checkpoint, now);
                }
            }
            Write::End { end, .. } => {
                if let Some((seq, result)) = &end.report {
                    let body = ReportBody::Finished { result: result.clone() };
                    self.report(fence, (*seq, &body), false, now);
                }
                let End { exit, model, output, .. } = end.as_ref().clone();
                let command = Command::End { exit, model, output, jitter: 0.5 };
                let holder = FencingToken(self.holders[&fence.job].0);
                let by = Fence { attempt: AttemptNumber(self.jobs[&fence.job].attempt), token: holder, ..fence };
                if !self.decide(fence.job, Some(by), &command, now) {
                    self.broken.push(format!("an end is illegal: {write:?}"));
                }
                self.row(fence).ended = true;
            }
            Write::Wish { .. } => {}
        }
        Answer::Done(0)
    }

    fn report(&mut self, fence: Fence, (seq, body): (u64, &ReportBody), in_order: bool, now: Timestamp) -> Answer<u64> {
        let ignores_numbers = self.rules.no_numbers;
        // What a worker of before had said since the backup was made is not known any more, and nobody asks it again.
        let is_outdated = self.is_outdated(fence.token);
        let row = self.row(fence);
        if seq <= row.last_seq {
            let last_seq = row.last_seq;
            self.repeated += 1;
            if !ignores_numbers {
                return Answer::Done(last_seq);
            }
        } else if in_order && seq != row.last_seq + 1 && !is_outdated {
            let message = format!("report {seq} of {fence:?} was taken after report {}", row.last_seq);
            self.broken.push(message);
        }
        let row = self.row(fence);
        row.last_seq = seq.max(row.last_seq);
        match body {
            ReportBody::Metrics { points } => {
                let again: Vec<u64> =
                    points.iter().map(|point| point.step).filter(|step| !row.points.insert(*step)).collect();
                if !again.is_empty() {
                    self.broken.push(format!("steps {again:?} of {fence:?} were taken twice, with report {seq}"));
                }
            }
            ReportBody::Finished { result } => row.result = Some(result.as_ref().clone()),
            ReportBody::Checkpoint { checkpoint } => self.checkpointed(fence, checkpoint, now),
            _ => {}
        }
        Answer::Done(seq)
    }

    fn checkpointed(&mut self, fence: Fence, checkpoint: &CheckpointRef, now: Timestamp) {
        self.row(fence).checkpoints.insert(checkpoint.step);
        let command = Command::Checkpointed { checkpoint: checkpoint.clone() };
        let job = &self.jobs[&fence.job];
        if let JobState::Running { token, .. } = job.state {
            let by = Fence { attempt: AttemptNumber(job.attempt), token, ..fence };
            self.decide(fence.job, Some(by), &command, now);
        }
    }

    fn row(&mut self, fence: Fence) -> &mut Row {
        self.rows.get_mut(&fence.token).expect("it was claimed")
    }

    /// Asks the state machine. Whether it agreed.
    fn decide(&mut self, id: JobId, fence: Option<Fence>, command: &Command, now: Timestamp) -> bool {
        let Ok(events) = state::decide(&self.jobs[&id], fence, command, now) else { return false };
        for event in events {
            let before = self.jobs[&id].clone();
            let was_over = before.state.is_terminal();
            let after = state::apply(id, Some(before), &event, now).expect("what was decided is legal");
            if was_over {
                self.broken.push(format!("D3: job {id} had ended, and {event:?} came"));
            }
            self.jobs.insert(id, after);
            self.logs.entry(id).or_default().push((event, now));
        }
        true
    }

    /// D4: every job is what its log makes of it.
    pub fn check(&mut self) {
        for (id, log) in &self.logs {
            let replayed = log.iter().try_fold(None, |job, (event, at)| state::apply(*id, job, event, *at).map(Some));
            if replayed.as_ref().ok().and_then(Option::as_ref) != self.jobs.get(id) {
                self.broken.push(format!("D4: job {id} is not what its log says: {replayed:?}"));
            }
        }
    }

    /// All that has happened, for a comparison.
    pub fn story(&self) -> String {
        format!("{:?}", self.logs)
    }
}
