//! Filters as people write them, against a naive reading of the same words, and there and back.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use mlctl_protocol::{ExitClass, JobId};
use proptest::prelude::*;

use super::*;
use crate::domain::{Event, Exit, JobState, Uid, state};

fn now() -> Timestamp {
    "2026-11-26T00:00:00Z".parse().unwrap()
}

/// A job that failed an hour ago, submitted two days ago.
fn job() -> Job {
    let submitted: Event = serde_json::from_value(serde_json::json!({
        "event": "submitted", "name": "digits-7", "kind": "train", "user": 1000, "queue": "default", "priority": 60,
        "labels": {"team": "vision", "odd key": "a b", "mlctl/schedule": "nightly", "empty": ""},
        "resources": {"cpus": 2, "gpus": 0}, "retry": {}, "spec_digest": "", "not_before": null,
    }))
    .unwrap();
    let mut job =
        state::apply(JobId(17), None, &submitted, now().saturating_sub(SignedDuration::from_hours(48)).unwrap())
            .unwrap();
    job.state = JobState::Failed;
    job.attempt = 3;
    job.exit = Some(Exit { class: ExitClass::OomHost, message: None, hint: None });
    job.finished_at = Some(now().saturating_sub(SignedDuration::from_hours(1)).unwrap());
    job
}

fn fits(text: &str) -> bool {
    let filter = Filter::parse(text).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    let job = job();
    let seen = Seen { job: &job, user: Some("ann"), now: now() };
    let fits = filter.fits(seen);
    let again = Filter::parse(&filter.to_string()).unwrap();
    assert_eq!(again, filter, "{text} printed as {filter}");
    if let Some(states) = filter.states() {
        assert!(!fits || states.contains("failed"), "{text}: {states:?}");
    }
    fits
}

#[test]
fn jobs_are_found_as_people_ask_for_them() {
    for text in [
        "state=failed and label.team=vision and priority>=60 and age<7d and not name~\"^tmp\"",
        "name=digits-7",
        "name~digits*",
        "name ~ '*-?'",
        "NOT name~tmp*",
        "name!~tmp*",
        "state == failed",
        "user=ann and user=1000 and user!=bob and user!~b*",
        "label.\"odd key\"='a b'",
        "label.mlctl/schedule=nightly",
        "label.team and not label.none",
        "label.none!=x and label.none!~x",
        "label.empty=\"\"",
        "exit_class=oom_host or exit_class=hang",
        "finished and finished>2026-11-25 and finished<=2026-11-25T23:00:00Z and finished < 2026-11-26T01:00:00+01:00",
        "age>=2d and age<=172800 and age>47h",
        "id=17 and attempt=3 and cpus>1 and gpus<1 and retries=0",
        "not (state=queued or state=running) and (kind=train or kind=infer)",
        "not not not started",
        "state=queued and state=running or name=digits-7",
        "kind=and or queue=default",
    ] {
        assert!(fits(text), "{text}");
    }
    for text in [
        "name=digits",
        "name~igits",
        "name=Digits-7",
        "user!=ann",
        "user!=1000",
        "user!~a*",
        "label.none=\"\"",
        "label.none",
        "started<2027-01-01",
        "started>2020-01-01",
        "array",
        "array>=0",
        "state=queued or state=failed and priority>60",
        "finished<2026-11-25T23:00:00Z",
        "age<2d",
    ] {
        assert!(!fits(text), "{text}");
    }
}

#[test]
fn every_mistake_is_told_with_its_place() {
    for (text, expected) in [
        ("", "0 a comparison is missing at the end"),
        ("state=", "5 a value is missing after this"),
        ("state", "0 every job has `state`: compare it with something"),
        ("state=dancing", "6 there is no state \"dancing\""),
        ("stat=failed", "0 jobs have no field \"stat\""),
        ("state=failed priority=3", "13 a comparison ends before this"),
        ("(state=failed", "0 this parenthesis is not closed"),
        ("state=failed)", "12 nothing was opened that this closes"),
        ("name=\"tmp", "5 this quote is not closed"),
        ("ü=1", "0 jobs have no field \"ü\""),
        ("name=ü and priority>high", "20 \"high\" is no number"),
        ("priority~1", "8 `priority` is not compared by ~"),
        ("name<a", "4 `name` is not compared by <"),
        ("finished=2026-11-25", "8 `finished` is not compared by ="),
        ("finished>2d", "9 \"2d\" is no time"),
        ("age<soon", "4 \"soon\" is no duration"),
        ("age<1.5s", "4 \"1.5s\" is no duration"),
        ("age<-5s", "4 \"-5s\" is no duration"),
        ("priority=-1", "9 \"-1\" is no number"),
        ("priority=99999999999999999999", "9 \"99999999999999999999\" is no number"),
        ("label.=x", "0 the label has no key"),
        ("and state=failed", "0 a comparison is missing before `and`"),
        ("state=failed and", "16 a comparison is missing at the end"),
        ("!state=failed", "0 `!` alone is no operator"),
        ("state=failed; drop table jobs", "12 ';' means nothing here"),
        ("=", "0 a comparison begins with the name of a field"),
    ] {
        let errors = Filter::parse(text).expect_err(text);
        let told: Vec<_> = errors.iter().map(|error| format!("{} {}", error.column, error.message)).collect();
        assert_eq!(told, [expected], "{text}");
        assert!(errors.iter().all(|error| error.end > error.column && !error.hint.is_empty()));
    }
    let errors = Filter::parse("stat=failed and priority>high or (age~1").unwrap_err();
    assert_eq!(errors.iter().map(|error| error.column).collect::<Vec<_>>(), [0, 25, 37, 33], "all at once");
}

#[test]
fn filters_are_bounded() {
    let chain = |count: usize| vec!["id=1"; count].join(" or ");
    assert!(Filter::parse(&chain(MAX_TESTS)).is_ok());
    assert!(Filter::parse(&chain(MAX_TESTS + 1)).unwrap_err()[0].message.contains("more than 64 comparisons"));
    let deep = |count: usize| format!("{}id=1{}", "(".repeat(count), ")".repeat(count));
    assert!(Filter::parse(&deep(MAX_DEPTH)).is_ok());
    assert!(Filter::parse(&deep(MAX_DEPTH + 1)).unwrap_err()[0].message.contains("within one another"));
    assert!(Filter::parse(&"not ".repeat(1000)).unwrap_err()[0].message.contains("within one another"));
    assert!(Filter::parse(&" ".repeat(MAX_BYTES + 1)).unwrap_err()[0].message.contains("bytes"));
    let slow = "*a".repeat(1000);
    assert!(!is_like(&"a".repeat(900), &slow), "in no more than a moment");
}

#[test]
fn a_filter_says_which_states_it_can_mean() {
    let states = |text: &str| Filter::parse(text).unwrap().states();
    let some = |names: &[&'static str]| Some(names.iter().copied().collect::<BTreeSet<_>>());
    assert_eq!(states("state=failed"), some(&["failed"]));
    assert_eq!(states("state=failed and priority>3"), some(&["failed"]));
    assert_eq!(states("state=failed or state=held"), some(&["failed", "held"]));
    assert_eq!(states("state=failed or priority>3"), None);
    assert_eq!(states("state~*ed and state!=failed and finished"), some(&["succeeded", "cancelled"]));
    assert_eq!(states("state=failed and state=held"), some(&[]));
    assert_eq!(states("not state=failed"), None);
    assert_eq!(states("finished>2026-01-01"), some(&JobState::ENDED));
}

/// Any text that may stand in a filter.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z*?]{0,3}", Just("and".to_owned()), Just("label.x".to_owned()), "[\\PC]{0,4}"]
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let text_field = prop_oneof![
        Just(Field::Name),
        Just(Field::Kind),
        Just(Field::User),
        any_text().prop_filter("a key", |key| !key.is_empty()).prop_map(Field::Label)
    ];
    let sign = prop_oneof![
        Just(Operator::Equal),
        Just(Operator::Differs),
        Just(Operator::Less),
        Just(Operator::AtMost),
        Just(Operator::Greater),
        Just(Operator::AtLeast)
    ];
    let order = sign.clone().prop_filter("orders", |sign| sign.fits(Nature::Moment));
    let of_text =
        prop_oneof![Just(Operator::Equal), Just(Operator::Differs), Just(Operator::Like), Just(Operator::Unlike)];
    let near = 1_795_600_000_i64..1_795_700_000;
    let leaf = prop_oneof![
        (text_field, of_text, any_text()).prop_map(|(field, sign, text)| Filter::Test(field, sign, Value::Text(text))),
        (prop_oneof![Just(Field::Priority), Just(Field::Attempt), Just(Field::Array)], sign, 0_u64..100)
            .prop_map(|(field, sign, number)| Filter::Test(field, sign, Value::Number(number))),
        (prop_oneof![Just(Field::Finished), Just(Field::Started)], order.clone(), near).prop_map(
            |(field, sign, at)| Filter::Test(field, sign, Value::Moment(Timestamp::from_second(at).unwrap()))
        ),
        (order, 0_u64..400_000).prop_map(|(sign, seconds)| Filter::Test(Field::Age, sign, Value::Seconds(seconds))),
        prop_oneof![Just(Field::Finished), Just(Field::Array), Just(Field::Label("team".into()))].prop_map(Filter::Has),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::Or),
            inner.prop_map(|filter| Filter::Not(Box::new(filter))),
        ]
    })
}

/// The same by the meaning of the words, through the job's JSON and nothing that the filter has of its own.
fn model(filter: &Filter, json: &serde_json::Value, seen: Seen<'_>) -> bool {
    let all = |parts: &[Filter]| parts.iter().map(|part| model(part, json, seen)).collect::<Vec<_>>();
    match filter {
        Filter::And(parts) => !all(parts).contains(&false),
        Filter::Or(parts) => all(parts).contains(&true),
        Filter::Not(part) => !model(part, json, seen),
        Filter::Has(Field::Label(key)) => json["labels"].get(key).is_some(),
        Filter::Has(field) => !json[format!("{field}_at")].is_null(),
        Filter::Test(Field::User, sign @ (Operator::Differs | Operator::Unlike), value) => {
            let opposite = if *sign == Operator::Differs { Operator::Equal } else { Operator::Like };
            !model(&Filter::Test(Field::User, opposite, value.clone()), json, seen)
        }
        Filter::Test(Field::User, sign, Value::Text(value)) => {
            ["1000", seen.user.unwrap_or("1000")].iter().any(|name| words(*sign, Some(name), value))
        }
        Filter::Test(Field::Label(key), sign, Value::Text(value)) => {
            words(*sign, json["labels"].get(key).and_then(|value| value.as_str()), value)
        }
        Filter::Test(field, sign, Value::Text(value)) => words(*sign, json[field.to_string()].as_str(), value),
        Filter::Test(Field::Age, sign, Value::Seconds(value)) => {
            let submitted: Timestamp = json["submitted_at"].as_str().unwrap().parse().unwrap();
            numbers(*sign, Some((seen.now.as_second() - submitted.as_second()) as f64), *value as f64)
        }
        Filter::Test(field, sign, Value::Moment(value)) => {
            let at = json[format!("{field}_at")].as_str().map(|at| at.parse::<Timestamp>().unwrap().as_second() as f64);
            numbers(*sign, at, value.as_second() as f64)
        }
        Filter::Test(field, sign, Value::Number(value)) => {
            numbers(*sign, json[field.to_string()].as_f64(), *value as f64)
        }
        Filter::Test(_, _, Value::Seconds(_)) => unreachable!(),
    }
}

fn words(sign: Operator, found: Option<&str>, value: &str) -> bool {
    fn like(text: &[char], pattern: &[char]) -> bool {
        match (text, pattern) {
            ([], []) => true,
            (_, ['*', rest @ ..]) => (0..=text.len()).any(|skipped| like(&text[skipped..], rest)),
            ([_, text @ ..], ['?', rest @ ..]) => like(text, rest),
            ([one, text @ ..], [other, rest @ ..]) => one == other && like(text, rest),
            _ => false,
        }
    }
    let chars = |text: &str| text.chars().collect::<Vec<_>>();
    match (sign, found) {
        (Operator::Equal, found) => found == Some(value),
        (Operator::Differs, found) => found != Some(value),
        (Operator::Like, Some(found)) => like(&chars(found), &chars(value)),
        (Operator::Like, None) => false,
        (_, found) => !words(Operator::Like, found, value),
    }
}

fn numbers(sign: Operator, found: Option<f64>, value: f64) -> bool {
    match sign {
        Operator::Equal => found == Some(value),
        Operator::Differs => found != Some(value),
        Operator::Less => found.is_some_and(|found| found < value),
        Operator::AtMost => found.is_some_and(|found| found <= value),
        Operator::Greater => found.is_some_and(|found| found > value),
        _ => found.is_some_and(|found| found >= value),
    }
}

proptest! {
    #[test]
    fn what_is_printed_is_read_as_the_same(filter in any_filter()) {
        prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
    }

    #[test]
    fn a_filter_finds_what_its_words_say(filter in any_filter(), named in any::<bool>(), name in "[a-z]{0,3}") {
        let job = Job { name, user: Uid(1000), ..job() };
        let seen = Seen { job: &job, user: named.then_some("ann"), now: now() };
        prop_assert_eq!(filter.fits(seen), model(&filter, &serde_json::to_value(&job).unwrap(), seen), "{}", filter);
    }

    #[test]
    fn no_text_makes_the_reader_fall_over(text in "\\PC{0,60}", words in "[a-z=~<>!()\"'. ]{0,60}") {
        for text in [text, words] {
            if let Err(errors) = Filter::parse(&text) {
                prop_assert!(!errors.is_empty());
            }
        }
    }
}
