//! Claims under way. Each takes as long as the disk does, and the loop goes on beside them: a core that comes free meanwhile waits for none of them. What they are to have counts as taken from the moment they are
//! asked for until they are answered, whatever the database and the supervisor say of it by then. Kept by the loop; decides nothing.

use std::collections::HashMap;

use futures_util::future::join_all;
use mlctl_protocol::JobId;
use tokio::task::{Id, JoinError, JoinSet};

use super::{Snapshot, dispatch::Round};
use crate::{
    domain::machine::Free,
    store::{Ready, Running, StoreError},
    supervisor::Handle,
};

/// What has become of some claims that were asked for together: whether each of them has started its job.
pub(super) type Answer = Result<bool, StoreError>;

/// Those that are not answered yet.
#[derive(Default)]
pub(super) struct Claims {
    asked: JoinSet<Answer>,
    takes: HashMap<Id, Vec<Running>>,
}

impl Claims {
    /// Asks for jobs, in this order, with what each is to have.
    pub(super) fn ask(&mut self, jobs: Vec<(Ready, Running)>, supervisor: Handle, round: Round) {
        if jobs.is_empty() {
            return;
        }
        let (jobs, takes): (Vec<Ready>, Vec<Running>) = jobs.into_iter().unzip();
        let wanted = takes.clone();
        let asked = self.asked.spawn(async move {
            let claims = jobs.iter().zip(&wanted).map(|(job, taken)| claim(&supervisor, job, &taken.gpus));
            let answers = join_all(claims).await;
            drop(round);
            answers.into_iter().try_fold(true, |all, started| Ok(all && started?))
        });
        self.takes.insert(asked.id(), takes);
    }

    /// How many jobs are being claimed.
    pub(super) fn len(&self) -> usize {
        self.takes.values().map(Vec::len).sum()
    }

    /// What has been answered by now does not count any more.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub(super) fn settle(&mut self) -> Result<(), StoreError> {
        while let Some(answer) = self.asked.try_join_next_with_id() {
            self.settled(answer)?;
        }
        Ok(())
    }

    /// Waits for the next answer; for ever where none is to come. Giving up loses nothing.
    pub(super) async fn next(&mut self) -> Answer {
        match self.asked.join_next_with_id().await {
            Some(answer) => self.settled(answer),
            None => std::future::pending().await,
        }
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when one of them failed.
    pub(super) async fn all(&mut self) -> Result<(), StoreError> {
        let mut all = Ok(());
        while let Some(answer) = self.asked.join_next_with_id().await {
            all = all.and(self.settled(answer).map(|_| ()));
        }
        all
    }

    fn settled(&mut self, answer: Result<(Id, Answer), JoinError>) -> Answer {
        let id = answer.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        self.takes.remove(&id);
        // Nobody aborts one: it has panicked.
        answer.map_or(Ok(false), |(_, answer)| answer)
    }

    /// What is left for further jobs.
    pub(super) fn free(&self, supervisor: &Handle) -> Free {
        let machine = supervisor.machine();
        let free = supervisor.free_without(|job| self.is_taken(job));
        self.takes.values().flatten().fold(free, |mut free, taken| {
            free.take(&machine.share(&taken.has, &taken.gpus));
            free
        })
    }

    /// Counts them among what runs, where the database did not say so yet.
    pub(super) fn count_in(&self, snapshot: &mut Snapshot) {
        snapshot.ready.retain(|job| !self.is_taken(job.id));
        let taken = self.takes.values().flatten();
        let fresh: Vec<Running> =
            taken.filter(|taken| snapshot.running.iter().all(|job| job.id != taken.id)).cloned().collect();
        snapshot.running.extend(fresh);
    }

    fn is_taken(&self, job: JobId) -> bool {
        self.takes.values().flatten().any(|taken| taken.id == job)
    }
}

/// Returns whether the job was started: it may have been cancelled a moment ago.
async fn claim(supervisor: &Handle, job: &Ready, gpus: &[String]) -> Answer {
    match supervisor.claim(job, gpus).await {
        Err(StoreError::Refused(_) | StoreError::NotFound(_)) => Ok(false),
        claimed => claimed.map(|()| true),
    }
}
