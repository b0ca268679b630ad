//! What the plan is made from: all that matters at one moment, and no more of the queue than its heads. Built by the observer; plain data.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mlctl_protocol::JobId;

use crate::{
    domain::{Machine, Uid, machine::Free, queue::Queue},
    store::{Ready, Running},
};

/// The state of the world at a moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment.
    pub now: Timestamp,
    /// What there is to give to jobs.
    pub machine: Machine,
    /// What its jobs leave of it.
    pub free: Free,
    /// Who has the rest.
    pub running: Vec<Running>,
    /// Those of them of which nothing lives any more, and only the end is not yet on record: they count in their queues, and have nothing of the machine.
    pub vacated: BTreeSet<JobId>,
    /// The first jobs of each class that may start, in the order of the queue (see [`Ready::rank`]).
    pub ready: Vec<Ready>,
    /// The queues that have a row; others have no limits and are open.
    pub queues: BTreeMap<String, Queue>,
    /// How much further back users stand for what they have used lately, in microseconds of waiting; it is in the jobs' ranks already.
    pub setbacks: BTreeMap<Uid, i64>,
}
