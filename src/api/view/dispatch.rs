//! Whether jobs are started, as a client sees it. Data in, data and words out.

use mlctl_protocol::JobId;

use super::Scene;
use crate::{
    api::types::{DispatchState, DispatchView, DrainView, FrozenView},
    scheduler::{
        Standing,
        dispatch::{DAMAGED_HINT, Drain, Frozen},
    },
};

/// Jobs named at most.
const MOST: usize = 100;

/// How it stands; the jobs that run.
pub(in crate::api) fn view(standing: Standing, running: Vec<JobId>, scene: &Scene) -> DispatchView {
    let Standing { frozen, drain, checked_at } = standing;
    let state = match (&frozen, &drain) {
        (Some(_), _) => DispatchState::Frozen,
        (None, Some(_)) => DispatchState::Draining,
        (None, None) => DispatchState::Open,
    };
    let drain = drain.map(|drain| DrainView {
        at: drain.at,
        by: scene.name(drain.by),
        patience_seconds: drain.patience.map(|patience| patience.as_secs()),
        saving: drain.is_saving(),
        stop: drain.stop,
        running: running.len() as u64,
        jobs: running.into_iter().take(MOST).collect(),
    });
    let frozen = frozen.map(|Frozen { at, problems }| FrozenView {
        at,
        problems: problems.iter().take(MOST).cloned().collect(),
        hint: DAMAGED_HINT.into(),
    });
    DispatchView { state, drain, frozen, checked_at }
}

/// Why no job at all is started, and what to do about it.
pub(in crate::api) fn closed(standing: &Standing) -> Option<(String, &'static str)> {
    if standing.frozen.is_some() {
        return Some(("no job is started: the database is damaged".into(), DAMAGED_HINT));
    }
    let Drain { stop, .. } = standing.drain.as_ref()?;
    let until = if *stop { "and then stops; it waits until mld runs again" } else { "until that is taken back" };
    Some((
        format!("no job is started: mld is being drained, {until}"),
        "`mlctl daemon drain --resume` takes the drain back",
    ))
}
