//! The one task that writes. It owns the only connection that does, drains what waits into one transaction, commits, and hands it over to `sync`, which answers when it is durable. No
//! write is ever given up half-way: nothing here selects around one.

use std::sync::Arc;

use jiff::Timestamp;
use sqlx::{Connection, SqliteConnection};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{
    StoreError,
    ask::Ask,
    error::{Fault, Meaning, primary_code},
    ledger::Ledger,
    queues::{self, Queues},
    reserve::Reserve,
    sync::{Broken, Committed},
    unit::{Done, Unit},
    wal::Log,
};
use crate::domain::Clock;

/// Commands in one transaction at most. Beyond this the gain is small and the first of them waits for the last.
const MAX_GROUP: usize = 512;

/// The writer, before it runs.
pub(super) struct Writer {
    pub(super) conn: SqliteConnection,
    pub(super) ledger: Ledger,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) committed: mpsc::Sender<Committed>,
    /// Ends when all that was committed is answered.
    pub(super) syncer: JoinHandle<()>,
    pub(super) schedule_changes: watch::Sender<u64>,
    pub(super) deadline_changes: watch::Sender<u64>,
    pub(super) replacements: watch::Sender<u64>,
    pub(super) queues: watch::Sender<Arc<Queues>>,
    /// Whether the group under way, or one that was rolled back, touched a deadline.
    pub(super) moved_deadlines: bool,
    /// The same of jobs that run and are to end since others replace them.
    pub(super) replaced: bool,
    /// Jobs that wait for what has ended and are not settled yet.
    pub(super) backlog: Backlog,
    pub(super) log: Arc<Log>,
    pub(super) reserve: Reserve,
    pub(super) broken: Broken,
}

/// What earlier groups left to the next ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backlog {
    /// Nothing.
    None,
    /// Something, perhaps: it is done without waiting for other commands.
    Some,
    /// Something that could not be done: it is tried with the next command.
    Stuck,
}

impl Backlog {
    const fn stuck(self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Some | Self::Stuck => Self::Stuck,
        }
    }
}

impl Writer {
    /// Serves until every sender is gone or `stop`, and then what still waits.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut group = Vec::with_capacity(MAX_GROUP);
        loop {
            if !self.receive(&mut group, &stop).await {
                break;
            }
            let schedules = group.iter().any(Ask::changes_schedules);
            let group = self.admit(std::mem::take(&mut group));
            self.serve(group).await;
            if schedules {
                self.schedule_changes.send_modify(|changes| *changes = changes.wrapping_add(1));
            }
            if std::mem::take(&mut self.moved_deadlines) {
                self.deadline_changes.send_modify(|changes| *changes = changes.wrapping_add(1));
            }
            if std::mem::take(&mut self.replaced) {
                self.replacements.send_modify(|changes| *changes = changes.wrapping_add(1));
            }
            self.log.written(&mut self.conn).await;
        }
        self.finish().await;
    }

    /// While the disk is full, the room that is kept is for how running jobs end.
    fn admit(&mut self, mut group: Vec<Ask>) -> Vec<Ask> {
        if !self.reserve.keep() {
            group.extract_if(.., |ask| ask.is_new_work()).for_each(|ask| ask.fail(StoreError::Full));
        }
        group
    }

    /// Takes what waits into the group. Whether there is anything to do, now or later.
    async fn receive(&mut self, group: &mut Vec<Ask>, stop: &CancellationToken) -> bool {
        if self.backlog == Backlog::Some && !stop.is_cancelled() {
            while group.len() < MAX_GROUP
                && let Ok(ask) = self.asks.try_recv()
            {
                group.push(ask);
            }
            return true;
        }
        // Receiving may be given up, carrying out may not.
        let received = stop.run_until_cancelled(self.asks.recv_many(group, MAX_GROUP)).await;
        let received = match received {
            Some(received) => received,
            None => {
                self.asks.close();
                self.asks.recv_many(group, MAX_GROUP).await
            }
        };
        received > 0
    }

    /// The last answers, and all pages into the database file, unless the disk cannot be trusted.
    async fn finish(mut self) {
        drop(self.committed);
        if let Err(error) = self.syncer.await {
            error!(%error, "what syncs the database has failed");
        }
        if self.broken.get().is_none()
            && let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut self.conn).await
        {
            warn!(%error, "the write-ahead log could not be emptied; nothing is lost");
        }
        if let Err(error) = self.conn.close().await {
            warn!(%error, "the database could not be closed; nothing is lost");
        }
    }

    async fn serve(&mut self, mut group: Vec<Ask>) {
        match self.commit(&mut group).await {
            Ok(has_written) => self.hand_over(group, has_written).await,
            // One of them does not fit: on their own, only that one fails.
            Err(fault) if fault.meaning() == Meaning::Guilty && group.len() > 1 && self.broken.get().is_none() => {
                warn!(error = %fault, commands = group.len(), "a group of commands is carried out one by one");
                for mut ask in group {
                    match self.commit(std::slice::from_mut(&mut ask)).await {
                        Ok(has_written) => self.hand_over(vec![ask], has_written).await,
                        Err(fault) => self.refuse(vec![ask], fault),
                    }
                }
            }
            Err(fault) => self.refuse(group, fault),
        }
    }

    /// What is committed is answered when it is synced.
    async fn hand_over(&self, group: Vec<Ask>, has_written: bool) {
        let committed = Committed { group, ledger: self.ledger.clone(), has_written };
        if self.committed.send(committed).await.is_err() {
            error!("nothing is synced any more: what was just committed is not acknowledged");
        }
    }

    /// What the queues are by now.
    async fn tell_queues(&mut self) {
        match queues::all(&mut self.conn).await {
            Ok(all) => drop(self.queues.send_replace(all)),
            Err(fault) => error!(error = %fault, "queues cannot be read; their changes hold from the next start on"),
        }
    }

    fn refuse(&self, group: Vec<Ask>, fault: Fault) {
        let failure = self.broken.get().unwrap_or_else(|| {
            error!(error = %fault, commands = group.len(), "commands could not be carried out");
            fault.into()
        });
        for ask in group {
            ask.fail(failure.clone());
        }
    }

    /// Carries out a group in one transaction. Returns whether it changed anything.
    async fn commit(&mut self, group: &mut [Ask]) -> Result<bool, Fault> {
        if self.broken.get().is_some() {
            self.backlog = self.backlog.stuck();
            return Err(Fault::Sql(sqlx::Error::WorkerCrashed));
        }
        let (ledger, is_left) = match self.work(group).await {
            Ok(done) => done,
            Err(fault) => {
                self.roll_back().await;
                self.backlog = self.backlog.stuck();
                return Err(fault);
            }
        };
        if let Err(error) = sqlx::query("COMMIT").execute(&mut self.conn).await {
            let fault = Fault::Sql(error);
            // The kernel may have dropped what it could not write, and say that all is well the next time: only a restart, which reads the file
            // again, shows what is there.
            if fault.meaning() == Meaning::Io {
                self.broken.set(&fault);
            }
            self.roll_back().await;
            self.backlog = self.backlog.stuck();
            return Err(fault);
        }
        self.backlog = if is_left { Backlog::Some } else { Backlog::None };
        let has_written = ledger.commits != self.ledger.commits;
        self.ledger = ledger;
        // Before the answers: who has changed a queue sees it so.
        if group.iter().any(Ask::changes_queues) {
            self.tell_queues().await;
        }
        Ok(has_written)
    }

    /// Returns whether something is left to the next group, too.
    async fn work(&mut self, group: &mut [Ask]) -> Result<(Ledger, bool), Fault> {
        let now = microseconds(self.clock.now());
        let mut unit = Unit::load(&mut self.conn, group, self.ledger.clone(), now).await?;
        for ask in group {
            unit.take(ask)?;
        }
        let is_left = unit.settle(&mut self.conn, self.backlog != Backlog::None).await?;
        let Done { ledger, moves_deadlines, replaces } = unit.flush(&mut self.conn).await?;
        self.moved_deadlines |= moves_deadlines;
        self.replaced |= replaces;
        Ok((ledger, is_left))
    }

    /// Some errors have ended the transaction already: then there is nothing to roll back, and SQLite says so. A transaction that stays open would swallow
    /// the next group's commit.
    async fn roll_back(&mut self) {
        if let Err(error) = sqlx::query("ROLLBACK").execute(&mut self.conn).await
            && primary_code(&error) != Some(libsqlite3_sys::SQLITE_ERROR)
        {
            self.broken.set(&Fault::Sql(error));
        }
    }
}

/// Times are kept in microseconds: what is decided on must be what is stored.
pub(super) fn microseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}
