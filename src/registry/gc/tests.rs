//! Nothing that anything needs is ever collected: random histories of jobs on a real database and a store in memory, against a record of their own of what must stay. A collection that is blind for one
//! kind of root is found out. `MLCTL_TEST_SEED` and `MLCTL_TEST_CASES=1` repeat one history.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
};

use jiff::Timestamp;
use mlctl_artifacts::{checkpoint, keys, manifest::Role};
use mlctl_protocol::{
    AttemptNumber, ExitClass, JobId, JobSpec,
    message::ReportBody,
    result::{CheckpointRef, ModelRef},
    spec::{DataSource, InitSpec, Work},
};

use super::*;
use crate::{
    domain::{Command, Exit, Fence, Uid, schedule::Policy},
    registry::{Registry, RegistryError},
    store::{NewJob, NewSchedule, StoreError, offline},
};

const PREFIX: &str = "memory:///ml/o";

const BY: Uid = Uid(7);

/// A clock that is years ahead of the store's.
struct Later(AtomicI64);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.0.fetch_add(1, Ordering::Relaxed)).unwrap()
    }
}

fn entropy(bytes: &mut [u8]) {
    static DRAWN: AtomicU64 = AtomicU64::new(1);
    let drawn = DRAWN.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bytes.iter_mut().zip(drawn.to_be_bytes().iter().cycle()).for_each(|(byte, drawn)| *byte = *drawn);
}

/// Numbers by a seed: xorshift.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        (!all.is_empty()).then(|| &all[usize::try_from(self.below(all.len() as u64)).unwrap()])
    }
}

/// What the test itself knows of a job.
#[derive(Default)]
struct Known {
    weights: Option<String>,
    running: Option<Fence>,
    attempts: u32,
    steps: u64,
    succeeded: bool,
    ended: bool,
    kept: Vec<CheckpointRef>,
    model: Option<String>,
}

pub(in crate::registry) struct World {
    store: Store,
    pub(in crate::registry) stores: Stores,
    pub(in crate::registry) registry: Registry,
    collector: Collector,
    jobs: BTreeMap<JobId, Known>,
    /// Folders that versions hold, with the version.
    versions: BTreeMap<(String, u32), String>,
    /// What the jobs of schedules begin with, by name.
    schedules: BTreeMap<String, String>,
    /// What must go: URIs of objects.
    litter: BTreeSet<String>,
    submitted: u64,
    /// Whether what removed jobs have left goes too.
    with_results: bool,
    is_sound: Arc<AtomicBool>,
    dir: tempfile::TempDir,
}

impl World {
    pub(in crate::registry) async fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap()).await
    }

    /// On the database that is there.
    async fn on(dir: tempfile::TempDir) -> Self {
        let clock = Arc::new(Later(AtomicI64::new(4_000_000_000_000_000)));
        let store = Store::open(&dir.path().join("mld.db"), clock.clone(), entropy).await.unwrap();
        let (stores, is_sound) = (Stores::with_memory(), Arc::new(AtomicBool::new(true)));
        let sound = is_sound.clone();
        let sound: IsSound = Arc::new(move || sound.load(Ordering::Relaxed));
        Self {
            registry: Registry::new(store.clone(), stores.clone()),
            collector: Collector::new(store.clone(), stores.clone(), clock, PREFIX.to_owned(), sound),
            store,
            stores,
            jobs: BTreeMap::new(),
            versions: BTreeMap::new(),
            schedules: BTreeMap::new(),
            litter: BTreeSet::new(),
            submitted: 0,
            with_results: false,
            is_sound,
            dir,
        }
    }

    pub(in crate::registry) fn home(&self, job: JobId) -> String {
        keys_of(&self.store, job)
    }

    async fn put(&self, uri: &str) {
        self.stores.open(uri).unwrap().put(uri.as_bytes().to_vec().into()).await.unwrap();
    }

    async fn is_there(&self, uri: &str) -> bool {
        self.stores.open(uri).unwrap().size().await.unwrap().is_some()
    }

    /// A spec of a name that no other has.
    fn spec(&mut self, weights: Option<&str>) -> JobSpec {
        self.submitted += 1;
        let spec = serde_json::json!({
            "version": 1, "name": format!("j{}", self.submitted),
            "train": {
                "data": {"format": "randn", "rows": 64, "features": 4, "targets": 2, "seed": 1},
                "model": {"type": "mlp", "layers": [4, 8, 2]},
                "loss": "mse", "optimizer": {"type": "adam"}, "batch_size": 8, "max_epochs": 1
            }
        });
        let mut spec: JobSpec = serde_json::from_value(spec).unwrap();
        if let (Work::Train(train), Some(from)) = (&mut spec.work, weights) {
            train.init = Some(InitSpec { from: from.to_owned(), key: None });
        }
        spec
    }

    async fn submit(&mut self, weights: Option<String>) {
        self.submit_with(weights, |_| {}).await;
    }

    pub(in crate::registry) async fn submit_with(
        &mut self,
        weights: Option<String>,
        change: impl FnOnce(&mut JobSpec),
    ) {
        let mut spec = self.spec(weights.as_deref());
        change(&mut spec);
        let key = spec.name.clone();
        let new = NewJob { spec, user: BY, key, asked: None, hold: None };
        let id = self.store.submit(new).await.unwrap().id;
        self.jobs.insert(id, Known { weights, ..Known::default() });
    }

    async fn schedule(&mut self, weights: String) {
        let spec = self.spec(Some(&weights));
        let name = spec.name.clone();
        let (cron, zone, created_at) = ("@yearly".to_owned(), "UTC".to_owned(), Timestamp::UNIX_EPOCH);
        let new = NewSchedule {
            name: name.clone(),
            cron,
            zone,
            spec,
            user: BY,
            created_at,
            next: None,
            policy: Policy::default(),
        };
        self.store.add_schedule(new).await.unwrap();
        self.schedules.insert(name, weights);
    }

    async fn unschedule(&mut self) {
        let Some((name, _)) = self.schedules.pop_first() else { return };
        self.store.remove_schedule(&name).await.unwrap();
    }

    pub(in crate::registry) async fn claim(&mut self, id: JobId) {
        let lease = "2200-01-01T00:00:00Z".parse().unwrap();
        let Ok(claimed) = self.store.claim(id, Vec::new(), [7; 32], lease).await else { return };
        let job = self.jobs.get_mut(&id).unwrap();
        (job.running, job.attempts) = (Some(claimed.fence), claimed.fence.attempt.0);
    }

    /// A checkpoint, which is put on record or, as of a worker that was killed before that, not.
    async fn save(&mut self, id: JobId, is_reported: bool) {
        let attempt = {
            let Some(fence) = self.jobs[&id].running else { return };
            fence
        };
        let job = self.jobs.get_mut(&id).unwrap();
        job.steps += 1;
        let (step, uri) = (job.steps, format!("{}/{}", self.home(id), attempt.attempt));
        let header = checkpoint::Header {
            job: id,
            attempt: attempt.attempt,
            token: attempt.token,
            step,
            epoch: 0,
            created_at: "2026-01-01T00:00:00Z".into(),
            spec_digest: "0".repeat(64),
            dataset_digest: "0".repeat(64),
            parent: None,
            metrics: Default::default(),
        };
        let name = keys::CHECKPOINT_STATE.to_owned();
        let part = checkpoint::Part { name, role: Role::State, bytes: bytes::Bytes::from(format!("{id} {step}")) };
        let saved = checkpoint::write(&self.stores.open(&uri).unwrap(), header, vec![part]).await.unwrap();
        if is_reported {
            let body = ReportBody::Checkpoint { checkpoint: saved.clone() };
            let seq = self.jobs[&id].steps;
            self.store.report(attempt, seq, body).await.unwrap();
            self.jobs.get_mut(&id).unwrap().kept.push(saved);
        }
    }

    pub(in crate::registry) async fn end(&mut self, id: JobId, class: ExitClass) {
        let Some(fence) = self.jobs[&id].running else { return };
        let uri = format!("{}/model/{}", self.home(id), fence.attempt);
        let is_ok = class == ExitClass::Ok;
        for name in ["model.safetensors", "config.json"] {
            // A late attempt may have published as well, and is not believed.
            self.put(&format!("{uri}/{name}")).await;
        }
        let model = is_ok.then(|| ModelRef { uri: uri.clone(), digest: "0".repeat(64) });
        let exit = Exit { class, message: None, hint: None };
        let job = self.store.command(id, Some(fence), Command::End { exit, model, output: None, jitter: 0.5 });
        let state = job.await.unwrap().state;
        let job = self.jobs.get_mut(&id).unwrap();
        job.running = None;
        (job.ended, job.succeeded) = (state.is_terminal(), is_ok);
        job.model = is_ok.then_some(uri);
    }

    /// A row goes whose objects are left; sometimes a job or a schedule begins with them all the same, which was looked at in that very moment.
    async fn forget(&mut self, id: JobId, chance: &mut Chance) {
        let job = &self.jobs[&id];
        let needed = self.weights();
        let old: Vec<_> = job.kept.iter().rev().skip(1).map(|old| old.uri.clone()).take(1).collect();
        let held: BTreeSet<_> = self.versions.values().cloned().chain(needed).collect();
        let forgotten = self.store.forget_checkpoints(id, old.clone()).await.unwrap();
        let expected: Vec<_> = old.into_iter().filter(|old| !held.contains(old)).collect();
        assert_eq!(forgotten, expected, "what is needed is not forgotten");
        for old in forgotten {
            self.jobs.get_mut(&id).unwrap().kept.retain(|kept| kept.uri != old);
            self.litter.insert(format!("{old}/manifest.json"));
            match chance.below(4) {
                0 => self.submit(Some(old)).await,
                1 => self.schedule(old).await,
                _ => {}
            }
        }
    }

    fn weights(&self) -> BTreeSet<String> {
        let jobs = self.jobs.values().filter(|job| !job.succeeded).filter_map(|job| job.weights.clone());
        jobs.chain(self.schedules.values().cloned()).collect()
    }

    pub(in crate::registry) async fn remove(&mut self, id: JobId) {
        if self.store.remove(&[id], BY, false).await.unwrap()[0].is_ok() {
            let job = self.jobs.remove(&id).unwrap();
            let needed = self.weights();
            let gone = job.kept.iter().filter(|kept| !needed.contains(&kept.uri));
            self.litter.extend(gone.map(|kept| format!("{}/manifest.json", kept.uri)));
        }
    }

    async fn register(&mut self, id: JobId, step: Option<u64>) {
        match self.registry.register("m", id, step, BY).await {
            Ok((version, _)) => drop(self.versions.insert((version.model, version.version), version.content.uri)),
            Err(RegistryError::NoModel(_) | RegistryError::Store(StoreError::NoCheckpoint { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn unregister(&mut self, chance: &mut Chance) {
        let all: Vec<_> = self.versions.keys().cloned().collect();
        let Some((model, version)) = chance.pick(&all) else { return };
        match self.store.remove_version(model, *version, BY).await {
            Ok(_) => drop(self.versions.remove(&(model.clone(), *version))),
            Err(StoreError::VersionInUse { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// One thing that happens.
    async fn step(&mut self, chance: &mut Chance) {
        let ids: Vec<_> = self.jobs.keys().copied().collect();
        let id = chance.pick(&ids).copied();
        let places: Vec<String> = self
            .jobs
            .values()
            .flat_map(|job| job.kept.iter().map(|kept| kept.uri.clone()).chain(job.model.clone()))
            .collect();
        match (chance.below(18), id) {
            (0, _) | (_, None) => self.submit(None).await,
            (1 | 12 | 13, _) => {
                let weights = chance.pick(&places).cloned();
                self.submit(weights).await;
            }
            (2 | 3, Some(id)) => self.claim(id).await,
            (4 | 5, Some(id)) => self.save(id, chance.below(4) > 0).await,
            (6, Some(id)) => self.end(id, ExitClass::Ok).await,
            (7, Some(id)) => {
                let class = if chance.below(2) == 0 { ExitClass::Spec } else { ExitClass::Preempted };
                self.end(id, class).await;
            }
            (8 | 14 | 15, Some(id)) => {
                self.forget(id, chance).await;
            }
            (9, Some(id)) => self.remove(id).await,
            (10, Some(id)) => {
                let steps: Vec<_> = self.jobs[&id].kept.iter().map(|kept| kept.step).collect();
                let step = chance.pick(&steps).copied().filter(|_| chance.below(2) == 0);
                self.register(id, step).await;
            }
            (16, _) => match chance.pick(&places).cloned() {
                Some(weights) => self.schedule(weights).await,
                None => self.unschedule().await,
            },
            (17, _) => self.unschedule().await,
            (_, Some(_)) => self.unregister(chance).await,
        }
    }

    async fn collect(&self, is_dry: bool) -> Collected {
        let terms = Terms { grace: SignedDuration::from_hours(24), with_results: self.with_results };
        self.collector.collect(terms, is_dry, &watch::Sender::new(Collected::default())).await.unwrap()
    }

    /// What is gone though something needs it.
    async fn losses(&self) -> Vec<String> {
        let mut lost = Vec::new();
        for (id, job) in &self.jobs {
            for kept in &job.kept {
                match checkpoint::verify(&self.stores, kept).await {
                    Ok(report) if report.problems.is_empty() => {}
                    _ => lost.push(format!("checkpoint {} of job {id}", kept.step)),
                }
            }
            let model = job.model.iter().map(|uri| format!("{uri}/config.json"));
            for uri in model {
                if !self.is_there(&uri).await {
                    lost.push(format!("{uri} of job {id}"));
                }
            }
        }
        for folder in self.weights() {
            let name = if folder.contains("/checkpoints/") { "manifest.json" } else { "config.json" };
            if !self.is_there(&format!("{folder}/{name}")).await {
                lost.push(format!("{folder}, which jobs or schedules begin with"));
            }
        }
        for ((model, version), uri) in &self.versions {
            let entries = self.stores.open(uri).unwrap().list().await.unwrap();
            if entries.len() < 2 {
                lost.push(format!("{model} version {version}, {uri}"));
            }
        }
        lost
    }
}

fn keys_of(store: &Store, job: JobId) -> String {
    keys::job_uri(PREFIX, &store.instance().id, job)
}

/// Plays a history and collects now and then. Returns what was lost.
async fn play(seed: u64, blind: Option<Blind>) -> Vec<String> {
    let mut chance = Chance(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
    let mut world = World::new().await;
    world.collector.blind = blind;
    world.with_results = true;
    for _ in 0..90 {
        world.step(&mut chance).await;
        if chance.below(8) == 0 {
            world.collect(false).await;
            let lost = world.losses().await;
            if !lost.is_empty() {
                return lost;
            }
        }
    }
    let before = world.collect(true).await;
    let after = world.collect(false).await;
    assert_eq!(before.garbage, after.deleted, "a dry run says what goes; seed {seed}");
    // All of an attempt stays while it is under way.
    let running = world.jobs.values().filter_map(|job| job.running);
    let running = running.map(|fence| format!("{}/{}/", world.home(fence.job), fence.attempt));
    let held: BTreeSet<_> = world.versions.values().cloned().chain(world.weights()).chain(running).collect();
    for litter in world.litter.iter().filter(|uri| !held.iter().any(|held| uri.starts_with(held.as_str()))) {
        assert!(!world.is_there(litter).await || blind.is_some(), "{litter} is left; seed {seed}");
    }
    world.losses().await
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    #[expect(clippy::disallowed_methods, reason = "the seed of a history that is to be repeated")]
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("MLCTL_TEST_SEED").unwrap_or(1);
    first..first + number("MLCTL_TEST_CASES").unwrap_or(count)
}

#[tokio::test]
async fn nothing_that_is_needed_is_ever_collected() {
    for seed in seeds(20) {
        assert_eq!(play(seed, None).await, Vec::<String>::new(), "MLCTL_TEST_SEED={seed} MLCTL_TEST_CASES=1");
    }
}

#[tokio::test]
async fn a_collection_that_is_blind_for_a_kind_of_root_is_found_out() {
    for blind in [Blind::Checkpoints, Blind::Published, Blind::Weights, Blind::Schedules, Blind::Versions] {
        let mut found = false;
        for seed in 1..200 {
            found = !play(seed, Some(blind)).await.is_empty();
            if found {
                break;
            }
        }
        assert!(found, "{blind:?}");
    }
}

#[tokio::test]
async fn what_is_young_or_of_another_database_or_not_understood_stays() {
    let mut world = World::new().await;
    world.submit(None).await;
    let home = world.home(JobId(1));
    let names = ["1/checkpoints/000000000001/state.json", "model/1/config.json", "surprise/x"];
    for name in names {
        world.put(&format!("{home}/{name}")).await;
    }
    for uri in ["jobs/1-other/1/x", "jobs/notes.txt", "backups/x/y/mld.db"] {
        world.put(&format!("{PREFIX}/{uri}")).await;
    }
    let never = world.home(JobId(99));
    world.put(&format!("{never}/1/x")).await;
    world.claim(JobId(1)).await;
    let running = world.collect(false).await;
    assert_eq!((running.seen.objects, running.deleted.objects), (6, 0), "an attempt is under way: {running:?}");
    world.end(JobId(1), ExitClass::Preempted).await;
    let long = Terms { grace: SignedDuration::from_hours(24 * 365 * 200), with_results: false };
    let heard = watch::Sender::new(Collected::default());
    let young = world.collector.collect(long, false, &heard).await.unwrap();
    assert_eq!((young.young.objects, young.deleted.objects), (3, 0), "{young:?}");
    let done = world.collect(false).await;
    assert_eq!((done.deleted.objects, done.foreign.objects, done.needed.objects), (3, 4, 0), "{done:?}");
    let folders: Vec<_> = done.folders.keys().map(|uri| uri.strip_prefix(&format!("{home}/")).unwrap()).collect();
    assert_eq!(folders, ["1/checkpoints/000000000001", "model/1"]);
    assert_eq!(*heard.borrow(), young);
}

#[tokio::test]
async fn what_another_checkpoint_rests_on_stays() {
    let mut world = World::new().await;
    world.submit(None).await;
    let id = JobId(1);
    world.claim(id).await;
    for _ in 0..3 {
        world.save(id, true).await;
    }
    let kept = world.jobs[&id].kept.clone();
    let old = &kept[0].uri;
    world.store.forget_checkpoints(id, vec![old.clone()]).await.unwrap();
    world.end(id, ExitClass::Preempted).await;
    // The manifest of one that stays names an object of the one that goes.
    let manifest = format!("{}/manifest.json", kept[1].uri);
    let shared = format!("{old}/{}", keys::CHECKPOINT_STATE);
    let text = serde_json::json!({"objects": [{"name": "state.json", "uri": shared}]}).to_string();
    world.stores.open(&manifest).unwrap().put(text.into()).await.unwrap();
    world.collect(false).await;
    assert!(world.is_there(&shared).await);
    assert!(!world.is_there(&format!("{old}/manifest.json")).await);
    // One that cannot be understood may rest on anything.
    world.stores.open(&manifest).unwrap().put("{".into()).await.unwrap();
    world.put(&format!("{}/1/checkpoints/000000000099/state.json", world.home(id))).await;
    let terms = Terms { grace: SignedDuration::ZERO, with_results: false };
    let heard = watch::Sender::new(Collected::default());
    let refused = world.collector.collect(terms, false, &heard).await;
    assert!(matches!(refused, Err(GcError::Unreadable(_))), "{refused:?}");
    assert!(world.is_there(&shared).await);
    assert_eq!(AttemptNumber(1), world.store.kept_checkpoints(id).await.unwrap()[0].attempt);
}

#[tokio::test]
async fn results_of_removed_jobs_go_only_when_they_are_asked_for() {
    let mut world = World::new().await;
    for _ in 0..2 {
        world.submit(None).await;
    }
    for id in [JobId(1), JobId(2)] {
        world.claim(id).await;
        world.end(id, ExitClass::Ok).await;
    }
    world.register(JobId(2), None).await;
    let models = [JobId(1), JobId(2)].map(|id| format!("{}/model/1/config.json", world.home(id)));
    for id in [JobId(1), JobId(2)] {
        world.remove(id).await;
    }
    world.collect(false).await;
    assert!(world.is_there(&models[0]).await && world.is_there(&models[1]).await);
    let terms = Terms { grace: SignedDuration::ZERO, with_results: true };
    world.collector.collect(terms, false, &watch::Sender::new(Collected::default())).await.unwrap();
    assert!(!world.is_there(&models[0]).await && world.is_there(&models[1]).await, "a version holds the other");
}

#[tokio::test]
async fn nothing_is_deleted_once_the_database_is_known_to_be_damaged() {
    let mut world = World::new().await;
    world.submit(None).await;
    world.claim(JobId(1)).await;
    world.save(JobId(1), false).await;
    world.end(JobId(1), ExitClass::Preempted).await;
    let terms = Terms { grace: SignedDuration::ZERO, with_results: false };
    let heard = watch::Sender::new(Collected::default());
    world.is_sound.store(false, Ordering::Relaxed);
    let refused = world.collector.collect(terms, false, &heard).await;
    assert!(matches!(refused, Err(GcError::Unsound)), "{refused:?}");
    // Found out during the walk.
    let asked = AtomicU64::new(0);
    world.collector.is_sound = Arc::new(move || asked.fetch_add(1, Ordering::Relaxed) == 0);
    let refused = world.collector.collect(terms, false, &heard).await;
    assert!(matches!(refused, Err(GcError::Unsound)), "{refused:?}");
    world.collector.is_sound = Arc::new(|| true);
    assert!(world.collector.collect(terms, false, &heard).await.unwrap().deleted.objects > 0);
}

/// A restore gives numbers again: what the jobs had that were taken back is in folders of the epoch before.
#[tokio::test]
async fn folders_of_jobs_that_a_restore_took_back_are_not_those_of_who_has_their_number() {
    let mut world = World::new().await;
    world.submit(None).await;
    world.claim(JobId(1)).await;
    world.save(JobId(1), true).await;
    world.end(JobId(1), ExitClass::Preempted).await;
    let World { store, jobs, submitted, dir, .. } = world;
    store.close().await;
    offline::renew(&dir.path().join("mld.db"), 2).await.unwrap();
    let mut world = World::on(dir).await;
    (world.jobs, world.submitted) = (jobs, submitted);
    // The second job of the epoch before had come further than its successor.
    let old = format!("{PREFIX}/jobs/2-{}", world.store.instance().id);
    let (stray, model) = (format!("{old}/3/checkpoints/000000000007/state.json"), format!("{old}/model/1/config.json"));
    for uri in [&stray, &model] {
        world.put(uri).await;
    }
    world.submit(None).await;
    let kept = world.jobs[&JobId(1)].kept[0].clone();
    let rests = format!("{}/manifest.json", kept.uri);
    world.stores.open(&rests).unwrap().put("{}".into()).await.unwrap();
    world.claim(JobId(2)).await;
    let Some(fence) = world.jobs[&JobId(2)].running else { panic!("it was not claimed") };
    let home = keys::job_uri(PREFIX, &world.store.instance().name_in(2), JobId(2));
    let running = format!("{home}/{}/checkpoints/000000000001/state.json", fence.attempt);
    world.put(&running).await;
    let terms = Terms { grace: SignedDuration::ZERO, with_results: false };
    let heard = watch::Sender::new(Collected::default());
    let collected = world.collector.collect(terms, false, &heard).await.unwrap();
    assert!(!world.is_there(&stray).await && world.is_there(&running).await && world.is_there(&rests).await);
    assert_eq!(collected.deleted.objects, 1, "{collected:?}");
    world.end(JobId(2), ExitClass::Preempted).await;
    world.collector.collect(terms, false, &heard).await.unwrap();
    assert!(!world.is_there(&running).await && world.is_there(&model).await, "a result is not taken for garbage");
}

/// Each kind of root of a manifest keeps it; a collection that sees none of them takes all.
#[tokio::test]
async fn manifests_stay_as_long_as_a_version_or_a_job_or_a_schedule_needs_them() {
    let mut world = World::new().await;
    let manifest = |rows: u64| {
        let blake3 = "ab".repeat(32);
        let object = serde_json::json!({"name": "x.csv", "size_bytes": 7, "blake3": blake3, "rows": rows});
        let text = serde_json::json!({"v": 1, "format": "csv", "uri": "file:///d/x.csv", "rows": rows, "columns": [], "objects": [object]});
        text.to_string()
    };
    let mut uris = Vec::new();
    for rows in 1..=4 {
        let (version, existed) = world.registry.add_dataset(PREFIX, "d", manifest(rows).into(), BY).await.unwrap();
        assert!(!existed && world.registry.manifest(&version).await.unwrap().rows == Some(rows));
        uris.push(version.content.manifest.clone());
        let mut spec = world.spec(None);
        if let Work::Train(train) = &mut spec.work {
            train.data = DataSource::Dataset {
                dataset: format!("d/{rows}"),
                targets: Vec::new(),
                features: Vec::new(),
                tokenizer: None,
                pinned: Some(version.content.pinned()),
            };
        }
        match rows {
            1 => drop(
                world.store.submit(NewJob { spec, user: BY, key: "1".into(), asked: None, hold: None }).await.unwrap(),
            ),
            2 => {
                let (name, cron, zone) = ("nightly".to_owned(), "0 0 1 1 *".to_owned(), "UTC".to_owned());
                let schedule = NewSchedule {
                    name,
                    cron,
                    zone,
                    spec,
                    user: BY,
                    created_at: Timestamp::UNIX_EPOCH,
                    next: None,
                    policy: Policy::default(),
                };
                world.store.add_schedule(schedule).await.unwrap();
            }
            _ => {}
        }
    }
    let refused = world.registry.add_dataset(PREFIX, "d", "{}".into(), BY).await;
    assert!(matches!(refused, Err(RegistryError::BadManifest(_))), "{refused:?}");
    for version in [1, 2] {
        assert!(matches!(world.store.remove_dataset("d", version, BY).await, Err(StoreError::DatasetInUse { .. })));
    }
    world.store.remove_dataset("d", 3, BY).await.unwrap();
    let other = format!("{PREFIX}/datasets/other/{}.json", "0".repeat(64));
    world.put(&other).await;
    let done = world.collect(false).await;
    assert_eq!((done.deleted.objects, done.needed.objects, done.foreign.objects), (1, 3, 1), "{done:?}");
    let there = async |world: &World| {
        let mut there = Vec::new();
        for uri in &uris {
            there.push(world.is_there(uri).await);
        }
        there
    };
    assert_eq!(there(&world).await, [true, true, false, true]);
    // Files that were pushed and that no version is of.
    let stray = format!("{}/a.csv", keys::dataset_files_uri(PREFIX, &world.store.instance().id, &"a".repeat(64)));
    world.put(&stray).await;
    assert_eq!(world.collect(false).await.deleted.objects, 1);
    assert!(!world.is_there(&stray).await);
    world.collector.blind = Some(Blind::Datasets);
    world.collect(false).await;
    assert_eq!(there(&world).await, [false; 4], "the check would find a collection that is blind");
    assert!(world.is_there(&other).await);
}
