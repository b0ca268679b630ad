//! Arrays and their members as a client sees them. Data in, data out.

use super::Scene;
use crate::{
    api::types::{ArrayView, MemberView, SCHEMA},
    domain::array::{is_final, state},
    store::{Array, JobDetail},
};

/// An array as a client sees it.
pub(in crate::api) fn view(array: Array, scene: &Scene) -> ArrayView {
    let Array { id, name, kind, user, queue, priority, labels, size, design, submitted_at, counts, quarantined } =
        array;
    ArrayView {
        schema: SCHEMA,
        id,
        name,
        kind,
        state: state(&counts).to_owned(),
        queue,
        priority,
        user: scene.name(user),
        uid: user.0,
        labels,
        size,
        finished: counts.iter().filter(|(tally, _)| is_final(tally)).map(|(_, jobs)| jobs).sum(),
        counts,
        quarantined,
        axes: design.sweep.axes,
        sample: design.sweep.sample,
        metric: design.metric,
        halving: design.halving,
        parallel: design.parallel,
        submitted_at,
    }
}

/// A member with its value of the metric.
pub(in crate::api) fn member((detail, value): (JobDetail, f64)) -> Option<MemberView> {
    let JobDetail { job, attempt, .. } = detail;
    let array = job.array?;
    Some(MemberView {
        id: job.id,
        index: array.index,
        state: job.state.name().to_owned(),
        params: array.params,
        value,
        step: attempt.and_then(|attempt| attempt.progress.step),
    })
}
