//! What is news, what a message says, and when it is tried again; names that want to forge mails.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::{AttemptNumber, ExitClass, JobId};
use proptest::prelude::*;

use super::*;
use crate::domain::{Event, Exit, Hold, Job, JobState, NeverMet, dependency::Waits, state};

fn now() -> Timestamp {
    "2026-11-26T02:30:00Z".parse().unwrap()
}

fn job() -> Job {
    let submitted: Event = serde_json::from_value(serde_json::json!({
        "event": "submitted", "name": "digits", "kind": "train", "user": 1000, "queue": "default", "priority": 60,
        "labels": {"team": "vision", "mlctl/schedule": "nightly", "mlctl/scheduled-at": "2026-11-26T02:00:00"},
        "resources": {"cpus": 2, "gpus": 0}, "retry": {}, "spec_digest": "", "not_before": null,
    }))
    .unwrap();
    state::apply(JobId(17), None, &submitted, now()).unwrap()
}

fn exit(class: ExitClass) -> Exit {
    Exit { class, message: Some("the kernel killed it".into()), hint: Some("give it more memory".into()) }
}

fn failed() -> Event {
    Event::Failed { attempt: AttemptNumber(3), exit: exit(ExitClass::OomHost) }
}

fn message(job: &Job) -> Message {
    let facts = facts(job, "ann");
    let text = facts.headline();
    let data = Data { job: Some(facts), ..Data::default() };
    Message { id: "msg_1_team_e7".into(), kind: "job.failed".into(), timestamp: now(), text, data }
}

#[test]
fn an_end_is_news_and_so_is_what_the_daemon_holds_and_nothing_else_is() {
    let attempt = AttemptNumber(1);
    let unmet = || Event::Unmet(NeverMet { on: JobId(1), message: "job 1 failed".into(), cause: "x".into() });
    let cases = [
        (failed(), Some(Topic::Failed), "failed"),
        (Event::Expired { exit: exit(ExitClass::Timeout) }, Some(Topic::Failed), "failed"),
        (Event::Succeeded { attempt, model: None, output: None }, Some(Topic::Succeeded), "succeeded"),
        (Event::Cancelled { by: None, exit: None }, Some(Topic::Cancelled), "cancelled"),
        (
            Event::Quarantined { attempt, exit: exit(ExitClass::Lost), reason: "three times".into() },
            Some(Topic::Held),
            "held",
        ),
        (unmet(), Some(Topic::Cancelled), "cancelled"),
        (Event::Concluded { exit: exit(ExitClass::Ok), conclusion: None }, Some(Topic::Succeeded), "succeeded"),
        (Event::Concluded { exit: exit(ExitClass::Spec), conclusion: None }, Some(Topic::Failed), "failed"),
        (Event::Unblocked, None, "queued"),
        (Event::Held { hold: Hold { by: Uid(7), reason: None, not_before: None } }, None, "queued"),
        (Event::Retried { by: Uid(7) }, None, "queued"),
        (Event::Replaced { by: JobId(18) }, None, "cancelled"),
    ];
    for (event, expected, state) in cases {
        assert_eq!(topic(&event, now(), &job()), expected, "{event:?}");
        // Whatever has become of it since.
        assert_eq!(as_of(&job(), &event, now()).state.name(), state, "{event:?}");
    }
    let waits = Waits { if_failed: crate::domain::dependency::AfterFailed::Keep, unmet: None };
    let kept = Job { waits: Some(waits), ..job() };
    assert_eq!(topic(&unmet(), now(), &kept), Some(Topic::Held));
    let held = as_of(&kept, &unmet(), now());
    assert!(matches!(&held.state, JobState::Held(hold) if hold.reason.as_deref() == Some("job 1 failed")));
    let replaced = Job { finished_at: Some(now()), ..job() };
    assert_eq!(topic(&Event::Replaced { by: JobId(18) }, now(), &replaced), Some(Topic::Cancelled));
}

#[test]
fn an_array_is_told_of_once_it_has_ended_by_the_worst_of_its_members() {
    let of = |counts: &[(&str, u64)]| {
        of_array(&counts.iter().map(|(tally, members)| ((*tally).to_owned(), *members)).collect::<BTreeMap<_, _>>())
    };
    assert_eq!(of(&[("succeeded", 3), ("running", 1)]), None);
    assert_eq!(of(&[("failed", 3), ("held", 1)]), None);
    assert_eq!(of(&[("succeeded", 3), ("running", 0)]), Some(Topic::Succeeded));
    assert_eq!(of(&[("succeeded", 3), ("stopped", 9)]), Some(Topic::Succeeded));
    assert_eq!(of(&[("succeeded", 3), ("cancelled", 1)]), Some(Topic::Cancelled));
    assert_eq!(of(&[("failed", 1), ("cancelled", 1), ("succeeded", 1)]), Some(Topic::Failed));

    let (mut told, hour) = (Told::default(), SignedDuration::from_hours(1));
    assert!(told.is_new_end(JobId(1), now()) && !told.is_new_end(JobId(1), now()));
    assert!(told.is_new_end(JobId(1), now() + hour), "it was started anew");
    assert!(told.is_new_hold(JobId(1), now()) && told.is_new_hold(JobId(2), now()));
    assert!(!told.is_new_hold(JobId(1), now() + SignedDuration::from_mins(59)));
    assert!(told.is_new_hold(JobId(1), now() + hour));
    (0..5000).for_each(|array| assert!(told.is_new_end(JobId(array + 10), now())));
}

#[test]
fn what_a_receiver_says_decides_what_is_done() {
    let after = Some(Duration::from_secs(60));
    for (status, expected) in
        [(200, "delivered"), (204, "delivered"), (301, "refused"), (307, "refused"), (400, "refused")]
            .into_iter()
            .chain([(401, "refused"), (404, "refused"), (408, "later"), (410, "gone"), (425, "later"), (429, "later")])
            .chain([(500, "later"), (503, "later"), (100, "later"), (999, "later")])
    {
        let outcome = of_status(status, "busy", after);
        let name = match &outcome {
            Outcome::Delivered => "delivered",
            Outcome::Later { after: asked, .. } => {
                assert_eq!(*asked, after);
                "later"
            }
            Outcome::Refused { .. } => "refused",
            Outcome::Gone { .. } => "gone",
        };
        assert_eq!(name, expected, "{status}");
        assert!(outcome.why().is_none_or(|why| why.starts_with(&format!("HTTP {status}: busy"))), "{outcome:?}");
    }
    assert_eq!(of_exit(Some(0), "x"), Outcome::Delivered);
    assert!(matches!(of_exit(Some(75), ""), Outcome::Later { .. }));
    assert!(matches!(of_exit(None, ""), Outcome::Later { .. }));
    assert_eq!(of_exit(Some(1), "no"), Outcome::Refused { why: "it ended with 1: no".into() });
    for (value, seconds) in [
        ("0", Some(0)),
        (" 120 ", Some(120)),
        ("86400", Some(3600)),
        ("99999999999999999999", None),
        ("Thu, 26 Nov 2026 02:31:00 GMT", Some(60)),
        ("Thu, 26 Nov 2020 02:31:00 GMT", Some(0)),
        ("Thu, 26 Nov 2099 02:31:00 GMT", Some(3600)),
        ("soon", None),
        ("-1", None),
    ] {
        assert_eq!(retry_after(value, now()), seconds.map(Duration::from_secs), "{value}");
    }
}

#[test]
fn a_message_is_given_up_when_its_time_is_over() {
    let later = |after| Outcome::Later { why: "x".into(), after };
    let refused = Outcome::Refused { why: "x".into() };
    let course = |outcome: &Outcome, minutes| {
        Course::after(outcome, (now(), now() + SignedDuration::from_mins(minutes)), 3, 1.0)
    };
    let pause = Course::Again(Duration::from_secs(20));
    assert_eq!(course(&Outcome::Delivered, 99_999), Course::Done);
    assert_eq!(course(&Outcome::Gone { why: "x".into() }, 0), Course::GiveUp);
    assert_eq!((course(&later(None), 0), course(&later(None), 24 * 60 - 1)), (pause, pause));
    assert_eq!(course(&later(None), 24 * 60), Course::GiveUp);
    assert_eq!((course(&refused, 59), course(&refused, 60)), (pause, Course::GiveUp));
    let asked = Duration::from_secs(300);
    assert_eq!(course(&later(Some(asked)), 0), Course::Again(asked));
    assert_eq!(course(&later(Some(Duration::ZERO)), 0), pause, "it is never hurried");
    assert_eq!(course(&later(None), -10), pause, "a clock that was set back gives longer");
}

#[test]
fn names_and_addresses_are_what_headers_and_ids_can_bear() {
    for name in ["team", "a", "0-x_y", &"n".repeat(50)] {
        assert!(is_name(name), "{name}");
    }
    for name in ["", "-a", "_", "A", "a.b", "a b", "ü", "a\n", &"n".repeat(51)] {
        assert!(!is_name(name), "{name}");
    }
    for address in ["a@b", "ml+x@example.com", "first.last@sub.example.com"] {
        assert!(is_address(address), "{address}");
    }
    for address in
        ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b\nBcc: x@y", "<a@b>", "a@b,c@d", "-t@b", "ü@b", "\"a\"@b"]
    {
        assert!(!is_address(address), "{address}");
    }
    let url = "https://hooks.example.com/T0/secret?token=secret";
    let channel = Channel::Webhook { url: url.into(), secret_file: "/k".into(), proxy: None };
    assert_eq!(channel.target(), "https://hooks.example.com");
}

#[test]
fn a_message_says_exactly_why() {
    let message = message(&as_of(&job(), &failed(), now()));
    assert_eq!(message.subject(), "[mlctl] digits failed: oom_host, the kernel killed it");
    let body = message.body();
    for words in [
        "17 digits (train)",
        "oom_host",
        "the kernel killed it",
        "give it more memory",
        "nightly, tick of 2026-11-26T02:00:00",
        "team=vision",
        "mlctl show 17",
        "mlctl retry 17",
        "msg_1_team_e7",
        "ann",
    ] {
        assert!(body.contains(words), "{words} is not in {body}");
    }
    let json = serde_json::to_value(&message).unwrap();
    assert_eq!((&json["type"], &json["data"]["job"]["id"]), (&"job.failed".into(), &"17".into()));
    assert!(json["data"].get("array").is_none());
    let ok = Event::Succeeded { attempt: AttemptNumber(1), model: None, output: None };
    assert_eq!(facts(&as_of(&job(), &ok, now()), "ann").headline(), "digits succeeded");
}

/// Headers as a reader sees them: continued lines joined.
fn headers(mail: &str) -> (Vec<(String, String)>, String) {
    let (head, body) = mail.split_once("\n\n").unwrap();
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in head.split('\n') {
        match line.strip_prefix(' ') {
            Some(rest) => headers.last_mut().unwrap().1.push_str(rest),
            None => {
                let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?}"));
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    (headers, body.to_owned())
}

fn decoded(value: &str) -> String {
    if !value.contains("=?") {
        return value.to_owned();
    }
    let words =
        value.split("=?utf-8?B?").skip(1).map(|word| STANDARD.decode(word.strip_suffix("?=").unwrap()).unwrap());
    words.map(|word| String::from_utf8(word).unwrap()).collect()
}

proptest! {
    #[test]
    fn no_text_of_a_job_forges_a_mail(name in "(?s).{0,80}", text in "(?s).{0,300}", label in "(?s).{0,40}") {
        let mut job = job();
        job.name = format!("{name}\r\nBcc: all@example.com\n\nbuy");
        job.labels.insert(label.clone(), label);
        job.exit = Some(Exit { class: ExitClass::Spec, message: Some(text.clone()), hint: Some(text) });
        job.state = JobState::Failed;
        let message = message(&job);
        let to = ["a@example.com".to_owned(), "b@example.com".to_owned()];
        let mail = String::from_utf8(compose(&message, "mld@example.com", &to, now())).unwrap();
        let (headers, body) = headers(&mail);
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        prop_assert_eq!(names, ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Auto-Submitted",
            "X-Auto-Response-Suppress", "Content-Type", "Content-Transfer-Encoding"]);
        prop_assert!(mail.lines().all(|line| line.len() <= 998 && !line.contains(['\r', '\0'])));
        let head = mail.split_once("\n\n").unwrap().0;
        prop_assert!(head.is_ascii() && head.lines().all(|line| line.len() <= 200));
        let said = decoded(&headers[2].1);
        prop_assert_eq!(said, message.subject());
        let is_encoded = headers.iter().any(|(_, value)| value == "base64");
        let read = if is_encoded {
            String::from_utf8(STANDARD.decode(body.replace('\n', "")).unwrap()).unwrap()
        } else {
            body
        };
        prop_assert_eq!(read, message.body());
        prop_assert!(!message.body().chars().any(|c| c.is_control() && c != '\n'));
    }

    #[test]
    fn pauses_grow_to_a_quarter_of_an_hour_and_are_spread(tries in 0_u32..2000, chance in 0.0_f64..=1.0) {
        let (pause, whole) = (retry_in(tries, chance), retry_in(tries, 1.0));
        prop_assert!(pause <= whole && whole <= Duration::from_secs(900) && pause >= whole.mul_f64(0.499));
        prop_assert!(retry_in(tries + 1, 1.0) >= whole && whole >= Duration::from_secs(5));
    }
}
