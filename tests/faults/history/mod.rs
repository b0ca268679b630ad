//! What clients of a daemon were told, held against what the daemon has on record: an account in, everything that is wrong with it out. Pure, and on its own: it knows the states of a job
//! from the documentation, not from the code that it judges. Called by every storm here; `controls` shows that it finds each kind of loss.
//!
//! Per job the record is an order of events. Each call has a beginning and an end on one clock. The calls are linearizable when each can be given a place between two events at which its
//! answer is true, so that whoever ended before another began has no later place. As the order of the events is fixed, the earliest place that fits is always the best one: no search.

#[cfg(test)]
mod controls;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use self::walk::{Stands, walk};

/// What a client wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// A job, or an array of so many, under a key that is its name as well.
    Submit { key: String, members: Option<u32> },
    /// A job's end.
    Cancel,
    /// A finished job once more.
    Retry,
    /// Where a job stands.
    Look,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done: of a submit, by this job or array.
    Done(u64),
    /// It stands there.
    State(String),
    /// It is not done, and why, as a code.
    Refused(String),
    /// No whole answer came: it was done or not.
    Nothing,
}

/// One call. Of one job, a single client at a time asks for retries.
#[derive(Debug, Clone)]
pub struct Call {
    pub wish: Wish,
    /// Of which job; none for a submit.
    pub job: Option<u64>,
    /// When it was sent.
    pub begun: u64,
    /// When the answer was there; never, where none came.
    pub ended: u64,
    pub answer: Answer,
}

/// An event on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    pub event: String,
    /// The attempt that it names.
    pub attempt: Option<u64>,
    /// What a person asked for: `cancel` also of a job that waited.
    pub intent: Option<String>,
}

/// A job on record.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: u64,
    pub name: String,
    pub kind: String,
    /// The array that it is a member of.
    pub array: Option<u64>,
    /// The schedule's tick that submitted it.
    pub tick: Option<String>,
    pub state: String,
    pub events: Vec<Happened>,
}

/// What the work of a job says of itself, without the daemon.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// An attempt began.
    Begin(u64, u64),
    /// An attempt did all that there was to do.
    End(u64, u64),
    /// An attempt found another of its job at work.
    Double(u64, u64),
}

/// All that is known once the load is gone and the queue has drained.
#[derive(Debug, Clone, Default)]
pub struct Account {
    pub calls: Vec<Call>,
    pub records: Vec<Record>,
    /// Arrays by id, with their names.
    pub arrays: BTreeMap<u64, String>,
    pub marks: Vec<Mark>,
    /// Processes that no running job has.
    pub orphans: Vec<String>,
    /// What the daemon's own check of events, rows and seals found.
    pub problems: Vec<String>,
}

/// Everything that is wrong, a line each.
pub fn verdict(account: &Account) -> Vec<String> {
    let mut wrong = submits(account);
    for record in &account.records {
        wrong.extend(job(account, record));
    }
    wrong.extend(unknown(account));
    wrong.extend(work(account));
    wrong.extend(ticks(account));
    wrong.extend(account.orphans.iter().map(|orphan| format!("orphan: {orphan}")));
    wrong.extend(account.problems.iter().map(|problem| format!("the database's check: {problem}")));
    wrong
}

/// What was acknowledged is there, once, and by the name under which it was submitted; nothing else is there.
fn submits(account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ids: BTreeMap<&str, u64> = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    for call in &account.calls {
        let Wish::Submit { key, members } = &call.wish else { continue };
        wanted.insert(key.as_str());
        let Answer::Done(id) = call.answer else { continue };
        let first = *ids.entry(key).or_insert(id);
        if first != id {
            wrong.push(format!("key {key} was answered with job {first} and with job {id}"));
        }
        let there = match members {
            None => account.records.iter().any(|record| record.id == id && record.name == *key),
            Some(_) => account.arrays.get(&id) == Some(key),
        };
        if !there {
            wrong.push(format!("lost: {key} was acknowledged as {id}, which is not there"));
        }
        if let Some(members) = members {
            let found = account.records.iter().filter(|record| record.array == Some(id)).count();
            if found != *members as usize {
                wrong.push(format!("array {id} has {found} members of {members}"));
            }
        }
    }
    let mut names = BTreeSet::new();
    let jobs = account.records.iter().filter(|record| record.array.is_none() && record.tick.is_none());
    let jobs = jobs.map(|record| (record.id, record.name.as_str()));
    for (id, name) in jobs.chain(account.arrays.iter().map(|(id, name)| (*id, name.as_str()))) {
        if !names.insert(name) {
            wrong.push(format!("doubled: {id} is another {name}"));
        }
        if !wanted.contains(name) {
            wrong.push(format!("nobody submitted {id}, {name}"));
        }
    }
    wrong
}

/// A job's events follow each other as they may, end at the state that it is in, which is an end, and agree with what clients were told.
fn job(account: &Account, record: &Record) -> Vec<String> {
    let id = record.id;
    let stands = match walk(&record.events) {
        Ok(stands) => stands,
        Err(error) => return vec![format!("job {id}: {error}")],
    };
    let mut wrong = Vec::new();
    let last = stands.last().map_or("absent", Stands::name);
    if last != record.state {
        wrong.push(format!("job {id} is {}, and by its events {last}", record.state));
    }
    if !matches!(stands.last(), Some(Stands::Ended(_))) {
        wrong.push(format!("job {id} has not ended: {last}"));
    }
    let mut calls: Vec<&Call> = account.calls.iter().filter(|call| is_about(call, record)).collect();
    calls.sort_by_key(|call| call.begun);
    wrong.extend(unasked(&calls, record));
    wrong.extend(places(&calls, record, &stands));
    wrong
}

fn is_about(call: &Call, record: &Record) -> bool {
    match &call.wish {
        Wish::Submit { members: None, .. } => call.answer == Answer::Done(record.id),
        Wish::Submit { .. } => false,
        _ => call.job == Some(record.id),
    }
}

/// Nobody's wish is on record more often than it was uttered.
fn unasked(calls: &[&Call], record: &Record) -> Vec<String> {
    let uttered = |wish: &Wish| calls.iter().filter(|call| call.wish == *wish).count();
    let on_record = |is: &dyn Fn(&Happened) -> bool| record.events.iter().filter(|event| is(event)).count();
    let of = [
        ("cancelled", uttered(&Wish::Cancel), on_record(&is_cancel)),
        ("retried", uttered(&Wish::Retry), on_record(&|event| event.event == "retried")),
    ];
    let of = of.into_iter().filter(|(_, uttered, on_record)| on_record > uttered);
    of.map(|(what, uttered, on_record)| {
        format!("job {} was {what} {on_record} times, and {uttered} times somebody asked for it", record.id)
    })
    .collect()
}

/// A person's cancel, of a job that waits or of one that runs.
fn is_cancel(event: &Happened) -> bool {
    event.intent.as_deref() == Some("cancel")
}

/// Gives each call the earliest place that fits, and says for which there is none.
fn places(calls: &[&Call], record: &Record, stands: &[Stands]) -> Vec<String> {
    let (mut placed, mut taken, mut wrong) = (Vec::<(u64, usize)>::new(), BTreeSet::new(), Vec::new());
    for call in calls {
        if call.answer == Answer::Nothing {
            continue;
        }
        let earlier = placed.iter().filter(|(ended, _)| *ended < call.begun).map(|(_, place)| *place);
        let from = earlier.max().unwrap_or(0);
        let place = (from..stands.len()).find(|place| fits(call, record, stands, (*place, &taken)));
        let Some(place) = place else {
            wrong.push(format!(
                "job {}: {:?} was answered {:?}, which was true at no moment of {}..{} after place {from} of {}",
                record.id,
                call.wish,
                call.answer,
                call.begun,
                call.ended,
                shown(&record.events),
            ));
            continue;
        };
        if call.wish == Wish::Retry {
            taken.insert(place);
        }
        placed.push((call.ended, place));
    }
    wrong
}

fn shown(events: &[Happened]) -> String {
    let names: Vec<_> = events.iter().map(|event| event.event.as_str()).collect();
    names.join(" ")
}

/// Whether an answer is true after so many events, of which some have their caller.
fn fits(call: &Call, record: &Record, stands: &[Stands], (place, taken): (usize, &BTreeSet<usize>)) -> bool {
    let stands = &stands[place];
    let last = place.checked_sub(1).map(|last| &record.events[last]);
    match (&call.wish, &call.answer) {
        (Wish::Submit { .. }, Answer::Done(_)) => place > 0,
        // Whoever cancels a job that was asked to end is told the same as who came first.
        (Wish::Cancel, Answer::Done(_)) => {
            last.is_some_and(is_cancel) || matches!(stands, Stands::Runs { leaves: true, .. })
        }
        (Wish::Retry, Answer::Done(_)) => last.is_some_and(|last| last.event == "retried") && !taken.contains(&place),
        (Wish::Look, Answer::State(state)) => stands.name() == state,
        (Wish::Cancel, Answer::Refused(code)) if code == "wrong_state" => matches!(stands, Stands::Ended(_)),
        (Wish::Retry, Answer::Refused(code)) if code == "wrong_state" => {
            !matches!(stands, Stands::Ended("failed" | "cancelled"))
        }
        (_, Answer::Refused(code)) if code == "not_found" => place == 0,
        _ => false,
    }
}

/// What clients were told of jobs that are not there.
fn unknown(account: &Account) -> Vec<String> {
    let known: BTreeSet<u64> = account.records.iter().map(|record| record.id).collect();
    let about = account.calls.iter().filter(|call| call.job.is_some_and(|job| !known.contains(&job)));
    let told = about.filter(|call| matches!(call.answer, Answer::Done(_) | Answer::State(_)));
    let told = told.map(|call| format!("lost: {:?} of job {:?} was answered {:?}", call.wish, call.job, call.answer));
    let odd = account.calls.iter().filter(
        |call| matches!(&call.answer, Answer::Refused(code) if !matches!(code.as_str(), "wrong_state" | "not_found")),
    );
    told.chain(odd.map(|call| format!("{:?} was answered {:?}", call.wish, call.answer))).collect()
}

/// No two attempts at once, none that is not on record, and no success of work that was not done.
fn work(account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let jobs: BTreeMap<u64, &Record> = account.records.iter().map(|record| (record.id, record)).collect();
    for mark in &account.marks {
        if !seen.insert(mark) {
            wrong.push(format!("twice: {mark:?}"));
        }
        let (Mark::Begin(job, attempt) | Mark::End(job, attempt) | Mark::Double(job, attempt)) = *mark;
        if let Mark::Double(..) = mark {
            wrong.push(format!("two at once: attempt {attempt} of job {job} found another at work"));
        }
        let claimed = |record: &&Record| {
            let mut claims = record.events.iter().filter(|event| event.event == "claimed");
            claims.any(|event| event.attempt == Some(attempt))
        };
        if jobs.get(&job).filter(|record| claimed(record)).is_none() {
            wrong.push(format!("attempt {attempt} of job {job} was at work, and is not on record"));
        }
    }
    for record in account.records.iter().filter(|record| record.kind == "command") {
        for event in record.events.iter().filter(|event| event.event == "succeeded") {
            let attempt = event.attempt.unwrap_or_default();
            if !seen.contains(&Mark::End(record.id, attempt)) {
                wrong.push(format!("job {} succeeded in attempt {attempt}, whose work was not done", record.id));
            }
        }
    }
    wrong
}

/// A tick submits one job.
fn ticks(account: &Account) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let ticks = account.records.iter().filter_map(|record| Some((record.id, record.tick.as_deref()?)));
    let doubled = ticks.filter(|(_, tick)| !seen.insert(*tick));
    doubled.map(|(id, tick)| format!("job {id} is another of the tick {tick}")).collect()
}
