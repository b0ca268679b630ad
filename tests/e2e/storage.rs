//! `mlctl storage` against a real S3 server, with no daemon anywhere: what it puts it gets; what is killed or interrupted is gone on with, and nothing is left half.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    s3_server::{BUCKET, Server},
    support::{programs, until},
};

/// A person with a server, and a folder to be at home in.
struct Person {
    server: Server,
    home: tempfile::TempDir,
}

impl Person {
    fn new() -> Option<Self> {
        Some(Self { server: Server::start()?, home: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(programs::mlctl());
        command.env_clear().env("HOME", self.home.path()).env("MLD_STATE_DIR", self.home.path());
        command.env("AWS_ENDPOINT_URL", &self.server.url).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", &self.server.writer.access_key_id);
        command.env("AWS_SECRET_ACCESS_KEY", &self.server.writer.secret_access_key);
        command.current_dir(self.home.path()).arg("storage").args(words).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, words: &[&str]) -> (Option<i32>, String, String) {
        ended(self.command(words).spawn().unwrap())
    }

    fn ok(&self, words: &[&str]) -> Value {
        let (code, stdout, stderr) = self.run(&[words, &["-o", "json"]].concat());
        assert_eq!(code, Some(0), "{words:?}: {stdout}{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// Begins to put a file, and comes back when some of its parts have arrived.
    fn half_way(&self, words: &[&str]) -> Child {
        let mut child = self.command(words).spawn().unwrap();
        until("some parts have arrived", || {
            assert!(child.try_wait().unwrap().is_none(), "it was too fast");
            (self.journal_lines() > 2).then_some(())
        });
        child
    }

    fn journal_lines(&self) -> usize {
        let Ok(journals) = std::fs::read_dir(self.path(".local/state/mlctl/uploads")) else { return 0 };
        let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        journals.map(|entry| text(&entry.unwrap().path()).lines().count()).sum()
    }
}

fn ended(child: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Bytes that no two parts share.
fn noise(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn uri(name: &str) -> String {
    format!("s3://{BUCKET}/{name}")
}

#[test]
fn what_is_put_is_listed_and_got() {
    let Some(person) = Person::new() else { return };
    std::fs::write(person.path("one.bin"), noise(20 << 20)).unwrap();
    let done = person.ok(&["put", "one.bin", &uri("a/one")]);
    assert_eq!((done["files"].as_u64(), done["size_bytes"].as_u64()), (Some(1), Some(20 << 20)));
    person.ok(&["put", "one.bin", &uri("a/")]);
    for (name, size) in [("tree/x", 1), ("tree/deep/y", 70_000), ("tree/deep/empty", 0)] {
        std::fs::create_dir_all(person.path(name).parent().unwrap()).unwrap();
        std::fs::write(person.path(name), noise(size)).unwrap();
    }
    assert_eq!(person.ok(&["put", "-r", "tree", &uri("a/tree")])["files"], 3);
    let (code, stdout, _) = person.run(&["ls", &uri("a"), "-o", "name"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "tree/\none\none.bin\n"));
    let listed = person.ok(&["ls", "-r", &uri("a")]);
    let names: Vec<_> =
        listed["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "one.bin", "tree/deep/empty", "tree/deep/y", "tree/x"]);
    assert_eq!(person.ok(&["ls", &uri("a/one")])["entries"][0]["size_bytes"], 20 << 20);
    person.ok(&["get", &uri("a/one"), "back.bin"]);
    assert!(std::fs::read(person.path("back.bin")).unwrap() == noise(20 << 20));
    std::fs::create_dir(person.path("into")).unwrap();
    person.ok(&["get", &uri("a/one"), "into"]);
    assert!(person.path("into/one").is_file(), "a folder that is there is one to put it in");
    assert_eq!(person.ok(&["get", "-r", &uri("a/tree"), "tree-back"])["files"], 3);
    assert_eq!(std::fs::read(person.path("tree-back/deep/y")).unwrap(), noise(70_000));
}

#[test]
fn mistakes_are_said_in_words_and_by_exit_codes() {
    let Some(person) = Person::new() else { return };
    std::fs::write(person.path("x"), "x").unwrap();
    for (words, code, said) in [
        (vec!["get", "s3://ml-test/nothing", "y"], 4, "s3://ml-test/nothing does not exist"),
        (vec!["put", "nothing", "s3://ml-test/x"], 4, "nothing does not exist"),
        (vec!["put", "x", "s3://ml-test"], 2, "names a bucket"),
        (vec!["put", "x", "x"], 2, "no scheme"),
        (vec!["put", ".", "s3://ml-test/x"], 1, "is refused: it is a folder, not a file"),
        (vec!["put", "x", "s3://no-such-bucket/x"], 7, "s3://no-such-bucket/x cannot be used"),
        (vec!["ls", "s3://ml-test/nothing"], 4, "does not exist"),
        (vec!["put", "x", "s3://ml-test/x", "--memory", "1MiB"], 2, "expected between 16MiB and 64GiB"),
    ] {
        let (found, stdout, stderr) = person.run(&words);
        assert_eq!((found, stdout.as_str()), (Some(code), ""), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    }
    let mut nobody = person.command(&["put", "x", "s3://ml-test/x"]);
    let (code, _, stderr) =
        ended(nobody.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").spawn().unwrap());
    assert!(code == Some(2) && stderr.contains("no credentials for S3"), "{stderr}");
    assert!(!person.path("y").exists());
}

#[test]
fn a_killed_put_is_gone_on_with_and_a_left_one_given_up() {
    let Some(person) = Person::new() else { return };
    std::fs::write(person.path("x"), noise(256 << 20)).unwrap();
    let put = ["put", "x", &uri("killed")];
    let mut child = person.half_way(&put);
    child.kill().unwrap();
    child.wait().unwrap();
    let arrived = person.journal_lines() - 1;
    let done = person.ok(&put);
    assert!(done["reused_bytes"].as_u64().unwrap() >= (arrived as u64) << 23, "{done}: {arrived} parts");
    assert_eq!(person.journal_lines(), 0);
    person.ok(&["get", &uri("killed"), "back"]);
    assert!(std::fs::read(person.path("back")).unwrap() == noise(256 << 20));
    // Another is left for good.
    let mut child = person.half_way(&["put", "x", &uri("left")]);
    child.kill().unwrap();
    child.wait().unwrap();
    let abort =
        |more: &[&str]| person.ok(&[&["abort", &uri("left")], more].concat())["uploads"].as_array().unwrap().len();
    assert_eq!(abort(&[]), 0, "it is young");
    assert_eq!(abort(&["--older-than", "0s", "--dry-run"]), 1);
    assert_eq!(abort(&["--older-than", "0s"]), 1);
    assert_eq!(abort(&["--older-than", "0s"]), 0);
}

#[test]
fn an_interrupted_transfer_leaves_nothing_half() {
    let Some(person) = Person::new() else { return };
    std::fs::write(person.path("x"), noise(256 << 20)).unwrap();
    let put = ["put", "x", &uri("x")];
    let child = person.half_way(&put);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let (code, _, stderr) = ended(child);
    assert!(code == Some(130) && stderr.contains("the same command goes on with it"), "{code:?}: {stderr}");
    assert_eq!(person.run(&["get", &uri("x"), "y"]).0, Some(4), "nothing of it is seen");
    assert!(person.ok(&put)["reused_bytes"].as_u64().unwrap() > 0);
    let child = person.command(&["get", &uri("x"), "y"]).spawn().unwrap();
    until("the download has begun", || person.path(".y.part").exists().then_some(()));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let (code, _, stderr) = ended(child);
    if code != Some(0) {
        assert!(code == Some(130) && stderr.contains("no half file is left"), "{code:?}: {stderr}");
        assert!(!person.path("y").exists());
    }
    assert!(!person.path(".y.part").exists());
    let (code, _, stderr) = person.run(&["put", "x", &uri("z"), "--timeout", "50ms"]);
    assert!(code == Some(8) && stderr.contains("not done in time"), "{code:?}: {stderr}");
    std::thread::sleep(Duration::from_millis(10));
    person.ok(&["put", "x", &uri("z")]);
}
