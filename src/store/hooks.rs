//! Hooks and notices: the store's surface for who tells people of what has happened, and their rows in the writer's hands. What is news to whom is `domain::notify`'s, how it is sent the
//! pipeline's. A notice is written in the transaction in which the thing happens.

use std::collections::BTreeMap;

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::SqliteConnection;

use super::{
    Store, StoreError,
    ask::Ask,
    batch::Batch,
    error::Fault,
    rows::{Cell, Fields, RowError, Rows, integer},
};
use crate::domain::notify::{Notice, Standing};

impl Store {
    /// How the hooks stand that were there before, by name.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn hooks(&self) -> Result<BTreeMap<String, Standing>, StoreError> {
        let found = sqlx::query(ALL).fetch_all(&self.inner.readers).await?;
        let hooks = found.iter().map(|row| {
            let fields = Fields::new(row, HOOKS, "id")?;
            Ok((fields.get("name")?, fields.json("standing")?))
        });
        Ok(hooks.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }

    /// Keeps how a hook stands.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn keep_hook(&self, name: &str, standing: &Standing) -> Result<(), StoreError> {
        let json = serde_json::to_string(standing).map_err(Fault::from)?;
        let name = name.to_owned();
        self.ask(|reply| Ask::KeepHook { name, standing: Some(json), reply }).await
    }

    /// Forgets a hook that is there no more. One of that name that is added later begins anew.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn forget_hook(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.ask(|reply| Ask::KeepHook { name, standing: None, reply }).await
    }

    /// Notices after this one with their numbers, the oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn notices(&self, after: i64, limit: u32) -> Result<Vec<(i64, Timestamp, Notice)>, StoreError> {
        let found = sqlx::query(AFTER).bind(after).bind(limit).fetch_all(&self.inner.readers).await?;
        let notices = found.iter().map(|row| {
            let fields = Fields::new(row, NOTICES, "id")?;
            Ok((fields.id, fields.time("at_us")?, fields.json("body")?))
        });
        Ok(notices.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }

    /// The number of the newest notice; 0 before the first.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn newest_notice(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(NEWEST).fetch_one(&self.inner.readers).await?)
    }

    /// When the last member of an array ended; none while one has not.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn array_ended_at(&self, array: JobId) -> Result<Option<Timestamp>, StoreError> {
        let ended = sqlx::query_scalar(ENDED).bind(integer(array.0)).fetch_optional(&self.inner.readers);
        let ended: Option<Option<i64>> = ended.await?;
        Ok(ended.flatten().and_then(|at| Timestamp::from_microsecond(at).ok()))
    }
}

/// What a group of commands makes of hooks and notices.
#[derive(Default)]
pub(super) struct HeldHooks {
    hooks: BTreeMap<String, Option<String>>,
    notices: Rows,
}

impl HeldHooks {
    pub(super) fn keep(&mut self, name: &str, standing: Option<&String>) {
        self.hooks.insert(name.to_owned(), standing.cloned());
    }

    /// A thing that has just happened.
    pub(super) fn notice(&mut self, notice: &Notice, now: Timestamp) -> Result<(), Fault> {
        let body = serde_json::to_string(notice)?;
        self.notices.push_sealed(NOTICES, &[now.into(), (&body).into()]);
        Ok(())
    }

    /// Writes it.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        let (mut kept, mut gone) = (Rows::default(), Rows::default());
        for (name, standing) in &self.hooks {
            match standing {
                Some(standing) => {
                    let cells: [Cell<'_>; 2] = [name.into(), standing.into()];
                    kept.push_sealed(HOOKS, &cells);
                }
                None => gone.push(&[name.into()]),
            }
        }
        batch.write(conn, HOOKS, KEEP, kept).await?;
        batch.sweep(conn, FORGET, gone).await?;
        batch.write(conn, NOTICES, NEW, self.notices.clone()).await?;
        batch.sweep(conn, PRUNE, self.notices).await
    }
}

const HOOKS: &str = "hooks";
const NOTICES: &str = "notices";

const ALL: &str = "SELECT id, name, standing FROM hooks";

pub(super) const AFTER: &str = "SELECT id, at_us, body FROM notices WHERE id > ?1 ORDER BY id LIMIT ?2 + 0";

pub(super) const NEWEST: &str = "SELECT coalesce(max(id), 0) FROM notices";

pub(super) const ENDED: &str = "SELECT ended_us FROM arrays WHERE id = ?1";

const KEEP: &str = "
INSERT INTO hooks (name, standing, seal) SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?) WHERE true
ON CONFLICT (name) DO UPDATE SET standing = excluded.standing, seal = excluded.seal";

pub(super) const FORGET: &str = "DELETE FROM hooks WHERE name IN (SELECT value ->> 0 FROM jsonb_each(?))";

const NEW: &str =
    "INSERT INTO notices (at_us, body, seal) SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?)";

pub(super) const PRUNE: &str = "DELETE FROM notices WHERE id <= (SELECT max(id) - 1000 FROM notices) AND ? IS NOT NULL";
