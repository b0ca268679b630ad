//! The attempt as a conversation: who dials is answered, and what is said is taken once, in order, and acknowledged when it is durable. A connection that another has
//! replaced is not listened to any more: what it still brings comes again by the new one.

use std::time::Instant;

use mlctl_protocol::{
    ExitClass,
    message::{Heartbeat, ReportBody},
    progress::Progress,
    result::{CheckpointRef, WorkerResult},
};

use super::{Answer, Attempt, Effect, Phase, Reason, Why, Word, mark};
use crate::supervisor::{end, watchdog};

/// Warnings of an attempt that are kept: each is an event, and events are for ever.
const MAX_WARNINGS: u32 = 1000;

const STALE: &str = "the attempt no longer holds the job";
const BEING_ENDED: &str = "the attempt is being ended";

/// The connection in use.
#[derive(Debug)]
pub(super) struct Line {
    number: u64,
    /// Whether its hello was answered.
    told: bool,
    /// Whether it is being closed: what follows on it must not be taken, since something before it may not have been.
    over: bool,
}

impl Line {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn is_told(&self) -> bool {
        self.told
    }
}

/// A report that is being stored.
#[derive(Debug)]
pub(super) struct Keeping {
    line: u64,
    seq: u64,
    note: Note,
}

/// What of a report is needed once it is durable. Points are not: they may be many.
#[derive(Debug)]
enum Note {
    Checkpoint(CheckpointRef),
    Resumed,
    Finished(Box<WorkerResult>),
    Other,
}

impl Note {
    fn of(body: &ReportBody) -> Self {
        match body {
            ReportBody::Checkpoint { checkpoint } => Self::Checkpoint(checkpoint.clone()),
            ReportBody::Resumed { .. } => Self::Resumed,
            ReportBody::Finished { result } => Self::Finished(result.clone()),
            ReportBody::Metrics { .. } | ReportBody::Warning { .. } | ReportBody::Unknown => Self::Other,
        }
    }
}

impl Attempt {
    /// A new connection takes the place of an older one, which is closed.
    pub(super) fn dialled(&mut self, number: u64, started: bool, now: Instant) -> Vec<Effect> {
        self.heard_at = now;
        let mut effects = Vec::new();
        if let Some(older) = self.line.replace(Line { number, told: started, over: false }) {
            effects.push(Effect::HangUp { line: older.number, why: Why::Replaced });
        }
        if started {
            effects.push(Effect::Say { line: number, word: Word::Welcome { acked: self.acked } });
            // Asked for while nobody was there to hear it.
            if let Some(class) = self.reason.as_ref().and_then(Reason::order) {
                effects.push(Effect::Say { line: number, word: Word::Stop { class } });
            }
        } else if self.reason.is_some() {
            effects.extend(self.refuse_untold());
        } else if matches!(self.phase, Phase::Attended) {
            effects.extend(self.tell());
        }
        effects
    }

    /// Tells a worker that waits for it what to do.
    pub(super) fn tell(&mut self) -> Option<Effect> {
        let line = self.line.as_mut().filter(|line| !line.told)?;
        line.told = true;
        Some(Effect::Say { line: line.number, word: Word::Start })
    }

    /// Tells a worker that waits to be told what to do that there is nothing to do.
    pub(super) fn refuse_untold(&self) -> Option<Effect> {
        let line = self.line.as_ref().filter(|line| !line.told)?;
        Some(Effect::Say { line: line.number, word: Word::Refused(BEING_ENDED) })
    }

    fn is_current(&self, number: u64) -> bool {
        self.line.as_ref().is_some_and(|line| line.number == number)
    }

    /// Whether what comes by a connection is taken.
    fn listens_to(&self, number: u64) -> bool {
        self.line.as_ref().is_some_and(|line| line.number == number && !line.over)
    }

    /// Closes a connection.
    fn hang_up(&mut self, number: u64, why: Why) -> Effect {
        self.end_line(number);
        Effect::HangUp { line: number, why }
    }

    fn end_line(&mut self, number: u64) {
        if let Some(line) = self.line.as_mut().filter(|line| line.number == number) {
            line.over = true;
        }
    }

    pub(super) fn beat(&mut self, line: u64, progress: Progress, rss_bytes: u64, now: Instant) -> Vec<Effect> {
        if !self.listens_to(line) {
            return Vec::new();
        }
        self.heard_at = now;
        if mark(&progress) != mark(&self.progress) {
            self.moved_at = now;
            self.progressed = true;
        }
        // It waits for the store, for as long as it was told to and no longer.
        if progress.storage_away.as_ref().is_some_and(|away| away.waiting) {
            self.moved_at = now;
        }
        self.progress = progress;
        let over = watchdog::memory(rss_bytes, &self.origin.resources);
        over.map(|reason| self.asked(reason, now)).unwrap_or_default()
    }

    pub(super) fn report(
        &mut self,
        line: u64,
        (seq, body): (u64, ReportBody),
        in_file: bool,
        now: Instant,
    ) -> Vec<Effect> {
        if !self.listens_to(line) {
            return Vec::new();
        }
        if seq <= self.acked {
            return vec![Effect::Say { line, word: Word::Ack { seq: self.acked } }];
        }
        if let Some(lie) = end::violation(&body, self.origin.fence, &self.origin.kind, &self.origin.storage) {
            let mut effects = self.asked(Reason::Lied(lie.clone()), now);
            effects.push(self.hang_up(line, Why::Lied(lie)));
            return effects;
        }
        let body = match self.bounded(body) {
            // What survives this daemon is kept with the end, in one transaction.
            ReportBody::Finished { result } if in_file => {
                self.acked = seq;
                self.result = Some(*result);
                self.unkept_result = Some(seq);
                let mut effects = self.asked(Reason::Finished, now);
                effects.push(Effect::Say { line, word: Word::Ack { seq } });
                return effects;
            }
            body => body,
        };
        self.asked = self.asked.max(seq);
        self.keeping = Some(Keeping { line, seq, note: Note::of(&body) });
        vec![Effect::KeepReport { line, seq, body }]
    }

    /// A report is durable, or is not.
    pub(super) fn kept(&mut self, line: u64, seq: u64, answer: Answer<u64>, now: Instant) -> Vec<Effect> {
        let acked = match answer {
            Answer::Done(acked) => acked,
            Answer::Stale => return self.stale(line, now),
            Answer::Stopping => return vec![self.hang_up(line, Why::NotStored("the daemon stops".into()))],
            Answer::Failed(error) => return vec![self.hang_up(line, Why::NotStored(error))],
        };
        self.acked = self.acked.max(acked);
        let keeping = self.keeping.take_if(|keeping| keeping.line == line && keeping.seq == seq);
        let mut effects = match keeping.map(|keeping| keeping.note) {
            Some(Note::Checkpoint(checkpoint)) => {
                self.moved_at = now;
                // By the checkpoint it may have turned out that a member of an array is not worth going on with.
                vec![Effect::Saved(checkpoint), Effect::ReadJob]
            }
            Some(Note::Resumed) => {
                self.moved_at = now;
                Vec::new()
            }
            Some(Note::Finished(result)) => {
                self.result = Some(*result);
                self.asked(Reason::Finished, now)
            }
            Some(Note::Other) | None => Vec::new(),
        };
        effects.push(Effect::Say { line, word: Word::Ack { seq: self.acked } });
        effects
    }

    /// The store knows the attempt no more.
    pub(super) fn stale(&mut self, line: u64, now: Instant) -> Vec<Effect> {
        let mut effects = self.asked(Reason::Stale, now);
        self.end_line(line);
        effects.push(Effect::Say { line, word: Word::Refused(STALE) });
        effects
    }

    /// A report with its texts cut to size. Warnings beyond the limit are acknowledged and not kept.
    fn bounded(&mut self, body: ReportBody) -> ReportBody {
        match body {
            ReportBody::Warning { message } => {
                self.warnings = self.warnings.saturating_add(1);
                match self.warnings {
                    warnings if warnings < MAX_WARNINGS => ReportBody::Warning { message: end::shorten(&message) },
                    MAX_WARNINGS => {
                        ReportBody::Warning { message: "further warnings of this attempt are not kept".into() }
                    }
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

    /// It was not asked after all.
    pub(super) fn unheard(&mut self, line: u64) -> Vec<Effect> {
        self.end_line(line);
        if self.is_current(line)
            && let Some(ending) = &mut self.ending
        {
            ending.unheard();
            return vec![Effect::Wake];
        }
        Vec::new()
    }

    /// How far it came at last, which its final heartbeat said, is put on record with the end when that is near.
    pub(super) fn hung_up(&mut self, line: u64, unkept: Option<Heartbeat>) -> Vec<Effect> {
        let Some(heartbeat) = unkept else { return Vec::new() };
        if self.result.is_some() {
            self.unkept_beat = Some(heartbeat);
            return Vec::new();
        }
        vec![Effect::KeepBeat { line, heartbeat }]
    }

    pub(super) fn closed(&mut self, line: u64) -> Vec<Effect> {
        if !self.is_current(line) {
            return Vec::new();
        }
        self.line = None;
        if matches!(self.phase, Phase::LastWords { .. }) { vec![Effect::Wake] } else { Vec::new() }
    }
}
