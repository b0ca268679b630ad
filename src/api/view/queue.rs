//! A queue as a client sees it. Data in, data out.

use std::collections::BTreeMap;

use mlctl_protocol::spec::Resources;

use super::Scene;
use crate::{
    api::types::{QueueView, SCHEMA},
    domain::queue::Queue,
    store::QueueRow,
};

/// A queue with its jobs by state and what its running ones have; `row` where somebody has changed it.
pub(in crate::api) fn view(
    queue: &Queue,
    row: Option<&QueueRow>,
    jobs: BTreeMap<String, u64>,
    used: Resources,
    scene: &Scene,
) -> QueueView {
    QueueView {
        schema: SCHEMA,
        name: queue.name.clone(),
        state: queue.flow,
        order: queue.order,
        running_limit: queue.limits.running,
        cpus_limit: queue.limits.cpus,
        gpus_limit: queue.limits.gpus,
        per_user_limit: queue.limits.per_user,
        used,
        jobs,
        changed_by: row.map(|row| scene.name(row.changed_by)),
        changed_at: row.map(|row| row.changed_at),
    }
}
