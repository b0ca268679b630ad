//! What a job waits for, as requests name it and answers show it. Called by the submits, which keep ids for names, and by the handlers that show jobs. When it comes about is
//! `domain::dependency`'s and the store's.

use std::collections::BTreeSet;

use mlctl_protocol::{
    JobId, JobSpec,
    spec::{After, Need},
};

use super::{
    Shared,
    error::Failure,
    types::{AfterView, WaiterView},
};
use crate::{
    domain::rules::Problem,
    store::{Awaited, StoreError, Waiter},
};

/// Jobs that wait for one that is shown, named one by one at most.
const SHOWN: u32 = 20;

/// Puts ids for the names of what a job waits for, and adds what is wrong to `problems`. Whoever may ask anything of the daemon may read every job, and wait for every job.
pub(super) async fn resolve(api: &Shared, spec: &mut JobSpec, problems: &mut Vec<Problem>) -> Result<(), Failure> {
    let mut known = BTreeSet::new();
    for (index, after) in spec.after.iter_mut().enumerate() {
        match meant(api, after).await? {
            Ok(id) if known.insert(id) => after.job = id.to_string(),
            Ok(id) => problems.push(problem(index, format!("{id} is waited for already"), "name each job once".into())),
            Err((message, hint)) => problems.push(problem(index, message, hint)),
        }
    }
    Ok(())
}

fn problem(index: usize, message: String, hint: String) -> Problem {
    Problem { path: format!("after[{index}]"), message, hint: Some(hint) }
}

/// The job or the array, or what is wrong and what to do about it.
async fn meant(api: &Shared, after: &After) -> Result<Result<JobId, (String, String)>, Failure> {
    match api.store.find(&after.job).await {
        Ok(id) => Ok(Ok(id)),
        Err(StoreError::IsArray { id, name, .. }) if after.need == Need::NotOk => {
            let message = format!("{id} ({name}) is an array, and whether one has failed as a whole is not waited for");
            Ok(Err((message, format!("name a member, as in notok:{id}.1, or wait for all of them with any:{id}"))))
        }
        Err(StoreError::IsArray { id, .. }) => Ok(Ok(id)),
        Err(error @ StoreError::NotFound(_)) => Ok(Err((
            error.to_string(),
            "a job waits for such as are there already; `mlctl ls --all` shows them".into(),
        ))),
        Err(error @ StoreError::Ambiguous { .. }) => Ok(Err((error.to_string(), "`mlctl ls` shows the ids".into()))),
        Err(error) => Err(error.into()),
    }
}

/// What a spec waits for, as it stands; ids are in it already.
pub(super) async fn of_spec(api: &Shared, spec: &JobSpec) -> Result<Vec<AfterView>, Failure> {
    let mut views = Vec::with_capacity(spec.after.len());
    for After { need, job } in &spec.after {
        let (on, is_array, state) = match api.store.find(job).await {
            Ok(id) => (id, false, Some(api.store.job(id).await?.job.state.name().to_owned())),
            Err(StoreError::IsArray { id, .. }) => (id, true, Some(api.array_view(id).await?.state)),
            Err(error) => return Err(error.into()),
        };
        views.push(AfterView { on, need: *need, array: is_array, state, waived: false });
    }
    Ok(views)
}

/// A dependency as a client sees it.
pub(super) fn view(awaited: Awaited) -> AfterView {
    let Awaited { on, need, is_array, state, is_open: _, is_waived } = awaited;
    AfterView { on, need, array: is_array, state, waived: is_waived }
}

impl Shared {
    /// The first that wait for a job or an array, and how many do.
    pub(super) async fn waiters(&self, on: JobId) -> Result<(Vec<WaiterView>, u64), StoreError> {
        let (waiters, all) = self.store.waiters(on, SHOWN).await?;
        let view = |Waiter { job, need, state }| WaiterView { id: job, need, state };
        Ok((waiters.into_iter().map(view).collect(), all))
    }
}
