//! The ends of the database's counters, in memory with the writer: the next job id, the next token, the event to chain to. A group works on a copy, which becomes
//! the truth when the group is committed.

use mlctl_protocol::{FencingToken, JobId};
use sqlx::{Row, SqliteConnection};

use super::{
    batch::Batch,
    chain::{self, Hash},
    error::Fault,
    rows::{Fields, Rows, integer},
    types::{Instance, TOKEN_BITS},
};

/// The row of table `instance`.
#[derive(Debug, Clone)]
pub(super) struct Ledger {
    pub(super) epoch: u32,
    pub(super) tokens_drawn: i64,
    pub(super) last_job: i64,
    pub(super) last_event: i64,
    pub(super) last_hash: Hash,
    /// Transactions that changed something.
    pub(super) commits: i64,
    /// The last event cut off and its hash, the highest job among those cut off, the highest token among the attempts removed.
    pub(super) pruned_event: i64,
    pub(super) pruned_hash: Option<Hash>,
    pub(super) pruned_job: i64,
    pub(super) removed_token: i64,
}

impl Ledger {
    pub(super) async fn read(conn: &mut SqliteConnection) -> Result<(Instance, Self), Fault> {
        let row = sqlx::query(
            "SELECT id, name, epoch, tokens_drawn, last_job_id, last_event_id, last_hash, commits, \
             pruned_event_id, pruned_hash, pruned_job_id, removed_token FROM instance WHERE id = 1",
        )
        .fetch_one(conn)
        .await?;
        let fields = Fields::new(&row, "instance", "id")?;
        let hash: &[u8] = fields.get("last_hash")?;
        let pruned_hash: Option<&[u8]> = fields.get("pruned_hash")?;
        let pruned_hash = pruned_hash.map(Hash::try_from).transpose();
        let ledger = Self {
            epoch: fields.number("epoch")?,
            tokens_drawn: fields.get("tokens_drawn")?,
            last_job: fields.get("last_job_id")?,
            last_event: fields.get("last_event_id")?,
            last_hash: hash.try_into().map_err(|error| fields.error("last_hash", error))?,
            commits: fields.get("commits")?,
            pruned_event: fields.get("pruned_event_id")?,
            pruned_hash: pruned_hash.map_err(|error| fields.error("pruned_hash", error))?,
            pruned_job: fields.get("pruned_job_id")?,
            removed_token: fields.get("removed_token")?,
        };
        Ok((Instance { id: fields.get("name")?, epoch: ledger.epoch }, ledger))
    }

    /// Whether the log ends where the ledger says. `None` when it does, else what is wrong.
    pub(super) async fn compare_head(
        &self,
        conn: &mut SqliteConnection,
        instance: &str,
    ) -> Result<Option<String>, Fault> {
        let row = sqlx::query("SELECT id, hash FROM events ORDER BY id DESC LIMIT 1").fetch_optional(conn).await?;
        let (id, hash) = match &row {
            None => (0, chain::genesis(instance).to_vec()),
            Some(row) => (row.try_get("id")?, row.try_get::<Vec<u8>, _>("hash")?),
        };
        if (id, hash.as_slice()) == (self.last_event, self.last_hash.as_slice()) {
            return Ok(None);
        }
        Ok(Some(format!(
            "table events ends with event {id}, and the newest on record is {} (another hash counts as another event)",
            self.last_event
        )))
    }

    /// What the first event that is left is chained to: the id and the hash of the one before it.
    pub(super) fn beginning(&self, instance: &str) -> (i64, Hash) {
        (self.pruned_event, self.pruned_hash.unwrap_or_else(|| chain::genesis(instance)))
    }

    /// Writes the row, with one commit more.
    pub(super) async fn save(&mut self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        self.commits = self.commits.saturating_add(1);
        let hex = |hash: &Hash| blake3::Hash::from(*hash).to_hex();
        let (last, pruned) = (hex(&self.last_hash), self.pruned_hash.as_ref().map(hex));
        let mut row = Rows::default();
        row.push(&[
            self.tokens_drawn.into(),
            self.last_job.into(),
            self.last_event.into(),
            last.as_str().into(),
            self.commits.into(),
            self.pruned_event.into(),
            pruned.as_ref().map(|hash| hash.as_str()).into(),
            self.pruned_job.into(),
            self.removed_token.into(),
        ]);
        batch.write(conn, "the ledger", SAVE, row).await
    }

    /// Whether the newest job and the newest token are those on record. Returns what is wrong.
    pub(super) async fn compare_ends(&self, conn: &mut SqliteConnection) -> Result<Vec<String>, Fault> {
        let newest = async |conn: &mut SqliteConnection, sql: &'static str| {
            sqlx::query_scalar::<_, Option<i64>>(sql).fetch_one(conn).await
        };
        let mut problems = Vec::new();
        let job = newest(&mut *conn, "SELECT max(job_id) FROM events").await?.unwrap_or(0).max(self.pruned_job);
        if job != self.last_job {
            problems.push(format!("table instance: the last job is {} on record, and {job} in the log", self.last_job));
        }
        let token = newest(conn, "SELECT max(token) FROM attempts").await?.unwrap_or(0).max(self.removed_token);
        let drawn = (i64::from(self.epoch) << TOKEN_BITS) + self.tokens_drawn;
        if self.tokens_drawn > 0 && token != drawn {
            problems
                .push(format!("table instance: the last token is {drawn} on record, and {token} in table attempts"));
        }
        Ok(problems)
    }

    pub(super) fn next_job(&mut self) -> JobId {
        self.last_job = self.last_job.saturating_add(1);
        JobId(self.last_job.unsigned_abs())
    }

    pub(super) fn next_token(&mut self) -> FencingToken {
        self.tokens_drawn = self.tokens_drawn.saturating_add(1);
        FencingToken((u64::from(self.epoch) << TOKEN_BITS) + self.tokens_drawn.unsigned_abs())
    }

    /// Undoes the last [`Self::next_token`]: nobody has seen the token.
    pub(super) fn put_back_token(&mut self) {
        self.tokens_drawn = self.tokens_drawn.saturating_sub(1);
    }

    /// Chains an event. Returns its id and hash.
    pub(super) fn append(&mut self, at_us: i64, job: JobId, body: &str) -> (i64, Hash) {
        self.last_event = self.last_event.saturating_add(1);
        self.last_hash = chain::next(&self.last_hash, self.last_event, at_us, integer(job.0), body);
        (self.last_event, self.last_hash)
    }
}

const SAVE: &str = "
UPDATE instance SET
    tokens_drawn = new.value ->> 0, last_job_id = new.value ->> 1, last_event_id = new.value ->> 2, last_hash = unhex(new.value ->> 3),
    commits = new.value ->> 4, pruned_event_id = new.value ->> 5, pruned_hash = unhex(new.value ->> 6), pruned_job_id = new.value ->> 7,
    removed_token = new.value ->> 8
FROM jsonb_each(?) AS new WHERE instance.id = 1";
