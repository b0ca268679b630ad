//! An account with which all is well, and every way in which it could be wrong: each must be found, and be called what it is.

use super::{Account, Answer, Call, Happened, Mark, Record, Wish, verdict};

fn happened(words: &str) -> Vec<Happened> {
    let event = |word: &str| {
        let (event, rest) = word.split_once(':').unwrap_or((word, ""));
        let intent = if event == "cancelled" && rest.is_empty() { "cancel" } else { rest };
        let intent = matches!(event, "cancelled" | "intended").then(|| intent.to_owned());
        Happened { event: event.to_owned(), attempt: rest.parse().ok(), intent }
    };
    words.split(' ').map(event).collect()
}

fn record(id: u64, name: &str, words: &str) -> Record {
    let events = happened(words);
    let state = events.last().unwrap().event.clone();
    Record { id, name: name.into(), kind: "train".into(), array: None, tick: None, state, events }
}

fn call(wish: Wish, job: Option<u64>, (begun, ended): (u64, u64), answer: Answer) -> Call {
    Call { wish, job, begun, ended, answer }
}

fn submit(key: &str, when: (u64, u64), answer: Answer) -> Call {
    call(Wish::Submit { key: key.into(), members: None }, None, when, answer)
}

fn look(job: u64, when: (u64, u64), state: &str) -> Call {
    call(Wish::Look, Some(job), when, Answer::State(state.into()))
}

/// A job that was killed once, one that was cancelled while it waited and one while it ran, a retry, an array, a command, a tick, and a submit whose answer was lost.
fn sound() -> Account {
    let mut records = vec![
        record(1, "killed", "submitted claimed:1 launched:1 requeued:1 claimed:2 launched:2 succeeded:2"),
        record(2, "waited", "submitted cancelled"),
        record(3, "ran", "submitted claimed:1 launched:1 intended:cancel cancelled:1"),
        record(4, "again", "submitted claimed:1 failed:1 retried claimed:2 succeeded:2"),
        record(6, "array.1", "submitted claimed:1 succeeded:1"),
        record(7, "array.2", "submitted claimed:1 succeeded:1"),
        record(8, "command", "submitted claimed:1 requeued:1 claimed:2 succeeded:2"),
        record(9, "nightly", "submitted claimed:1 succeeded:1"),
        record(10, "unheard", "submitted claimed:1 quarantined:1 released claimed:2 succeeded:2"),
    ];
    (records[4].array, records[5].array) = (Some(5), Some(5));
    "command".clone_into(&mut records[6].kind);
    records[7].tick = Some("nightly 2026-01-01".into());
    let array = Wish::Submit { key: "array".into(), members: Some(2) };
    let calls = vec![
        submit("killed", (1, 2), Answer::Done(1)),
        look(1, (3, 4), "running"),
        submit("killed", (5, u64::MAX), Answer::Nothing),
        submit("killed", (6, 7), Answer::Done(1)),
        look(1, (40, 41), "succeeded"),
        submit("waited", (8, 9), Answer::Done(2)),
        call(Wish::Cancel, Some(2), (10, 11), Answer::Done(2)),
        call(Wish::Cancel, Some(2), (12, 13), Answer::Refused("wrong_state".into())),
        look(2, (14, 15), "cancelled"),
        submit("ran", (16, 17), Answer::Done(3)),
        call(Wish::Cancel, Some(3), (18, 21), Answer::Done(3)),
        call(Wish::Cancel, Some(3), (19, 20), Answer::Done(3)),
        submit("again", (22, 23), Answer::Done(4)),
        look(4, (24, 25), "failed"),
        call(Wish::Retry, Some(4), (26, 27), Answer::Done(4)),
        call(Wish::Retry, Some(4), (28, 29), Answer::Refused("wrong_state".into())),
        look(4, (30, 31), "succeeded"),
        call(array, None, (32, 33), Answer::Done(5)),
        submit("command", (34, 35), Answer::Done(8)),
        submit("unheard", (36, u64::MAX), Answer::Nothing),
    ];
    let arrays = [(5, "array".to_owned())].into();
    let marks = vec![Mark::Begin(8, 1), Mark::Begin(8, 2), Mark::End(8, 2)];
    Account { calls, records, arrays, marks, ..Account::default() }
}

fn record_of(account: &mut Account, id: u64) -> &mut Record {
    account.records.iter_mut().find(|record| record.id == id).unwrap()
}

/// Has a job's history be another.
fn rewrite(account: &mut Account, id: u64, words: &str) {
    let name = record_of(account, id).name.clone();
    *record_of(account, id) = record(id, &name, words);
}

/// Puts something in disorder.
type Harm = fn(&mut Account);

/// What was promised, and how it is broken.
const HARMS: &[(&str, &str, Harm)] = &[
    ("an acknowledged job is gone", "lost: waited", |it| it.records.retain(|record| record.id != 2)),
    ("a job that was looked at is gone", "lost: Look", |it| {
        it.calls.push(look(11, (50, 51), "queued"));
    }),
    ("an acknowledged job is another's", "lost: waited", |it| "other".clone_into(&mut record_of(it, 2).name)),
    ("a job is there twice", "doubled: 12", |it| {
        it.records.push(record(12, "killed", "submitted claimed:1 succeeded:1"));
    }),
    ("a key names two jobs", "key killed was answered", |it| {
        it.records.push(record(12, "killed", "submitted cancelled"));
        it.calls.push(submit("killed", (50, 51), Answer::Done(12)));
    }),
    ("a job comes from nowhere", "nobody submitted 12", |it| {
        it.records.push(record(12, "ghost", "submitted cancelled"));
    }),
    ("an array lost a member", "array 5 has 1 members of 2", |it| it.records.retain(|record| record.id != 7)),
    ("a cancelled job succeeds", "cannot be", |it| rewrite(it, 2, "submitted cancelled claimed:1 succeeded:1")),
    ("a cancel is forgotten", "answered Done(2)", |it| rewrite(it, 2, "submitted claimed:1 succeeded:1")),
    ("a job told to end is tried again", "cannot be", |it| {
        rewrite(it, 3, "submitted claimed:1 intended:cancel requeued:1 claimed:2 succeeded:2");
    }),
    ("a job is cancelled though nobody wanted it", "somebody asked", |it| rewrite(it, 8, "submitted cancelled")),
    ("a job is retried though nobody wanted it", "somebody asked", |it| {
        rewrite(it, 9, "submitted claimed:1 failed:1 retried claimed:2 succeeded:2");
    }),
    ("a retry is forgotten", "answered Done(4)", |it| {
        rewrite(it, 4, "submitted claimed:1 failed:1");
        it.calls.retain(|call| call.job != Some(4) || call.wish == Wish::Retry);
    }),
    ("a success is there twice", "cannot be", |it| rewrite(it, 1, "submitted claimed:1 succeeded:1 succeeded:1")),
    ("a success is undone", "cannot be", |it| rewrite(it, 1, "submitted claimed:1 succeeded:1 requeued:1")),
    ("two attempts are on record at once", "cannot be", |it| {
        rewrite(it, 1, "submitted claimed:1 claimed:2 succeeded:2");
    }),
    ("a stale attempt has the last word", "cannot be", |it| {
        rewrite(it, 1, "submitted claimed:1 requeued:1 claimed:2 succeeded:1");
    }),
    ("an attempt's number comes twice", "cannot be", |it| {
        rewrite(it, 1, "submitted claimed:1 requeued:1 claimed:1 succeeded:1");
    }),
    ("two attempts are at work at once", "two at once", |it| it.marks.push(Mark::Double(8, 2))),
    ("work that is on no record", "not on record", |it| it.marks.push(Mark::Begin(8, 3))),
    ("work of a job that is not there", "not on record", |it| it.marks.push(Mark::Begin(99, 1))),
    ("a result is delivered twice", "twice", |it| it.marks.push(Mark::End(8, 2))),
    ("a success without its work", "was not done", |it| it.marks.retain(|mark| !matches!(mark, Mark::End(..)))),
    ("an answer from the past", "at no moment", |it| it.calls.push(look(1, (50, 51), "running"))),
    ("an answer from the future", "at no moment", |it| {
        it.calls.push(look(4, (25, 25), "succeeded"));
        it.calls.push(look(4, (26, 26), "failed"));
    }),
    ("a job is not found though it is there", "at no moment", |it| {
        it.calls.push(call(Wish::Look, Some(1), (50, 51), Answer::Refused("not_found".into())));
    }),
    ("a refusal without a reason", "at no moment", |it| {
        it.calls.push(call(Wish::Cancel, Some(1), (5, 6), Answer::Refused("wrong_state".into())));
        it.calls.push(look(1, (7, 8), "running"));
    }),
    ("an error inside", "internal", |it| it.calls.push(submit("killed", (50, 51), Answer::Refused("internal".into())))),
    ("a job that never ends", "has not ended", |it| {
        rewrite(it, 10, "submitted claimed:1 requeued:1");
        "queued".clone_into(&mut record_of(it, 10).state);
    }),
    ("a row that its events deny", "by its events", |it| "failed".clone_into(&mut record_of(it, 1).state)),
    ("a tick that fires twice", "another of the tick", |it| {
        let again = Record { id: 12, ..record_of(it, 9).clone() };
        it.records.push(again);
    }),
    ("a process is left", "orphan", |it| it.orphans.push("4711 of job 1".into())),
    ("a bit is wrong", "the database's check", |it| it.problems.push("event 7 has another hash".into())),
];

#[test]
fn a_sound_account_is_found_sound() {
    assert_eq!(verdict(&sound()), Vec::<String>::new());
}

#[test]
fn every_harm_is_found() {
    for (what, words, harm) in HARMS {
        let mut account = sound();
        harm(&mut account);
        let found = verdict(&account);
        assert!(found.iter().any(|line| line.contains(words)), "{what}: {words:?} is not in {found:#?}");
    }
}
