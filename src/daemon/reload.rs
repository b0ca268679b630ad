//! Settings that may change while the daemon runs, and how they are read again: a mistake changes nothing; of what has changed, what can be put in force is, and the rest waits for the next start and is named.
//! Called by the API and at SIGHUP.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{hardware, logging::Level, offline, service_manager};
use crate::{
    api::{Commands, Policy, Reload, Reloaded},
    config::{SchedulerSettings, Settings},
    domain::{
        Machine, causes,
        notify::Hook,
        retention::{Retention, checkpoints::Defaults},
        share::FairShare,
    },
    registry::gc,
    supervisor::{self, Handle, Tuning},
    vault::Plan,
};

/// Reads the settings again, from where they came.
pub type Source = Arc<dyn Fn() -> Result<Settings, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// Keys that hold at once, or the tables of such.
const APPLIED: [&str; 16] = [
    "daemon.check_hours",
    "storage.data_roots",
    "workers.cpus",
    "workers.memory_mib",
    "workers.grace_seconds",
    "workers.hang_seconds",
    "workers.min_run_seconds",
    "commands.enabled",
    "commands.users",
    "limits.",
    "scheduler.",
    "retention.",
    "backup.every_hours",
    "backup.keep",
    "log.level",
    "notify",
];

/// What follows from the other settings.
const DERIVED: [&str; 3] = ["daemon.attempts_dir", "daemon.database", "daemon.workers_socket"];

/// What may change while the daemon runs, for those who go by it.
pub(super) struct Knobs {
    pub(super) tuning: watch::Sender<Tuning>,
    pub(super) policy: watch::Sender<Arc<Policy>>,
    pub(super) share: watch::Sender<FairShare>,
    pub(super) min_run: watch::Sender<Duration>,
    pub(super) max_queued: watch::Sender<u32>,
    pub(super) retention: watch::Sender<Retention>,
    pub(super) check_every: watch::Sender<Duration>,
    pub(super) collection: watch::Sender<gc::Plan>,
    pub(super) plan: watch::Sender<Plan>,
    pub(super) hooks: watch::Sender<Arc<Vec<Hook>>>,
}

impl Knobs {
    pub(super) fn new(settings: &Settings, machine: &Machine) -> Self {
        Self {
            tuning: watch::Sender::new(tuning(settings, machine)),
            policy: watch::Sender::new(Arc::new(policy(settings))),
            share: watch::Sender::new(share(&settings.scheduler)),
            min_run: watch::Sender::new(seconds(settings.workers.min_run_seconds)),
            max_queued: watch::Sender::new(settings.limits.max_queued),
            retention: watch::Sender::new(retention(settings)),
            check_every: watch::Sender::new(check_every(settings)),
            collection: watch::Sender::new(collection(settings)),
            plan: watch::Sender::new(offline::plan(settings)),
            hooks: watch::Sender::new(Arc::new(settings.notify.clone())),
        }
    }

    fn turn(&self, settings: &Settings, all_memory_mib: u32) {
        let mut machine = Machine::clone(&self.tuning.borrow().machine);
        machine.cpus = settings.workers.cpus;
        machine.memory_mib = settings.workers.memory_mib.unwrap_or(all_memory_mib);
        self.tuning.send_replace(tuning(settings, &machine));
        self.policy.send_replace(Arc::new(policy(settings)));
        self.share.send_replace(share(&settings.scheduler));
        self.min_run.send_replace(seconds(settings.workers.min_run_seconds));
        self.max_queued.send_replace(settings.limits.max_queued);
        self.retention.send_replace(retention(settings));
        self.check_every.send_replace(check_every(settings));
        // Who is told collects at once.
        let collection = collection(settings);
        self.collection.send_if_modified(|plan| std::mem::replace(plan, collection) != collection);
        self.plan.send_replace(offline::plan(settings));
        // Who is told begins its deliveries anew.
        let hooks = Arc::new(settings.notify.clone());
        self.hooks.send_if_modified(|known| std::mem::replace(known, hooks.clone()) != hooks);
    }
}

/// Reads them again when asked.
pub(super) struct Reloader {
    source: Source,
    pub(super) knobs: Knobs,
    level: Level,
    supervisor: Handle,
    /// What there is where the settings do not say.
    all_memory_mib: u32,
    /// What holds at this moment: of what waits for the next start, the old.
    in_force: Mutex<Settings>,
}

impl Reloader {
    /// One that goes on from these settings.
    pub(super) fn new(
        (source, level): (Source, Level),
        knobs: Knobs,
        supervisor: Handle,
        in_force: Settings,
    ) -> Arc<Self> {
        let all_memory_mib = hardware::all_memory_mib();
        Arc::new(Self { source, knobs, level, supervisor, all_memory_mib, in_force: Mutex::new(in_force) })
    }

    /// For the API.
    pub(super) fn handle(self: &Arc<Self>) -> Reload {
        let reloader = self.clone();
        Arc::new(move || reloader.reload())
    }

    /// Blocks for as long as it takes to read a small file.
    fn reload(&self) -> Result<Reloaded, String> {
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        service_manager::reloading();
        let reloaded = self.replace(&mut in_force);
        service_manager::ready();
        match &reloaded {
            Ok(Reloaded { applied, pending }) if pending.is_empty() => {
                info!(?applied, "the settings were read again");
            }
            Ok(Reloaded { applied, pending }) => {
                warn!(
                    ?applied,
                    ?pending,
                    "the settings were read again; some of what has changed waits for the next start"
                );
            }
            Err(why) => error!(why, "the settings cannot be read again: those that were in force stay so"),
        }
        reloaded
    }

    fn replace(&self, in_force: &mut Settings) -> Result<Reloaded, String> {
        let read = (self.source)().map_err(|error| causes(error.as_ref()))?;
        let changed = changed(in_force, &read).map_err(|error| error.to_string())?;
        if changed.iter().any(|key| key == "log.level") {
            self.level.set(&read.log.level).map_err(|error| format!("log.level: {error}"))?;
        }
        let (applied, pending): (Vec<String>, Vec<String>) = changed.into_iter().partition(|key| is_applied(key));
        adopt(in_force, read);
        self.knobs.turn(in_force, self.all_memory_mib);
        self.supervisor.retuned();
        Ok(Reloaded { applied, pending })
    }
}

/// Reads the settings again whenever somebody asks by a signal, until the stop.
pub(super) async fn run(reload: Reload, asked: Arc<Notify>, stop: CancellationToken) {
    while stop.run_until_cancelled(asked.notified()).await.is_some() {
        let reload = reload.clone();
        // What came of it is in the log.
        let _ = tokio::task::spawn_blocking(move || reload()).await;
    }
}

/// Whether a key holds at once.
fn is_applied(key: &str) -> bool {
    let fits = |known: &&str| key == *known || (known.ends_with('.') && key.starts_with(*known));
    APPLIED.iter().any(fits)
}

/// The keys whose values differ, by their names in the file.
fn changed(old: &Settings, new: &Settings) -> Result<Vec<String>, serde_json::Error> {
    let (old, new) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
    let mut keys = Vec::new();
    differences("", &old, &new, &mut keys);
    keys.retain(|key| !DERIVED.contains(&key.as_str()));
    Ok(keys)
}

fn differences(path: &str, old: &Value, new: &Value, keys: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, value) in old {
                let is_table = value.is_object() || value.is_array();
                // What stands alone at the top is in [daemon].
                let path = match path {
                    "" if is_table => name.clone(),
                    "" => format!("daemon.{name}"),
                    path => format!("{path}.{name}"),
                };
                differences(&path, value, new.get(name).unwrap_or(&Value::Null), keys);
            }
        }
        (old, new) if old == new => {}
        _ => keys.push(path.to_owned()),
    }
}

/// Takes over what holds at once, and nothing else.
fn adopt(in_force: &mut Settings, read: Settings) {
    in_force.check_hours = read.check_hours;
    in_force.storage.data_roots = read.storage.data_roots;
    let (workers, new) = (&mut in_force.workers, read.workers);
    workers.cpus = new.cpus;
    workers.memory_mib = new.memory_mib;
    workers.grace_seconds = new.grace_seconds;
    workers.hang_seconds = new.hang_seconds;
    workers.min_run_seconds = new.min_run_seconds;
    in_force.commands.enabled = read.commands.enabled;
    in_force.commands.users = read.commands.users;
    in_force.limits = read.limits;
    in_force.scheduler = read.scheduler;
    in_force.retention = read.retention;
    in_force.backup.every_hours = read.backup.every_hours;
    in_force.backup.keep = read.backup.keep;
    in_force.log.level = read.log.level;
    in_force.notify = read.notify;
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

fn tuning(settings: &Settings, machine: &Machine) -> Tuning {
    let workers = &settings.workers;
    Tuning {
        has_commands: settings.commands.enabled,
        machine: Arc::new(machine.clone()),
        grace: seconds(workers.grace_seconds),
        limits: supervisor::Limits {
            lease: seconds(workers.lease_seconds),
            hang: (workers.hang_seconds > 0).then(|| seconds(workers.hang_seconds)),
        },
        retention: Defaults {
            nightly: settings.retention.checkpoints_nightly,
            weekly: settings.retention.checkpoints_weekly,
            max_bytes: settings.retention.checkpoints_max_bytes,
        },
    }
}

fn policy(settings: &Settings) -> Policy {
    Policy {
        data_roots: settings.storage.data_roots.clone(),
        commands: Commands { enabled: settings.commands.enabled, users: settings.commands.users.clone() },
        max_queued: settings.limits.max_queued,
        max_spec_bytes: settings.limits.max_spec_bytes,
        max_array: settings.limits.max_array,
        grace_seconds: settings.workers.grace_seconds,
    }
}

/// How much use counts in the line.
const fn share(settings: &SchedulerSettings) -> FairShare {
    FairShare {
        points: settings.fair_share_points,
        half_life_hours: settings.fair_share_half_life_hours,
        gpu_cores: settings.fair_share_gpu_cores,
    }
}

const fn retention(settings: &Settings) -> Retention {
    let kept = &settings.retention;
    Retention { days: kept.finished_days, jobs: kept.finished_jobs }
}

const fn collection(settings: &Settings) -> gc::Plan {
    let kept = &settings.retention;
    gc::Plan { every_hours: kept.gc_hours, grace_hours: kept.gc_grace_hours }
}

fn check_every(settings: &Settings) -> Duration {
    Duration::from_secs(u64::from(settings.check_hours) * 3600)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::domain::notify::Channel;

    fn settings() -> Settings {
        Settings::under(Path::new("/s"), Path::new("/p"))
    }

    #[test]
    fn what_has_changed_is_named_as_in_the_file_and_taken_over_only_if_it_holds_at_once() {
        type Change = fn(&mut Settings);
        let cases: [(&str, bool, Change); 9] = [
            ("daemon.check_hours", true, |it| it.check_hours = 1),
            ("daemon.group_access", false, |it| it.group_access = true),
            ("storage.url", false, |it| it.storage.url = "s3://b/p".into()),
            ("storage.s3.region", false, |it| it.storage.s3.region = "x".into()),
            ("workers.cpus", true, |it| it.workers.cpus += 1),
            ("workers.lease_seconds", false, |it| it.workers.lease_seconds += 1),
            ("commands.users", true, |it| it.commands.users = vec!["ann".into()]),
            ("retention.finished_days", true, |it| it.retention.finished_days = 9),
            ("log.level", true, |it| it.log.level = "debug".into()),
        ];
        for (key, applied, change) in cases {
            let (mut old, mut new) = (settings(), settings());
            assert_eq!(changed(&old, &new).unwrap(), Vec::<String>::new());
            change(&mut new);
            assert_eq!(changed(&old, &new).unwrap(), [key]);
            assert_eq!(is_applied(key), applied, "{key}");
            adopt(&mut old, new.clone());
            assert_eq!(changed(&old, &new).unwrap().is_empty(), applied, "{key}");
        }
    }

    /// A daemon on other paths, with everything that is a number or a switch otherwise.
    fn others() -> Settings {
        let mut new = Settings::under(Path::new("/other"), Path::new("/others"));
        new.check_hours += 1;
        new.storage.data_roots = vec!["/data".into()];
        let workers = &mut new.workers;
        for number in [&mut workers.cpus, &mut workers.grace_seconds, &mut workers.hang_seconds, &mut workers.ahead] {
            *number += 1;
        }
        workers.min_run_seconds += 1;
        workers.memory_mib = Some(7);
        new.commands.enabled = false;
        new.commands.users = vec!["ann".into()];
        let (limits, scheduler) = (&mut new.limits, &mut new.scheduler);
        limits.max_queued += 1;
        limits.max_spec_bytes += 1;
        limits.max_array += 1;
        scheduler.fair_share_points += 1;
        scheduler.fair_share_half_life_hours += 1;
        scheduler.fair_share_gpu_cores += 1;
        new.retention = crate::config::RetentionSettings {
            finished_days: 5,
            finished_jobs: 6,
            checkpoints_nightly: 7,
            checkpoints_weekly: 8,
            checkpoints_max_bytes: 9,
            gc_hours: 10,
            gc_grace_hours: 11,
        };
        new.backup.every_hours += 1;
        new.backup.keep += 1;
        new.log.level = "trace".into();
        let channel = Channel::Command(vec!["/bin/true".into()]);
        new.notify.push(Hook { name: "x".into(), on: [].into(), filter: None, channel, timeout_seconds: 1 });
        new
    }

    #[test]
    fn a_reload_that_leaves_the_collection_as_it_is_begins_none() {
        let mut settings = settings();
        let knobs = Knobs::new(&settings, &Machine::default());
        let plan = knobs.collection.subscribe();
        settings.check_hours += 1;
        knobs.turn(&settings, 7);
        assert!(!plan.has_changed().unwrap());
        settings.retention.gc_hours += 1;
        knobs.turn(&settings, 7);
        assert!(plan.has_changed().unwrap() && *plan.borrow() == collection(&settings));
    }

    #[test]
    fn every_key_that_holds_at_once_is_taken_over() {
        let (mut old, new) = (settings(), others());
        let (applied, pending): (Vec<String>, Vec<String>) =
            changed(&old, &new).unwrap().into_iter().partition(|key| is_applied(key));
        assert_eq!(applied.len(), 26, "{applied:?}");
        adopt(&mut old, new.clone());
        assert_eq!(changed(&old, &new).unwrap(), pending, "and nothing else");
    }
}
