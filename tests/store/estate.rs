//! What came with later schemas, all in one database: queues, gates and newest jobs, arrays of every kind, jobs that wait for others, that are paused, quarantined, expired and removed, and
//! ticks that were missed, and GPUs that not everybody may have. For the fixture of a schema, and to know it again.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use mlctl::{
    domain::{
        Change, Command, Edit, Hold, Terms, Uid,
        array::{Goal, Halving, Metric},
        machine::Standing,
        queue::{Flow, Order, QueueEdit},
    },
    store::{ListFilter, NewJob},
};
use mlctl_protocol::{
    ExitClass, JobId, JobSpec,
    message::ReportBody,
    spec::{AfterFailed, Concurrency, Resources, Wins},
};

use crate::{
    arrays::array,
    rig::{Rig, USER, checkpoint, new_job},
};

/// Where each of its jobs stands, by name; what it waits for, was replaced by or is held for is in the checks of the store.
pub const STATES: [(&str, &str); 42] = [
    ("asha.1", "running"),
    ("asha.2", "running"),
    ("asha.3", "cancelled"),
    ("blocked", "blocked"),
    ("several.1", "blocked"),
    ("several.2", "blocked"),
    ("command", "queued"),
    ("done.1", "succeeded"),
    ("done.2", "failed"),
    ("due", "queued"),
    ("edited", "queued"),
    ("ended.1", "cancelled"),
    ("ended.2", "cancelled"),
    ("expired", "failed"),
    ("for-array", "blocked"),
    ("gpu", "queued"),
    ("in-vain", "cancelled"),
    ("in-vain-too", "cancelled"),
    ("kept", "held"),
    ("lone", "failed"),
    ("met", "queued"),
    ("narrow.1", "running"),
    ("narrow.2", "queued"),
    ("narrow.3", "queued"),
    ("newest-1", "running"),
    ("newest-2", "cancelled"),
    ("newest-3", "queued"),
    ("night", "queued"),
    ("oldest-1", "running"),
    ("oldest-2", "queued"),
    ("on-gpus", "running"),
    ("open", "running"),
    ("paused", "held"),
    ("pausing", "running"),
    ("poison", "held"),
    ("swept.1", "queued"),
    ("swept.2", "held"),
    ("swept.3", "queued"),
    ("urgent", "queued"),
    ("waived", "blocked"),
    ("yielded", "queued"),
    ("yielding", "running"),
];

async fn submit(rig: &Rig, name: &str, change: impl FnOnce(&mut JobSpec)) -> JobId {
    let mut new = new_job(name, name);
    change(&mut new.spec);
    rig.store.submit(new).await.unwrap().id
}

async fn after(rig: &Rig, name: &str, words: &[String]) -> JobId {
    submit(rig, name, |spec| spec.after = words.iter().map(|word| word.parse().unwrap()).collect()).await
}

async fn run(rig: &Rig, id: JobId, class: ExitClass) {
    let fence = rig.claim(id).await;
    rig.end(fence, class).await;
}

fn hold(reason: &str) -> Hold {
    Hold { by: USER, reason: Some(reason.into()), not_before: None }
}

async fn command(rig: &Rig, id: JobId, command: Command) {
    rig.store.command(id, None, command).await.unwrap();
}

/// Fills a database with all of it.
pub async fn furnish(rig: &Rig) {
    states(rig).await;
    devices(rig).await;
    gates(rig).await;
    arrays(rig).await;
    dependencies(rig).await;
    // Of one there is left that it is gone.
    let removed = submit(rig, "removed", |_| {}).await;
    run(rig, removed, ExitClass::Spec).await;
    assert!(rig.store.remove(&[removed], USER, false).await.unwrap()[0].is_ok());
}

async fn states(rig: &Rig) {
    let queue = QueueEdit {
        running: Some(Change::Set(2)),
        per_user: Some(Change::Set(1)),
        order: Some(Order::Strict),
        flow: Some(Flow::Paused),
        ..QueueEdit::default()
    };
    rig.store.edit_queue("estate", queue, USER).await.unwrap();
    submit(rig, "night", |spec| spec.queue = "estate".into()).await;
    submit(rig, "urgent", |spec| (spec.priority, spec.time.limit_seconds) = (90, Some(600))).await;
    for name in ["paused", "pausing"] {
        let id = submit(rig, name, |_| {}).await;
        let fence = rig.claim(id).await;
        let saved = checkpoint(&format!("file:///objects/{name}"), 8);
        rig.store.report(fence, 1, ReportBody::Checkpoint { checkpoint: saved }).await.unwrap();
        command(rig, id, Command::Pause { hold: hold("the demo") }).await;
        if name == "paused" {
            rig.end(fence, ExitClass::Preempted).await;
        }
    }
    for name in ["yielded", "yielding"] {
        let id = submit(rig, name, |spec| spec.preemptible = true).await;
        let fence = rig.claim(id).await;
        command(rig, id, Command::Yield { to: JobId(1) }).await;
        if name == "yielded" {
            rig.end(fence, ExitClass::Preempted).await;
        }
    }
    let poison = submit(rig, "poison", |_| {}).await;
    for _ in 0..3 {
        // Its retries come later each time.
        rig.clock.forward(1000);
        rig.store.ready(rig.now(), 1).await.unwrap();
        run(rig, poison, ExitClass::OomHost).await;
    }
    let soon = |rig: &Rig| (rig.now() + SignedDuration::from_secs(60)).to_string();
    let deadline = soon(rig);
    submit(rig, "expired", |spec| spec.time.deadline = Some(deadline)).await;
    rig.clock.forward(100);
    assert_eq!(rig.store.expire(rig.now()).await.unwrap(), 1);
    let begin = (rig.now() + SignedDuration::from_hours(2000)).to_string();
    submit(rig, "due", |spec| spec.time.begin = Some(begin)).await;
    let edited = submit(rig, "edited", |_| {}).await;
    let terms = Terms {
        deadline: Some(Change::Set(rig.now() + SignedDuration::from_hours(20_000))),
        time_limit_seconds: Some(Change::Set(7200)),
        retries: Some(9),
        begin: None,
    };
    let edit = Edit { priority: Some(10), terms, ..Edit::default() };
    command(rig, edited, Command::Edit { by: USER, edit }).await;
    let spec = serde_json::json!({"version": 1, "name": "command", "command": {"argv": ["true"], "cwd": "/"}});
    let new = NewJob { spec: serde_json::from_value(spec).unwrap(), ..new_job("command", "command") };
    rig.store.submit(new).await.unwrap();
}

async fn devices(rig: &Rig) {
    rig.store.assign_device("GPU-1", Standing::Drained, Some("a new fan".into()), USER).await.unwrap();
    rig.store.assign_device("GPU-2", Standing::Queue("estate".into()), None, USER).await.unwrap();
    let needs = |spec: &mut JobSpec| spec.resources = Resources { cpus: 2, gpus: 2, memory_mib: 1000, vram_mib: 600 };
    submit(rig, "gpu", needs).await;
    let id = submit(rig, "on-gpus", needs).await;
    let lease_until = rig.now() + SignedDuration::from_secs(600);
    rig.store.claim(id, vec!["GPU-3".into(), "GPU-4".into()], [7; 32], lease_until).await.unwrap();
}

async fn gates(rig: &Rig) {
    let keyed = |key: &str, wins| Some(Concurrency { key: key.into(), limit: 1, wins });
    for (name, wins) in [("oldest-1", Wins::Oldest), ("oldest-2", Wins::Oldest)] {
        let id = submit(rig, name, |spec| spec.concurrency = keyed("old", wins)).await;
        if name == "oldest-1" {
            rig.claim(id).await;
        }
    }
    for name in ["newest-1", "newest-2", "newest-3"] {
        let id = submit(rig, name, |spec| spec.concurrency = keyed("new", Wins::Newest)).await;
        if name == "newest-1" {
            rig.claim(id).await;
        }
    }
}

async fn arrays(rig: &Rig) {
    let mut narrow = array("narrow", 3, "narrow");
    narrow.design.parallel = Some(1);
    let id = rig.store.submit_array(narrow).await.unwrap().id;
    rig.claim(JobId(id.0 + 1)).await;
    let mut asha = array("asha", 3, "asha");
    let metric = Metric { name: "train_loss".into(), goal: Goal::Min };
    asha.design.halving = Some(Halving { metric, eta: 3, min_steps: 100 });
    let id = rig.store.submit_array(asha).await.unwrap().id;
    for (member, loss) in [(1, 0.1), (2, 0.2), (3, 0.3)] {
        let fence = rig.claim(JobId(id.0 + member)).await;
        let mut saved = checkpoint(&format!("file:///objects/asha/{member}"), 100);
        saved.metrics = [("train_loss".to_owned(), loss)].into();
        rig.store.report(fence, 1, ReportBody::Checkpoint { checkpoint: saved }).await.unwrap();
        if member == 3 {
            rig.end(fence, ExitClass::Cancelled).await;
        }
    }
    let id = rig.store.submit_array(array("swept", 3, "swept")).await.unwrap().id;
    command(rig, JobId(id.0 + 2), Command::Hold { hold: hold("why not") }).await;
    let labels = [("team".to_owned(), Some("vision".to_owned()))].into();
    let edit = Edit { priority: Some(70), labels, ..Edit::default() };
    rig.store.command_members(id, &["queued", "held"], &Command::Edit { by: USER, edit }).await.unwrap();
    let id = rig.store.submit_array(array("done", 2, "done")).await.unwrap().id;
    run(rig, JobId(id.0 + 1), ExitClass::Ok).await;
    run(rig, JobId(id.0 + 2), ExitClass::Spec).await;
    let id = rig.store.submit_array(array("ended", 2, "ended")).await.unwrap().id;
    rig.store.command_members(id, &["queued"], &Command::Cancel { by: USER }).await.unwrap();
}

async fn dependencies(rig: &Rig) {
    let open = submit(rig, "open", |_| {}).await;
    rig.claim(open).await;
    let lone = submit(rig, "lone", |_| {}).await;
    run(rig, lone, ExitClass::Spec).await;
    after(rig, "blocked", &[format!("ok:{open}"), format!("any:{lone}")]).await;
    after(rig, "met", &[format!("notok:{lone}")]).await;
    let vain = after(rig, "in-vain", &[format!("ok:{lone}")]).await;
    after(rig, "in-vain-too", &[format!("ok:{vain}")]).await;
    submit(rig, "kept", |spec| {
        spec.after = vec![format!("ok:{lone}").parse().unwrap()];
        spec.after_failed = AfterFailed::Keep;
    })
    .await;
    let waived = after(rig, "waived", &[format!("ok:{lone}"), format!("ok:{open}")]).await;
    command(rig, waived, Command::Retry { by: USER }).await;
    let mut blocked = array("several", 2, "several");
    blocked.members.iter_mut().for_each(|(spec, _)| spec.after = vec![format!("any:{open}").parse().unwrap()]);
    let id = rig.store.submit_array(blocked).await.unwrap().id;
    after(rig, "for-array", &[format!("ok:{id}")]).await;
}

/// All of it is there.
pub async fn know(rig: &Rig) {
    let all = mlctl::domain::JobState::names().map(str::to_owned).collect();
    let filter = ListFilter { states: all, limit: u32::MAX, members: true, ..ListFilter::default() };
    let jobs = rig.store.list(filter).await.unwrap().jobs;
    let found: BTreeMap<String, String> =
        jobs.iter().map(|detail| (detail.job.name.clone(), detail.job.state.name().to_owned())).collect();
    for (name, state) in STATES {
        assert_eq!(found.get(name).map(String::as_str), Some(state), "{name}");
    }
    let of = |name: &str| &jobs.iter().find(|detail| detail.job.name == name).unwrap().job;
    assert_eq!(of("newest-2").replaced_by, Some(of("newest-3").id));
    assert_eq!(of("newest-1").replaced_by, Some(of("newest-2").id));
    assert!(of("asha.3").stopped_early.is_some());
    assert!(matches!(&of("poison").state, mlctl::domain::JobState::Held(hold) if hold.by == Uid::SYSTEM));
    assert_eq!((of("swept.2").priority, of("swept.2").labels.len()), (70, 1));
    assert_eq!(of("edited").time_limit_seconds, Some(Change::Set(7200)));
    assert_eq!(rig.store.queues()["estate"].queue.flow, Flow::Paused);
    let devices = rig.store.devices().await.unwrap();
    assert_eq!(devices["GPU-1"].standing, Standing::Drained);
    assert_eq!(devices["GPU-2"].standing, Standing::Queue("estate".into()));
    assert_eq!(of("gpu").resources, Resources { cpus: 2, gpus: 2, memory_mib: 1000, vram_mib: 600 });
}

/// What waits goes on.
pub async fn go_on(rig: &Rig) {
    let running: BTreeMap<String, _> =
        rig.store.running().await.unwrap().into_iter().map(|(job, attempt)| (job.name, attempt.fence)).collect();
    let state = async |name: &str| {
        let id = rig.store.find(name).await.unwrap();
        rig.state(id).await.name()
    };
    rig.end(running["open"], ExitClass::Ok).await;
    for name in ["blocked", "waived", "several.1", "several.2"] {
        assert_eq!(state(name).await, "queued", "{name}");
    }
    rig.end(running["newest-1"], ExitClass::Cancelled).await;
    rig.end(running["oldest-1"], ExitClass::Ok).await;
    rig.end(running["narrow.1"], ExitClass::Ok).await;
    rig.end(running["pausing"], ExitClass::Preempted).await;
    assert_eq!(state("pausing").await, "held");
    let ready = rig.store.ready(rig.now(), 1000).await.unwrap();
    for name in ["newest-3", "oldest-2", "narrow.2"] {
        let id = rig.store.find(name).await.unwrap();
        assert!(ready.iter().any(|job| job.id == id), "{name} is let through");
    }
    for name in ["paused", "poison", "kept", "swept.2"] {
        let id = rig.store.find(name).await.unwrap();
        command(rig, id, Command::Release { by: USER }).await;
        assert_eq!(state(name).await, "queued", "{name}");
    }
    rig.check().await;
}
