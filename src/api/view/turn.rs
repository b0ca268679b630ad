//! Why a job that may start does not: which resource, limit, reservation or other job is in its way, and when that is over at the latest. Data in, words out.

use jiff::Timestamp;
use mlctl_protocol::{JobId, JobSpec, spec::Resources};

use super::{
    Scene,
    device::{self, size},
    dispatch,
    reason::{counted, in_a_row, jobs, of_all, seconds_between, span},
};
use crate::{
    domain::{
        Job, MICROSECONDS_A_POINT, Machine, Uid,
        machine::Gpu,
        queue::{Queue, QueueLimits},
    },
    scheduler::{Obstacle, Outlook, Shared, Turn, open_to_jobs},
    store::{Ready, Running},
};

/// A job as the scheduler sees it, but for its place.
pub(super) fn seen(job: &Job) -> Ready {
    let (kind, queue, user, priority) = (job.kind.clone(), job.queue.clone(), job.user, job.priority);
    let (needs, limit_seconds) = (job.resources.clone(), job.time_limit_seconds(None));
    Ready { id: job.id, kind, queue, user, priority, rank: 0, needs, limit_seconds }
}

/// A job that is not there, as the scheduler would see it if it came now.
pub(in crate::api) fn imagined(spec: &JobSpec, user: Uid, now: Timestamp) -> Ready {
    let points = i64::from(spec.priority).saturating_mul(MICROSECONDS_A_POINT);
    Ready {
        id: JobId(i64::MAX.unsigned_abs()),
        kind: spec.work.kind().to_owned(),
        queue: spec.queue.clone(),
        user,
        priority: spec.priority,
        rank: now.as_microsecond().saturating_sub(points),
        needs: spec.resources.clone(),
        limit_seconds: spec.time.limit_seconds,
    }
}

/// What a job waits for whose time has come.
pub(in crate::api) fn turn(job: &Ready, scene: &Scene) -> String {
    if !scene.machine.could_hold(&job.needs) {
        return too_large(&job.needs, &scene.machine);
    }
    if let Some((closed, _)) = dispatch::closed(&scene.standing) {
        return closed;
    }
    let Some(outlook) = &scene.outlook else { return alone(job, scene) };
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
        Turn::Unknown => alone(job, scene),
    }
}

/// What to do about it, where there is something.
pub(super) fn hint(job: &Ready, scene: &Scene) -> Option<String> {
    if let Some((_, hint)) = dispatch::closed(&scene.standing) {
        return Some(hint.to_owned());
    }
    let Turn::Waits(obstacle) = scene.outlook.as_ref()?.turn(job) else { return None };
    let (id, queue) = (job.id, &job.queue);
    match obstacle {
        Obstacle::TooLarge(Shared::Machine) => Some("`mlctl device ls` says who may have which GPU".into()),
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
fn alone(job: &Ready, scene: &Scene) -> String {
    match shortage(job, &scene.machine, scene) {
        Some(shortage) => format!("waits for {shortage}"),
        None => "is about to start".into(),
    }
}

/// `needs 9 cores, and this machine gives 2 cores to jobs`: as much of what the machine has as the job asks about.
pub(in crate::api) fn too_large(needs: &Resources, machine: &Machine) -> String {
    let mut all = vec![counted(machine.cpus, "core")];
    if needs.memory_mib > 0 {
        all.push(format!("{} of memory", size(machine.memory_mib)));
    }
    if needs.gpus > 0 {
        let largest = machine.gpus.iter().map(|gpu| gpu.memory_mib).max().filter(|_| needs.vram_mib > 0);
        let largest = largest.map(|mib| format!(" of {} at most", size(mib))).unwrap_or_default();
        all.push(match machine.totals().gpus {
            0 => "no GPU".to_owned(),
            gpus => format!("{}{largest}", counted(gpus, "GPU")),
        });
    }
    format!("needs {}, and this machine gives {} to jobs", of_all(needs), in_a_row(&all))
}

/// Which GPUs of the machine a job may not have.
fn kept_from(job: &Ready, machine: &Machine, scene: &Scene) -> String {
    let may = |gpu: &&Gpu| gpu.standing.admits(&job.queue, job.user);
    let reasons: Vec<String> =
        machine.gpus.iter().filter(|gpu| !may(gpu)).filter_map(|gpu| device::obstacle(gpu, false, scene)).collect();
    format!("needs {}, and {}", of_all(&job.needs), in_a_row(&reasons))
}

fn in_the_way(job: &Ready, obstacle: Obstacle, outlook: &Outlook, scene: &Scene) -> String {
    let queue = &job.queue;
    match obstacle {
        Obstacle::TooLarge(Shared::Machine) => kept_from(job, &outlook.snapshot.machine, scene),
        Obstacle::TooLarge(of) => format!("needs {}, and {}", of_all(&job.needs), limit(job, of, outlook)),
        Obstacle::Paused => format!("queue {queue} is paused"),
        Obstacle::Behind(first) => format!("waits its turn: job {first} is before it, and queue {queue} is strict"),
        Obstacle::Full { of, first, at } => {
            let room = match of {
                Shared::Machine => {
                    let shortage = shortage(job, &outlook.snapshot.machine, scene);
                    shortage.map(|shortage| format!("waits for {shortage}"))
                }
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
    found.map_or_else(|| "room".to_owned(), |ready| of_all(&ready.needs))
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

/// What of the job's needs is not free, and who has it: `1 core: 2 of 2 in use by jobs 3, 4`. What others do with the machine is seen on `machine`, where it was looked for.
fn shortage(job: &Ready, machine: &Machine, scene: &Scene) -> Option<String> {
    let (needs, Scene { free, occupants, .. }) = (&job.needs, scene);
    let by = if occupants.is_empty() { String::new() } else { format!(" by {}", jobs(occupants)) };
    if needs.cpus > free.cpus {
        let used = machine.cpus.saturating_sub(free.cpus);
        return Some(format!("{}: {used} of {} in use{by}", counted(needs.cpus, "core"), machine.cpus));
    }
    if needs.memory_mib > free.memory_mib {
        let used = size(machine.memory_mib.saturating_sub(free.memory_mib));
        let (needed, all) = (size(needs.memory_mib), size(machine.memory_mib));
        return Some(format!("{needed} of memory: {used} of {all} in use{by}"));
    }
    let may = |gpu: &Gpu| gpu.standing.admits(&job.queue, job.user);
    if open_to_jobs(machine, free.clone()).place(machine, needs, may).is_some() {
        return None;
    }
    let needed = match needs.vram_mib {
        0 => counted(needs.gpus, "GPU"),
        mib => format!("{} with {} free", counted(needs.gpus, "GPU"), size(mib)),
    };
    let used = machine.used(free).gpus;
    let mut reasons = Vec::new();
    if used > 0 {
        reasons.push(format!("{used} of {} in use{by}", machine.totals().gpus));
    }
    reasons.extend(machine.gpus.iter().filter_map(|gpu| device::obstacle(gpu, may(gpu), scene)));
    Some(if reasons.is_empty() { needed } else { format!("{needed}: {}", reasons.join("; ")) })
}
