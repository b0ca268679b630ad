//! What each user's attempts had, by the day on which they ended: what fair shares go by. Written in the transaction that ends an attempt. No seal: a wrong number would move jobs in the line, and nothing else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::SqliteConnection;

use super::{
    Store, StoreError,
    batch::Batch,
    error::Fault,
    rows::{Fields, RowError, Rows, integer},
};
use crate::domain::{
    Job, Uid,
    share::{DayOfUse, day_of},
};

impl Store {
    /// What was used on each day from `day` on (whole days since 1970, UTC).
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn usage_since(&self, day: i64) -> Result<Vec<DayOfUse>, StoreError> {
        let found = sqlx::query(SINCE).bind(day).fetch_all(&self.inner.readers).await?;
        let days = found.iter().map(|row| {
            let fields = Fields::new(row, "usage", "day")?;
            let user = Uid(fields.number("user_id")?);
            Ok(DayOfUse { user, day: fields.id, core_ms: fields.number("core_ms")?, gpu_ms: fields.number("gpu_ms")? })
        });
        Ok(days.collect::<Result<_, RowError>>().map_err(Fault::from)?)
    }
}

/// What a group of commands adds.
#[derive(Default)]
pub(super) struct Usage(BTreeMap<(Uid, i64), (u64, u64)>);

impl Usage {
    /// An attempt is over that was `job`'s, as it was while it ran.
    pub(super) fn add(&mut self, job: &Job, now: Timestamp) {
        let Some(started) = job.started_at else { return };
        // A clock may have been set back.
        let ms = u64::try_from(now.duration_since(started).as_millis()).unwrap_or(0);
        let (cores, gpus) = self.0.entry((job.user, day_of(now))).or_default();
        *cores = cores.saturating_add(ms.saturating_mul(job.resources.cpus.into()));
        *gpus = gpus.saturating_add(ms.saturating_mul(job.resources.gpus.into()));
    }

    /// Writes it.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        let mut rows = Rows::default();
        for ((user, day), (core_ms, gpu_ms)) in self.0 {
            rows.push(&[user.0.into(), day.into(), integer(core_ms).into(), integer(gpu_ms).into()]);
        }
        batch.sweep(conn, ADD, rows).await
    }
}

pub(super) const SINCE: &str = "SELECT day, user_id, core_ms, gpu_ms FROM usage WHERE day >= ?1";
const ADD: &str = "
INSERT INTO usage (day, user_id, core_ms, gpu_ms) SELECT value ->> 1, value ->> 0, value ->> 2, value ->> 3 FROM jsonb_each(?) WHERE true
ON CONFLICT (day, user_id) DO UPDATE SET core_ms = usage.core_ms + excluded.core_ms, gpu_ms = usage.gpu_ms + excluded.gpu_ms";
