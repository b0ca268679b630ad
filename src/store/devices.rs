//! GPUs that not everybody may have: the store's surface for them, and their rows in the writer's hands. Which GPUs there are, the store does not know.

use std::collections::BTreeMap;

use sqlx::{SqliteConnection, sqlite::SqliteRow};

use super::{
    Store, StoreError,
    ask::Ask,
    batch::Batch,
    error::Fault,
    rows::{Fields, RowError, Rows},
};
use crate::domain::{
    Uid,
    machine::{Assigned, Standing},
};

impl Store {
    /// The GPUs that somebody has said something about, by UUID.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn devices(&self) -> Result<BTreeMap<String, Assigned>, StoreError> {
        let found = sqlx::query(ALL).fetch_all(&self.inner.readers).await?;
        Ok(found.iter().map(assigned).collect::<Result<_, _>>().map_err(Fault::from)?)
    }

    /// Says who may have a GPU from now on. Jobs that have it already keep it.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Failed`].
    pub async fn assign_device(
        &self,
        uuid: &str,
        standing: Standing,
        reason: Option<String>,
        by: Uid,
    ) -> Result<(), StoreError> {
        let uuid = uuid.to_owned();
        self.ask(|reply| Ask::AssignDevice { uuid, standing, reason, by, reply }).await
    }
}

fn assigned(row: &SqliteRow) -> Result<(String, Assigned), RowError> {
    // A GPU has no number of its own.
    let fields = Fields { row, table: "devices", id: 0 };
    let assigned = Assigned {
        standing: fields.json("standing")?,
        reason: fields.get("reason")?,
        changed_by: Uid(fields.number("changed_by")?),
        changed_at: fields.time("changed_us")?,
    };
    Ok((fields.get("uuid")?, assigned))
}

/// What a group of commands makes of GPUs.
#[derive(Default)]
pub(super) struct HeldDevices(BTreeMap<String, Assigned>);

impl HeldDevices {
    pub(super) fn assign(&mut self, uuid: &str, assigned: Assigned) {
        self.0.insert(uuid.to_owned(), assigned);
    }

    /// Writes it.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        let (mut gone, mut kept) = (Rows::default(), Rows::default());
        for (uuid, Assigned { standing, reason, changed_by, changed_at }) in &self.0 {
            gone.push(&[uuid.into()]);
            let standing = serde_json::to_string(standing)?;
            let cells =
                [uuid.into(), (&standing).into(), reason.as_ref().into(), changed_by.0.into(), (*changed_at).into()];
            kept.push_sealed("devices", &cells);
        }
        batch.sweep(conn, REMOVE, gone).await?;
        batch.write(conn, "devices", NEW, kept).await
    }
}

const ALL: &str = "SELECT uuid, standing, reason, changed_by, changed_us FROM devices";
const REMOVE: &str = "DELETE FROM devices WHERE uuid IN (SELECT value ->> 0 FROM jsonb_each(?))";
const NEW: &str = "
INSERT INTO devices (uuid, standing, reason, changed_by, changed_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM jsonb_each(?)";
