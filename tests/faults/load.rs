//! A mixed load, and what its clients were told: submits under keys, some sent again, cancels, retries, looks, arrays, commands. Each client goes on whatever happens to the daemon, and
//! writes down when it asked what and when it was told what.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    chance::Chance,
    history::{Account, Answer, Call, Happened, Mark, Record, Wish},
    support::{
        Daemon,
        http::{self, Client},
        processes,
        specs::fake,
    },
};

/// What was asked and told so far.
#[derive(Debug, Default)]
pub struct Recorder {
    clock: AtomicU64,
    calls: Mutex<Vec<Call>>,
    cuts: Mutex<Vec<(u64, u64)>>,
    /// New jobs that may be submitted still.
    room: AtomicU64,
}

impl Recorder {
    /// The next moment of the one clock.
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Lets clients submit so many more new jobs, so that a slow machine has no more of them than a fast one.
    pub fn allow(&self, jobs: u64) {
        self.room.fetch_add(jobs, Ordering::SeqCst);
    }

    fn takes(&self) -> bool {
        self.room.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| room.checked_sub(1)).is_ok()
    }

    /// Asks, and writes down what was said. Where nobody listens, nothing was asked.
    pub fn ask(&self, client: &Client, wish: Wish, job: Option<u64>, body: &Value) -> Answer {
        let (method, path) = route(&wish, job);
        let begun = self.tick();
        let answer = match client.send(method, &path, &body.to_string()) {
            Ok(answer) => read(&wish, &answer),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {
                std::thread::sleep(Duration::from_millis(10));
                return Answer::Nothing;
            }
            Err(_) => Answer::Nothing,
        };
        let ended = if answer == Answer::Nothing { u64::MAX } else { self.tick() };
        self.calls.lock().unwrap().push(Call { wish, job, begun, ended, answer: answer.clone() });
        answer
    }

    /// The power went at some moment between these two. An answer that was not there at the first is not owed, and one of a dying daemon is worth nothing.
    pub fn cut<T>(&self, cut: impl FnOnce() -> T) -> T {
        let before = self.tick();
        let done = cut();
        self.cuts.lock().unwrap().push((before, self.tick()));
        done
    }

    /// All of it.
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = self.calls.lock().unwrap().clone();
        for (before, after) in self.cuts.lock().unwrap().iter() {
            for call in calls.iter_mut().filter(|call| call.begun < *after && call.ended > *before) {
                (call.answer, call.ended) = (Answer::Nothing, u64::MAX);
            }
        }
        calls
    }
}

fn read(wish: &Wish, answer: &http::Answer) -> Answer {
    match (answer.status, wish) {
        (200..300, Wish::Look) => Answer::State(answer.body["state"].as_str().unwrap_or_default().to_owned()),
        (200..300, _) => number(&answer.body["id"]).map_or(Answer::Nothing, Answer::Done),
        // It was about to end: whether it was done, nobody knows.
        (503, _) => Answer::Nothing,
        _ => Answer::Refused(answer.body["error"]["code"].as_str().unwrap_or(&answer.text).to_owned()),
    }
}

fn route(wish: &Wish, job: Option<u64>) -> (&'static str, String) {
    let job = job.unwrap_or_default();
    match wish {
        Wish::Submit { members: None, .. } => ("POST", "/v1/jobs".into()),
        Wish::Submit { .. } => ("POST", "/v1/arrays".into()),
        Wish::Cancel => ("POST", format!("/v1/jobs/{job}/cancel")),
        Wish::Retry => ("POST", format!("/v1/jobs/{job}/retry")),
        Wish::Look => ("GET", format!("/v1/jobs/{job}")),
    }
}

/// A job's id.
pub fn number(id: &Value) -> Option<u64> {
    id.as_u64().or_else(|| id.as_str()?.parse().ok())
}

/// A client.
pub struct Submitter<'a> {
    pub client: Client,
    pub recorder: &'a Recorder,
    /// Where commands leave their marks.
    pub marks: &'a Path,
    pub chance: Chance,
    pub name: String,
    sent: Vec<(Wish, Value)>,
    mine: Vec<u64>,
}

impl<'a> Submitter<'a> {
    pub fn new(client: Client, recorder: &'a Recorder, marks: &'a Path, (name, chance): (String, Chance)) -> Self {
        Self { client, recorder, marks, chance, name, sent: Vec::new(), mine: Vec::new() }
    }

    /// Does one thing after another until it is told to stop, with pauses up to so long.
    pub fn run(mut self, stop: &AtomicBool, most_ms: u64) {
        while !stop.load(Ordering::SeqCst) {
            self.act();
            std::thread::sleep(Duration::from_millis(self.chance.below(most_ms)));
        }
    }

    fn act(&mut self) {
        let mine = if self.mine.is_empty() { None } else { Some(self.chance.pick(&self.mine)) };
        match (self.chance.below(10), mine) {
            (0, Some(job)) => drop(self.recorder.ask(&self.client, Wish::Cancel, Some(job), &json!({}))),
            (1, Some(job)) => drop(self.recorder.ask(&self.client, Wish::Retry, Some(job), &json!({}))),
            (2..6, Some(job)) => drop(self.recorder.ask(&self.client, Wish::Look, Some(job), &Value::Null)),
            (6, _) if !self.sent.is_empty() => {
                let again = usize::try_from(self.chance.below(self.sent.len() as u64)).unwrap();
                let (wish, body) = self.sent[again].clone();
                self.submit(wish, &body);
            }
            _ if self.recorder.takes() => self.submit_new(),
            _ => {}
        }
    }

    fn submit_new(&mut self) {
        let name = format!("{}-{}", self.name, self.sent.len());
        let (wish, body) = job(&name, self.marks, &mut self.chance);
        self.sent.push((wish.clone(), body.clone()));
        self.submit(wish, &body);
    }

    /// Sends it again after silence, mostly: some clients give up, and never learn what became of it.
    fn submit(&mut self, wish: Wish, body: &Value) {
        for _ in 0..2000 {
            match self.recorder.ask(&self.client, wish.clone(), None, body) {
                Answer::Done(id) => {
                    // An array's own id is no job's.
                    self.mine.extend((!matches!(wish, Wish::Submit { members: Some(_), .. })).then_some(id));
                    return;
                }
                Answer::Nothing if !self.chance.once_in(100) => {}
                _ => return,
            }
        }
    }
}

/// A line of a command that tells when two attempts are at work at once: the lock is the kernel's, and goes with the last process of the attempt.
const COMMAND: &str = r#"exec 9>>"$1/$ML_JOB_ID.lock"
flock -n -E 75 9
[ $? = 75 ] && echo "double $ML_JOB_ID $ML_ATTEMPT" >> "$1/marks"
echo "begin $ML_JOB_ID $ML_ATTEMPT" >> "$1/marks"
sleep "$2"
echo "end $ML_JOB_ID $ML_ATTEMPT" >> "$1/marks""#;

/// A command that leaves its marks and takes so many seconds.
pub fn command(name: &str, marks: &Path, seconds: &str) -> Value {
    let argv = json!(["sh", "-c", COMMAND, "sh", marks, seconds]);
    patient(json!({"version": 1, "name": name, "command": {"argv": argv, "cwd": "/"}}))
}

/// Tried again however often it is killed.
pub fn patient(mut spec: Value) -> Value {
    spec["retry"] = json!({"limit": 100, "infrastructure_limit": 100, "backoff_seconds": 1, "max_backoff_seconds": 1});
    spec
}

/// Some job of this name, short enough for many a second.
fn job(name: &str, marks: &Path, chance: &mut Chance) -> (Wish, Value) {
    let key = name.to_owned();
    let wish = |members| Wish::Submit { key: key.clone(), members };
    let body = |spec: Value| json!({"spec": spec, "key": key});
    match chance.below(8) {
        0 => {
            let mut body = body(patient(fake(name, "steps:3:2")));
            body["sweep"] = json!({"axes": [{"key": "train.seed", "values": [1, 2, 3]}]});
            (wish(Some(3)), body)
        }
        1 => (wish(None), body(patient(fake(name, "fail-attempts:1; steps:6:2")))),
        2 => {
            let mut spec = fake(name, "steps:4:2; exit:3");
            spec["retry"] = json!({"limit": 1, "backoff_seconds": 1, "max_backoff_seconds": 1});
            (wish(None), body(spec))
        }
        3..6 => {
            let seconds = format!("0.{:02}", chance.below(30));
            (wish(None), body(command(name, marks, &seconds)))
        }
        6 => (wish(None), body(patient(fake(name, "spawn-child; steps:20:5")))),
        _ => (wish(None), body(patient(fake(name, "steps:8:3")))),
    }
}

/// What commands have marked so far.
pub fn marks(folder: &Path) -> Vec<Mark> {
    let text = std::fs::read_to_string(folder.join("marks")).unwrap_or_default();
    let mark = |line: &str| {
        let mut words = line.split(' ');
        let kind = words.next()?;
        let (job, attempt) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(match kind {
            "begin" => Mark::Begin(job, attempt),
            "end" => Mark::End(job, attempt),
            _ => Mark::Double(job, attempt),
        })
    };
    text.lines().map(|line| mark(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
}

const ALL: &str = "state=blocked,held,queued,running,succeeded,failed,cancelled&limit=10000";

/// A queue in which nothing happens for so long does not drain. A machine under load is slow, but not that slow.
const STANDSTILL: Duration = Duration::from_secs(60);

/// Lets the queue drain: no faults any more, and who was quarantined for those there were is released. Fails when nothing goes on.
pub fn drain(daemon: &Daemon) {
    let (mut before, mut since) = (None, Instant::now());
    loop {
        let list = daemon.client.get("/v1/jobs?state=blocked,held,queued,running&members=true&limit=10000").ok();
        let jobs = list["jobs"].as_array().unwrap();
        for job in jobs.iter().filter(|job| job["state"] == "held") {
            let _ = daemon.client.post(&format!("/v1/jobs/{}/release", job["id"].as_str().unwrap()), &json!({}));
        }
        if jobs.is_empty() {
            return;
        }
        let now: Vec<_> = jobs.iter().map(|job| (job["id"].clone(), job["attempt"].clone())).collect();
        if before.as_ref() != Some(&now) {
            (before, since) = (Some(now), Instant::now());
        }
        let shown: Vec<_> = jobs.iter().map(|job| [&job["id"], &job["state"], &job["reason"]]).collect();
        assert!(since.elapsed() < STANDSTILL, "the queue does not drain: {shown:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Everything that is known, once the queue has drained.
pub fn account(daemon: &Daemon, recorder: &Recorder, folder: &Path) -> Account {
    let list = daemon.client.get(&format!("/v1/jobs?members=true&{ALL}")).ok();
    let jobs = list["jobs"].as_array().unwrap();
    assert!(jobs.len() < 10_000, "too many jobs for one list");
    let records = jobs.iter().map(|job| record(daemon, job)).collect();
    let list = daemon.client.get(&format!("/v1/jobs?{ALL}")).ok();
    let arrays = list["arrays"].as_array().into_iter().flatten();
    let arrays: BTreeMap<u64, String> =
        arrays.map(|array| (number(&array["id"]).unwrap(), array["name"].as_str().unwrap().to_owned())).collect();
    let check = daemon.client.post("/v1/db/check", &json!({})).ok();
    let problems = check["problems"].as_array().unwrap().iter().map(ToString::to_string).collect();
    Account { calls: recorder.calls(), records, arrays, marks: marks(folder), orphans: orphans(daemon), problems }
}

fn record(daemon: &Daemon, job: &Value) -> Record {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let id = job["id"].as_str().unwrap();
    let labels = &job["labels"];
    let tick = labels["mlctl/schedule"].as_str().map(|name| format!("{name} {}", labels["mlctl/scheduled-at"]));
    Record {
        id: id.parse().unwrap(),
        name: text(&job["name"]),
        kind: text(&job["kind"]),
        array: number(&job["array"]["id"]),
        tick,
        state: text(&job["state"]),
        events: daemon.events(id).iter().map(happened).collect(),
    }
}

fn happened(event: &Value) -> Happened {
    let name = event["event"].as_str().unwrap().to_owned();
    let cancels = name == "cancelled" && event["exit"].is_null();
    let intent = event["intent"].as_str().map(str::to_owned).or_else(|| cancels.then(|| "cancel".to_owned()));
    Happened { attempt: event["attempt"].as_u64(), event: name, intent }
}

/// Processes of attempts, when none should be left; a short while is theirs to go.
fn orphans(daemon: &Daemon) -> Vec<String> {
    let left = || {
        let mut left = processes::of_attempts(&daemon.state_dir);
        left.retain(|process| process.job != processes::AHEAD);
        left
    };
    for _ in 0..100 {
        if left().is_empty() && processes::zombies_of(daemon.pid()).is_empty() {
            return Vec::new();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let zombies = processes::zombies_of(daemon.pid()).into_iter().map(|pid| format!("{pid}, not reaped"));
    left().into_iter().map(|process| format!("{} of job {}", process.pid, process.job)).chain(zombies).collect()
}

/// A folder for the marks of commands, beside what may be lost.
pub fn folder(daemon: &Daemon) -> PathBuf {
    let folder = daemon.folder().join("marks");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
