//! Arrays in the writer's hands: the array's row, its members and how many of them stand where. Called by `unit`, inside the writer's transaction.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mlctl_protocol::JobId;
use sqlx::SqliteConnection;

use super::{
    ask::Prepared,
    batch::Batch,
    error::Fault,
    load::list,
    rows::{Fields, Rows, integer},
    types::{NewArray, NewJob},
};
use crate::domain::{
    Command, Edit, Event, Hold, Job, Uid,
    array::{Membership, Params, gate as gate_of, tally},
};

/// An array ready to be kept: everything that can be made of it without the database.
pub(super) struct PreparedArray {
    pub(super) user: Uid,
    pub(super) key: String,
    pub(super) asked: String,
    pub(super) hold: Option<Hold>,
    pub(super) parallel: Option<u32>,
    name: String,
    kind: String,
    queue: String,
    priority: u8,
    labels: String,
    design: String,
    pub(super) members: Vec<(Prepared, Params)>,
}

impl PreparedArray {
    /// # Errors
    /// When something cannot be written as JSON.
    pub(super) fn new(new: NewArray) -> Result<Self, Fault> {
        let NewArray { name, priority, labels, user, key, asked, hold, design, members } = new;
        let prepared = members.into_iter().map(|(spec, params)| {
            let job = NewJob { spec, user, key: String::new(), asked: None, hold: None };
            Ok((Prepared::new(job)?, params))
        });
        let members = prepared.collect::<Result<Vec<_>, Fault>>()?;
        let (kind, queue) = match members.first().map(|(first, _)| &first.event) {
            Some(Event::Submitted { kind, queue, .. }) => (kind.clone(), queue.clone()),
            _ => (String::new(), String::new()),
        };
        Ok(Self {
            user,
            key,
            asked: asked.to_hex().to_string(),
            hold,
            parallel: design.parallel,
            name,
            kind,
            queue,
            priority,
            labels: serde_json::to_string(&labels)?,
            design: serde_json::to_string(&design)?,
            members,
        })
    }

    /// What makes every member of it wait for a person.
    pub(super) fn held(&self) -> Option<Command> {
        self.hold.clone().map(|hold| Command::Hold { hold })
    }
}

/// A member's first event, which says what it is a member of.
pub(super) fn joined(event: &Event, membership: Membership, parallel: Option<u32>) -> Event {
    let mut event = event.clone();
    if let Event::Submitted { array, gate, .. } = &mut event {
        if let Some(parallel) = parallel {
            *gate = Some(gate_of(membership.id, parallel));
        }
        *array = Some(membership);
    }
    event
}

/// What a group of commands changes of arrays.
#[derive(Default)]
pub(super) struct Arrays {
    new: Rows,
    edits: Vec<(JobId, Edit)>,
    counts: BTreeMap<(JobId, &'static str), i64>,
    /// Those of which a member has ended, and when, or begun again.
    ends: BTreeMap<JobId, Option<Timestamp>>,
}

impl Arrays {
    pub(super) fn add(&mut self, id: JobId, new: &PreparedArray, now: Timestamp) {
        let size = i64::try_from(new.members.len()).unwrap_or(i64::MAX);
        let cells = [
            id.into(),
            (&new.name).into(),
            (&new.kind).into(),
            new.user.0.into(),
            (&new.queue).into(),
            u32::from(new.priority).into(),
            (&new.labels).into(),
            size.into(),
            (&new.design).into(),
            now.into(),
        ];
        self.new.push_sealed(TABLE, &cells);
    }

    /// Members were changed together: what they all have from now on, those of them that can.
    pub(super) fn edit(&mut self, id: JobId, edit: &Edit) {
        if edit.priority.is_some() || edit.queue.is_some() || !edit.labels.is_empty() {
            self.edits.push((id, edit.clone()));
        }
    }

    /// A job is there, or no longer as it was.
    pub(super) fn count(&mut self, before: Option<&Job>, after: &Job) {
        let Some(Membership { id, .. }) = after.array else { return };
        if let Some(before) = before {
            *self.counts.entry((id, tally(before))).or_default() -= 1;
            if before.state.is_terminal() != after.state.is_terminal() {
                let end = self.ends.entry(id).or_default();
                *end = (*end).max(after.finished_at);
            }
        }
        *self.counts.entry((id, tally(after))).or_default() += 1;
    }

    /// A job is removed.
    pub(super) fn leave(&mut self, before: &Job) {
        if let Some(Membership { id, .. }) = before.array {
            *self.counts.entry((id, tally(before))).or_default() -= 1;
        }
    }

    /// Writes what changed.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        batch.write(conn, "new arrays", NEW, self.new).await?;
        let (mut gains, mut losses) = (Rows::default(), Rows::default());
        for ((array, tally), change) in self.counts {
            let rows = if change > 0 { &mut gains } else { &mut losses };
            if change != 0 {
                rows.push(&[array.into(), tally.into(), change.into()]);
            }
        }
        let edited = edited(conn, &self.edits).await?;
        batch.write(conn, "changed arrays", CHANGED, edited).await?;
        batch.sweep(conn, GAINS, gains).await?;
        batch.write(conn, "counts of arrays", LOSSES, losses).await?;
        let mut ends = Rows::default();
        for (array, at) in self.ends {
            ends.push(&[array.into(), at.into()]);
        }
        batch.sweep(conn, ENDS, ends).await
    }
}

/// The rows of arrays after edits, sealed anew.
async fn edited(conn: &mut SqliteConnection, edits: &[(JobId, Edit)]) -> Result<Rows, Fault> {
    let mut rows = Rows::default();
    let ids: BTreeSet<JobId> = edits.iter().map(|(id, _)| *id).collect();
    if ids.is_empty() {
        return Ok(rows);
    }
    for row in &sqlx::query(EDITED).bind(list(&ids)).fetch_all(conn).await? {
        let fields = Fields::new(row, TABLE, "id")?;
        let (mut queue, mut priority): (String, u8) = (fields.get("queue")?, fields.number("priority")?);
        let mut labels: BTreeMap<String, String> = fields.json("labels")?;
        let own = edits.iter().filter(|(id, _)| integer(id.0) == fields.id);
        for (_, edit) in own {
            priority = edit.priority.unwrap_or(priority);
            queue = edit.queue.clone().unwrap_or(queue);
            labels = edit.labels_of(&labels);
        }
        let labels = serde_json::to_string(&labels)?;
        let cells = [
            fields.id.into(),
            fields.get::<&str>("name")?.into(),
            fields.get::<&str>("kind")?.into(),
            fields.get::<i64>("user_id")?.into(),
            (&queue).into(),
            u32::from(priority).into(),
            (&labels).into(),
            fields.get::<i64>("size")?.into(),
            fields.get::<&str>("design")?.into(),
            fields.get::<i64>("submitted_us")?.into(),
        ];
        rows.push_sealed(TABLE, &cells);
    }
    Ok(rows)
}

const TABLE: &str = "arrays";

pub(super) const EDITED: &str = "SELECT id, name, kind, user_id, queue, priority, labels, size, design, submitted_us FROM arrays \
     WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?1))";

pub(super) const CHANGED: &str = "
UPDATE arrays SET queue = new.value ->> 4, priority = new.value ->> 5, labels = new.value ->> 6, seal = new.value ->> 10
FROM jsonb_each(?) AS new WHERE arrays.id = new.value ->> 0";

/// After the counts.
pub(super) const ENDS: &str = "
UPDATE arrays SET ended_us = CASE WHEN ended_us IS NULL THEN new.value ->> 1 END
FROM jsonb_each(?) AS new
WHERE arrays.id = new.value ->> 0 AND (arrays.ended_us IS NULL) <> EXISTS (
    SELECT 1 FROM array_counts WHERE array_id = arrays.id AND jobs > 0 AND tally NOT IN ('succeeded', 'failed', 'cancelled', 'stopped'))";

const NEW: &str = "
INSERT INTO arrays (id, name, kind, user_id, queue, priority, labels, size, design, submitted_us, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10
FROM jsonb_each(?)";

const GAINS: &str = "
INSERT INTO array_counts (array_id, tally, jobs) SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?) WHERE true
ON CONFLICT (array_id, tally) DO UPDATE SET jobs = array_counts.jobs + excluded.jobs";

pub(super) const LOSSES: &str = "
UPDATE array_counts SET jobs = array_counts.jobs + new.value ->> 2 FROM jsonb_each(?) AS new
WHERE array_counts.array_id = new.value ->> 0 AND array_counts.tally = new.value ->> 1";
