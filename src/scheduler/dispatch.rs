//! Whether jobs are started at all. Two things keep them from it, each by itself: a database that a full check found damaged, and a drain. Held by the scheduler's loop, which asks before each round, by those
//! who find or ask something, and by those who explain why nothing starts.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{OwnedRwLockReadGuard, RwLock, watch},
    time::Instant,
};
use tracing::{error, info, warn};

use crate::{
    domain::{Clock, Uid, causes},
    store::{Store, StoreError},
};

/// What to do about a damaged database.
pub const DAMAGED_HINT: &str =
    "`mlctl db check` lists what is wrong; stop the daemon, keep a copy of the file, and `mlctl db restore latest`";

/// Whether jobs are started. Cheap to clone.
#[derive(Clone)]
pub struct Dispatch {
    shared: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Arc<dyn Clock>,
    standing: watch::Sender<Standing>,
    /// Held by rounds that may start jobs, and by their claims.
    rounds: Arc<RwLock<()>>,
}

/// A round that was let in: it is over when the last clone is dropped.
#[derive(Clone)]
pub(super) struct Round(#[expect(dead_code, reason = "it is held")] Arc<OwnedRwLockReadGuard<()>>);

/// What keeps jobs from being started, and what is known of the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The last full check found something.
    pub frozen: Option<Frozen>,
    /// No job is to be started any more.
    pub drain: Option<Drain>,
    /// When the last full check in this daemon's time ended.
    pub checked_at: Option<Timestamp>,
}

/// The database is damaged: what comes now may be lost with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frozen {
    /// When that was found.
    pub at: Timestamp,
    /// What was found.
    pub problems: Arc<[String]>,
}

/// Jobs that run are let finish, or have to save their work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// Since when.
    pub at: Timestamp,
    /// Who asked for it.
    pub by: Uid,
    /// So long they are let run, and then asked to save their work; for ever when absent.
    pub patience: Option<Duration>,
    /// Whether the daemon stops when none runs any more.
    pub stop: bool,
    /// When it was asked for, by a clock that nobody sets.
    pub(super) since: Instant,
}

impl Drain {
    /// When those that still run are asked to save their work.
    pub(super) fn save_at(&self) -> Option<Instant> {
        self.patience.and_then(|patience| self.since.checked_add(patience))
    }

    /// Whether they are.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.save_at().is_some_and(|at| at <= Instant::now())
    }
}

impl Standing {
    /// Whether jobs are started.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.frozen.is_none() && self.drain.is_none()
    }
}

impl Dispatch {
    /// Jobs are started unless the last full check found something, in an earlier daemon's time too.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        let problems = store.known_problems();
        let dispatch = Self {
            shared: Arc::new(Inner { store, clock, standing: watch::Sender::default(), rounds: Arc::default() }),
        };
        if !problems.is_empty() {
            dispatch.freeze(problems);
        }
        dispatch
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.shared.standing.borrow().clone()
    }

    /// Wakes when that changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// Lets a round begin that may start jobs; nothing where none may be. It lasts as long as what is returned.
    pub(super) async fn enter(&self) -> Option<Round> {
        let round = self.shared.rounds.clone().read_owned().await;
        self.shared.standing.borrow().is_open().then(|| Round(Arc::new(round)))
    }

    /// Waits until the rounds that were let in are over.
    pub(super) async fn settled(&self) {
        drop(self.shared.rounds.write().await);
    }

    /// Waits until the database is not known to be damaged.
    pub(super) async fn sound(&self) {
        // An error cannot come: the sender is in `self`.
        let _ = self.changes().wait_for(|standing| standing.frozen.is_none()).await;
    }

    /// A full check came to this. What is wrong freezes dispatch, for later daemons too, until a check finds nothing.
    pub async fn examined(&self, found: &Result<Vec<String>, StoreError>) {
        let problems = match found {
            Ok(problems) => problems.clone(),
            Err(error @ StoreError::Unusable { .. }) => vec![error.to_string()],
            Err(error) => return warn!(error = causes(error), "the database could not be looked through"),
        };
        let (store, kept) = (self.shared.store.clone(), problems.clone());
        let kept = tokio::task::spawn_blocking(move || store.remember_problems(&kept)).await;
        if let Ok(Err(error)) = kept {
            warn!(%error, "what the check of the database found cannot be kept for the next daemon");
        }
        let now = self.shared.clock.now();
        self.shared.standing.send_modify(|standing| standing.checked_at = Some(now));
        if !problems.is_empty() {
            return self.freeze(problems);
        }
        let thawed = self.shared.standing.send_if_modified(|standing| standing.frozen.take().is_some());
        if thawed {
            warn!(
                "the database was damaged and now nothing is wrong with it: jobs are started again; check the disk and the memory"
            );
        }
    }

    fn freeze(&self, problems: Vec<String>) {
        let count = problems.len();
        for problem in problems.iter().take(10) {
            error!(problem, "the database is damaged: {problem}");
        }
        error!(
            problems = count,
            hint = DAMAGED_HINT,
            "no job is started any more, since the database is damaged; {DAMAGED_HINT}"
        );
        let at = self.shared.clock.now();
        self.shared.standing.send_modify(|standing| {
            let at = standing.frozen.as_ref().map_or(at, |frozen| frozen.at);
            standing.frozen = Some(Frozen { at, problems: problems.into() });
        });
    }

    /// From now on no job is started; returns when none is being. Replaces an earlier drain.
    pub async fn drain(&self, by: Uid, patience: Option<Duration>, stop: bool) {
        let drain = Drain { at: self.shared.clock.now(), by, patience, stop, since: Instant::now() };
        info!(
            uid = by.0,
            patience_s = patience.map(|patience| patience.as_secs()),
            stop,
            "draining: no job is started any more"
        );
        self.shared.standing.send_modify(|standing| standing.drain = Some(drain));
        self.settled().await;
    }

    /// Takes a drain back. Returns whether there was one.
    pub fn resume(&self, by: Uid) -> bool {
        let resumed = self.shared.standing.send_if_modified(|standing| standing.drain.take().is_some());
        if resumed {
            info!(uid = by.0, "the drain is taken back: jobs are started again");
        }
        resumed
    }
}
