//! The attempts' tasks: what `supervisor/attempt` does with the machine's effects, one after the other, with what may come between two of them.

use std::time::Duration;

use mlctl::{
    domain::{Exit, Fence},
    supervisor::{
        core::{Effect, Event},
        executor::{Ended, Signal},
    },
};
use mlctl_protocol::{ExitClass, FencingToken, result::WorkerResult};

use super::{
    daemon::Actor,
    ledger::Write,
    worker::{Deed, Process, State},
    world::{Happening, World},
};

impl World {
    /// An event of the task's own.
    pub fn take(&mut self, token: FencingToken, event: Event) {
        let effects = self.step(token, None, event);
        let life = self.life;
        if let Some(task) = self.task(token) {
            task.todo.extend(effects);
            self.plan(Duration::ZERO, Happening::Task { life, token });
        }
    }

    pub fn task_goes_on(&mut self, token: FencingToken) {
        let life = self.life;
        loop {
            let Some(task) = self.task(token) else { return };
            if task.busy || task.reaping && !self.reap(token) {
                return;
            }
            let Some(task) = self.task(token) else { return };
            if let Some(waited) = task.starts.take() {
                self.begin(token, waited);
            } else if let Some(effect) = task.todo.pop_front() {
                self.perform(token, effect);
                if self.fails(300) {
                    return self.crash();
                }
                if self.chance.once_in(4) {
                    let after = self.millis(5);
                    return self.plan(after, Happening::Task { life, token });
                }
            } else if task.core.is_over() {
                self.daemon.as_mut().and_then(|daemon| daemon.tasks.remove(&token));
                return;
            } else if !self.next(token) {
                return;
            }
        }
    }

    /// What happens next to the attempt. Whether something did.
    pub fn next(&mut self, token: FencingToken) -> bool {
        let (now, wall, life, serves) = (self.at(), self.wall(), self.life, self.serves());
        let Some(task) = self.task(token) else { return false };
        let stops = !serves && task.core.heeds_stop();
        let alarm = task.core.alarm();
        let is_due = task.woken || alarm.is_some_and(|at| at <= now);
        let (pid, is_attended) = (task.pid, task.core.is_attended());
        let age = task.core.needs_age().then(|| task.attended.map_or(Duration::ZERO, |since| now - since));
        task.woken = false;
        let has_ended = is_attended && pid.is_some_and(|pid| self.processes[&pid].is_dead());
        let event = if has_ended {
            Event::Exited
        } else if stops {
            Event::Stopping
        } else if is_due {
            Event::Tick { wall, age }
        } else {
            if let Some(at) = alarm {
                self.plan_at(at, Happening::Task { life, token });
            }
            return false;
        };
        let effects = self.step(token, None, event);
        if let Some(task) = self.task(token) {
            task.todo.extend(effects);
        }
        true
    }

    pub fn begin(&mut self, token: FencingToken, waited: bool) {
        let Some(fence) = self.task(token).map(|task| task.fence) else { return };
        if self.fails(20) {
            if let Some(pid) = self.task(token).and_then(|task| task.pid.take()) {
                self.die(pid, Ended::Code(0));
            }
            let exit = Exit { class: ExitClass::Disk, message: None, hint: None };
            return self.take(token, Event::NotStarted(exit));
        }
        if waited {
            if let Some(pid) = self.task(token).and_then(|task| task.pid)
                && let Some(process) = self.processes.get_mut(&pid).filter(|process| !process.is_dead())
            {
                process.state = State::Alive;
                self.plan(Duration::from_millis(5), Happening::Deed(pid, Deed::Dial));
            }
            return self.take(token, Event::Engaged);
        }
        let pid = u32::try_from(self.processes.len()).expect("they are few") + 1;
        self.spawn(pid, fence, State::Alive);
        if let Some(task) = self.task(token) {
            task.pid = Some(pid);
        }
        self.take(token, Event::Started);
    }

    pub fn perform(&mut self, token: FencingToken, effect: Effect) {
        let now = self.at();
        let Some(task) = self.task(token) else { return };
        let (fence, pid) = (task.fence, task.pid);
        let process = pid.and_then(|pid| self.processes.get(&pid));
        match effect {
            Effect::RecordLaunch => {
                self.write(Actor::Task(token), Write::Launch { fence, pid: pid.unwrap_or_default() });
            }
            Effect::Attend => {
                if let Some(task) = self.task(token) {
                    (task.attended, task.heard) = (Some(now), now);
                }
            }
            Effect::Signal(Signal::Term) => pid.into_iter().for_each(|pid| self.terminate(pid)),
            Effect::Signal(Signal::Kill) => pid.into_iter().for_each(|pid| self.kill(pid)),
            Effect::Reap => {
                if let Some(task) = self.task(token) {
                    task.reaping = true;
                }
            }
            Effect::Vacate => self.plan(Duration::ZERO, Happening::Schedule),
            Effect::ReadResult => {
                let file = process.and_then(|process| process.file.clone()).map(Box::new);
                // The attempt of an earlier daemon.
                let file = file.or_else(|| self.file_of(fence));
                self.answer(Actor::Task(token), Event::Read(Ok(file)), 20);
            }
            Effect::AskStorage(_) => {
                let answer = if self.fails(4) { Err("no answer in time".into()) } else { Ok(self.published(fence)) };
                self.answer(Actor::Task(token), Event::Published(answer), 2_000);
            }
            Effect::Salvage => {
                let newest = self.ledger.rows[&token].checkpoints.last().copied();
                let mut found = self.process_of(fence).map(|process| process.saved.clone()).unwrap_or_default();
                found.retain(|checkpoint| newest.is_none_or(|newest| checkpoint.step > newest));
                self.write(Actor::Task(token), Write::Salvage { fence, found });
            }
            Effect::Record(end) => self.write(Actor::Task(token), Write::End { fence, end }),
            Effect::Forget => {
                if let Some(daemon) = &mut self.daemon
                    && daemon.live.get(&fence.job) == Some(&token)
                {
                    daemon.live.remove(&fence.job);
                }
                self.plan(Duration::ZERO, Happening::Schedule);
            }
            Effect::ReadJob => {
                if let Some(reason) = self.asked_of(fence.job).filter(|_| self.ledger.holds(fence)) {
                    self.step(token, None, Event::Asked(reason));
                }
            }
            other => self.broken.push(format!("{fence:?}: the task is to do {other:?}")),
        }
    }

    /// Whether its process has ended, and nothing of it is left.
    pub fn reap(&mut self, token: FencingToken) -> bool {
        let Some(task) = self.task(token) else { return false };
        let (pid, adopted) = (task.pid, task.adopted);
        let Some(State::Dead(ended)) = pid.map(|pid| self.processes[&pid].state) else { return false };
        let ended = if adopted { Ended::Unknown } else { ended };
        if let Some(task) = self.task(token) {
            task.reaping = false;
        }
        self.answer(Actor::Task(token), Event::Reaped(ended), 50);
        false
    }

    pub fn process_of(&self, fence: Fence) -> Option<&Process> {
        self.processes.values().find(|process| process.fence == fence)
    }

    pub fn file_of(&self, fence: Fence) -> Option<Box<WorkerResult>> {
        self.process_of(fence).and_then(|process| process.file.clone()).map(Box::new)
    }

    pub fn published(&self, fence: Fence) -> bool {
        self.process_of(fence).is_some_and(|process| process.published)
    }
}
