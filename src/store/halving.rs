//! Successive halving in the writer's hands: what each member had when it came to a rung, and whether it goes on. A row of table `rungs` and what follows from it are written in the
//! transaction that keeps the checkpoint, so that no restart decides twice. Called by `unit`; the decision is `domain::array`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mlctl_protocol::{JobId, result::CheckpointRef};
use sqlx::SqliteConnection;

use super::{
    batch::Batch,
    error::Fault,
    load::list,
    rows::{Fields, Rows, integer},
};
use crate::domain::{
    Command, Job, JobState, Uid,
    array::{Halving, Membership},
};

/// A rung of an array.
type Rung = (JobId, u32);

/// The rungs that a group of commands is about, and who comes to them.
#[derive(Default)]
pub(super) struct Rungs {
    /// The arrays with halving, and whose they are.
    arrays: HashMap<JobId, (Halving, Uid)>,
    /// Who came to which rung before.
    came: HashSet<(Rung, JobId)>,
    /// What they had there.
    values: HashMap<Rung, BTreeMap<JobId, f64>>,
    new: Rows,
}

impl Rungs {
    /// Reads what the checkpoints of these jobs are compared with. The steps are those of the checkpoints that are to be kept.
    pub(super) async fn load(conn: &mut SqliteConnection, members: &[(&Job, u64)]) -> Result<Self, Fault> {
        let mut rungs = Self::default();
        let arrays: BTreeSet<JobId> =
            members.iter().filter_map(|(job, _)| job.array.as_ref().map(|array| array.id)).collect();
        if arrays.is_empty() {
            return Ok(rungs);
        }
        for row in &sqlx::query(ARRAYS).bind(list(&arrays)).fetch_all(&mut *conn).await? {
            let fields = Fields::new(row, "arrays", "id")?;
            let halving = fields.json("halving")?;
            rungs.arrays.insert(JobId(fields.id.unsigned_abs()), (halving, Uid(fields.number("user_id")?)));
        }
        let mut wanted = Rows::default();
        for (job, steps) in members {
            if let Some((array, rung)) = rungs.reached(job, *steps) {
                wanted.push(&[array.into(), rung.into(), job.id.into()]);
            }
        }
        if wanted.is_empty() {
            return Ok(rungs);
        }
        let wanted = wanted.finish();
        for row in &sqlx::query(CAME).bind(&wanted).fetch_all(&mut *conn).await? {
            let fields = Fields::new(row, "rungs", "id")?;
            let rung = (JobId(fields.number("array_id")?), fields.number("rung")?);
            rungs.came.insert((rung, JobId(fields.number("job_id")?)));
        }
        for row in &sqlx::query(VALUES).bind(&wanted).fetch_all(conn).await? {
            let fields = Fields::new(row, "rungs", "id")?;
            let rung = (JobId(fields.number("array_id")?), fields.number("rung")?);
            let job = JobId(fields.number("job_id")?);
            rungs.values.entry(rung).or_default().insert(job, fields.json("value")?);
        }
        Ok(rungs)
    }

    /// What becomes of a member by a checkpoint that was kept a moment ago: nothing, or it is stopped early. Each comes to a rung once.
    pub(super) fn judge(&mut self, job: &Job, checkpoint: &CheckpointRef) -> Result<Option<Command>, Fault> {
        let Some(rung) = self.reached(job, checkpoint.step) else { return Ok(None) };
        let Some((halving, user)) = self.arrays.get(&rung.0) else { return Ok(None) };
        let is_free = matches!(job.state, JobState::Running { intent: None, .. });
        let value = checkpoint.metrics.get(&halving.metric.name).copied().filter(|value| value.is_finite());
        let (Some(value), true, true) = (value, is_free, self.came.insert((rung, job.id))) else { return Ok(None) };
        let values = self.values.entry(rung).or_default();
        let behind = halving.judge(values.values().copied(), value);
        values.insert(job.id, value);
        let text = serde_json::to_string(&value)?;
        let steps = integer(checkpoint.step).into();
        self.new.push_sealed("rungs", &[rung.0.into(), rung.1.into(), job.id.into(), steps, (&text).into()]);
        Ok(behind.map(|behind| Command::StopEarly { by: *user, reason: halving.reason(behind, checkpoint.step) }))
    }

    /// The rung of its array that a job reaches with so many steps.
    fn reached(&self, job: &Job, steps: u64) -> Option<Rung> {
        let Membership { id, .. } = job.array.as_ref()?;
        let (halving, _) = self.arrays.get(id)?;
        Some((*id, halving.rung(steps)?))
    }

    /// Writes who came where. Returns how many rows.
    pub(super) async fn flush(self, conn: &mut SqliteConnection, batch: &mut Batch) -> Result<(), Fault> {
        batch.write(conn, "rungs", NEW, self.new).await
    }
}

pub(super) const ARRAYS: &str = "SELECT id, user_id, design -> '$.halving' AS halving FROM arrays \
     WHERE id IN (SELECT value ->> 0 FROM jsonb_each(?1)) AND design -> '$.halving' IS NOT NULL";
pub(super) const CAME: &str = "SELECT rungs.id, rungs.array_id, rungs.rung, rungs.job_id FROM jsonb_each(?1) AS wanted \
     CROSS JOIN rungs ON rungs.array_id = wanted.value ->> 0 AND rungs.rung = wanted.value ->> 1 AND rungs.job_id = wanted.value ->> 2";

/// Of the rungs to which a job comes for the first time. Others are not compared with again.
pub(super) const VALUES: &str = "SELECT rungs.id, rungs.array_id, rungs.rung, rungs.job_id, rungs.value FROM jsonb_each(?1) AS wanted \
     CROSS JOIN rungs ON rungs.array_id = wanted.value ->> 0 AND rungs.rung = wanted.value ->> 1 \
     WHERE NOT EXISTS (SELECT 1 FROM rungs AS own WHERE own.array_id = rungs.array_id AND own.rung = rungs.rung AND own.job_id = wanted.value ->> 2)";

const NEW: &str = "
INSERT INTO rungs (array_id, rung, job_id, steps, value, seal)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM jsonb_each(?)";
