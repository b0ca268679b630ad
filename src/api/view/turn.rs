//! Why a job that may start does not: which resource, limit, reservation or other job is in its way, and when that is over at the latest. Data in, words out.

use jiff::Timestamp;
use mlctl_protocol::{JobId, JobSpec, spec::Resources};

use super::{
    Scene,
    reason::{counted, jobs, of_all, seconds_between, span},
};
use crate::{
    domain::{
        Job, MICROSECONDS_A_POINT, Uid,
        queue::{Queue, QueueLimits},
    },
    scheduler::{Obstacle, Outlook, Shared, Turn},
    store::{Ready, Running},
};

/// A job as the scheduler sees it, but for its place.
pub(super) fn seen(job: &Job) -> Ready {
    let Resources { cpus, gpus } = job.resources;
    let (kind, queue, user, priority) = (job.kind.clone(), job.queue.clone(), job.user, job.priority);
    Ready { id: job.id, kind, queue, user, priority, rank: 0, cpus, gpus, limit_seconds: job.time_limit_seconds(None) }
}

/// A job that is not there, as the scheduler would see it if it came now.
pub(in crate::api) fn imagined(spec: &JobSpec, user: Uid, now: Timestamp) -> Ready {
    let Resources { cpus, gpus } = spec.resources;
    let points = i64::from(spec.priority).saturating_mul(MICROSECONDS_A_POINT);
    Ready {
        id: JobId(i64::MAX.unsigned_abs()),
        kind: spec.work.kind().to_owned(),
        queue: spec.queue.clone(),
        user,
        priority: spec.priority,
        rank: now.as_microsecond().saturating_sub(points),
        cpus,
        gpus,
        limit_seconds: spec.time.limit_seconds,
    }
}

const fn resources(job: &Ready) -> Resources {
    Resources { cpus: job.cpus, gpus: job.gpus }
}

/// What a job waits for whose time has come.
pub(in crate::api) fn turn(job: &Ready, scene: &Scene) -> String {
    if !fits(&resources(job), &scene.machine) {
        return too_large(&resources(job), scene);
    }
    let Some(outlook) = &scene.outlook else { return alone(&resources(job), scene) };
    match outlook.turn(job) {
        Turn::Starts(first) if first == job.id => "is about to start".into(),
        Turn::Starts(first) => format!("is about to start, after job {first}"),
        Turn::Waits(obstacle) => in_the_way(job, obstacle, outlook, scene),
        Turn::Behind(first) => {
            let obstacle = outlook.plan.wait.iter().find(|(id, _)| *id == first);
            match obstacle {
                Some((_, Obstacle::Paused)) => in_the_way(job, Obstacle::Paused, outlook, scene),
                _ => format!("waits its turn: job {first}, which needs the same, is before it"),
            }
        }
        Turn::Unknown => alone(&resources(job), scene),
    }
}

/// What to do about it, where there is something.
pub(super) fn hint(job: &Ready, scene: &Scene) -> Option<String> {
    let Turn::Waits(obstacle) = scene.outlook.as_ref()?.turn(job) else { return None };
    let (id, queue) = (job.id, &job.queue);
    match obstacle {
        Obstacle::TooLarge(Shared::Machine) => None,
        Obstacle::TooLarge(_) => Some(format!(
            "`mlctl queue set {queue}` raises its limits; `mlctl edit {id} --queue` moves the job to another"
        )),
        Obstacle::Paused => Some(format!("`mlctl queue resume {queue}` lets its jobs start")),
        Obstacle::Kept { at: Some(at), .. } if at > scene.now => {
            let seconds = seconds_between(scene.now, at);
            Some(format!(
                "with a time limit of less than {} it could start now: `mlctl edit {id} --time`",
                span(seconds)
            ))
        }
        _ => None,
    }
}

/// What one that does not fit is told where nothing is known of others.
fn alone(needs: &Resources, scene: &Scene) -> String {
    match shortage(needs, scene) {
        Some(shortage) => format!("waits for {shortage}"),
        None => "is about to start".into(),
    }
}

fn too_large(needs: &Resources, scene: &Scene) -> String {
    format!("needs {}, and this machine gives {} to jobs", of_all(needs), of_all(&scene.machine))
}

fn in_the_way(job: &Ready, obstacle: Obstacle, outlook: &Outlook, scene: &Scene) -> String {
    let queue = &job.queue;
    match obstacle {
        Obstacle::TooLarge(Shared::Machine) => too_large(&resources(job), scene),
        Obstacle::TooLarge(of) => format!("needs {}, and {}", of_all(&resources(job)), limit(job, of, outlook)),
        Obstacle::Paused => format!("queue {queue} is paused"),
        Obstacle::Behind(first) => format!("waits its turn: job {first} is before it, and queue {queue} is strict"),
        Obstacle::Full { of, first, at } => {
            let room = match of {
                Shared::Machine => shortage(&resources(job), scene).map(|shortage| format!("waits for {shortage}")),
                Shared::Queue | Shared::User => Some(format!("{}{}", limit(job, of, outlook), now(job, of, outlook))),
            };
            // What was free is what those before it are about to have.
            let room = room.unwrap_or_else(|| "waits for what jobs before it are about to have".into());
            match (first == job.id, at) {
                (true, Some(at)) => format!("{room}; it starts {}", latest(at, scene)),
                (true, None) => room,
                (false, _) => format!("{room}; job {first} is before it"),
            }
        }
        Obstacle::Kept { of, first, at } => {
            let (what, when) = match (of, at) {
                (Shared::Machine, Some(at)) => {
                    ("there is room for it", format!(", which starts {}", latest(at, scene)))
                }
                (Shared::Machine, None) => ("there is room for it", format!(", which needs {}", needs(first, outlook))),
                (_, Some(at)) => ("its queue has room", format!(", which starts {}", latest(at, scene))),
                (_, None) => ("its queue has room", String::new()),
            };
            format!("{what}, but it would delay job {first}{when}")
        }
    }
}

/// What a job needs that is among the heads.
fn needs(job: JobId, outlook: &Outlook) -> String {
    let found = outlook.snapshot.ready.iter().find(|ready| ready.id == job);
    found.map_or_else(|| "room".to_owned(), |ready| of_all(&resources(ready)))
}

/// `in 2 h at the latest`.
fn latest(at: Timestamp, scene: &Scene) -> String {
    format!("in {} at the latest", span(seconds_between(scene.now, at)))
}

/// The limit that a queue has, in words: `queue night runs 2 jobs at once`.
fn limit(job: &Ready, of: Shared, outlook: &Outlook) -> String {
    let name = &job.queue;
    let Some(Queue { limits, .. }) = outlook.snapshot.queues.get(name) else { return format!("queue {name} is full") };
    let QueueLimits { running, cpus, gpus, per_user } = *limits;
    if of == Shared::User {
        return format!("queue {name} runs {} of a user at once", counted(per_user.unwrap_or_default(), "job"));
    }
    let all: Vec<String> = [(running, "job"), (cpus, "core"), (gpus, "GPU")]
        .into_iter()
        .filter_map(|(limit, what)| limit.map(|limit| counted(limit, what)))
        .collect();
    match running {
        Some(running) if all.len() == 1 => format!("queue {name} runs {} at once", counted(running, "job")),
        Some(running) => {
            format!("queue {name} runs {} at once, with {}", counted(running, "job"), all[1..].join(" and "))
        }
        None => format!("queue {name} gives its jobs {} at once", all.join(" and ")),
    }
}

/// Who has it now: `, now jobs 1, 2`.
fn now(job: &Ready, of: Shared, outlook: &Outlook) -> String {
    let has = |running: &&Running| running.queue == job.queue && (of == Shared::Queue || running.user == job.user);
    let ids: Vec<JobId> = outlook.snapshot.running.iter().filter(has).map(|running| running.id).collect();
    if ids.is_empty() { String::new() } else { format!(", now {}", jobs(&ids)) }
}

/// What of the job's needs is not free, and who has it: `1 core: 2 of 2 in use by jobs 3, 4`.
fn shortage(needs: &Resources, scene: &Scene) -> Option<String> {
    let Scene { machine, free, occupants, .. } = scene;
    let by = if occupants.is_empty() { String::new() } else { format!(" by {}", jobs(occupants)) };
    let (needed, used, all) = if needs.cpus > free.cpus {
        (counted(needs.cpus, "core"), machine.cpus.saturating_sub(free.cpus), machine.cpus)
    } else if needs.gpus > free.gpus {
        (counted(needs.gpus, "GPU"), machine.gpus.saturating_sub(free.gpus), machine.gpus)
    } else {
        return None;
    };
    Some(format!("{needed}: {used} of {all} in use{by}"))
}

/// Whether an empty machine could hold it.
pub(in crate::api) const fn fits(needs: &Resources, machine: &Resources) -> bool {
    needs.cpus <= machine.cpus && needs.gpus <= machine.gpus
}
