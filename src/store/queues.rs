//! Queues that have a row: the store's surface for them, and their rows in the writer's hands. Few and read at every round, so that all of them are kept in memory; the writer tells what they
//! have become once it is committed. How many jobs stand in each is counted in the transactions that change jobs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use tokio::sync::watch;

use super::{
    Store, StoreError,
    ask::Ask,
    batch::Batch,
    error::Fault,
    rows::{Cell, Fields, RowError, Rows},
    types::QueueRow,
};
use crate::domain::{
    JobState, Uid,
    queue::{Flow, Order, Queue, QueueEdit, QueueLimits},
};

/// The queues that have a row, by name.
pub type Queues = BTreeMap<String, QueueRow>;

/// Queues kept at most: all of them are read at every round.
pub const MAX_QUEUES: usize = 1000;

impl Store {
    /// The queues that have a row, as they are now.
    #[must_use]
    pub fn queues(&self) -> Arc<Queues> {
        self.inner.queues.borrow().clone()
    }

    /// Tells when a queue is no longer as it was.
    #[must_use]
    pub fn queue_changes(&self) -> watch::Receiver<Arc<Queues>> {
        self.inner.queues.clone()
    }

    /// Changes a queue, or makes it. Returns what it is then.
    ///
    /// # Errors
    /// [`StoreError::TooManyQueues`], [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn edit_queue(&self, name: &str, edit: QueueEdit, by: Uid) -> Result<QueueRow, StoreError> {
        let name = name.to_owned();
        self.ask(|reply| Ask::EditQueue { name, edit, by, reply }).await
    }

    /// Removes a queue in which no job is that has not ended. Returns what it was.
    ///
    /// # Errors
    /// [`StoreError::NoQueue`], [`StoreError::QueueInUse`], [`StoreError::Failed`].
    pub async fn remove_queue(&self, name: &str) -> Result<QueueRow, StoreError> {
        let name = name.to_owned();
        self.ask(|reply| Ask::RemoveQueue { name, reply }).await
    }

    /// Jobs per queue and state, also of queues that have no row.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn queue_counts(&self) -> Result<BTreeMap<String, BTreeMap<String, u64>>, StoreError> {
        let found = sqlx::query_as::<_, (String, String, i64)>(COUNTS).fetch_all(&self.inner.readers).await?;
        let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (queue, state, jobs) in found {
            counts.entry(queue).or_default().insert(state, jobs.unsigned_abs());
        }
        Ok(counts)
    }
}

/// All of them.
pub(super) async fn all(conn: &mut SqliteConnection) -> Result<Arc<Queues>, Fault> {
    let found = sqlx::query(ALL).fetch_all(conn).await?;
    Ok(Arc::new(found.iter().map(|row| queue(row).map(|row| (row.queue.name.clone(), row))).collect::<Result<_, _>>()?))
}

fn queue(row: &SqliteRow) -> Result<QueueRow, RowError> {
    // A queue has no number.
    let fields = Fields { row, table: "queues", id: 0 };
    let order = match fields.get("ordering")? {
        "strict" => Order::Strict,
        "best-effort" => Order::BestEffort,
        other => return Err(fields.error("ordering", format_args!("unknown order {other:?}"))),
    };
    let flow = match fields.get("flow")? {
        "open" => Flow::Open,
        "paused" => Flow::Paused,
        "draining" => Flow::Draining,
        other => return Err(fields.error("flow", format_args!("unknown flow {other:?}"))),
    };
    let limits = QueueLimits {
        running: fields.maybe_number("max_running")?,
        cpus: fields.maybe_number("max_cpus")?,
        gpus: fields.maybe_number("max_gpus")?,
        per_user: fields.maybe_number("max_per_user")?,
    };
    let queue = Queue { name: fields.get("name")?, limits, order, flow };
    let (changed_by, changed_at) = (Uid(fields.number("changed_by")?), fields.time("changed_us")?);
    Ok(QueueRow { queue, changed_by, changed_at })
}

/// The queues that a group of commands is about, and what it makes of them; and where its jobs stand.
#[derive(Default)]
pub(super) struct HeldQueues {
    rows: BTreeMap<String, QueueRow>,
    changed: BTreeSet<String>,
    /// Those in which jobs are that have not ended, and how many.
    used: BTreeMap<String, u64>,
    /// How many there are in all.
    total: usize,
}

impl HeldQueues {
    /// Reads all queues where one is to be changed, and what is in these.
    pub(super) async fn load(conn: &mut SqliteConnection, names: &BTreeSet<&str>) -> Result<Self, Fault> {
        let mut held = Self::default();
        if names.is_empty() {
            return Ok(held);
        }
        held.rows = Arc::unwrap_or_clone(all(conn).await?);
        held.total = held.rows.len();
        for name in names {
            let jobs: i64 = sqlx::query_scalar(UNFINISHED).bind(name).fetch_one(&mut *conn).await?;
            held.used.insert((*name).to_owned(), jobs.unsigned_abs());
        }
        Ok(held)
    }

    /// Changes a queue, or makes it.
    pub(super) fn edit(
        &mut self,
        name: &str,
        edit: QueueEdit,
        by: Uid,
        now: Timestamp,
    ) -> Result<QueueRow, StoreError> {
        if !self.rows.contains_key(name) {
            if self.rows.len() >= MAX_QUEUES {
                return Err(StoreError::TooManyQueues(MAX_QUEUES));
            }
            let row = QueueRow { queue: Queue::open(name), changed_by: by, changed_at: now };
            self.rows.insert(name.to_owned(), row);
        }
        let row = self.rows.get_mut(name).ok_or_else(|| StoreError::NoQueue(name.to_owned()))?;
        edit.apply(&mut row.queue);
        (row.changed_by, row.changed_at) = (by, now);
        self.changed.insert(name.to_owned());
        Ok(row.clone())
    }

    /// Removes a queue that is not in use.
    pub(super) fn remove(&mut self, name: &str) -> Result<QueueRow, StoreError> {
        let jobs = self.used.get(name).copied().unwrap_or_default();
        if self.rows.contains_key(name) && jobs > 0 {
            return Err(StoreError::QueueInUse { name: name.to_owned(), jobs });
        }
        let row = self.rows.remove(name).ok_or_else(|| StoreError::NoQueue(name.to_owned()))?;
        self.changed.insert(name.to_owned());
        Ok(row)
    }

    /// Writes what changed.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        let (mut gone, mut kept) = (Rows::default(), Rows::default());
        for name in &self.changed {
            gone.push(&[name.into()]);
            let Some(QueueRow { queue, changed_by, changed_at }) = self.rows.get(name) else { continue };
            let QueueLimits { running, cpus, gpus, per_user } = queue.limits;
            let cells: [Cell<'_>; 9] = [
                name.into(),
                running.into(),
                cpus.into(),
                gpus.into(),
                per_user.into(),
                queue.order.name().into(),
                queue.flow.name().into(),
                changed_by.0.into(),
                (*changed_at).into(),
            ];
            kept.push_sealed("queues", &cells);
        }
        batch.sweep(conn, REMOVE, gone).await?;
        batch.write(conn, "queues", NEW, kept).await
    }
}

/// How many more jobs, or fewer, stand where.
#[derive(Default)]
pub(super) struct Tally(BTreeMap<(String, &'static str), i64>);

impl Tally {
    pub(super) fn add(&mut self, queue: &str, state: &JobState, change: i64) {
        // The allocation only for a queue that is not there yet.
        match self.0.iter_mut().find(|((known, name), _)| known == queue && *name == state.name()) {
            Some((_, jobs)) => *jobs += change,
            None => drop(self.0.insert((queue.to_owned(), state.name()), change)),
        }
    }

    /// Writes them.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        let (mut gains, mut losses) = (Rows::default(), Rows::default());
        for ((queue, state), change) in &self.0 {
            let rows = if *change > 0 { &mut gains } else { &mut losses };
            if *change != 0 {
                rows.push(&[queue.into(), (*state).into(), (*change).into()]);
            }
        }
        batch.sweep(conn, GAINS, gains).await?;
        batch.write(conn, "counts of queues", LOSSES, losses).await
    }
}

pub(super) const ALL: &str =
    "SELECT name, max_running, max_cpus, max_gpus, max_per_user, ordering, flow, changed_by, changed_us FROM queues";
pub(super) const COUNTS: &str = "SELECT queue, state, jobs FROM queue_counters WHERE jobs > 0";
pub(super) const UNFINISHED: &str = "SELECT coalesce(sum(jobs), 0) FROM queue_counters WHERE queue = ?1 AND state NOT IN ('succeeded', 'failed', 'cancelled')";
const REMOVE: &str = "DELETE FROM queues WHERE name IN (SELECT value ->> 0 FROM jsonb_each(?))";
const NEW: &str = "
INSERT INTO queues (name, max_running, max_cpus, max_gpus, max_per_user, ordering, flow, changed_by, changed_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9
FROM jsonb_each(?)";
const GAINS: &str = "
INSERT INTO queue_counters (queue, state, jobs) SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?) WHERE true
ON CONFLICT (queue, state) DO UPDATE SET jobs = queue_counters.jobs + excluded.jobs";
const LOSSES: &str = "
UPDATE queue_counters SET jobs = queue_counters.jobs + new.value ->> 2 FROM jsonb_each(?) AS new
WHERE queue_counters.queue = new.value ->> 0 AND queue_counters.state = new.value ->> 1";
