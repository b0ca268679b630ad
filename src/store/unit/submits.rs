//! New jobs and arrays. Called by the unit for each that a group of commands brings.

use mlctl_protocol::JobId;

use super::{
    super::{
        StoreError,
        ask::{Kept, Prepared},
        error::Fault,
        members::{PreparedArray, joined},
        types::Submitted,
    },
    Held, Unit,
};
use crate::domain::{Command, Event, Job, JobState, Refusal, Uid, array::Membership, retrain::Stage, state};

impl Unit {
    pub(super) fn submit(&mut self, new: &Prepared) -> Result<Result<Kept, StoreError>, Fault> {
        match self.known(new.user, &new.key, &new.asked) {
            Ok(Some(id)) => return Ok(Ok((Submitted { id, existed: true }, None))),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        if let Some(run) = Stage::run_of(&new.key)
            && let Err(over) = self.goes_on(run)
        {
            return Ok(Err(over));
        }
        if let Err(missing) = self.settling.admits(&new.event) {
            return Ok(Err(missing));
        }
        let id = self.ledger.next_job();
        let job = state::apply(id, None, &new.event, self.now)?;
        self.writes.event(&mut self.ledger, self.now, id, &new.body);
        self.writes.new_job(&job, &new.spec, new.limit_seconds)?;
        self.writes.new_key(new.user, &new.key, id, &new.asked);
        self.keys.insert((new.user, new.key.clone()), (id, new.asked.clone()));
        let submitted = Submitted { id, existed: false };
        let hold = new.hold.clone().map(|hold| Command::Hold { hold });
        // Others are not yet as they will be.
        if job.gate.is_none() && job.waits.is_none() && hold.is_none() {
            return Ok(Ok((submitted, Some(Box::new(job)))));
        }
        let refused = self.enter(job, &new.event, hold.as_ref())?;
        Ok(refused.map_or(Ok((submitted, None)), Err))
    }

    /// A stage comes to a run only while that waits for it: who cancelled the run, or holds it, wants no more of it.
    fn goes_on(&self, run: JobId) -> Result<(), StoreError> {
        let Some(held) = self.jobs.get(&run) else { return Err(StoreError::NotFound(run.to_string())) };
        match &held.job.state {
            JobState::Blocked { .. } => Ok(()),
            state => Err(Refusal::WrongState { job: run, state: state.name(), verb: "taken to its next stage" }.into()),
        }
    }

    /// A new job that waits for others, that a person holds, or that has a concurrency key is not yet as it will be. Returns why it cannot be held.
    fn enter(&mut self, job: Job, event: &Event, hold: Option<&Command>) -> Result<Option<StoreError>, Fault> {
        let id = job.id;
        let waits = job.waits.is_some();
        if waits {
            self.settling.submitted(id, event);
        }
        let is_keyed = job.gate.as_ref().is_some_and(|gate| gate.chosen_key().is_some());
        if waits || hold.is_some() || is_keyed {
            let held = Held { gated: job.gate.is_some(), stored: job.clone(), job };
            self.arrivals.note(false, &held, self.now);
            self.jobs.insert(id, held);
        }
        let Some(hold) = hold else { return Ok(None) };
        Ok(self.decide(id, None, hold)?.err())
    }

    /// The job that a key stands for, where it was asked for the same.
    fn known(&self, user: Uid, key: &str, asked: &str) -> Result<Option<JobId>, StoreError> {
        match self.keys.get(&(user, key.to_owned())) {
            None => Ok(None),
            Some((job, known)) if known == asked => Ok(Some(*job)),
            Some((job, _)) => Err(StoreError::KeyConflict { key: key.to_owned(), job: *job }),
        }
    }

    /// An array and all its members, whose ids follow its own. The key is kept with the first of them.
    pub(super) fn submit_array(&mut self, new: &PreparedArray) -> Result<Result<Submitted, StoreError>, Fault> {
        match self.known(new.user, &new.key, &new.asked) {
            Ok(Some(first)) => return Ok(Ok(Submitted { id: JobId(first.0.saturating_sub(1)), existed: true })),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        for (member, _) in &new.members {
            if let Err(missing) = self.settling.admits(&member.event) {
                return Ok(Err(missing));
            }
        }
        let array = self.ledger.next_job();
        self.writes.arrays.add(array, new, self.now);
        let hold = new.held();
        for (index, (member, params)) in (1..).zip(&new.members) {
            let id = self.ledger.next_job();
            let membership = Membership { id: array, index, params: params.clone() };
            let event = joined(&member.event, membership, new.parallel);
            let job = state::apply(id, None, &event, self.now)?;
            self.writes.event(&mut self.ledger, self.now, id, &serde_json::to_string(&event)?);
            self.writes.new_job(&job, &member.spec, member.limit_seconds)?;
            if index == 1 {
                self.writes.new_key(new.user, &new.key, id, &new.asked);
                self.keys.insert((new.user, new.key.clone()), (id, new.asked.clone()));
            }
            if let Some(error) = self.enter(job, &event, hold.as_ref())? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(Submitted { id: array, existed: false }))
    }
}
