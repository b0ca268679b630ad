//! GPUs with real programs, the hardware played by a file: who has which, alone or shared, over restarts; drained, used by others, and served by a worker of its own.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, processes, specs::fake, until};

/// A daemon with two GPUs of 10 GiB.
fn daemon(folder: &Path, more: &[&str]) -> Daemon {
    play(folder, "");
    let simulated = format!("devices.simulated={}", folder.join("gpus.toml").display());
    let setup = Setup::of(Worker::Fake).set("workers.cpus=8").set(&simulated);
    more.iter().fold(setup, |setup, more| setup.set(more)).start()
}

/// What is on the first GPU besides.
fn play(folder: &Path, first: &str) {
    let gpu = |uuid: &str, more: &str| format!("[[gpu]]\nuuid = \"{uuid}\"\nmemory_mib = 10240\n{more}\n");
    let whole = [gpu("GPU-aa", first), gpu("GPU-bb", "")].concat();
    // At once, as it is read at any moment.
    std::fs::write(folder.join("gpus.new"), whole).unwrap();
    std::fs::rename(folder.join("gpus.new"), folder.join("gpus.toml")).unwrap();
}

/// A command that says which GPUs it sees and ends when a file is there.
fn command(daemon: &Daemon, name: &str, flags: &[&str]) -> String {
    let go = daemon.folder().join(format!("go-{name}"));
    let script = format!("echo \"sees <$CUDA_VISIBLE_DEVICES>\"; while [ ! -e {} ]; do sleep 0.05; done", go.display());
    let args = [&["submit", "-o", "name", "--name", name], flags, &["--", "/bin/sh", "-c", &script]].concat();
    daemon.mlctl(&args).ok().trim().to_owned()
}

fn let_go(daemon: &Daemon, name: &str) {
    daemon.write(&format!("go-{name}"), "");
}

fn sees(daemon: &Daemon, job: &str) -> String {
    until("it says what it sees", || {
        let said = daemon.mlctl(&["logs", job]).stdout;
        Some(said.split_once("sees <")?.1.split_once('>')?.0.to_owned())
    })
}

fn why(daemon: &Daemon, job: &str) -> String {
    daemon.mlctl(&["why", job]).ok()
}

fn devices(daemon: &Daemon) -> Vec<Value> {
    daemon.mlctl(&["device", "ls", "-o", "json"]).json()["devices"].as_array().unwrap().clone()
}

#[test]
fn jobs_have_gpus_alone_or_share_them_and_keep_them_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    // What a worker that was started ahead sees was settled then: it is for a job with the same GPUs.
    let mut daemon = daemon(folder.path(), &["workers.ahead=1"]);
    let alone = command(&daemon, "alone", &["--gpus", "1"]);
    assert_eq!(sees(&daemon, &alone), "GPU-aa");
    let half = command(&daemon, "half", &["--vram", "6GiB"]);
    assert_eq!(sees(&daemon, &half), "GPU-bb");
    let rest = command(&daemon, "rest", &["--vram", "4GiB"]);
    assert_eq!(sees(&daemon, &rest), "GPU-bb", "it shares what the other leaves");
    let waits = command(&daemon, "waits", &["--vram", "1GiB"]);
    let free_of_gpus = command(&daemon, "cpu", &[]);
    assert_eq!(sees(&daemon, &free_of_gpus), "", "who asked for none sees none, and waits for none");
    assert!(
        why(&daemon, &waits).contains("waits for 1 GPU with 1 GiB free: 2 of 2 in use by jobs"),
        "{}",
        why(&daemon, &waits)
    );

    daemon.kill();
    daemon.start();
    let listed = devices(&daemon);
    assert_eq!((&listed[0]["jobs"], &listed[1]["jobs"]), (&json!(["1"]), &json!(["2", "3"])), "{listed:?}");
    assert_eq!(daemon.job(&waits)["state"], "queued", "nobody has lost a GPU to it");
    assert_eq!(daemon.job(&half)["gpus"], json!(["GPU-bb"]));
    let_go(&daemon, "rest");
    assert_eq!(sees(&daemon, &waits), "GPU-bb");
    for name in ["alone", "half", "waits", "cpu"] {
        let_go(&daemon, name);
    }
    for job in [&alone, &half, &rest, &waits, &free_of_gpus] {
        daemon.wait_for(job, "succeeded");
    }
    assert!(devices(&daemon).iter().all(|gpu| gpu["free_mib"] == 10_240 && gpu["jobs"] == json!([])));
    assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
}

#[test]
fn a_gpu_is_left_to_others_until_they_are_done() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), &[]);
    let first = command(&daemon, "first", &["--gpus", "1"]);
    assert_eq!(sees(&daemon, &first), "GPU-aa");
    // Our own job's processes are nobody else's.
    let pid = daemon.job(&first)["worker"]["pid"].clone();
    play(folder.path(), &format!("process = [{{ pid = {pid}, memory_mib = 9000 }}]"));
    assert_eq!((&devices(&daemon)[0]["busy"], &devices(&daemon)[0]["foreign_mib"]), (&json!(false), &json!(0)));
    let_go(&daemon, "first");
    daemon.wait_for(&first, "succeeded");

    play(folder.path(), "process = [{ pid = 1, memory_mib = 4000 }]");
    let both = command(&daemon, "both", &["--gpus", "2"]);
    let told = why(&daemon, &both);
    assert!(told.contains("GPU 0 is used by others (1 process, 3.9 GiB)"), "{told}");
    let shares = command(&daemon, "shares", &["--vram", "6GiB"]);
    assert_eq!(sees(&daemon, &shares), "GPU-aa", "there is enough left beside them");
    let_go(&daemon, "shares");
    daemon.wait_for(&shares, "succeeded");
    assert_eq!(daemon.job(&both)["state"], "queued");
    play(folder.path(), "");
    assert_eq!(sees(&daemon, &both), "GPU-aa,GPU-bb", "nobody had to say that they are done");
    let_go(&daemon, "both");
    daemon.wait_for(&both, "succeeded");
}

#[test]
fn the_most_that_an_attempt_had_of_its_gpus_is_kept_for_each() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = daemon(folder.path(), &[]);
    let job = command(&daemon, "greedy", &["--gpus", "1", "--retries", "1"]);
    let cpu = command(&daemon, "cpu", &[]);
    assert_eq!(sees(&daemon, &job), "GPU-aa");
    let worker = daemon.job(&job)["worker"]["pid"].as_u64().unwrap();
    // The program is the worker's child, and has the memory.
    let program = until("its program runs", || {
        let of_job = processes::of_attempts(&daemon.state_dir).into_iter().filter(|process| process.job == job);
        of_job.map(|process| u64::from(process.pid)).find(|pid| *pid != worker)
    });
    let has = |program: u64, mib: u64| {
        let others = "{ pid = 1, memory_mib = 900 }";
        play(folder.path(), &format!("process = [{{ pid = {program}, memory_mib = {mib} }}, {others}]"));
    };
    let peak = |job: &Value| job["peak_vram_bytes"].as_u64().map(|bytes| bytes >> 20);
    assert_eq!(peak(&daemon.job(&job)), None, "it has nothing yet");
    has(program, 3000);
    daemon.wait_until(&job, "was seen to have 3000 MiB", |job| peak(job) == Some(3000));
    // Under the next daemon too, which has seen less.
    let attempts =
        |daemon: &Daemon| daemon.mlctl(&["show", &job, "--attempts", "-o", "json"]).json()["attempts"].clone();
    let heard = |daemon: &Daemon| attempts(daemon)[0]["heartbeat_at"].as_str().unwrap_or_default().to_owned();
    daemon.kill();
    has(program, 2000);
    daemon.start();
    let before = heard(&daemon);
    until("it was heard of again", || (heard(&daemon) > before).then_some(()));
    assert_eq!(peak(&daemon.job(&job)), Some(3000));
    has(program, 4000);
    daemon.wait_until(&job, "was seen to have 4000 MiB", |job| peak(job) == Some(4000));
    let shown = daemon.mlctl(&["show", &job]).ok();
    assert!(shown.contains("GPU memory") && shown.contains("3.9 GiB at most"), "{shown}");
    play(folder.path(), "");
    processes::kill(u32::try_from(worker).unwrap());
    daemon.wait_until(&job, "is tried again", |job| job["attempt"] == 2 && !job["worker"]["pid"].is_null());
    let each = attempts(&daemon);
    assert_eq!((peak(&each[0]), peak(&each[1])), (Some(4000), None), "{each:#}");
    let table = daemon.mlctl(&["show", &job, "--attempts"]).ok();
    assert!(table.contains("VRAM") && table.contains("3.9 GiB"), "{table}");
    assert_eq!(peak(&daemon.job(&cpu)), None);
    let_go(&daemon, "greedy");
    let_go(&daemon, "cpu");
    daemon.wait_for(&job, "succeeded");
    daemon.wait_for(&cpu, "succeeded");
    assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
}

#[test]
fn a_drained_gpu_is_given_to_nobody_and_a_reserved_one_to_some() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = daemon(folder.path(), &[]);
    daemon.mlctl(&["queue", "set", "night", "--per-user", "9"]).ok();
    let runs = command(&daemon, "runs", &["--gpus", "1"]);
    assert_eq!(sees(&daemon, &runs), "GPU-aa");
    let said = daemon.mlctl(&["device", "drain", "0", "--reason", "a new fan"]).ok();
    assert!(said.contains("GPU 0 is drained") && said.contains("job 1 has it and goes on"), "{said}");
    daemon.mlctl(&["device", "reserve", "GPU-bb", "--queue", "night"]).ok();
    let_go(&daemon, "runs");
    daemon.wait_for(&runs, "succeeded");
    let waits = command(&daemon, "waits", &["--gpus", "1"]);
    let night = command(&daemon, "night", &["--gpus", "1", "--queue", "night"]);
    assert_eq!(sees(&daemon, &night), "GPU-bb");
    let told = why(&daemon, &waits);
    assert!(told.contains("GPU 0 is drained and GPU 1 is reserved for queue night"), "{told}");

    daemon.kill();
    daemon.start();
    let listed = daemon.mlctl(&["device", "ls"]).ok();
    assert!(
        listed.contains("drained") && listed.contains("a new fan") && listed.contains("reserved for queue night"),
        "{listed}"
    );
    assert_eq!(daemon.job(&waits)["state"], "queued");
    daemon.mlctl(&["device", "open", "0", "1"]).ok();
    assert_eq!(sees(&daemon, &waits), "GPU-aa", "it is started at once");
    for (name, job) in [("waits", &waits), ("night", &night)] {
        let_go(&daemon, name);
        daemon.wait_for(job, "succeeded");
    }
    daemon.mlctl(&["device", "drain", "7"]).must_fail(4, &["there is no GPU"]);
}

#[test]
fn each_gpu_is_served_by_the_worker_that_is_set_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let wrapper = |name: &str| {
        let path = folder.path().join(name);
        let script =
            format!("#!/bin/sh\necho \"served by {name}\" >&2\nexec {} \"$@\"\n", Worker::Fake.program().display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        path.display().to_string()
    };
    let (cuda, other) = (wrapper("cuda"), wrapper("other"));
    let special = format!("devices.gpu=[{{id=\"1\", worker=\"{other}\"}}]");
    let mut daemon = daemon(folder.path(), &[&format!("devices.worker={cuda}"), &special]);
    let on = |name: &str, gpus: u32| {
        let mut spec = fake(name, "obey");
        spec["resources"] = json!({"cpus": 1, "gpus": gpus});
        spec
    };
    let cpu = daemon.submit(&on("cpu", 0));
    daemon.wait_for(&cpu, "succeeded");
    let first = daemon.submit(&on("first", 1));
    daemon.wait_for(&first, "succeeded");
    daemon.mlctl(&["device", "drain", "0"]).ok();
    let second = daemon.submit(&on("second", 1));
    daemon.wait_for(&second, "succeeded");
    let logs = |job: &str| daemon.mlctl(&["logs", job]).stdout;
    assert!(!logs(&cpu).contains("served by"), "{}", logs(&cpu));
    assert!(logs(&first).contains("served by cuda"), "{}", logs(&first));
    assert!(logs(&second).contains("served by other"), "{}", logs(&second));
}

#[test]
fn memory_is_set_aside_for_those_that_say_how_much_they_need() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), &["workers.memory_mib=4096"]);
    let large = command(&daemon, "large", &["--mem", "3GiB"]);
    assert_eq!(sees(&daemon, &large), "");
    let waits = command(&daemon, "waits", &["--mem", "2GiB"]);
    let small = command(&daemon, "small", &[]);
    assert_eq!(sees(&daemon, &small), "");
    let told = why(&daemon, &waits);
    assert!(told.contains("waits for 2 GiB of memory: 3 GiB of 4 GiB in use by jobs"), "{told}");
    let_go(&daemon, "large");
    assert_eq!(sees(&daemon, &waits), "");
    let refused = daemon.mlctl(&["submit", "--mem", "5GiB", "--", "/bin/true"]);
    refused.must_fail(6, &["needs 1 core and 5 GiB of memory", "workers.memory_mib"]);
    for (name, job) in [("waits", &waits), ("small", &small)] {
        let_go(&daemon, name);
        daemon.wait_for(job, "succeeded");
    }
}
