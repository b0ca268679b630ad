//! The attempt as a process: put on record, watched, ended, buried, judged. In this order always: nothing of it lives any more, all it said was heard, then the row.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use mlctl_protocol::{ExitClass, result::WorkerResult};

use super::{Answer, Attempt, Effect, End, Phase, Reason, Times, Why, Word};
use crate::{
    domain::Exit,
    supervisor::{
        end::{self, Facts, Testimony, Verdict},
        executor::{Ended, Signal},
        kill::Ending,
        watchdog::{self, Seen, TimeLimit},
    },
};

/// How long to listen to what a dead worker had still said.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// Pauses between tries to put an end on record.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Attempt {
    /// An attempt without a process on record can be given up without proof that there is none: one that slipped through was never told anything and is refused
    /// when it dials.
    pub(super) fn launched(&mut self, answer: Answer<()>, now: Instant) -> Vec<Effect> {
        let exit = match answer {
            Answer::Done(()) => return self.attend(now),
            Answer::Stale | Answer::Stopping => None,
            // Not the job's fault: it never began.
            Answer::Failed(error) => Some(Exit {
                class: ExitClass::Preempted,
                message: Some(format!("the start could not be put on record: {error}")),
                hint: None,
            }),
        };
        self.phase = Phase::Discarding(exit);
        vec![Effect::Signal(Signal::Kill), Effect::Reap]
    }

    /// The process is on record: it may be told what to do.
    pub(super) fn attend(&mut self, now: Instant) -> Vec<Effect> {
        (self.heard_at, self.moved_at) = (now, now);
        self.phase = Phase::Attended;
        self.alarm = Some(now);
        let mut effects = vec![Effect::Attend];
        if self.reason.is_some() {
            self.begin(now, &mut effects);
        } else {
            effects.extend(self.tell());
        }
        effects
    }

    pub(super) fn adopted(&mut self, has_result: bool, now: Instant) -> Vec<Effect> {
        let mut effects = self.attend(now);
        if has_result {
            effects.extend(self.asked(Reason::Finished, now));
        }
        effects
    }

    /// No process was put on record, so none was ever told to work; one that still comes up is refused. Not the job's fault.
    pub(super) fn never_launched(&mut self) -> Vec<Effect> {
        let message = "the daemon ended between claiming the job and starting its worker".to_owned();
        self.close(Exit { class: ExitClass::Preempted, message: Some(message), hint: None })
    }

    /// The state directory has come from another host, where the worker may still run. No proof can be had from here; without its daemon it ends itself once
    /// its lease is over, and its token is refused everywhere.
    pub(super) fn away(&mut self, host: String, until: Instant) -> Vec<Effect> {
        self.phase = Phase::Away { host, until };
        self.alarm = Some(until);
        Vec::new()
    }

    /// The gravest reason stays.
    pub(super) fn asked(&mut self, reason: Reason, now: Instant) -> Vec<Effect> {
        if self.reason.as_ref().is_some_and(|current| current.weight() >= reason.weight()) {
            return Vec::new();
        }
        self.reason = Some(reason.clone());
        let mut effects = Vec::new();
        match (&self.phase, self.ending.take()) {
            (Phase::Attended, Some(ending)) => {
                self.ending = Some(ending.escalate(&reason, now));
                effects.extend(self.refuse_untold());
            }
            (Phase::Attended, None) => self.begin(now, &mut effects),
            (_, ending) => {
                self.ending = ending;
                effects.extend(self.refuse_untold());
            }
        }
        effects.push(Effect::Wake);
        effects
    }

    /// Begins the attempt's end, with a word to the worker where there is one to say.
    fn begin(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(reason) = &self.reason else { return };
        let order = reason.order();
        let asked = order.is_some() && self.line.is_some();
        self.ending = Some(Ending::begin(reason, asked, now));
        if let Some(line) = self.open_line()
            && let Some(class) = order
        {
            effects.push(Effect::Say { line, word: Word::Stop { class } });
        }
        effects.extend(self.refuse_untold());
    }

    pub(super) fn tick(&mut self, wall: Timestamp, age: Option<Duration>, now: Instant) -> Vec<Effect> {
        match &self.phase {
            Phase::Attended => self.watch(wall, age, now),
            Phase::LastWords { ended, until } => {
                let (ended, until) = (*ended, *until);
                self.listened(ended, until, now)
            }
            Phase::Recording { again_at: Some(at), .. } if *at <= now => self.record(),
            Phase::Away { host, until } if *until <= now => {
                let message =
                    format!("the worker was started on host {host}, which is not this one; its lease has ended");
                self.close(Exit { class: ExitClass::Lost, message: Some(message), hint: None })
            }
            _ => Vec::new(),
        }
    }

    /// Finds out whether the worker's time is over, and signals it when that is due.
    fn watch(&mut self, wall: Timestamp, age: Option<Duration>, now: Instant) -> Vec<Effect> {
        if let (Some(age), None) = (age, self.begun) {
            self.begun = Some((age, now));
        }
        let time = self.bound(wall, now);
        let Some(ending) = &self.ending else {
            return match watchdog::look(self.seen(), self.origin.limits, time, now) {
                Ok(at) => {
                    self.alarm = Some(at);
                    Vec::new()
                }
                Err(late) => self.late(late, now),
            };
        };
        let limit = if ending.is_patient() { watchdog::limit(time, now) } else { Ok(None) };
        let limit = match limit {
            Ok(limit) => limit,
            Err(late) => return self.late(late, now),
        };
        let grace = self.origin.grace;
        let mut effects = Vec::new();
        if let Some(ending) = &mut self.ending
            && let Some((at, signal)) = ending.next(grace)
            && at <= now
        {
            ending.sent(signal);
            effects.push(Effect::Signal(signal));
        }
        let next = self.ending.as_ref().and_then(|ending| ending.next(grace)).map(|(at, _)| at);
        self.alarm = next.map(|at| limit.map_or(at, |limit| at.min(limit)));
        effects
    }

    fn late(&mut self, reason: Reason, now: Instant) -> Vec<Effect> {
        self.alarm = Some(now);
        let mut effects = self.asked(reason, now);
        effects.retain(|effect| !matches!(effect, Effect::Wake));
        effects
    }

    /// What its time is bounded by at this moment: its limit or its job's deadline, whichever comes first.
    fn bound(&self, wall: Timestamp, now: Instant) -> Option<TimeLimit> {
        let Times { limit_seconds, deadline } = self.times;
        let (age, at) = self.begun?;
        let (age, grace) = (age + now.saturating_duration_since(at), self.origin.grace);
        let limit = limit_seconds.map(|seconds| TimeLimit::of(seconds, age, grace, now));
        let deadline = deadline.map(|at| {
            let left = Duration::try_from(at.duration_since(wall)).unwrap_or_default();
            TimeLimit::until(at, left, (age, grace), now)
        });
        limit.into_iter().chain(deadline).min_by_key(TimeLimit::ask_at)
    }

    fn seen(&self) -> Seen {
        let (heard_at, moved_at, step) = (self.heard_at, self.moved_at, self.progress.step);
        Seen { heard_at, moved_at, step, linked: self.line.is_some() }
    }

    /// What is asked from now on came too late to be why it ended.
    pub(super) fn exited(&mut self) -> Vec<Effect> {
        self.judged_by = self.reason.clone();
        self.phase = Phase::Reaping;
        self.alarm = None;
        vec![Effect::Reap]
    }

    pub(super) fn reaped(&mut self, ended: Ended, now: Instant) -> Vec<Effect> {
        match std::mem::replace(&mut self.phase, Phase::Reaping) {
            Phase::Discarding(Some(exit)) => self.close(exit),
            Phase::Discarding(None) => self.over(),
            _ => {
                self.vacated = true;
                let mut effects = vec![Effect::Vacate];
                effects.extend(self.listen(ended, now));
                effects
            }
        }
    }

    /// An earlier daemon's worker is dead.
    pub(super) fn bury(&mut self, ended: Ended, now: Instant) -> Vec<Effect> {
        self.judged_by = self.reason.clone();
        self.listen(ended, now)
    }

    fn listen(&mut self, ended: Ended, now: Instant) -> Vec<Effect> {
        let until = now + LAST_WORDS_LIMIT;
        self.alarm = Some(until);
        self.phase = Phase::LastWords { ended, until };
        self.listened(ended, until, now)
    }

    /// Reads what it left once all that it had said was heard.
    fn listened(&mut self, ended: Ended, until: Instant, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(line) = &self.line {
            if now < until {
                return effects;
            }
            effects.push(Effect::HangUp { line: line.number(), why: Why::Held });
        }
        self.alarm = None;
        self.phase = Phase::Examined { ended };
        effects.push(Effect::ReadResult);
        effects
    }

    /// What the worker left behind: the file, which it writes first, else the report.
    pub(super) fn examine(&mut self, read: Result<Option<Box<WorkerResult>>, String>) -> Vec<Effect> {
        let result = match read {
            Ok(Some(result)) => *result,
            Ok(None) => match self.result.clone() {
                Some(result) => result,
                None => return self.judge(Testimony::None),
            },
            Err(problem) => return self.judge(Testimony::Lie(format!("its result file is not understood: {problem}"))),
        };
        match end::examine(result, self.origin.fence, &self.origin.kind, &self.origin.storage) {
            Testimony::Result(result) if result.class == ExitClass::Ok => {
                self.claimed = Some(result.clone());
                vec![Effect::AskStorage(result)]
            }
            testimony => self.judge(testimony),
        }
    }

    pub(super) fn published(&mut self, found: Result<bool, String>) -> Vec<Effect> {
        let Some(result) = self.claimed.take() else { return Vec::new() };
        self.judge(match found {
            Ok(false) => Testimony::Lie("it reported success, and what it reported is not in storage".into()),
            // Where storage does not answer it is taken on the worker's word.
            Ok(true) | Err(_) => Testimony::Result(result),
        })
    }

    fn judge(&mut self, testimony: Testimony) -> Vec<Effect> {
        let Phase::Examined { ended } = self.phase else { return Vec::new() };
        let result = match &testimony {
            Testimony::Result(result) => Some(result.clone()),
            _ => None,
        };
        let reason = self.judged_by.as_ref();
        let verdict = end::judge(Facts { ended, testimony, reason, progressed: self.progressed });
        let is_done = verdict.exit.class == ExitClass::Ok;
        self.phase = Phase::Judged { verdict, result };
        if is_done { self.conclude() } else { vec![Effect::Salvage] }
    }

    pub(super) fn conclude(&mut self) -> Vec<Effect> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Judged { verdict, result } => self.end(verdict, result),
            phase => {
                self.phase = phase;
                Vec::new()
            }
        }
    }

    /// Ends an attempt of which nothing was ever heard.
    pub(super) fn close(&mut self, exit: Exit) -> Vec<Effect> {
        self.end(Verdict { exit, model: None, output: None }, None)
    }

    fn end(&mut self, verdict: Verdict, result: Option<Box<WorkerResult>>) -> Vec<Effect> {
        self.phase = Phase::Recording { verdict, result, pause: FIRST_PAUSE, again_at: None };
        self.record()
    }

    fn record(&mut self) -> Vec<Effect> {
        self.alarm = None;
        let Phase::Recording { verdict, result, again_at, .. } = &mut self.phase else { return Vec::new() };
        *again_at = None;
        // One that came as a file alone, since no daemon listened when the worker said it, is the next report after all that may be on record.
        let next = self.acked.max(self.asked).saturating_add(1);
        let seq = self.unkept_result.or_else(|| self.result.is_none().then_some(next));
        let Verdict { exit, model, output } = verdict.clone();
        let report = seq.zip(result.clone());
        vec![Effect::Record(Box::new(End { exit, model, output, beat: self.unkept_beat.clone(), report }))]
    }

    /// Puts the end on record, however long that takes.
    pub(super) fn recorded(&mut self, answer: Answer<()>, now: Instant) -> Vec<Effect> {
        match answer {
            // Or someone else has ended it: this attempt had lost the job.
            Answer::Done(()) | Answer::Stale => self.over(),
            // The next daemon finds the worker dead and ends the attempt.
            Answer::Stopping => {
                self.phase = Phase::Over;
                Vec::new()
            }
            Answer::Failed(_) => {
                if let Phase::Recording { pause, again_at, .. } = &mut self.phase {
                    let at = now + *pause;
                    *again_at = Some(at);
                    *pause = (*pause * 2).min(LONGEST_PAUSE);
                    self.alarm = Some(at);
                }
                Vec::new()
            }
        }
    }

    fn over(&mut self) -> Vec<Effect> {
        self.phase = Phase::Over;
        self.alarm = None;
        vec![Effect::Forget]
    }
}
