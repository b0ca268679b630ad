//! Who is away is told: by a real daemon, to receivers that fail in all ways that they have. Each message arrives at least once, under one id; nothing is missed over a kill; and nobody waits for another.

mod receiver;

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use mlctl::{daemon::clock::SystemClock, domain::Clock as _};
use serde_json::{Value, json};

use self::receiver::{Receiver, Reply, secret_file};
use crate::support::{Daemon, Setup, Worker, processes, specs::fake, until};

/// A folder with a key, and the settings of a daemon with these hooks.
struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        secret_file(dir.path());
        Self { dir }
    }

    fn webhook(&self, name: &str, port: u16, more: &str) -> String {
        let secret = self.dir.path().join("webhook-secret");
        format!(
            "[[notify]]\nname = \"{name}\"\nwebhook = {{ url = \"http://127.0.0.1:{port}/{name}\", secret_file = \"{}\" }}\n{more}\n",
            secret.display()
        )
    }

    /// Puts these hooks into the settings file. Returns its path.
    fn write(&self, hooks: &[String]) -> std::path::PathBuf {
        let file = self.dir.path().join("mld.toml");
        fs::write(&file, hooks.concat()).unwrap();
        file
    }

    fn daemon(&self, hooks: &[String]) -> Daemon {
        self.setup(hooks).start()
    }

    fn setup(&self, hooks: &[String]) -> Setup {
        let mut setup = Setup::of(Worker::Fake);
        setup.config = Some(self.write(hooks));
        setup
    }

    /// A program, with the folder as its first word.
    fn program(&self, name: &str, script: &str) -> String {
        let file = self.dir.path().join(name);
        fs::write(&file, format!("#!/bin/sh\ncd {}\n{script}\n", self.dir.path().display())).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file.display().to_string()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }
}

/// A job that fails once and for all.
fn failing(name: &str) -> Value {
    fake(name, "fail:spec:no such column: y")
}

fn hook(daemon: &Daemon, name: &str) -> Value {
    let list = daemon.mlctl(&["notify", "ls", "-o", "json"]).json();
    list["hooks"].as_array().unwrap().iter().find(|hook| hook["name"] == name).cloned().unwrap()
}

fn check(daemon: &Daemon) -> Value {
    let run = daemon.mlctl(&["doctor", "-o", "json"]);
    let view: Value = serde_json::from_str(&run.stdout).unwrap();
    view["checks"].as_array().unwrap().iter().find(|check| check["name"] == "notifications").cloned().unwrap()
}

/// Waits until a hook has dealt with all that it was told of: nothing more is to come.
fn settle(daemon: &Daemon, name: &str, delivered: u64) {
    until("it is on record", || (hook(daemon, name)["delivered"] == delivered).then_some(()));
}

#[test]
fn who_wants_to_know_is_told_why_and_nobody_else_is() {
    let (room, receiver) = (Room::new(), Receiver::start());
    let hooks = [
        room.webhook("all", receiver.port, ""),
        room.webhook("vision", receiver.port, "on = [\"failed\", \"succeeded\"]\nfilter = \"label.team=vision\""),
    ];
    let mut daemon = room.daemon(&hooks);
    let fails = daemon.submit(&failing("nightly-digits"));
    daemon.wait_for(&fails, "failed");
    let mut spec = fake("seen", "obey");
    spec["labels"]["team"] = json!("vision");
    let seen = daemon.submit(&spec);
    daemon.wait_for(&seen, "succeeded");
    let received = receiver.wait_for(2);
    let of = |path: &str| received.iter().filter(|one| one.path == path).collect::<Vec<_>>();
    let (all, vision) = (of("/all"), of("/vision"));
    assert_eq!((all.len(), vision.len()), (1, 1), "{received:#?}");
    let (message, job) = (&all[0].body, &all[0].body["data"]["job"]);
    assert_eq!(
        (&message["type"], &job["id"], &job["name"]),
        (&json!("job.failed"), &json!(fails), &json!("nightly-digits"))
    );
    assert_eq!((&job["exit_class"], &job["message"]), (&json!("spec"), &json!("no such column: y")));
    assert_eq!(message["text"], "nightly-digits failed: spec, no such column: y");
    assert!(job["finished_at"].is_string() && job["attempt"] == 1, "{job:#}");
    assert_eq!(
        (&vision[0].body["type"], &vision[0].body["data"]["job"]["id"]),
        (&json!("job.succeeded"), &json!(seen))
    );

    // A hook that is added later begins with what happens from then on.
    let more = [hooks.to_vec(), vec![room.webhook("late", receiver.port, "on = [\"failed\", \"succeeded\"]")]].concat();
    room.write(&more);
    let reloaded = daemon.mlctl(&["daemon", "reload"]).ok();
    assert!(reloaded.contains("notify holds from now on"), "{reloaded}");
    until("it has begun", || daemon.log().contains("hook late is told").then_some(()));
    let next = daemon.submit(&fake("next", "obey"));
    daemon.wait_for(&next, "succeeded");
    let late = receiver.wait_for(3).pop().unwrap();
    assert_eq!((late.path.as_str(), &late.body["data"]["job"]["id"]), ("/late", &json!(next)));
    let tested = daemon.mlctl(&["notify", "test", "late", "-o", "json"]).json();
    assert_eq!((&tested["delivered"], &tested["error"]), (&json!(true), &Value::Null));
    assert_eq!(receiver.wait_for(4).pop().unwrap().body["type"], "test");
    daemon.mlctl(&["notify", "test", "none"]).must_fail(4, &["there is no hook", "mlctl notify ls"]);
    assert_eq!(receiver.received().len(), 4, "{:#?}", receiver.received());
    assert_eq!(check(&daemon)["status"], "ok");
}

#[test]
fn a_receiver_that_is_down_for_a_while_misses_nothing() {
    let (room, port) = (Room::new(), Receiver::free_port());
    let mut daemon = room.daemon(&[room.webhook("team", port, "")]);
    let first = daemon.submit(&failing("first"));
    let failing_hook = until("it fails", || Some(hook(&daemon, "team")).filter(|hook| hook["state"] == "failing"));
    assert!(failing_hook["error"].is_string() && failing_hook["next_try"].is_string(), "{failing_hook:#}");
    let found = check(&daemon);
    assert_eq!(found["status"], "warn");
    assert!(found["detail"].as_str().unwrap().contains("team delivers nothing since"), "{found:#}");
    daemon.mlctl(&["notify", "test", "team"]).must_fail(1, &[]);
    // Over a restart as well: what is not on record as told is told.
    let second = daemon.submit(&failing("second"));
    daemon.wait_for(&second, "failed");
    daemon.kill();
    let receiver = Receiver::at(port);
    daemon.start();
    let received = receiver.wait_for(2);
    let jobs: Vec<&Value> = received.iter().map(|one| &one.body["data"]["job"]["id"]).collect();
    assert_eq!(jobs, [&json!(first), &json!(second)]);
    settle(&daemon, "team", 2);
    assert_eq!((&hook(&daemon, "team")["state"], &check(&daemon)["status"]), (&json!("ok"), &json!("ok")));
    assert_eq!(receiver.received().len(), 2);
}

#[test]
fn a_kill_between_the_delivery_and_its_record_brings_the_same_message_again_and_no_other() {
    let (room, receiver) = (Room::new(), Receiver::start());
    let mut daemon = room.daemon(&[room.webhook("team", receiver.port, "")]);
    receiver.answer([Reply { after: Duration::from_secs(30), ..Reply::of(200) }]);
    let first = daemon.submit(&failing("first"));
    receiver.wait_for(1);
    daemon.kill();
    daemon.start();
    let second = daemon.submit(&failing("second"));
    let received = receiver.wait_for(3);
    settle(&daemon, "team", 2);
    let told: Vec<_> = received.iter().map(|one| (&one.id, one.body["data"]["job"]["id"].as_str().unwrap())).collect();
    assert_eq!(told[0], told[1], "again, under the same id");
    assert_eq!((told[0].1, told[2].1), (first.as_str(), second.as_str()));
    assert_ne!(told[0].0, told[2].0);
    // The control: one that is on record does not come again.
    daemon.kill();
    daemon.start();
    let third = daemon.submit(&failing("third"));
    assert_eq!(receiver.wait_for(4)[3].body["data"]["job"]["id"], json!(third));
    assert_eq!(receiver.received().len(), 4);
}

#[test]
fn what_is_refused_for_now_is_tried_again_and_what_is_gone_is_given_up() {
    let (room, receiver) = (Room::new(), Receiver::start());
    let mut daemon = room.daemon(&[room.webhook("team", receiver.port, "")]);
    let patience = Reply { headers: "retry-after: 7\r\n".into(), ..Reply::of(429) };
    receiver.answer([Reply::of(500), patience, Reply::of(200), Reply::of(410)]);
    let first = daemon.submit(&failing("first"));
    let received = receiver.wait_for(3);
    let ids: BTreeSet<&String> = received.iter().map(|one| &one.id).collect();
    assert_eq!(ids.len(), 1, "{received:#?}");
    settle(&daemon, "team", 1);
    assert!(daemon.log().contains("HTTP 500: busy") && !daemon.log().contains("and more"), "{}", daemon.log());
    let second = daemon.submit(&failing("second"));
    let given_up = until("it is given up", || Some(hook(&daemon, "team")).filter(|hook| hook["given_up"] == 1));
    assert!(given_up["error"].as_str().unwrap().contains("HTTP 410"), "{given_up:#}");
    let found = check(&daemon);
    assert!(found["status"] == "warn" && found["detail"].as_str().unwrap().contains("HTTP 410"), "{found:#}");
    assert!(daemon.log().contains("ERROR") && daemon.log().contains("gives a message up"), "{}", daemon.log());
    let third = daemon.submit(&failing("third"));
    let jobs: Vec<Value> = receiver.wait_for(5).iter().map(|one| one.body["data"]["job"]["id"].clone()).collect();
    assert_eq!(jobs, [&first, &first, &first, &second, &third].map(|id| json!(id)));
    settle(&daemon, "team", 2);
    let found = check(&daemon);
    assert!(found["detail"].as_str().unwrap().contains("team has given up 1 messages"), "{found:#}");
}

#[test]
fn a_receiver_that_never_answers_holds_up_neither_others_nor_the_daemons_end() {
    let (room, slow, quick) = (Room::new(), Receiver::start(), Receiver::start());
    let hooks = [
        room.webhook("slow", slow.port, "timeout_seconds = 600"),
        room.webhook("short", slow.port, "timeout_seconds = 1"),
        room.webhook("quick", quick.port, ""),
    ];
    let mut daemon = room.daemon(&hooks);
    slow.answer(std::iter::repeat_n(Reply { after: Duration::from_secs(100), ..Reply::of(200) }, 20));
    let ids: Vec<String> = ["one", "two"].map(|name| daemon.submit(&failing(name))).to_vec();
    assert_eq!(quick.wait_for(2).iter().map(|one| one.body["data"]["job"]["id"].clone()).collect::<Vec<_>>(), ids);
    let short = until("it takes too long", || Some(hook(&daemon, "short")).filter(|hook| hook["state"] == "failing"));
    assert!(short["error"].as_str().unwrap().contains("time"), "{short:#}");
    assert_eq!(hook(&daemon, "slow")["delivered"], 0);
    let begun = std::time::Instant::now();
    assert!(daemon.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}\n{}", begun.elapsed(), daemon.log());
    assert!(!daemon.log().contains("did not end by itself"), "{}", daemon.log());
}

#[test]
fn a_command_finds_the_facts_on_its_input_and_one_that_hangs_is_killed_with_its_group() {
    let room = Room::new();
    let tell = room.program(
        "tell",
        "cat > message.json; echo \"$1 $MLCTL_TYPE $MLCTL_JOB_ID $MLCTL_EXIT_CLASS ${SECRET-none}\" > told",
    );
    let hang = room.program("hang", "sleep 1000 & echo $! > pid; wait; sleep 1000");
    let hooks = [
        format!("[[notify]]\nname = \"tell\"\ncommand = [\"{tell}\", \"--loud; rm -rf .\"]\n"),
        format!("[[notify]]\nname = \"hang\"\ncommand = [\"{hang}\"]\ntimeout_seconds = 1\n"),
    ];
    let mut daemon = room.setup(&hooks).variable("SECRET", "seen").start();
    let id = daemon.submit(&failing("one"));
    settle(&daemon, "tell", 1);
    assert_eq!(room.read("told"), format!("--loud; rm -rf . job.failed {id} spec none\n"));
    let message: Value = serde_json::from_str(&room.read("message.json")).unwrap();
    assert_eq!(message["data"]["job"]["message"], "no such column: y");
    let hung = until("it is killed", || Some(hook(&daemon, "hang")).filter(|hook| hook["state"] == "failing"));
    assert!(hung["error"].as_str().unwrap().contains("took more than 1 seconds"), "{hung:#}");
    let pid: u32 = room.read("pid").trim().parse().unwrap();
    room.write(&hooks[..1]);
    daemon.mlctl(&["daemon", "reload"]).ok();
    until("what it had started is gone", || (!processes::is_alive(pid)).then_some(()));
    let left = daemon.mlctl(&["notify", "ls"]).ok();
    assert!(left.contains("tell") && !left.contains("hang"), "{left}");
}

#[test]
fn a_mail_is_one_that_a_person_likes_to_read() {
    let room = Room::new();
    let sendmail = room.program("sendmail", "echo \"$@\" > args; cat > mail");
    let mail = format!(
        "[[notify]]\nname = \"mail\"\non = [\"failed\"]\nmail = {{ to = [\"ml@example.com\", \"ops@example.com\"], from = \"mld@example.com\", sendmail = \"{sendmail}\" }}\n"
    );
    let mut daemon = room.daemon(&[mail]);
    let id = daemon.submit(&fake("forged", "fail:spec:gone Bcc: all@example.com"));
    settle(&daemon, "mail", 1);
    assert_eq!(room.read("args"), "-t -i\n");
    let mail = room.read("mail");
    let (head, body) = mail.split_once("\n\n").unwrap();
    for line in ["From: mld@example.com", "To: ml@example.com,", " ops@example.com", "Auto-Submitted: auto-generated"] {
        assert!(head.lines().any(|found| found == line), "{mail}");
    }
    assert!(head.contains("Subject: [mlctl] forged failed: spec, gone"), "{mail}");
    assert!(!head.lines().any(|line| line.to_lowercase().starts_with("bcc")), "{mail}");
    for words in [
        "why        gone Bcc: all@example.com",
        &format!("mlctl logs {id}"),
        &format!("mlctl retry {id}"),
        "exit class spec",
    ] {
        assert!(body.contains(words), "{words:?} is not in {mail}");
    }
}

#[test]
fn many_things_at_once_are_one_message_and_an_array_is_one_thing() {
    let (room, receiver) = (Room::new(), Receiver::start());
    let mut daemon = room.daemon(&[room.webhook("team", receiver.port, "")]);
    let spec = daemon.write("sweep.toml", crate::arrays::sweep());
    let label = "fake=fail:spec:none";
    let args = ["submit", spec.to_str().unwrap(), "--array", "train.seed=1,2,3,4,5,6,7,8", "--label", label, "-q"];
    let array = daemon.mlctl(&args).ok().trim().to_owned();
    let message = receiver.wait_for(1).pop().unwrap().body;
    assert_eq!(
        (&message["type"], &message["data"]["array"]["id"]),
        (&json!("array.failed"), &json!(array)),
        "{message:#}"
    );
    assert_eq!(message["data"]["array"]["counts"], json!({"failed": 8}));
    settle(&daemon, "team", 1);

    // While it waits for the receiver, thirty more fail, and it is killed before it is told that they have arrived.
    receiver.answer([Reply { headers: "retry-after: 20\r\n".into(), ..Reply::of(503) }]);
    let first = daemon.submit(&failing("first"));
    receiver.wait_for(2);
    let ids: Vec<String> = (0..30).map(|number| daemon.submit(&failing(&format!("job-{number}")))).collect();
    ids.iter().for_each(|id| drop(daemon.wait_for(id, "failed")));
    daemon.kill();
    receiver.answer([Reply { after: Duration::from_secs(60), ..Reply::of(200) }]);
    daemon.start();
    let digest = receiver.wait_for(3)[2].clone();
    daemon.kill();
    daemon.start();
    let after = daemon.submit(&failing("after"));
    let received = receiver.wait_for(5);
    assert_eq!((&received[3].id, &received[3].body), (&digest.id, &digest.body), "the same of the same");
    let digest = &digest.body["data"]["digest"];
    assert_eq!(digest["counts"], json!({"failed": 31}), "{digest:#}");
    let told: BTreeSet<&str> =
        digest["lines"].as_array().unwrap().iter().filter_map(|line| line["id"].as_str()).collect();
    assert!(ids.iter().chain([&first]).all(|id| told.contains(id.as_str())), "{digest:#}");
    assert_eq!(received[4].body["data"]["job"]["id"], json!(after));
    settle(&daemon, "team", 3);
    assert_eq!(receiver.received().len(), 5);
}

#[test]
fn nights_that_fail_are_told_of_and_so_is_a_job_that_the_daemon_holds() {
    let (room, receiver) = (Room::new(), Receiver::start());
    let now = SystemClock::default().now();
    let hooks = [room.webhook("team", receiver.port, "on = [\"schedule_paused\", \"held\"]")];
    let mut daemon = room.setup(&hooks).variable("MLD_CLOCK_RATE", &format!("30@{now}")).start();
    let spec = "version = 1\nname = \"fails\"\n[retry]\nlimit = 0\n[command]\nargv = [\"false\"]\ncwd = \"/\"\n";
    daemon.write("fails.toml", spec);
    let args = ["schedule", "add", "fails.toml", "--cron", "* * * * *", "-n", "nightly", "--pause-on-failure=2"];
    daemon.mlctl(&args).ok();
    let message = receiver.wait_for(1).pop().unwrap().body;
    assert_eq!(
        (&message["type"], &message["data"]["schedule"]["name"]),
        (&json!("schedule.paused"), &json!("nightly"))
    );
    let why = message["data"]["schedule"]["why"].as_str().unwrap();
    assert!(why.starts_with("2 jobs in a row failed, the last of them job "), "{message:#}");
    assert_eq!(message["data"]["job"]["state"], "failed", "{message:#}");
    assert_eq!(message["data"]["job"]["schedule"], "nightly", "{message:#}");
    let mut spec = fake("held", "fail:storage:the bucket is gone");
    spec["retry"] = json!({"limit": 0, "infrastructure_limit": 1, "backoff_seconds": 1, "max_backoff_seconds": 1});
    let held = daemon.submit(&spec);
    let message = receiver.about(&held).body;
    assert_eq!(
        (&message["type"], &message["data"]["job"]["state"]),
        (&json!("job.held"), &json!("held")),
        "{message:#}"
    );
    assert!(message["data"]["job"]["reason"].is_string() && message["data"]["job"]["exit_class"] == "storage");
    assert_eq!(receiver.received().len(), 2);
}

#[test]
fn what_was_removed_before_anybody_could_be_told_is_said_to_be_missed() {
    let (room, port) = (Room::new(), Receiver::free_port());
    let mut daemon = room.daemon(&[room.webhook("team", port, "")]);
    let first = daemon.submit(&failing("first"));
    until("it fails", || (hook(&daemon, "team")["state"] == "failing").then_some(()));
    let second = daemon.submit(&failing("second"));
    daemon.wait_for(&second, "failed");
    daemon.mlctl(&["rm", &second]).ok();
    // So long that nobody can say that the removal was the quicker.
    let tries = hook(&daemon, "team")["tries"].as_u64().unwrap();
    until("it is behind", || (hook(&daemon, "team")["tries"].as_u64() >= Some(tries + 2)).then_some(()));
    let receiver = Receiver::at(port);
    assert_eq!(receiver.wait_for(1)[0].body["data"]["job"]["id"], json!(first));
    let missed =
        until("it is noticed", || Some(hook(&daemon, "team")).filter(|hook| hook["missed"].as_u64() > Some(0)));
    assert!(missed["lost_at"].is_string(), "{missed:#}");
    let found = check(&daemon);
    assert!(found["status"] == "warn" && found["detail"].as_str().unwrap().contains("missed"), "{found:#}");
    assert_eq!(receiver.received().len(), 1);
}

#[test]
fn a_key_that_everybody_may_read_signs_nothing_and_is_named() {
    let (room, receiver) = (Room::new(), Receiver::start());
    let mut daemon = room.daemon(&[room.webhook("team", receiver.port, "")]);
    let secret = room.dir.path().join("webhook-secret");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&secret, 0o644);
    let run = daemon.mlctl(&["notify", "test", "team"]);
    assert!(run.code == 1 && run.stdout.contains("everybody may read it") && !run.stdout.contains("whsec"), "{run:?}");
    assert_eq!(hook(&daemon, "team")["state"], "broken");
    let id = daemon.submit(&failing("one"));
    daemon.wait_for(&id, "failed");
    until("it was tried", || daemon.log().contains("does not deliver").then_some(()));
    mode(&secret, 0o600);
    assert_eq!(receiver.wait_for(1)[0].body["data"]["job"]["id"], json!(id), "it is read at each try");
    assert!(!daemon.log().contains("whsec"), "{}", daemon.log());
}
