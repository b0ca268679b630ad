//! Workers started ahead: processes that wait for a job of the kind that ran last, so that it need not wait for one to start. Each is used once. Called by the handle, which takes one with a claim,
//! and by the attempts, which have it replaced. None is started before a job of its kit has been: a daemon without work has no processes.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::{debug, warn};

use super::executor::{Executor, Gone, Kit, Spare};
use crate::domain::{causes, event::ProcessIdentity};

/// The folder of those that wait, among the jobs'.
const FOLDER: &str = "ahead";

/// Kits of which some wait.
const MAX_KITS: usize = 4;

/// The processes that wait.
pub(super) struct Pool {
    /// How many wait of a kit; 0 for none.
    size: usize,
    dir: PathBuf,
    /// What sets its folders apart from those of other daemons' on this state directory: a folder is the mark of what began in it, and an attempt of before may be at work yet.
    series: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<(Kit, Box<dyn Spare>)>,
    /// Being started.
    starting: Vec<Kit>,
    /// Kits in the order of their last use.
    recent: VecDeque<Kit>,
    started: u64,
    closed: bool,
}

/// A process that an attempt is given.
pub(super) struct Engaged {
    pub(super) spare: Box<dyn Spare>,
    pub(super) identity: ProcessIdentity,
}

impl Pool {
    /// A pool of so many of a kit, whose folders are under that of the attempts. What an earlier daemon's left there goes.
    pub(super) fn new(size: u32, attempts_dir: &std::path::Path, entropy: fn(&mut [u8])) -> Self {
        let mut series = [0; 8];
        entropy(&mut series);
        let dir = attempts_dir.join(FOLDER);
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(path = %dir.display(), %error, "what waiting workers left cannot be cleared away");
        }
        let series = format!("{:016x}", u64::from_le_bytes(series));
        Self { size: usize::try_from(size).unwrap_or(usize::MAX), dir, series, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that fits, if one waits.
    pub(super) fn take(&self, kit: &Kit) -> Option<Engaged> {
        let mut state = self.lock();
        while let Some(at) = state.waiting.iter().position(|(of, _)| of == kit) {
            let (_, mut spare) = state.waiting.remove(at)?;
            if let Some(identity) = spare.engage() {
                return Some(Engaged { spare, identity });
            }
            debug!(?kit, "a worker that was started ahead is of no use any more");
        }
        None
    }

    /// One that was taken and has been told nothing, and is on record nowhere: it waits again.
    pub(super) async fn give_back(&self, kit: Kit, spare: Box<dyn Spare>) {
        let late = {
            let mut state = self.lock();
            if state.closed {
                Some(spare)
            } else {
                state.waiting.push_front((kit, spare));
                None
            }
        };
        if let Some(spare) = late {
            spare.end().await;
        }
    }

    /// Starts as many of a kit as are missing. Returns the ends of those that were started: whoever dies while it waits is to be buried.
    pub(super) async fn fill(&self, executor: &dyn Executor, kit: &Kit) -> Vec<Gone> {
        let mut ends = Vec::new();
        let retired = self.lock().retire(kit);
        for old in retired {
            old.end().await;
        }
        loop {
            let number = self.lock().begin(kit, self.size);
            let Some(number) = number else { return ends };
            let started = executor.start_ahead(kit, &self.dir.join(format!("{}-{number}", self.series))).await;
            let mut late = None;
            let goes_on = {
                let mut state = self.lock();
                if let Some(at) = state.starting.iter().position(|of| of == kit) {
                    state.starting.swap_remove(at);
                }
                match started {
                    Ok(Some(spare)) if state.closed => {
                        late = Some(spare);
                        false
                    }
                    Ok(Some(spare)) => {
                        ends.extend(spare.gone());
                        state.waiting.push_back((kit.clone(), spare));
                        true
                    }
                    Ok(None) => false,
                    Err(error) => {
                        // The next job says so, if it is not over by then.
                        warn!(error = causes(&error), "no worker can be started ahead");
                        false
                    }
                }
            };
            if let Some(spare) = late {
                spare.end().await;
            }
            if !goes_on {
                return ends;
            }
        }
    }

    /// Reaps those that died while they waited. Nobody takes their place before a job of their kit is started: what killed them may be about still.
    pub(super) async fn bury(&self) {
        let dead = {
            let mut state = self.lock();
            let (kept, dead): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut state.waiting).into_iter().partition(|(_, spare)| spare.lives());
            state.waiting = kept;
            dead
        };
        for (kit, spare) in dead {
            debug!(?kit, "a worker that was started ahead died while it waited");
            spare.end().await;
        }
    }

    /// Ends all that wait, for good.
    pub(super) async fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        for (_, spare) in waiting {
            spare.end().await;
        }
    }
}

impl State {
    /// A kit is used. Returns those of the kit that has not been for the longest time, where there are too many kits.
    fn retire(&mut self, kit: &Kit) -> Vec<Box<dyn Spare>> {
        self.recent.retain(|of| of != kit);
        self.recent.push_back(kit.clone());
        let Some(oldest) = (self.recent.len() > MAX_KITS).then(|| self.recent.pop_front()).flatten() else {
            return Vec::new();
        };
        let (retired, kept) = std::mem::take(&mut self.waiting).into_iter().partition(|(of, _)| *of == oldest);
        self.waiting = kept;
        let retired: VecDeque<(Kit, Box<dyn Spare>)> = retired;
        retired.into_iter().map(|(_, spare)| spare).collect()
    }

    /// The number of one more to be started.
    fn begin(&mut self, kit: &Kit, size: usize) -> Option<u64> {
        let waiting = self.waiting.iter().filter(|(of, _)| of == kit).count();
        let starting = self.starting.iter().filter(|of| *of == kit).count();
        if self.closed || waiting + starting >= size {
            return None;
        }
        self.starting.push(kit.clone());
        self.started += 1;
        Some(self.started)
    }
}
