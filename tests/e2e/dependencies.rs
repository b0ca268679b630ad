//! Jobs that wait for others, with real programs: each need, what comes of one that can never be met, arrays, and a daemon that is killed in between.

use jiff::Timestamp;

use crate::support::{
    Setup, Worker,
    specs::{fake, written},
};

/// A job in a file that does what the fake worker is told by a label.
fn file(name: &str) -> String {
    written(&format!("name = {name:?}\nretry = {{ limit = 0 }}"), 4)
}

#[test]
fn jobs_start_when_what_they_wait_for_has_come_about_over_a_kill_of_the_daemon() {
    let mut daemon = Setup::of(Worker::Fake).start();
    let first = daemon.submit(&fake("first", "steps:10000000:10"));
    daemon.wait_for(&first, "running");
    let spec = daemon.write("next.toml", file("next"));
    let spec = spec.to_str().unwrap();
    let submit = |name: &str, more: &[&str]| {
        let mut args = vec!["submit", spec, "-n", name, "--label", "fake=obey", "-q"];
        args.extend(more);
        daemon.mlctl(&args).ok().trim().to_owned()
    };
    let said = daemon.mlctl(&["submit", spec, "-n", "ok", "--after", "first", "--label", "fake=obey"]).ok();
    assert_eq!(said, format!("submitted job 2 (ok), which waits for job {first} (running) to succeed\n"));
    let any = submit("any", &["--after", "any:first,any:@last", "--after-failed", "cancel"]);
    let notok = submit("notok", &["--after", "notok:1"]);
    let kept = submit("kept", &["--after", "ok:1", "--after-failed", "keep"]);
    let last = submit("last", &["--after", &format!("notok:{notok}")]);
    let dry = daemon.mlctl(&["submit", spec, "--after", "kept,any:first", "--dry-run"]).ok();
    assert!(dry.ends_with(&format!("  after ok:{kept} (blocked), any:1 (running)\n")), "{dry}");
    let list = daemon.mlctl(&["ls", "--state", "blocked", "-o", "name"]).ok();
    assert_eq!(list.lines().count(), 5, "{list}");
    daemon.mlctl(&["submit", spec, "--after", "ok:1,any:99"]).must_fail(6, &["no job 99", "--after"]);
    daemon.mlctl(&["submit", spec, "--after", "okk:1"]).must_fail(2, &["does not begin with ok:, any: or notok:"]);
    daemon.mlctl(&["rm", "first"]).must_fail(5, &["is running"]);
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.job("ok")["state"], "blocked");
    daemon.mlctl(&["cancel", &first]).ok();
    daemon.wait_for(&any, "succeeded");
    daemon.wait_for(&notok, "succeeded");
    let job = daemon.wait_for("ok", "cancelled");
    assert_eq!(job["reason"], "cancelled: job 1 was cancelled");
    let job = daemon.wait_for(&last, "cancelled");
    assert_eq!(job["reason"], format!("cancelled: job {notok} succeeded, and was to fail"));
    let job = daemon.wait_for(&kept, "held");
    assert!(job["reason"].as_str().unwrap().ends_with(": job 1 was cancelled"), "{job:#}");
    daemon.mlctl(&["wait", &kept]).must_fail(20, &[]);
    daemon.mlctl(&["release", &kept]).ok();
    daemon.mlctl(&["retry", "ok"]).ok();
    daemon.wait_for(&kept, "succeeded");
    daemon.wait_for("ok", "succeeded");
    let shown = daemon.mlctl(&["show", "first"]).ok();
    assert!(shown.contains("dependents ") && shown.contains("2 (ok, succeeded)"), "{shown}");
    assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
}

#[test]
fn an_array_waits_for_an_array_and_a_report_for_both() {
    let mut daemon = Setup::of(Worker::Fake).start();
    let spec = daemon.write("sweep.toml", file("sweep"));
    let spec = spec.to_str().unwrap();
    let sweep = |name: &str, more: &[&str]| {
        let mut args = vec!["submit", spec, "-n", name, "--array", "train.seed=1,2,3", "--label", "fake=obey", "-q"];
        args.extend(more);
        daemon.mlctl(&args).ok().trim().to_owned()
    };
    let first = sweep("first", &["--hold"]);
    let second = sweep("second", &["--after", "first"]);
    let list = daemon.mlctl(&["ls"]).ok();
    assert!(list.contains("3 blocked"), "{list}");
    let shown = daemon.mlctl(&["show", "second"]).ok();
    assert!(shown.contains(&format!("after      ok:{first} (held)")), "{shown}");
    let args = [
        "submit",
        spec,
        "-n",
        "report",
        "--after",
        &format!("first,any:{second},ok:{second}.2"),
        "--label",
        "fake=obey",
    ];
    let said = daemon.mlctl(&args).ok();
    assert!(said.contains(&format!("waits for array {first} (held) to succeed")), "{said}");
    daemon.mlctl(&["release", "first"]).ok();
    daemon.wait_for("report", "succeeded");
    let shown = daemon.mlctl(&["show", "second", "-o", "json"]).json();
    assert_eq!(shown["state"], "succeeded");
    let moment = |id: &str, of: &str| daemon.job(id)[of].as_str().unwrap().parse::<Timestamp>().unwrap();
    let started = moment("report", "started_at");
    let ended = (1..=3).map(|index| moment(&format!("{second}.{index}"), "finished_at"));
    assert!(ended.into_iter().all(|ended| ended <= started), "it starts after all of them");
    assert_eq!(daemon.mlctl(&["doctor"]).code, 0);
    let failing = daemon.submit(&fake("failing", "fail:spec"));
    daemon.mlctl(&["submit", spec, "-n", "never", "--after", &failing, "-w"]).must_fail(21, &[]);
}
