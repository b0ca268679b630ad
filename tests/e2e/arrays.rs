//! Arrays with real programs: submitted, listed, waited for, compared, cancelled and tried again as one, over a restart of the daemon.

use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, specs::written, until};

pub fn sweep() -> String {
    let head = r#"name = "sweep"
checkpoint = { every_steps = 10 }
retry = { limit = 0 }"#;
    written(head, 4)
}

fn members(daemon: &Daemon, array: &str) -> Vec<Value> {
    let list = daemon.mlctl(&["ls", "--array", array, "-o", "json"]).json();
    list["jobs"].as_array().unwrap().clone()
}

#[test]
fn a_grid_of_real_trainings_runs_to_its_end_and_is_compared() {
    let daemon = Setup::of(Worker::Real).set("workers.cpus=2").start();
    let spec = daemon.write("sweep.toml", sweep());
    let spec = spec.to_str().unwrap();
    let args = ["submit", spec, "--array", "lr=1e-3,1e-2", "--array", "layers=[4,8,2],[4,4,2]", "-q"];
    let id = daemon.mlctl(&args).ok().trim().to_owned();
    let list = daemon.mlctl(&["ls"]).ok();
    assert!(list.contains("sweep") && list.contains("/4") && !list.contains("sweep.1"), "one row: {list}");
    assert_eq!(daemon.mlctl(&["wait", &id]).code, 0);
    let shown = daemon.mlctl(&["show", &id, "-o", "json"]).json();
    assert_eq!((&shown["state"], &shown["counts"]), (&json!("succeeded"), &json!({"succeeded": 4})));
    assert_eq!(shown["compared_by"], json!({"name": "train_loss", "goal": "min"}));
    let best = shown["best"].as_array().unwrap();
    let values: Vec<f64> = best.iter().map(|member| member["value"].as_f64().unwrap()).collect();
    assert!(values.len() == 4 && values.is_sorted(), "{values:?}");
    let members = members(&daemon, "sweep");
    assert_eq!(members.len(), 4);
    for (index, member) in (1..).zip(&members) {
        assert_eq!(member["name"], format!("sweep.{index}"));
        let found = best.iter().find(|best| best["id"] == member["id"]).unwrap();
        assert_eq!(found["value"], member["metrics"]["train_loss"]);
    }
    assert_eq!(
        members[3]["array"]["params"],
        json!({"train.model.layers": [4, 4, 2], "train.optimizer.learning_rate": 0.01})
    );
    let kept = daemon.mlctl(&["show", &format!("{id}.4"), "--spec"]).json();
    assert_eq!(kept["train"]["model"]["layers"], json!([4, 4, 2]));
    assert!(daemon.mlctl(&["logs", &format!("{id}.2")]).code == 0);
    daemon.mlctl(&["logs", &id]).must_fail(5, &["is an array of 4 jobs", &format!("name one of them, such as {id}.1")]);
}

#[test]
fn an_array_is_cancelled_and_tried_again_as_one_over_a_restart() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.cpus=2").start();
    let spec = daemon.write("sweep.toml", sweep());
    let spec = spec.to_str().unwrap();
    let args =
        ["submit", spec, "--array", "train.seed=1,2,3,4,5,6", "--label", "fake=steps:100000:5", "--key", "k", "-q"];
    let id = daemon.mlctl(&args).ok().trim().to_owned();
    assert_eq!(daemon.mlctl(&args).ok().trim(), id, "the key names the array");
    let first = format!("{}", id.parse::<u64>().unwrap() + 1);
    daemon.wait_for_checkpoint(&first, 1);
    daemon.kill();
    daemon.start();
    let held = daemon.mlctl(&["hold", "sweep", "--reason", "later"]).ok();
    assert_eq!(held, format!("array {id} (sweep): 4 of 6 jobs held\n"));
    let shown = daemon.mlctl(&["show", "@last", "-o", "json"]).json();
    assert_eq!((&shown["state"], &shown["counts"]), (&json!("running"), &json!({"held": 4, "running": 2})));
    daemon.mlctl(&["wait", &id, "--timeout", "100ms"]).must_fail(8, &["is still running"]);
    let cancelled = daemon.mlctl(&["cancel", &id]).ok();
    assert!(cancelled.contains("6 of 6 jobs cancelled or asked to stop"), "{cancelled}");
    assert_eq!(daemon.mlctl(&["wait", &id]).code, 21);
    let retried = daemon.mlctl(&["retry", &id]).ok();
    assert!(retried.contains("6 of 6 jobs queued again"), "{retried}");
    daemon.wait_until(&first, "goes on", |job| job["state"] == "running" && job["attempt"] == 2);
    assert_eq!(daemon.mlctl(&["stop", &id]).code, 0);
    assert_eq!(daemon.mlctl(&["wait", &id, "-o", "json"]).code, 21);
    daemon.mlctl(&["hold", &id]).must_fail(5, &["no member of array", "6 cancelled"]);
    let check = daemon.mlctl(&["doctor"]);
    assert_eq!(check.code, 0, "{check:?}");
}

#[test]
fn draws_are_told_and_come_again_with_their_seed() {
    let daemon = Daemon::with(Worker::Fake);
    let spec = daemon.write("sweep.toml", sweep());
    let spec = spec.to_str().unwrap();
    let draw = |more: &[&str]| {
        let args = [
            &["submit", spec, "--array", "lr=1e-5..1e-1", "--array", "dropout=uniform:0.0..0.5", "--sample", "8"],
            more,
        ]
        .concat();
        daemon.mlctl(&args).ok()
    };
    let told = draw(&[]);
    let seed = told.trim().rsplit_once(' ').unwrap().1;
    let again = draw(&["--seed", seed, "--name", "again"]);
    assert!(again.contains(&format!("drawn with seed {seed}")), "{again}");
    let params =
        |name: &str| members(&daemon, name).iter().map(|job| job["array"]["params"].clone()).collect::<Vec<_>>();
    let (first, second) = (params("sweep"), params("again"));
    assert_eq!(first.len(), 8);
    assert_eq!(first, second);
    assert_ne!(first[0], first[1]);
    let before = members(&daemon, "sweep").len();
    let refused = ["submit", spec, "--array", "train.seed=0,0", "--array", "batch_size=0,8", "--key", "bad"];
    daemon.mlctl(&refused).must_fail(6, &["must be from 1"]);
    let many: Vec<String> = (0..7).map(|axis| format!("labels.k{axis}=a,b,c,d,e,f,g,h,i,j")).collect();
    let mut refused = vec!["submit", spec];
    many.iter().for_each(|axis| refused.extend(["--array", axis]));
    daemon.mlctl(&refused).must_fail(6, &["10000000 members", "limits.max_array"]);
    assert_eq!(before, 8);
}

#[test]
fn halving_stops_the_bad_members_and_keeps_the_best_over_a_restart() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.cpus=3").start();
    let spec = daemon.write("sweep.toml", sweep());
    let factors = [5, 7, 3, 9, 1, 8, 6, 2, 4];
    let scripts: Vec<String> = factors.iter().map(|factor| format!("\"loss:{factor}; steps:90:15\"")).collect();
    let scripts = format!("labels.fake={}", scripts.join(","));
    let halving = "metric=train_loss,min-steps=10,eta=3";
    let args = ["submit", spec.to_str().unwrap(), "--array", &scripts, "--halving", halving, "-q"];
    let id = daemon.mlctl(&args).ok().trim().to_owned();
    let stopped = |daemon: &Daemon| {
        let shown = daemon.mlctl(&["show", &id, "-o", "json"]).json();
        shown["counts"]["stopped"].as_u64().unwrap_or(0)
    };
    until("a member is stopped", || (stopped(&daemon) > 0).then_some(()));
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.mlctl(&["wait", &id]).code, 0, "to be stopped early is no failure");
    let shown = daemon.mlctl(&["show", &id, "-o", "json"]).json();
    assert_eq!(shown["state"], "succeeded");
    // What was running when the daemon was killed may have come to its end before it was told anything.
    assert!(stopped(&daemon) >= 3, "{shown:#}");
    let members = members(&daemon, &id);
    let mut kept = Vec::new();
    for (factor, member) in factors.iter().zip(&members) {
        let job = member["id"].as_str().unwrap();
        let asked = daemon.count(job, "intended");
        if member["state"] == "succeeded" {
            kept.push(*factor);
            assert_eq!(member["progress"]["step"], 90);
            assert!(asked <= 1, "work that is done counts, whatever was asked: {member:#}");
            continue;
        }
        assert_eq!((member["state"].as_str(), asked), (Some("cancelled"), 1), "{member:#}");
        let reason = member["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("stopped early: rank ")
                && reason.contains(" steps by train_loss, last checkpoint at step "),
            "{reason}"
        );
        let saved = member["checkpoint"]["step"].as_u64().unwrap();
        assert!((10..90).contains(&saved), "it ends with its work saved: {member:#}");
    }
    assert!(kept.contains(&1), "the best goes on to the end: {kept:?}");
    assert_eq!(kept.len() as u64 + stopped(&daemon), 9, "{kept:?}");
    let best = daemon.mlctl(&["show", &id]).ok();
    assert!(best.contains("halving") && best.contains("stopped"), "{best}");
    assert_eq!(shown["best"][0]["index"], 5, "{best}");
}

/// The most members that ran at the same time, by their events.
fn most_at_once(daemon: &Daemon, members: &[Value]) -> i64 {
    let mut changes = Vec::new();
    for member in members {
        for event in daemon.events(member["id"].as_str().unwrap()) {
            match event["event"].as_str() {
                Some("claimed") => changes.push((event["id"].as_i64(), 1)),
                Some("succeeded" | "failed" | "requeued" | "cancelled") => changes.push((event["id"].as_i64(), -1)),
                _ => {}
            }
        }
    }
    changes.sort_unstable();
    let mut now = 0;
    changes.into_iter().fold(0, |most, (_, change)| {
        now += change;
        most.max(now)
    })
}

#[test]
fn a_throttled_array_runs_so_many_at_once_over_a_restart() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.cpus=4").start();
    let spec = daemon.write("sweep.toml", sweep());
    let args = [
        "submit",
        spec.to_str().unwrap(),
        "--array",
        "train.seed=1,2,3,4,5,6",
        "--parallel",
        "2",
        "--label",
        "fake=steps:20:20",
        "-q",
    ];
    let id = daemon.mlctl(&args).ok().trim().to_owned();
    let why = daemon.mlctl(&["why", &format!("{id}.6")]).ok();
    assert!(why.contains(&format!("waits for a place: 2 jobs of array {id} run at once")), "{why}");
    let free = daemon.submit(&crate::support::specs::fake("free", "obey"));
    daemon.wait_for(&free, "succeeded");
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.mlctl(&["wait", &id]).code, 0);
    assert_eq!(most_at_once(&daemon, &members(&daemon, &id)), 2);
    assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
}
