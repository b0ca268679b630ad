//! The loop around the plan. It wakes when jobs changed, when resources came back, and when the next waiting retry is due; it never polls. Called once by the
//! daemon's lifecycle.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::JobId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Dispatch, Observer, Plan, Snapshot,
    claims::Claims,
    dispatch::Round,
    plan::{Obstacle, plan as choose},
};
use crate::{
    domain::{Clock, causes, machine::Foreign},
    store::{Store, StoreError},
    supervisor::Handle,
};

/// How long the store is left alone after it failed.
pub(super) const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// The longest sleep towards a moment of the wall clock, which may jump meanwhile.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How often GPUs are looked at while a job waits for one that others use.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// What the loop works with.
#[derive(Clone)]
pub struct Scheduler {
    /// The database.
    pub store: Store,
    /// Who starts attempts.
    pub supervisor: Handle,
    /// Who looks at the queue.
    pub observer: Observer,
    /// Whether jobs are started at all.
    pub dispatch: Dispatch,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// So long a job runs before it is asked to make way: that a device changes hands all the time helps nobody.
    pub min_run: watch::Receiver<Duration>,
}

/// Starts jobs until `stop`; those that are being claimed then are still handed over.
pub async fn run(scheduler: Scheduler, stop: CancellationToken) {
    let mut changes = scheduler.store.changes();
    let mut freed = scheduler.supervisor.freed();
    let mut queues = scheduler.store.queue_changes();
    let mut standing = scheduler.dispatch.changes();
    let mut claims = Claims::default();
    while !stop.is_cancelled() {
        // Before reading: what changes from here on wakes the wait below.
        changes.mark_unchanged();
        freed.mark_unchanged();
        queues.mark_unchanged();
        standing.mark_unchanged();
        let wait = scheduler.turn(&mut claims).await;
        let waited = async {
            match wait {
                // The senders live in the store and the supervisor, which this loop holds.
                Wait::Opening => drop(standing.changed().await),
                Wait::Resources => drop(freed.changed().await),
                Wait::Anything(until) => {
                    let sleep = until.map(|until| scheduler.until(until));
                    tokio::select! {
                        _ = changes.changed() => {}
                        _ = freed.changed() => {}
                        _ = queues.changed() => {}
                        () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {}
                    }
                }
                Wait::Pause => tokio::time::sleep(PAUSE_AFTER_ERROR).await,
            }
        };
        let news = async {
            tokio::select! {
                () = waited => {}
                () = scheduler.claimed(&mut claims) => {}
            }
        };
        stop.run_until_cancelled(news).await;
    }
    if let Err(error) = claims.all().await {
        warn!(error = causes(&error), "jobs could not be claimed");
    }
}

/// When to look again whether others are done with a GPU for which a job waits: nobody tells when they are.
fn others_done_at(snapshot: &Snapshot, plan: &Plan) -> Option<Timestamp> {
    let are_others_there = snapshot.machine.gpus.iter().any(|gpu| gpu.foreign != Foreign::default());
    let wants_gpu = |(id, _): &(JobId, Obstacle)| snapshot.ready.iter().any(|job| job.id == *id && job.needs.gpus > 0);
    let waits = are_others_there && plan.wait.iter().any(wants_gpu);
    waits.then(|| snapshot.now.checked_add(LOOK_AGAIN).ok()).flatten()
}

/// What the next round is worth waiting for.
enum Wait {
    /// No job is started at all.
    Opening,
    /// Nothing is free: whatever comes into the queue cannot start.
    Resources,
    /// A change, resources, or the moment at which a job becomes ready.
    Anything(Option<Timestamp>),
    /// The store failed.
    Pause,
}

/// The store failed: it is left alone for a moment.
fn rest(error: &StoreError) -> Wait {
    // Of a full disk the store tells once.
    if !matches!(error, StoreError::Full) {
        warn!(error = causes(error), "jobs cannot be dispatched for the moment");
    }
    Wait::Pause
}

impl Scheduler {
    /// A round, if there may be one.
    async fn turn(&self, claims: &mut Claims) -> Wait {
        let Some(round) = self.dispatch.enter().await else { return Wait::Opening };
        self.round(round, claims).await.unwrap_or_else(|error| rest(&error))
    }

    /// Starts what fits.
    async fn round(&self, round: Round, claims: &mut Claims) -> Result<Wait, StoreError> {
        claims.settle()?;
        // Every job takes a core.
        let free = claims.free(&self.supervisor);
        if free.cpus == 0 && !self.supervisor.has_preemptible() {
            return Ok(Wait::Resources);
        }
        let now = self.clock.now();
        // Of a class, as many as could start, the one behind them, and those that are being claimed.
        let claimed = u32::try_from(claims.len()).unwrap_or(u32::MAX);
        let heads = free.cpus.saturating_add(1).saturating_add(claimed);
        let (mut snapshot, next_ready_at) = self.observer.look_ahead(now, heads, false).await?;
        claims.count_in(&mut snapshot);
        let mut plan = choose(&snapshot);
        if plan.start.iter().any(|start| !start.gpus.is_empty()) && self.observer.refresh(&mut snapshot).await? {
            plan = choose(&snapshot);
        }
        let starting = plan.start.iter().filter_map(|start| {
            let job = snapshot.ready.iter().find(|job| job.id == start.job)?;
            Some((job.clone(), job.clone().running(start.gpus.clone(), now)))
        });
        claims.ask(starting.collect(), self.supervisor.clone(), round);
        let mut later = None;
        if plan.head.is_some() && self.supervisor.has_preemptible() {
            // Who is asked to make way is chosen among all.
            claims.all().await?;
            later = self.make_way(&snapshot, &plan).await?;
        }
        if claims.free(&self.supervisor).cpus == 0 && !self.supervisor.has_preemptible() {
            return Ok(Wait::Resources);
        }
        let moments = next_ready_at.into_iter().chain(later).chain(others_done_at(&snapshot, &plan));
        Ok(Wait::Anything(moments.min()))
    }

    /// Waits until a claim's answer makes another round worth while: one that started its job took what was counted as taken. Rests when one failed.
    async fn claimed(&self, claims: &mut Claims) {
        loop {
            match claims.next().await {
                Ok(true) if !self.supervisor.has_preemptible() => {}
                Ok(_) => return,
                Err(error) => {
                    rest(&error);
                    return tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    fn until(&self, moment: Timestamp) -> Duration {
        // A millisecond more, since what is not yet due when looked at would be waited for again at once.
        self.clock.until(moment).saturating_add(Duration::from_millis(1)).min(LONGEST_SLEEP)
    }
}
