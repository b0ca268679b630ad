//! Aliases of versions of models: the store's surface for them, and those of a model in the writer's hands. Which of them a change moves is `domain::alias`'; here the moves are carried out, all or none, and
//! kept for ever.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    ask::Ask,
    batch::Batch,
    error::Fault,
    rows::{Cell, Fields, RowError, Rows},
};
use crate::domain::{
    Uid,
    alias::{Aliases, Change},
};

/// A change that is asked for.
#[derive(Debug, Clone)]
pub struct NewMove {
    /// The model.
    pub model: String,
    /// What is to become of its aliases.
    pub change: Change,
    /// The version that the alias must mean for that, 0 for none; whatever it means when absent.
    pub expect: Option<u32>,
    /// Who asks.
    pub by: Uid,
    /// The job that asks.
    pub job: Option<JobId>,
    /// Why.
    pub reason: Option<String>,
}

/// A move on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasMove {
    /// The alias.
    pub alias: String,
    /// The version that it meant before.
    pub before: Option<u32>,
    /// The version that it means since.
    pub version: Option<u32>,
    /// Why.
    pub reason: Option<String>,
    /// The job that did it.
    pub job: Option<JobId>,
    /// Who did it.
    pub by: Uid,
    /// When.
    pub at: Timestamp,
}

impl Store {
    /// Changes a model's aliases in one transaction. Returns the moves that came of it; none where all was as asked for already.
    ///
    /// # Errors
    /// [`StoreError::NoModel`], [`StoreError::NoVersion`], [`StoreError::Alias`], [`StoreError::Failed`].
    pub async fn move_alias(&self, new: NewMove) -> Result<Vec<AliasMove>, StoreError> {
        let new = Box::new(new);
        self.ask(|reply| Ask::MoveAlias { new, reply }).await
    }

    /// A model's aliases; none of a model that is not there.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn aliases(&self, model: &str) -> Result<Aliases, StoreError> {
        let found: Vec<(String, u32)> = sqlx::query_as(ALIASES).bind(model).fetch_all(&self.inner.readers).await?;
        Ok(found.into_iter().collect())
    }

    /// The last moves of a model's aliases, the newest first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn alias_moves(&self, model: &str, limit: u32) -> Result<Vec<AliasMove>, StoreError> {
        let found = sqlx::query(MOVES).bind(model).bind(limit).fetch_all(&self.inner.readers).await?;
        Ok(found.iter().map(moved).collect::<Result<_, _>>().map_err(Fault::from)?)
    }
}

fn moved(row: &SqliteRow) -> Result<AliasMove, RowError> {
    let fields = Fields::new(row, "alias_moves", "id")?;
    Ok(AliasMove {
        alias: fields.get("alias")?,
        before: fields.maybe_number("before")?,
        version: fields.maybe_number("version")?,
        reason: fields.get("reason")?,
        job: fields.maybe_number("job_id")?.map(JobId),
        by: Uid(fields.number("moved_by")?),
        at: fields.time("moved_us")?,
    })
}

/// The aliases of a model in the writer's hands.
#[derive(Debug, Clone, Default)]
pub(super) struct HeldAliases {
    /// As they were read, each with its row.
    before: BTreeMap<String, (i64, u32)>,
    now: Aliases,
    moves: Vec<AliasMove>,
}

impl HeldAliases {
    /// Reads those of models by name, given as rows.
    pub(super) async fn load(conn: &mut SqliteConnection, models: Vec<u8>) -> Result<BTreeMap<String, Self>, Fault> {
        let mut all = BTreeMap::<String, Self>::new();
        for row in &sqlx::query(LOAD).bind(models).fetch_all(conn).await? {
            let fields = Fields::new(row, "model_aliases", "id")?;
            let (alias, version): (String, u32) = (fields.get("alias")?, fields.number("version")?);
            let held = all.entry(fields.get("model")?).or_default();
            held.before.insert(alias.clone(), (fields.id, version));
            held.now.insert(alias, version);
        }
        Ok(all)
    }

    /// An alias that means this version.
    pub(super) fn of(&self, version: u32) -> Option<&str> {
        self.now.iter().find(|(_, meant)| **meant == version).map(|(alias, _)| alias.as_str())
    }

    /// Makes a change, of which the version is known to be there.
    pub(super) fn change(&mut self, new: &NewMove, at: Timestamp) -> Result<Vec<AliasMove>, StoreError> {
        let NewMove { model, change, expect, by, job, reason } = new;
        let steps = change.steps(&self.now, *expect).map_err(|why| StoreError::Alias { model: model.clone(), why })?;
        let moves = steps.into_iter().map(|step| {
            let (alias, before, version) = (step.alias, step.before, step.version);
            AliasMove { alias, before, version, reason: reason.clone(), job: *job, by: *by, at }
        });
        let moves: Vec<_> = moves.collect();
        for AliasMove { alias, version, .. } in &moves {
            match version {
                Some(version) => drop(self.now.insert(alias.clone(), *version)),
                None => drop(self.now.remove(alias)),
            }
        }
        self.moves.extend_from_slice(&moves);
        Ok(moves)
    }

    /// Adds what changed to what is to be written.
    pub(super) fn collect(&self, model: &str, changes: &mut Changes) {
        for (alias, version) in &self.now {
            if self.before.get(alias).is_none_or(|(_, before)| before != version) {
                changes.set.push_sealed("model_aliases", &[model.into(), alias.into(), (*version).into()]);
            }
        }
        for (alias, (id, _)) in &self.before {
            if !self.now.contains_key(alias) {
                changes.cleared.push(&[(*id).into()]);
            }
        }
        for AliasMove { alias, before, version, reason, job, by, at } in &self.moves {
            let cells: [Cell<'_>; 8] = [
                model.into(),
                alias.into(),
                (*before).into(),
                (*version).into(),
                reason.as_ref().into(),
                (*job).into(),
                by.0.into(),
                (*at).into(),
            ];
            changes.moves.push_sealed("alias_moves", &cells);
        }
    }
}

/// What is to be written of aliases.
#[derive(Default)]
pub(super) struct Changes {
    set: Rows,
    cleared: Rows,
    moves: Rows,
}

impl Changes {
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        batch.write(conn, "aliases", SET, self.set).await?;
        batch.write(conn, "cleared aliases", CLEARED, self.cleared).await?;
        batch.write(conn, "moves of aliases", NEW_MOVES, self.moves).await
    }
}

pub(super) const ALIASES: &str = "SELECT alias, version FROM model_aliases WHERE model = ?1";

pub(super) const MOVES: &str = "SELECT id, alias, before, version, reason, job_id, moved_by, moved_us FROM alias_moves \
     WHERE model = ?1 ORDER BY id DESC LIMIT ?2 + 0";

pub(super) const LOAD: &str = "SELECT held.id, held.model, held.alias, held.version FROM jsonb_each(?1) AS named \
     CROSS JOIN model_aliases AS held ON held.model = named.value ->> 0";

const SET: &str = "
INSERT INTO model_aliases (model, alias, version, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each(?) WHERE true
ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version, seal = excluded.seal";

pub(super) const CLEARED: &str = "DELETE FROM model_aliases WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?))";

const NEW_MOVES: &str = "
INSERT INTO alias_moves (model, alias, before, version, reason, job_id, moved_by, moved_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8 FROM jsonb_each(?)";
