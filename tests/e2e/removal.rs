//! Removal with real programs: the record, the logs and the checkpoints go, the model stays unless it is to go too; over a restart, and with a filter.

use std::path::PathBuf;

use crate::support::{
    Daemon, Setup, Worker,
    specs::{Length, fake, training},
    until,
};

fn files(daemon: &Daemon, folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![daemon.state_dir.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

#[test]
fn a_removed_job_is_gone_for_good_and_its_model_is_kept_or_not() {
    let mut daemon = Daemon::with(Worker::Real);
    let first = daemon.submit(&training(Worker::Real, "first", Length::Short));
    let second = daemon.submit(&training(Worker::Real, "second", Length::Short));
    daemon.wait_for(&first, "succeeded");
    daemon.wait_for(&second, "succeeded");
    let checkpoints = |daemon: &Daemon| {
        files(daemon, "objects").iter().filter(|path| path.to_string_lossy().contains("checkpoints")).count()
    };
    assert!(checkpoints(&daemon) > 0 && daemon.state_dir.join("attempts").join(&first).is_dir());
    let endless = daemon.submit(&training(Worker::Real, "endless", Length::Endless));
    daemon.wait_for(&endless, "running");
    daemon.mlctl(&["rm", "endless", "99"]).must_fail(5, &["is running", "no job 99"]);
    let said = daemon.mlctl(&["rm", &first]).ok();
    assert!(said.contains("is removed") && said.contains("kept: file://"), "{said}");
    daemon.mlctl(&["show", &first]).must_fail(4, &["no job"]);
    assert!(!daemon.state_dir.join("attempts").join(&first).exists());
    assert!(files(&daemon, "objects").iter().any(|path| path.to_string_lossy().contains(&format!("/{first}-"))));
    daemon.mlctl(&["cancel", "endless"]).ok();
    daemon.wait_for(&endless, "cancelled");
    let ended = daemon.mlctl(&["ls", "-F", "finished and user!=nobody", "-o", "name"]).ok();
    assert_eq!(ended, format!("{endless}\n{second}\n"));
    let said = daemon.mlctl(&["rm", "-y", "--objects", &endless, &second]).ok();
    assert!(!said.contains("kept"), "{said}");
    assert!(files(&daemon, "objects").iter().all(|path| path.to_string_lossy().contains(&format!("/{first}-"))));
    assert_eq!(checkpoints(&daemon), 0);
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.mlctl(&["ls", "--all", "-o", "name"]).ok(), "");
    let doctor = daemon.mlctl(&["doctor"]);
    assert!(doctor.stdout.contains("database"), "{doctor:?}");
    let next = daemon.submit(&training(Worker::Real, "next", Length::Short));
    assert_eq!(next.parse::<u64>().unwrap(), endless.parse::<u64>().unwrap() + 1, "no id is used again");
    daemon.wait_for(&next, "succeeded");
}

#[test]
fn finished_jobs_that_are_too_many_are_removed_by_themselves() {
    let mut daemon = Setup::of(Worker::Fake).set("retention.finished_jobs=2").start();
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(daemon.submit(&training(Worker::Fake, &format!("job-{number}"), Length::Short)));
        daemon.mlctl(&["wait", ids.last().unwrap()]);
    }
    let left = format!("{}\n{}\n", ids[3], ids[2]);
    until("the oldest two are gone", || (daemon.mlctl(&["ls", "--all", "-o", "name"]).ok() == left).then_some(()));
    let removed = "finished jobs were removed, as the settings say";
    until("the daemon says so", || daemon.log().contains(removed).then_some(()));
    // Another setting, another number: what is there when the daemon starts is looked at too.
    daemon.stop();
    daemon.change(Setup::of(Worker::Fake).set("retention.finished_jobs=1"), &[]);
    daemon.start();
    // An array counts as one and goes as one.
    let script = serde_json::json!({"spec": fake("sweep", "obey"), "key": "sweep", "sweep": {"axes": [{"key": "train.seed", "values": [1, 2, 3]}]}});
    let array = daemon.client.post("/v1/arrays", &script).ok()["id"].as_str().unwrap().to_owned();
    daemon.mlctl(&["wait", &array]);
    until("the array alone is left", || {
        (daemon.mlctl(&["ls", "--all", "-o", "name"]).ok() == format!("{array}\n")).then_some(())
    });
    let last = daemon.submit(&training(Worker::Fake, "last", Length::Short));
    daemon.wait_for(&last, "succeeded");
    let left = format!("{last}\n");
    until("the array is gone", || (daemon.mlctl(&["ls", "--all", "-o", "name"]).ok() == left).then_some(()));
}

#[test]
fn what_a_filter_finds_is_cancelled_and_removed() {
    let mut daemon = Setup::of(Worker::Fake).set("workers.cpus=1").start();
    let ids: Vec<String> = (0..4)
        .map(|number| daemon.submit(&training(Worker::Fake, &format!("job-{number}"), Length::Endless)))
        .collect();
    daemon.wait_for(&ids[0], "running");
    daemon.mlctl(&["hold", "-F", "name!=job-3", "--reason", "all but one"]).ok();
    assert_eq!(daemon.mlctl(&["ls", "-F", "state=held", "-o", "name"]).ok(), format!("{}\n{}\n", ids[2], ids[1]));
    daemon.mlctl(&["release", "-F", "name~job-*"]).ok();
    daemon.mlctl(&["cancel", "-F", "state=queued and not name=job-3"]).ok();
    let open = daemon.mlctl(&["ls", "-F", "not finished", "-o", "name"]).ok();
    assert_eq!(open, format!("{}\n{}\n", ids[3], ids[0]));
    daemon.mlctl(&["rm", "-F", "name~job-?"]).ok();
    assert_eq!(daemon.mlctl(&["ls", "--all", "-o", "name"]).ok(), open, "what has not ended stays");
    daemon.mlctl(&["cancel", "-F", "age<1d"]).ok();
    daemon.wait_for(&ids[0], "cancelled");
}
