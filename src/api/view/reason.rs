//! Why a job is where it is, in a line, and what to do about it. Data in, words out.

use jiff::Timestamp;
use mlctl_protocol::{ExitClass, JobId, progress::StorageAway, spec::Resources};

use super::{
    Planned, Scene,
    device::size,
    turn::{self, seen, turn},
};
use crate::{
    domain::{Exit, Gate, Hold, Intent, Job, JobState, dependency::Need},
    store::{Attempt, Awaited, JobDetail},
};

/// The longest part of a worker's message that is repeated, in characters.
const MAX_MESSAGE: usize = 200;

/// Jobs named one by one before the rest is counted.
const MAX_NAMED: usize = 5;

/// Why it is where it is; `None` for a job that succeeded.
pub(in crate::api) fn of(detail: &JobDetail, planned: Planned, scene: &Scene) -> Option<String> {
    let job = &detail.job;
    Some(match &job.state {
        JobState::Queued { .. } if scene.is_full => {
            format!(
                "waits until there is room again: the disk that holds the database is full{}",
                deadline(job, scene.now)
            )
        }
        JobState::Queued { .. } if detail.is_gated => format!("{}{}", behind(job, scene), deadline(job, scene.now)),
        JobState::Queued { not_before } => format!("{}{}", queued(job, *not_before, scene), deadline(job, scene.now)),
        JobState::Blocked { not_before } => {
            format!("{}{}", blocked(job, *not_before, scene), deadline(job, scene.now))
        }
        JobState::Held(hold) => format!("{}{}", held(hold, scene), deadline(job, scene.now)),
        JobState::Running { intent: Some(Intent::Stop), .. } if job.stopped_early.is_some() => {
            format!("saves its work: {}", job.stopped_early.as_deref().unwrap_or_default())
        }
        JobState::Running { intent: Some(Intent::Stop), .. } => "was asked to save its work and stop".into(),
        JobState::Running { intent: Some(Intent::Pause(hold)), .. } => {
            format!("was asked by {} to save its work and pause{}", scene.name(hold.by), what(hold))
        }
        JobState::Running { intent: Some(Intent::Yield { to }), .. } => {
            format!("was asked to save its work and make way for job {to}")
        }
        JobState::Running { intent: Some(Intent::Cancel), .. } => {
            let grace = span(scene.grace_seconds.into());
            let why = job.replaced_by.map(|by| format!("{}: ", replaced(job, by))).unwrap_or_default();
            format!("{why}was asked to stop, and is killed if it has not after {grace}")
        }
        JobState::Running { intent: None, .. } => {
            let limit = job.time_limit_seconds(planned.time_limit_seconds);
            let limit = limit.and_then(|seconds| limit_of(job, seconds, scene.now)).unwrap_or_default();
            let runs = running(job, detail.attempt.as_ref(), scene.now);
            let away = detail.attempt.as_ref().and_then(|attempt| attempt.progress.storage_away.as_ref());
            let away = away.map(|away| storage(away, scene.now)).unwrap_or_default();
            let saves = scene.standing.drain.as_ref().filter(|drain| drain.is_saving());
            let saves = saves.map(|_| "; is asked to save its work, as mld is being drained").unwrap_or_default();
            format!("{runs}{away}{saves}{limit}{}", deadline(job, scene.now))
        }
        JobState::Succeeded => return job.conclusion.as_ref().map(|conclusion| conclusion.told.clone()),
        JobState::Failed => failed(job),
        JobState::Cancelled if job.unmet().is_some() => {
            let message = job.exit.as_ref().and_then(|exit| exit.message.as_deref()).unwrap_or_default();
            format!("cancelled: {message}")
        }
        JobState::Cancelled if let Some(by) = job.replaced_by => format!("{}{}", replaced(job, by), saved(job)),
        JobState::Cancelled if job.attempt == 0 => "cancelled before it was started".into(),
        JobState::Cancelled => {
            let attempt = job.attempt;
            let waited = job.exit.as_ref().is_some_and(|exit| exit.class != ExitClass::Cancelled);
            let when = if waited { "while it waited, after" } else { "in" };
            if let Some(reason) = &job.stopped_early {
                return Some(format!("{reason}{}", saved(job)));
            }
            format!("cancelled {when} attempt {attempt}{}", saved(job))
        }
    })
}

/// `replaced by job 12 with the same concurrency key "prod"`.
fn replaced(job: &Job, by: JobId) -> String {
    let key = job.gate.as_ref().and_then(Gate::chosen_key).unwrap_or_default();
    format!("replaced by job {by} with the same concurrency key {key:?}")
}

/// `, last checkpoint at step 500`.
fn saved(job: &Job) -> String {
    job.checkpoint.as_ref().map(|saved| format!(", last checkpoint at step {}", saved.step)).unwrap_or_default()
}

/// The same where there must be a line, and what to do about it.
pub(in crate::api) fn why(detail: &JobDetail, planned: Planned, scene: &Scene) -> (String, Option<String>) {
    let job = &detail.job;
    let id = job.id;
    let Some(reason) = of(detail, planned, scene) else {
        return ("succeeded: there is nothing to wait for".into(), None);
    };
    let hint = match &job.state {
        JobState::Queued { .. } if scene.is_full => "free space on it: no restart is needed".into(),
        JobState::Queued { .. } if !scene.machine.could_hold(&job.resources) => {
            format!("`mlctl cancel {id}`, and submit it again with smaller resources, or give jobs more in mld.toml")
        }
        JobState::Queued { .. } => {
            turn::hint(&seen(job), scene).unwrap_or_else(|| format!("`mlctl wait {id}` waits for its end"))
        }
        JobState::Held(hold) if hold.is_quarantine() => {
            format!(
                "`mlctl logs {id}` shows what it said last; `mlctl release {id}` lets it go on, `mlctl cancel {id}` ends it"
            )
        }
        JobState::Blocked { .. } => match scene.awaited.get(&id).and_then(|awaited| awaited.first()) {
            Some(Awaited { on, is_array: false, .. }) => format!("`mlctl why {on}` says what that one waits for"),
            Some(Awaited { on, .. }) => format!("`mlctl show {on}` says how far that is"),
            None => format!("`mlctl wait {id}` waits for its end"),
        },
        JobState::Held(_) if job.unmet().is_some() => format!("`mlctl release {id}` starts it all the same"),
        JobState::Held(_) => format!("`mlctl release {id}` lets it wait for its turn"),
        JobState::Running { intent: Some(Intent::Stop | Intent::Pause(_)), .. } => {
            format!("`mlctl cancel {id}` ends it within {}, saved or not", span(scene.grace_seconds.into()))
        }
        JobState::Running { .. } => format!("`mlctl logs -f {id}` shows what it does"),
        JobState::Failed => match job.exit.as_ref() {
            Some(Exit { class: ExitClass::Spec, hint, .. }) => {
                hint.clone().unwrap_or_else(|| "correct the spec or the data, and submit it again".into())
            }
            Some(Exit { class: ExitClass::Timeout, .. }) => {
                let from = job.checkpoint.as_ref().map(|saved| format!("goes on from step {}", saved.step));
                let from = from.unwrap_or_else(|| "begins again".into());
                match job.deadline {
                    Some(deadline) if deadline <= scene.now => {
                        format!("`mlctl edit {id} --deadline TIME` or `--no-deadline`, then `mlctl retry {id}` {from}")
                    }
                    _ => format!("`mlctl retry {id}` {from}, for as long again"),
                }
            }
            Some(Exit { hint: Some(hint), .. }) => format!("{hint}; then `mlctl retry {id}`"),
            _ => format!("`mlctl logs {id}` shows what it said last; `mlctl retry {id}` tries it again"),
        },
        JobState::Succeeded => return (reason, None),
        JobState::Cancelled if let Some(unmet) = job.unmet() => {
            format!(
                "`mlctl retry {id}` starts it all the same; after `mlctl retry {}` it waits for that again",
                unmet.on
            )
        }
        JobState::Cancelled if job.replaced_by.is_some() => {
            format!("`mlctl retry {id}` starts it again, from its last checkpoint if it has one, and replaces others")
        }
        JobState::Cancelled => format!("`mlctl retry {id}` starts it again, from its last checkpoint if it has one"),
    };
    (reason, Some(hint))
}

/// `held by ada: until the data is there`, `quarantined: it died 3 times in a row …`.
pub(in crate::api) fn held(hold: &Hold, scene: &Scene) -> String {
    if hold.is_quarantine() {
        return format!("quarantined{}", what(hold));
    }
    format!("held by {}{}", scene.name(hold.by), what(hold))
}

/// `: until the data is there`, where somebody said what for.
pub(in crate::api) fn what(hold: &Hold) -> String {
    hold.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default()
}

fn queued(job: &Job, not_before: Option<Timestamp>, scene: &Scene) -> String {
    let after = job.exit.as_ref().map(|exit| format!("after {}", ending(exit)));
    let again = after.as_ref().map(|after| match job.exit.as_ref().map(|exit| exit.class) {
        Some(ExitClass::Preempted) => ("goes on".to_owned(), after),
        Some(class) if class.is_infrastructure() && job.infrastructure_retries_used > 0 => {
            let (used, limit) = (job.infrastructure_retries_used, job.retry.infrastructure_limit);
            (format!("infrastructure retry {used} of {limit}"), after)
        }
        _ => (format!("retry {} of {}", job.retries_used, job.retry.limit), after),
    });
    let wait = not_before.map(|time| seconds_between(scene.now, time)).filter(|seconds| *seconds > 0);
    match (again, wait) {
        (Some((again, after)), Some(seconds)) => format!("{again} in {} {after}", span(seconds)),
        (None, Some(seconds)) => {
            let begin = not_before.map(|time| time.strftime(", not before %Y-%m-%d %H:%M:%S UTC").to_string());
            format!("starts in {}{}", span(seconds), begin.unwrap_or_default())
        }
        // A person's retry clears the count: what went before is history.
        (Some((again, after)), None)
            if job.retries_used > 0 || job.infrastructure_retries_used > 0 || again == "goes on" =>
        {
            format!("{}; {again} {after}", turn(&seen(job), scene))
        }
        (_, None) => turn(&seen(job), scene),
    }
}

/// `waits for job 12 (running) to succeed, array 13 (queued) to end and 3 more`.
fn blocked(job: &Job, not_before: Option<Timestamp>, scene: &Scene) -> String {
    let awaited = scene.awaited.get(&job.id).map(Vec::as_slice).unwrap_or_default();
    let named = awaited.iter().take(MAX_NAMED).map(|Awaited { on, need, is_array, state, .. }| {
        let what = if *is_array { "array" } else { "job" };
        let end = match need {
            Need::Ok => "succeed",
            Need::Any => "end",
            Need::NotOk => "fail",
        };
        format!("{what} {on} ({}) to {end}", state.as_deref().unwrap_or("removed"))
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match awaited.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let begin = not_before.map(|time| seconds_between(scene.now, time)).filter(|seconds| *seconds > 0);
    let begin = begin.map(|seconds| format!("; starts in {} at the earliest", span(seconds))).unwrap_or_default();
    if named.is_empty() && job.is_retraining() {
        return format!("is taken to its next stage{begin}");
    }
    if named.is_empty() { format!("waits for other jobs{begin}") } else { format!("waits for {named}{more}{begin}") }
}

/// Who has the places that a job waits for.
fn behind(job: &Job, scene: &Scene) -> String {
    let limit = job.gate.as_ref().map_or(1, |gate| gate.limit);
    let by =
        if scene.through.is_empty() { String::new() } else { format!("; {} before it", let_through(&scene.through)) };
    let begin = match job.state {
        JobState::Queued { not_before: Some(time) } if time > scene.now => {
            format!("starts in {} at the earliest, and then ", span(seconds_between(scene.now, time)))
        }
        _ => String::new(),
    };
    match (&job.array, job.gate.as_ref().and_then(Gate::chosen_key)) {
        (_, Some(key)) => {
            let most = counted(limit, "job");
            format!("{begin}waits for a place: {most} with concurrency key {key:?} at once at most{by}")
        }
        (Some(array), None) => format!("{begin}waits for a place: {limit} jobs of array {} run at once{by}", array.id),
        (None, None) => format!("{begin}waits for a place: {limit} jobs of its kind run at once{by}"),
    }
}

/// `job 3 is`, `jobs 3, 4 are`.
fn let_through(ids: &[JobId]) -> String {
    format!("{} {}", jobs(ids), if ids.len() == 1 { "is" } else { "are" })
}

fn running(job: &Job, attempt: Option<&Attempt>, now: Timestamp) -> String {
    let heard = attempt.and_then(|attempt| attempt.heartbeat_at);
    let device = attempt.and_then(|attempt| attempt.device.as_deref());
    let nth = if job.attempt > 1 { format!(", attempt {}", job.attempt) } else { String::new() };
    match (heard, device) {
        (Some(heard), _) if seconds_between(heard, now) >= 30 => {
            format!("its worker was last heard of {} ago{nth}", span(seconds_between(heard, now)))
        }
        (_, Some(device)) => format!("runs on {device}{nth}"),
        (Some(_), None) => format!("runs{nth}"),
        (None, None) => format!("its worker is being started{nth}"),
    }
}

/// That its worker finds no object storage.
fn storage(away: &StorageAway, now: Timestamp) -> String {
    let since = away
        .since
        .parse()
        .map_or_else(|_| String::new(), |since| format!(" for {}", span(seconds_between(since, now))));
    let does = if away.waiting { "its results wait for it" } else { "training goes on" };
    let kept = match away.checkpoints {
        0 => String::new(),
        1 => ", and a checkpoint waits on this machine".into(),
        many => format!(", and {many} checkpoints wait on this machine"),
    };
    format!("; the object storage does not answer{since}: {does}{kept}")
}

/// How far away its deadline is.
fn deadline(job: &Job, now: Timestamp) -> String {
    let left = job.deadline.map(|deadline| span(seconds_between(now, deadline)));
    left.map(|left| format!("; its deadline is in {left}")).unwrap_or_default()
}

/// How much of its time an attempt has left.
fn limit_of(job: &Job, seconds: u32, now: Timestamp) -> Option<String> {
    let ran = seconds_between(job.started_at?, now);
    let left = u64::from(seconds).saturating_sub(ran);
    Some(format!("; {} left of its time limit of {}", span(left), span(seconds.into())))
}

fn failed(job: &Job) -> String {
    let end = job.exit.as_ref().map_or_else(|| "unknown".to_owned(), ending);
    match job.retries_used {
        0 => end,
        1 => format!("{end} (after 1 retry)"),
        used => format!("{end} (after {used} retries)"),
    }
}

/// `crash: it was killed by signal 9`, in a line.
fn ending(exit: &Exit) -> String {
    let Some(message) = exit.message.as_deref().and_then(|message| message.lines().next()) else {
        return exit.class.to_string();
    };
    let mut short: String = message.chars().take(MAX_MESSAGE).collect();
    if short.len() < message.len() {
        short.push('…');
    }
    format!("{}: {short}", exit.class)
}

/// `1 core`, `4 cores`, `2 cores and 1 GPU`, `2 cores, 8 GiB of memory and 1 GPU with 6 GiB`.
pub(in crate::api) fn of_all(resources: &Resources) -> String {
    let Resources { cpus, gpus, memory_mib, vram_mib } = *resources;
    let mut all = vec![counted(cpus, "core")];
    if memory_mib > 0 {
        all.push(format!("{} of memory", size(memory_mib)));
    }
    match (gpus, vram_mib) {
        (0, _) => {}
        (_, 0) => all.push(counted(gpus, "GPU")),
        (1, _) => all.push(format!("1 GPU with {}", size(vram_mib))),
        (_, _) => all.push(format!("{gpus} GPUs with {} each", size(vram_mib))),
    }
    in_a_row(&all)
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn in_a_row(all: &[String]) -> String {
    match all {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

pub(in crate::api) fn counted(number: u32, what: &str) -> String {
    let ending = if what.ends_with('s') { "es" } else { "s" };
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}{ending}") }
}

/// `job 3`, `jobs 3, 4`, `jobs 1, 2, 3, 4, 5 and 7 more`.
pub(super) fn jobs(ids: &[JobId]) -> String {
    let named: Vec<String> = ids.iter().take(MAX_NAMED).map(ToString::to_string).collect();
    let word = if ids.len() == 1 { "job" } else { "jobs" };
    let more = ids.len().saturating_sub(named.len());
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{word} {}{rest}", named.join(", "))
}

/// Whole seconds from one moment to a later one, begun ones counted; 0 when it is not later.
pub(super) fn seconds_between(from: Timestamp, to: Timestamp) -> u64 {
    let millis = to.duration_since(from).as_millis();
    u64::try_from(millis).unwrap_or(0).div_ceil(1000)
}

/// `12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`.
pub(in crate::api) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, part: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {part}"),
    };
    match seconds {
        0..120 => format!("{seconds} s"),
        120..3600 => format!("{minutes} min"),
        3600..86_400 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}
