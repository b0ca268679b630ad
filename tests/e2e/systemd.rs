//! The unit in a real systemd: installed as the README of `ops/systemd` says, trained through, restarted and killed under a worker that goes on.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{
    Worker,
    cli::{self, Run},
    programs,
    specs::{Length, training},
    until,
};

/// A systemd of one's own, and what its `/host` is.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// Boots one with the unit installed and not started; `None`, said out loud, where this user may not make namespaces.
    fn boot() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("left out: only root can boot a systemd in namespaces");
            return None;
        }
        let machine = Self { dir: tempfile::Builder::new().prefix("box").tempdir().unwrap() };
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = machine.dir.path();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["bin", "units", "jobs/data"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        for program in [programs::mld(), programs::mlctl(), &Worker::Real.program(), &programs::command_worker()] {
            let copy = dir.join("bin").join(program.file_name().unwrap());
            if fs::hard_link(program, &copy).is_err() {
                fs::copy(program, &copy).unwrap();
            }
        }
        fs::copy(root.join("ops/systemd/mld.service"), dir.join("units/mld.service")).unwrap();
        fs::copy(root.join("ops/systemd/mld.sysusers"), dir.join("mld.conf")).unwrap();
        for job in ["digits.toml", "data/digits.csv"] {
            fs::copy(root.join("config/jobs").join(job), dir.join("jobs").join(job)).unwrap();
        }
        let started = machine.tool("start", &[]);
        assert_eq!(started.code, 0, "{}\n{}", started.stderr, machine.console());
        machine.sh("ln -s /host/bin/* /usr/bin/ && mkdir -p /etc/mld && chmod 755 /etc/mld").ok();
        machine.sh("systemd-sysusers /host/mld.conf && cp -r /host/jobs /srv/jobs && chmod -R a+rX /srv").ok();
        Some(machine)
    }

    fn tool(&self, verb: &str, command: &[&str]) -> Run {
        let mut tool = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/systemd/box"));
        tool.arg(verb).arg(self.dir.path()).args(command);
        cli::run(self.dir.path(), tool)
    }

    /// Runs a line of shell inside, as root.
    fn sh(&self, line: &str) -> Run {
        self.tool("run", &["sh", "-c", line])
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console.log")).unwrap_or_default()
    }

    /// `systemctl start`, which returns once the daemon has said that it is ready.
    fn start(&self) {
        let started = self.sh("systemctl start mld");
        assert_eq!(started.code, 0, "{}\n{}", started.stderr, self.sh("systemctl status mld").stdout);
    }

    fn main_pid(&self) -> String {
        self.sh("systemctl show -P MainPID mld").ok().trim().to_owned()
    }

    fn job(&self, job: &str) -> Value {
        self.sh(&format!("mlctl show {job} -o json")).json()
    }

    /// Waits until the job is past a step; the job then.
    fn past(&self, job: &str, step: u64) -> Value {
        until(&format!("{job} is past step {step}"), || {
            Some(self.job(job)).filter(|job| job["progress"]["step"].as_u64() > Some(step))
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("---- the box\n{}", self.console());
        }
        self.tool("stop", &[]);
    }
}

/// A job that trains for as long as it is let, as a file inside.
fn endless(machine: &Machine) -> PathBuf {
    let spec = toml::to_string(&training(Worker::Real, "endless", Length::Endless)).unwrap();
    fs::write(machine.dir.path().join("endless.toml"), spec).unwrap();
    "/host/endless.toml".into()
}

#[test]
fn a_job_is_trained_through_the_service_and_a_worker_outlives_its_restarts() {
    let Some(machine) = Machine::boot() else { return };
    machine.start();
    machine.sh("mlctl submit /srv/jobs/digits.toml -w").ok();
    let job = machine.job("digits");
    assert!(job["metrics"]["test_accuracy"].as_f64() > Some(0.97), "{job:#}");
    assert!(job["model"]["uri"].as_str().unwrap().starts_with("file:///var/lib/mld/objects/"), "{job:#}");
    assert_eq!(machine.sh("stat -c %U:%a /var/lib/mld/mld.db").ok().trim(), "mld:600");

    machine.sh(&format!("mlctl submit {}", endless(&machine).display())).ok();
    let before = machine.past("endless", 0);
    let worker = before["worker"]["pid"].as_u64().unwrap();
    assert_eq!(machine.sh(&format!("stat -c %U /proc/{worker}")).ok().trim(), "mld");
    // In a cgroup of its own below the service's, and the daemon in another, so that both are counted apart and a restart finds its place.
    let cgroup = |pid: &str| machine.sh(&format!("cat /proc/{pid}/cgroup")).ok().trim().to_owned();
    let id = before["id"].as_str().unwrap();
    assert!(cgroup(&worker.to_string()).ends_with(&format!("/mld.service/{id}-1")), "{}", cgroup(&worker.to_string()));
    let first = machine.main_pid();
    assert!(cgroup(&first).ends_with("/mld.service/mld"), "{}", cgroup(&first));
    machine.sh("systemctl restart mld").ok();
    assert_ne!(machine.main_pid(), first, "another daemon");
    let step = |job: &Value| job["progress"]["step"].as_u64().unwrap();
    let after = machine.past("endless", step(&before));
    assert_eq!((&after["worker"]["pid"], &after["attempt"]), (&before["worker"]["pid"], &before["attempt"]));

    // A storm: killed again and again, systemd starts it again, and the worker trains on.
    for _ in 0..3 {
        let killed = machine.main_pid();
        machine.sh(&format!("kill -KILL {killed}")).ok();
        until("systemd has started another daemon", || {
            let pid = machine.main_pid();
            (pid != "0" && pid != killed && machine.sh("mlctl daemon status").code == 0).then_some(())
        });
    }
    let last = machine.past("endless", step(&after));
    assert_eq!((&last["worker"]["pid"], &last["attempt"]), (&before["worker"]["pid"], &before["attempt"]));

    // A stop ends the daemon alone, cleanly; the next one finds the worker again.
    machine.sh("systemctl stop mld").ok();
    assert_eq!(machine.sh("systemctl show -P Result mld").ok().trim(), "success");
    machine.sh(&format!("kill -0 {worker}")).ok();
    machine.start();
    machine.past("endless", step(&last));
    machine
        .sh("mlctl cancel endless && mlctl wait endless --timeout 60s; mlctl show endless -o json | grep -q cancelled")
        .ok();
    assert_ne!(machine.sh(&format!("kill -0 {worker}")).code, 0, "a cancelled job's worker is gone");
    let (log, console) = (machine.sh("systemctl status mld").stdout, machine.console());
    assert!(!console.contains("watchdog") && log.contains("active (running)"), "{log}\n{console}");
}

#[test]
fn a_service_is_reloaded_and_a_drained_one_ends_cleanly_and_is_not_started_again() {
    let Some(machine) = Machine::boot() else { return };
    machine.start();
    let write =
        |text: &str| machine.sh(&format!("printf '{text}' > /etc/mld/mld.toml && chmod 644 /etc/mld/mld.toml")).ok();
    let daemon = || machine.sh("mlctl daemon status -o json").json();
    let pid = machine.main_pid();
    write("[workers]\\ncpus = 3\\n");
    machine.sh("systemctl reload mld").ok();
    assert_eq!(daemon()["machine"]["cpus"], 3);
    write("[workers]\\ncpus = 0\\n");
    assert_ne!(machine.sh("systemctl reload mld").code, 0, "a mistake is told to whoever reloads");
    assert_eq!((&daemon()["machine"]["cpus"], machine.main_pid()), (&3.into(), pid));
    assert_eq!(machine.sh("systemctl is-active mld").ok().trim(), "active");
    machine.sh("rm /etc/mld/mld.toml").ok();
    machine.sh(&format!("mlctl submit {}", endless(&machine).display())).ok();
    machine.past("endless", 0);
    let said = machine.sh("mlctl daemon drain --checkpoint").ok();
    assert!(said.contains("is drained and has stopped"), "{said}");
    let show = |property: &str| machine.sh(&format!("systemctl show -P {property} mld")).ok().trim().to_owned();
    until("the unit has ended", || (show("ActiveState") == "inactive").then_some(()));
    assert_eq!((show("Result"), show("NRestarts")), ("success".into(), "0".into()));
    machine.start();
    let job = until("it goes on", || Some(machine.job("endless")).filter(|job| job["attempt"] == 2));
    assert_eq!(job["retries_used"], 0, "{job:#}");
    machine.sh("mlctl cancel endless && mlctl wait endless --timeout 60s; true").ok();
}

#[test]
fn the_group_may_use_the_service_when_the_settings_say_so() {
    let Some(machine) = Machine::boot() else { return };
    machine.sh("useradd -M -G mld alice && useradd -M mallory").ok();
    let ask = |user: &str| machine.sh(&format!("setpriv --reuid={user} --regid={user} --init-groups mlctl ls"));
    machine.start();
    for user in ["alice", "mallory"] {
        assert_ne!(ask(user).code, 0, "{user} may not by default");
    }
    machine.sh("printf '[daemon]\\ngroup_access = true\\n' > /etc/mld/mld.toml && chmod 644 /etc/mld/mld.toml").ok();
    machine.sh("systemctl restart mld").ok();
    ask("alice").ok();
    assert_ne!(ask("mallory").code, 0, "mallory is no member");
    // A wrong setting is said, and not tried again and again.
    machine.sh("echo '[daemno]' >> /etc/mld/mld.toml; systemctl restart mld").must_fail(1, &["mld.service"]);
    assert_eq!(machine.sh("systemctl show -P NRestarts mld").ok().trim(), "0");
    assert!(machine.sh("systemctl show -P Result mld").ok().contains("exit-code"));
}

#[test]
fn the_unit_is_sound_and_gives_away_little() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/systemd/mld.service");
    let analyze = |arguments: &[&str]| {
        let mut analyze = Command::new("systemd-analyze");
        analyze.args(arguments).arg(&unit).stdin(Stdio::null());
        cli::run(Path::new("/"), analyze)
    };
    let verified = analyze(&["verify", "--man=no"]);
    // That the programs are not in /usr/bin here is not the unit's mistake.
    let complaints: Vec<_> =
        verified.stderr.lines().filter(|line| line.contains("mld.service") && !line.contains("/usr/bin/ml")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    // Exposure in tenths: 10.0 is none of systemd's protection, and the shipped units of PostgreSQL and nginx have 9.6.
    let exposed = analyze(&["security", "--offline=true", "--threshold=30"]);
    assert_eq!(exposed.code, 0, "{}", exposed.stdout);
    assert_ne!(analyze(&["security", "--offline=true", "--threshold=1"]).code, 0, "the control");
}

/// An S3 server inside, with a bucket: its URL, key and secret.
fn s3_inside(machine: &Machine) -> [String; 3] {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/s3-server.py");
    let found = Command::new("python3").arg(&script).arg("--install").stderr(Stdio::inherit()).output().unwrap();
    assert!(found.status.success(), "the S3 server cannot be had; its reason is above");
    let dir = machine.dir.path();
    fs::copy(String::from_utf8(found.stdout).unwrap().trim(), dir.join("weed")).unwrap();
    fs::copy(script, dir.join("s3-server.py")).unwrap();
    let serve = "WEED=/host/weed exec python3 /host/s3-server.py --dir /run/s3 --bucket ml-test >/host/s3.ready";
    machine.sh(&format!("systemd-run --unit=s3 sh -c '{serve}'")).ok();
    let line = until("the S3 server is ready", || {
        fs::read_to_string(dir.join("s3.ready")).ok().filter(|line| line.ends_with('\n'))
    });
    let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
    [words[1].clone(), words[2].clone(), words[3].clone()]
}

#[test]
fn the_key_of_s3_comes_as_a_credential_and_is_seen_nowhere() {
    if crate::chance::variable("MLCTL_TEST_S3").as_deref() == Some("skip") {
        println!("MLCTL_TEST_S3=skip: no bucket was tried");
        return;
    }
    let Some(machine) = Machine::boot() else { return };
    let [url, key, secret] = s3_inside(&machine);
    let host = machine.dir.path();
    let settings = format!("[storage]\nurl = \"s3://ml-test/ml\"\n[storage.s3]\nendpoint = \"{url}\"\n");
    fs::write(host.join("mld.toml"), settings).unwrap();
    let credentials = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n");
    fs::write(host.join("key"), credentials).unwrap();
    machine.sh("cp /host/mld.toml /etc/mld/ && chmod 644 /etc/mld/mld.toml").ok();
    machine.sh("systemctl start mld").must_fail(1, &[]);
    machine.sh("systemctl stop mld; systemctl reset-failed mld; true").ok();
    machine.sh("mkdir -p /etc/credstore && install -m 600 /host/key /etc/credstore/mld.s3 && rm /host/key").ok();
    machine.start();
    machine.sh("mlctl submit /srv/jobs/digits.toml -w").ok();
    let job = machine.job("digits");
    assert!(job["model"]["uri"].as_str().unwrap().starts_with("s3://ml-test/ml/jobs/"), "{job:#}");
    machine.sh(&format!("mlctl submit {}", endless(&machine).display())).ok();
    let worker = machine.past("endless", 0)["worker"]["pid"].as_u64().unwrap();
    let seen = format!("grep -rlF {secret} /var/lib/mld /proc/{worker}/environ /proc/{worker}/cmdline");
    let daemon = machine.main_pid();
    machine.sh(&format!("{seen} /proc/{daemon}/environ /proc/{daemon}/cmdline")).must_fail(1, &[]);
    machine.sh(&format!("echo {secret} >/var/lib/mld/planted; {seen}")).ok();
    machine.sh("rm /var/lib/mld/planted; mlctl cancel endless && mlctl wait endless --timeout 60s; true").ok();
}
