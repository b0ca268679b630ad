//! Command jobs: programs of the users' own, from the command line and from a spec, to their end by themselves, by order, by a kill, and over the daemon's own end.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Daemon, Setup, Worker, daemon::worker_pid, processes, until};

/// Submits a command with flags; returns the job's id.
fn submit(daemon: &Daemon, flags: &[&str], argv: &[&str]) -> String {
    let args = [&["submit", "-q"], flags, &["--"], argv].concat();
    daemon.mlctl(&args).ok().trim().to_owned()
}

/// Submits a line for the shell.
fn shell(daemon: &Daemon, flags: &[&str], line: &str) -> String {
    submit(daemon, flags, &["sh", "-c", line])
}

/// The arguments of a submit that waits for the end.
fn waiting<'a>(argv: &[&'a str]) -> Vec<&'a str> {
    [&["submit", "--wait", "--"], argv].concat()
}

/// A process id that a command wrote into a file.
fn pid_in(daemon: &Daemon, name: &str) -> u32 {
    let path = daemon.folder().join(name);
    until("a process leaves its number", || fs::read_to_string(&path).ok()?.trim().parse().ok())
}

fn logs(daemon: &Daemon, id: &str) -> String {
    daemon.mlctl(&["logs", id]).ok()
}

#[test]
fn a_command_runs_where_and_with_what_it_was_given_and_with_nothing_else() {
    let setup = Setup::of(Worker::Fake).variable("SECRET_TOKEN", "canary").variable("LANG", "C.UTF-8");
    let daemon = setup.variable("CUDA_VISIBLE_DEVICES", "0,1").start();
    fs::create_dir(daemon.folder().join("work")).unwrap();
    let id = submit(
        &daemon,
        &["--cwd", "work", "--cpus", "2", "-t", "1h", "--env", "MODE=a b=c", "-n", "environment"],
        &["sh", "-c", "pwd; env; echo \"$1|$2\" >&2", "sh", "a  b", "$HOME"],
    );
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["kind"], &job["exit_class"]), (&json!("command"), &json!("ok")), "{job:#}");
    let said = logs(&daemon, &id);
    let mut lines: Vec<&str> = said.lines().collect();
    let work = daemon.folder().join("work").canonicalize().unwrap();
    assert_eq!(lines.remove(0), work.to_str().unwrap());
    assert_eq!(lines.pop(), Some("a  b|$HOME"), "no shell came between, and the order is the one of printing");
    let run_dir = daemon.state_dir.join("attempts").join(&id).join("1");
    for line in [
        "MODE=a b=c",
        "LANG=C.UTF-8",
        "OMP_NUM_THREADS=2",
        "RAYON_NUM_THREADS=2",
        "CUDA_VISIBLE_DEVICES=",
        &format!("ML_JOB_ID={id}"),
        "ML_ATTEMPT=1",
        &format!("ML_RUN_DIR={}", run_dir.display()),
    ] {
        assert!(lines.contains(&line), "{line} is not in {said}");
    }
    assert!(lines.iter().any(|line| line.starts_with("ML_DEADLINE=20")), "{said}");
    for name in ["SECRET_TOKEN", "MALLOC_", "CANDLE_", "ML_ARRAY_INDEX", "ML_SCHEDULED_AT", "MLCTL", "CARGO"] {
        assert!(!lines.iter().any(|line| line.starts_with(name)), "{name} is none of its business: {said}");
    }
    assert_eq!(daemon.mlctl(&["logs", &id, "--stream", "stderr"]).ok(), "");
    let listed = daemon.mlctl(&["ls", "--kind", "command", "-o", "json"]).json();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1);
    assert!(daemon.mlctl(&["ls", "--all", "-F", "kind=command"]).ok().contains("environment"));
}

#[test]
fn how_a_command_ends_is_how_its_job_ends() {
    let daemon = Daemon::with(Worker::Fake);
    let job = daemon.must_fail(&waiting(&["sh", "-c", "exit 3"]), "crash", &["exit code 3"]);
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(1), &json!(0)), "it is not tried again unasked");
    daemon.must_fail(&waiting(&["sh", "-c", "kill -SEGV $$"]), "crash", &["killed by signal 11 (SIGSEGV)"]);
    // By its own words where the kernel refuses it more, by the daemon's where that saw it first.
    let greedy = ["submit", "-w", "--mem", "16M", "--", "tail", "/dev/zero"];
    daemon.must_fail(&greedy, "oom_host", &["memory"]);
    daemon.must_fail(&waiting(&["no-such-program"]), "spec", &["no-such-program", "no folder of PATH has it"]);
    let script = daemon.write("late.sh", "#!/no/such/shell\n");
    let script = script.to_str().unwrap();
    daemon.mlctl(&["submit", "--", script]).must_fail(6, &["late.sh may not be executed", "chmod +x"]);
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(script, executable).unwrap();
    daemon.must_fail(&waiting(&["./late.sh"]), "spec", &["late.sh", "interpreter"]);
    daemon.mlctl(&["submit", "--", "./none.sh"]).must_fail(6, &["none.sh does not exist", "--: /"]);
    daemon.mlctl(&["submit", "--cwd", "/no/where", "--", "true"]).must_fail(6, &["/no/where does not exist", "--cwd"]);
    daemon.mlctl(&["submit", "--env", "ML_X=1", "--", "true"]).must_fail(6, &["ML_", "are set by mld"]);
    daemon.mlctl(&["submit", "--env", "X", "--", "true"]).must_fail(2, &["KEY=VALUE"]);
    daemon.mlctl(&["submit"]).must_fail(2, &["FILE"]);
    let retried = daemon.mlctl(&["submit", "-w", "--retries", "1", "--", "sh", "-c", "exit $((ML_ATTEMPT % 2))"]);
    assert_eq!(retried.code, 0, "{retried:?}");
    assert_eq!(daemon.last()["retries_used"], 1);
}

#[test]
fn a_spec_and_an_array_of_commands_run_with_their_parameters() {
    let daemon = Daemon::with(Worker::Fake);
    fs::create_dir(daemon.folder().join("jobs")).unwrap();
    let init = daemon.mlctl(&["spec", "init", "command"]).ok();
    daemon.write("jobs/job.toml", &init);
    daemon.mlctl(&["spec", "validate", "jobs/job.toml"]).ok();
    let id = daemon.mlctl(&["submit", "jobs/job.toml", "-q", "--set", "command.params.lr=0.5"]).ok();
    let id = id.trim();
    daemon.wait_for(id, "succeeded");
    let folder = daemon.folder().join("jobs").canonicalize().unwrap();
    let said = logs(&daemon, id);
    assert!(said.starts_with(&format!("job {id}, attempt 1, lr 0.5, in {}", folder.display())), "{said}");

    let sweep = ["submit", "-q", "--array", "lr=1e-3,3e-4", "--array", "opt=adam,sgd", "-w", "--"];
    let argv = ["sh", "-c", "echo lr {lr} opt {opt} member $ML_ARRAY_INDEX ${HOME:+home}"];
    let array = daemon.mlctl(&[&sweep[..], &argv].concat()).ok();
    let array = array.trim();
    let said = logs(&daemon, &format!("{array}.3"));
    assert_eq!(said, "lr 0.0003 opt adam member 3 home\n");
    daemon.mlctl(&["submit", "--array", "x=1,2", "--", "true"]).must_fail(2, &["{x}"]);
    let halving = ["--halving", "metric=val_loss,min-steps=1"];
    daemon
        .mlctl(&[&["submit", "--array", "x=1,2"], &halving[..], &["--", "echo", "{x}"]].concat())
        .must_fail(6, &["command"]);
}

#[test]
fn a_cancel_takes_all_that_a_command_has_started_along() {
    let daemon = Setup::of(Worker::Fake).set("workers.grace_seconds=3").start();
    // The main program ignores SIGTERM, as does one that left its session and its parent.
    let line = "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > deep; exec sleep 1000' & sleep 1000 & echo $! > near; wait; sleep 1000";
    let id = shell(&daemon, &[], line);
    let pids = [pid_in(&daemon, "deep"), pid_in(&daemon, "near")];
    let shim = worker_pid(&daemon.wait_until(&id, "runs", |job| worker_pid(job).is_some())).unwrap();
    daemon.mlctl(&["cancel", &id]).ok();
    let job = daemon.wait_for(&id, "cancelled");
    assert_eq!(job["exit_class"], "cancelled", "{job:#}");
    for pid in pids.into_iter().chain([shim]) {
        assert!(!processes::is_alive(pid), "{pid} is left");
    }
    let mild = shell(
        &daemon,
        &[],
        "setsid sleep 1000 & echo $! > mild; trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done",
    );
    let child = pid_in(&daemon, "mild");
    daemon.mlctl(&["cancel", &mild]).ok();
    daemon.wait_for(&mild, "cancelled");
    assert!(!processes::is_alive(child));
    assert!(logs(&daemon, &mild).ends_with("asked\n"));
    assert!(!daemon.log().contains(&format!("a worker is signalled job_id={mild}")), "it ended when it was asked");

    let left = shell(&daemon, &[], "setsid sleep 1000 & echo $! > left");
    let child = pid_in(&daemon, "left");
    daemon.wait_for(&left, "succeeded");
    assert!(!processes::is_alive(child), "what a command leaves behind when it ends is ended");
}

#[test]
fn a_time_limit_a_stop_and_a_pause_are_told_by_sigterm() {
    let daemon = Daemon::with(Worker::Fake);
    let line = "trap 'echo saving; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let limited = shell(&daemon, &["-t", "2s"], line);
    let waited = daemon.mlctl(&["wait", &limited]);
    assert_eq!(waited.code, 22, "{waited:?}");
    let job = daemon.job(&limited);
    assert!(job["exit_message"].as_str().unwrap().contains("the limit is 2 seconds"), "{job:#}");
    // The shell may tell that what it waited for was sent the signal too.
    assert!(logs(&daemon, &limited).ends_with("saving\n"));

    let id = shell(&daemon, &[], line);
    until("it is ready", || (logs(&daemon, &id) == "ready\n").then_some(()));
    daemon.mlctl(&["pause", &id]).ok();
    daemon.wait_for(&id, "held");
    assert!(logs(&daemon, &id).ends_with("saving\n"));
    daemon.mlctl(&["resume", &id]).ok();
    daemon.wait_until(&id, "runs again", |job| job["attempt"] == 2 && job["state"] == "running");
    until("it is ready again", || (logs(&daemon, &id) == "ready\n").then_some(()));
    assert_eq!(daemon.job(&id)["retries_used"], 0);
    daemon.mlctl(&["stop", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}

#[test]
fn a_command_outlives_its_daemon_and_its_end_is_not_missed() {
    let mut daemon = Daemon::with(Worker::Fake);
    let line = "echo $$ > main; while [ ! -e go ]; do sleep 0.05; done; echo done";
    let id = shell(&daemon, &[], line);
    let main = pid_in(&daemon, "main");
    daemon.kill();
    assert!(processes::is_alive(main), "the end of the daemon ends no command");
    daemon.start();
    assert!(daemon.stop().success());
    assert!(processes::is_alive(main));
    daemon.write("go", "");
    let result = daemon.state_dir.join("attempts").join(&id).join("1/result.json");
    until("the result is left", || result.is_file().then_some(()));
    daemon.start();
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(1), &json!(0)));
    assert_eq!(logs(&daemon, &id), "done\n");
}

#[test]
fn a_cancel_in_the_moment_of_adoption_is_a_cancel() {
    let mut daemon = Daemon::with(Worker::Fake);
    let ids: Vec<String> = (0..2).map(|_| shell(&daemon, &[], "while :; do sleep 0.05; done")).collect();
    for id in &ids {
        daemon.wait_until(id, "runs", |job| worker_pid(job).is_some());
    }
    daemon.kill();
    daemon.start();
    // The workers have not dialled again, and hear of it by a signal.
    daemon.mlctl(&["cancel", &ids[0], &ids[1]]).ok();
    for id in &ids {
        let job = daemon.wait_for(id, "cancelled");
        assert_eq!(job["exit_class"], "cancelled", "{job:#}");
    }
}

#[test]
fn a_killed_command_and_a_killed_shim_are_told_apart_and_leave_nothing() {
    let daemon = Daemon::with(Worker::Fake);
    let id = shell(&daemon, &[], "echo $$ > victim; exec sleep 1000");
    processes::signal(pid_in(&daemon, "victim"), Signal::KILL);
    let job = daemon.wait_for(&id, "failed");
    assert_eq!((&job["exit_class"], &job["exit_message"]), (&json!("crash"), &json!("killed by signal 9 (SIGKILL)")));

    let id = shell(&daemon, &[], "setsid sleep 1000 & echo $! > escaped; sleep 1000");
    let escaped = pid_in(&daemon, "escaped");
    let shim = worker_pid(&daemon.wait_until(&id, "runs", |job| worker_pid(job).is_some())).unwrap();
    processes::kill(shim);
    let job = daemon.wait_for(&id, "failed");
    assert_eq!(job["exit_class"], "crash", "{job:#}");
    assert!(!processes::is_alive(escaped), "nobody gets away by a session of its own");
}

/// Counts to `$1`, a step every fifth of a second, each a checkpoint; goes on from where an earlier attempt was, and saves once more when it is asked to stop.
const COUNTER: &str = r#"
save() { mkdir -p "$ML_CHECKPOINT_DIR/tmp-$i/in" && echo $i > "$ML_CHECKPOINT_DIR/tmp-$i/in/step" && mv "$ML_CHECKPOINT_DIR/tmp-$i" "$ML_CHECKPOINT_DIR/step-$i"; }
trap 'save; echo saved $i; exit 0' TERM
i=0
[ -n "$ML_RESUME_FROM" ] && i=$(cat "$ML_RESUME_FROM/in/step")
echo $$ > pid; echo "begin $i"
while [ $i -lt $1 ]; do sleep 0.2; i=$((i + 1)); case $((i % 5)) in 0) save ;; esac; done
echo "end $i"
"#;

fn counter(daemon: &Daemon, flags: &[&str], steps: &str) -> String {
    let flags = [&["--checkpoint-dir", "ckpt"], flags].concat();
    submit(daemon, &flags, &["sh", "-c", COUNTER, "sh", steps])
}

/// The number after a word in a log.
fn number(log: &str, word: &str) -> u64 {
    let found = log.lines().find_map(|line| line.strip_prefix(word)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {word:?} in {log}"))
}

fn checkpoint_step(job: &Value) -> u64 {
    job["checkpoint"]["step"].as_u64().unwrap_or(0)
}

#[test]
fn a_killed_command_goes_on_from_its_newest_checkpoint() {
    let daemon = Daemon::with(Worker::Fake);
    let id = counter(&daemon, &["--retries", "1"], "50");
    // With the heartbeat that follows.
    let saved = daemon.wait_until(&id, "shows what it has saved", |job| job["progress"]["step"].as_u64() > Some(0));
    processes::kill(pid_in(&daemon, "pid"));
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(2), &json!(1)));
    let begun = number(&logs(&daemon, &id), "begin ");
    assert!(begun >= checkpoint_step(&saved) && begun.is_multiple_of(5), "from {begun}, {saved:#}");
    let resumed = daemon.events(&id).into_iter().find(|event| event["event"] == "resumed").unwrap();
    assert_eq!(resumed["step"], begun);
    assert_eq!(checkpoint_step(&job), 50, "what was complete at its end is stored");
    let shown = daemon.mlctl(&["checkpoint", "verify", &id]).ok();
    assert!(!shown.is_empty());
    let pulled = daemon.folder().join("pulled");
    daemon.mlctl(&["checkpoint", "pull", &id, pulled.to_str().unwrap()]).ok();
    assert!(pulled.join("files.json").is_file());
}

#[test]
fn what_a_command_saved_while_no_daemon_was_there_is_found() {
    let mut daemon = Daemon::with(Worker::Fake);
    let id = counter(&daemon, &[], "60");
    let saved = daemon.wait_until(&id, "has saved something", |job| checkpoint_step(job) > 0);
    let shim = worker_pid(&saved).unwrap();
    daemon.kill();
    let home = saved["checkpoint"]["uri"].as_str().unwrap().strip_prefix("file://").unwrap().to_owned();
    let stored = std::path::Path::new(&home).parent().unwrap();
    let later = until("another is stored", || {
        let steps = fs::read_dir(stored).unwrap().filter_map(|entry| {
            let path = entry.unwrap().path();
            let step: u64 = path.file_name()?.to_str()?.parse().ok()?;
            (path.join("manifest.json").is_file() && step > checkpoint_step(&saved)).then_some(step)
        });
        steps.max()
    });
    processes::kill(shim);
    processes::kill(pid_in(&daemon, "pid"));
    daemon.start();
    let job = daemon.wait_for(&id, "succeeded");
    assert_eq!((&job["attempt"], &job["retries_used"]), (&json!(2), &json!(0)), "a lost worker is not the job's fault");
    assert!(number(&logs(&daemon, &id), "begin ") >= later);
}

#[test]
fn a_paused_command_loses_nothing_that_it_saves_at_the_end() {
    let daemon = Daemon::with(Worker::Fake);
    let id = counter(&daemon, &[], "1000");
    until("it counts", || logs(&daemon, &id).contains("begin 0").then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(700));
    daemon.mlctl(&["pause", &id]).ok();
    let job = daemon.wait_for(&id, "held");
    let saved = number(&logs(&daemon, &id), "saved ");
    assert_eq!(checkpoint_step(&job), saved, "{job:#}");
    let said = daemon.mlctl(&["resume", &id]).ok();
    assert!(said.contains(&format!("goes on from step {saved}")), "{said}");
    until("it goes on", || logs(&daemon, &id).contains(&format!("begin {saved}\n")).then_some(()));
    daemon.mlctl(&["cancel", &id]).ok();
    daemon.wait_for(&id, "cancelled");
}

#[test]
fn commands_can_be_switched_off() {
    let mut daemon = Setup::of(Worker::Fake).start();
    let held = daemon.mlctl(&["submit", "-q", "--hold", "--", "true"]).ok();
    let held = held.trim().to_owned();
    daemon.kill();
    daemon.change(Setup::of(Worker::Fake), &["commands.enabled=false".into()]);
    daemon.start();
    daemon.mlctl(&["submit", "--", "true"]).must_fail(7, &["command jobs are switched off", "[commands]"]);
    daemon.mlctl(&["submit", "--dry-run", "--", "true"]).must_fail(7, &["command jobs are switched off"]);
    daemon.mlctl(&["submit", "--array", "x=1,2", "--", "echo", "{x}"]).must_fail(7, &["switched off"]);
    daemon.write("job.toml", daemon.mlctl(&["spec", "init", "command"]).ok());
    let added = daemon.mlctl(&["schedule", "add", "job.toml", "--cron", "0 3 * * *"]);
    added.must_fail(7, &["command jobs are switched off"]);
    daemon.mlctl(&["release", &held]).ok();
    let job = daemon.wait_for(&held, "failed");
    assert_eq!((&job["exit_class"], &job["worker"]["pid"]), (&json!("spec"), &Value::Null), "{job:#}");
}
