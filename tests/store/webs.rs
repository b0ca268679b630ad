//! Random webs of jobs and arrays that wait for one another, worked off by a process that is killed again and again: in the end each stands where a small model of the rules says, whenever that
//! was. What is submitted and how each ends follows from a seed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mlctl::{
    domain::{self, JobState},
    store::{ListFilter, NewArray, Store},
};
use mlctl_protocol::{
    ExitClass, JobId,
    spec::{After, AfterFailed, Need},
};

use crate::{
    arrays::array,
    chance::{Chance, cases, number, variable},
    rig::{Hand, Rig, USER, entropy, new_job},
};

const DATABASE: &str = "MLCTL_TEST_DATABASE";
const SEED: &str = "MLCTL_TEST_WEB_SEED";

/// Jobs and arrays of a web.
const NODES: usize = 36;

/// Members of the one large array: more than one transaction settles.
const LARGE: usize = 700;

/// What a dependency is on: a node, or of an array one member.
#[derive(Debug, Clone, Copy)]
struct On {
    node: usize,
    member: Option<usize>,
}

/// A job, or an array of several.
#[derive(Debug)]
struct Node {
    /// The id of the job or the array.
    id: u64,
    is_array: bool,
    /// How each of its jobs ends when it runs.
    ends: Vec<ExitClass>,
    on: Vec<(Need, On)>,
    keep: bool,
}

impl Node {
    /// The id of one of its jobs.
    fn job(&self, index: usize) -> JobId {
        JobId(self.id + index as u64 + u64::from(self.is_array))
    }
}

fn web(seed: u64) -> Vec<Node> {
    let mut chance = Chance(seed);
    let large = 1 + usize::try_from(chance.below(NODES as u64 - 1)).unwrap();
    let mut nodes: Vec<Node> = Vec::new();
    let mut next = 1;
    for at in 0..NODES {
        let is_array = at == large || chance.once_in(3);
        let size = match is_array {
            true if at == large => LARGE,
            true => 1 + usize::try_from(chance.below(5)).unwrap(),
            false => 1,
        };
        // Of a member of ten thousand there is always one that fails.
        let badly = if size > 10 { 2000 } else { 5 };
        let end = |chance: &mut Chance| match chance.below(badly) {
            0 => ExitClass::Spec,
            1 => ExitClass::Cancelled,
            _ => ExitClass::Ok,
        };
        let ends = (0..size).map(|_| end(&mut chance)).collect();
        let links = if at == large { 1 } else { chance.below(4).min(at as u64) };
        let on: BTreeMap<usize, (Need, On)> = (0..links)
            .map(|_| {
                let node = usize::try_from(chance.below(at as u64)).unwrap();
                let need = chance.pick(&[Need::Ok, Need::Ok, Need::Any, Need::NotOk]);
                let many = nodes[node].ends.len() as u64;
                let member = nodes[node].is_array && chance.once_in(3);
                (node, (need, On { node, member: member.then(|| usize::try_from(chance.below(many)).unwrap()) }))
            })
            .collect();
        nodes.push(Node { id: next, is_array, ends, on: on.into_values().collect(), keep: chance.once_in(4) });
        next += size as u64 + u64::from(is_array);
    }
    nodes
}

/// Where something stands in the end, as far as others care.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Well,
    Badly,
    /// It never ends; of an array, perhaps some of it already badly.
    Never {
        spoilt: bool,
    },
}

/// The states of each node's jobs in the end: the model.
fn expected(nodes: &[Node]) -> Vec<Vec<&'static str>> {
    let mut all: Vec<Vec<&'static str>> = Vec::new();
    for node in nodes {
        let (mut waits, mut hopeless) = (false, false);
        for (need, on) in &node.on {
            let end = match on.member {
                Some(member) => end_of(&all[on.node][member..=member]),
                None => end_of(&all[on.node]),
            };
            match (need, end) {
                (Need::Any, End::Well | End::Badly) | (Need::Ok, End::Well) | (Need::NotOk, End::Badly) => {}
                (Need::Ok, End::Badly | End::Never { spoilt: true }) | (Need::NotOk, End::Well) => hopeless = true,
                (_, End::Never { .. }) => waits = true,
            }
        }
        let state = |class: &ExitClass| match (hopeless, waits, class) {
            (true, ..) if node.keep => "held",
            (true, ..) => "cancelled",
            (_, true, _) => "blocked",
            (.., ExitClass::Ok) => "succeeded",
            (.., ExitClass::Cancelled) => "cancelled",
            _ => "failed",
        };
        all.push(node.ends.iter().map(state).collect());
    }
    all
}

fn end_of(states: &[&str]) -> End {
    let spoilt = states.iter().any(|state| ["failed", "cancelled"].contains(state));
    match (states.iter().any(|state| ["held", "blocked"].contains(state)), spoilt) {
        (true, spoilt) => End::Never { spoilt },
        (false, true) => End::Badly,
        (false, false) => End::Well,
    }
}

fn awaited(nodes: &[Node], node: &Node) -> (Vec<After>, AfterFailed) {
    let id = |on: &On| match on.member {
        Some(member) => nodes[on.node].job(member),
        None => JobId(nodes[on.node].id),
    };
    let after = node.on.iter().map(|(need, on)| After { need: *need, job: id(on).to_string() }).collect();
    (after, if node.keep { AfterFailed::Keep } else { AfterFailed::Cancel })
}

/// Submits a node, or does so once more.
async fn submit(rig: &Rig, nodes: &[Node], at: usize) {
    let node = &nodes[at];
    let (after, then) = awaited(nodes, node);
    let key = format!("node-{at}");
    let id = if node.is_array {
        let mut new: NewArray = array(&key, u32::try_from(node.ends.len()).unwrap(), &key);
        for (spec, _) in &mut new.members {
            (spec.after, spec.after_failed) = (after.clone(), then);
        }
        rig.store.submit_array(new).await.unwrap().id
    } else {
        let mut new = new_job(&key, &key);
        (new.spec.after, new.spec.after_failed) = (after, then);
        rig.store.submit(new).await.unwrap().id
    };
    assert_eq!(id, JobId(node.id), "node {at}");
}

/// Works a web off, from wherever the one before it came to.
#[tokio::test]
#[ignore = "run by the test below, in a process that is killed"]
async fn child() {
    let path = PathBuf::from(variable(DATABASE).unwrap());
    let seed = number(SEED).unwrap();
    let (nodes, mut chance) = (web(seed), Chance(u64::from(std::process::id())));
    // Of every other web nothing ends before all of it is there.
    let at_once = seed.is_multiple_of(2);
    let ends: BTreeMap<JobId, ExitClass> = nodes
        .iter()
        .flat_map(|node| node.ends.iter().enumerate().map(|(index, class)| (node.job(index), *class)))
        .collect();
    let rig = Rig::around(Store::open(&path, Hand::new(), entropy).await.unwrap());
    let (mut submitted, mut last, mut quiet) = (0, 0, 0);
    while quiet < 40 {
        if submitted < nodes.len() && !chance.once_in(3) {
            submit(&rig, &nodes, submitted).await;
            submitted += 1;
        }
        if at_once && submitted < nodes.len() {
            continue;
        }
        for (job, attempt) in rig.store.running().await.unwrap() {
            rig.end(attempt.fence, ends[&job.id]).await;
        }
        let ready = rig.store.ready(rig.now(), 100).await.unwrap();
        let some = ready.iter().take(1 + usize::try_from(chance.below(20)).unwrap());
        let work = some.map(|job| async {
            if ends[&job.id] == ExitClass::Cancelled {
                drop(rig.store.command(job.id, None, domain::Command::Cancel { by: USER }).await);
            } else {
                rig.claim(job.id).await;
            }
        });
        futures_util::future::join_all(work).await;
        let newest = *rig.store.changes().borrow();
        if submitted < nodes.len() || !ready.is_empty() || newest != last {
            (last, quiet) = (newest, 0);
            continue;
        }
        quiet += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.store.close().await;
}

fn start(database: &Path, seed: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "webs::child", "--ignored", "--nocapture"]);
    command.env(DATABASE, database).env(SEED, seed.to_string());
    command.stdout(Stdio::null()).stderr(Stdio::inherit()).stdin(Stdio::null());
    command.spawn().unwrap()
}

/// Where all jobs stand.
async fn states(store: &Store) -> BTreeMap<JobId, &'static str> {
    let all = JobState::names().map(str::to_owned).collect();
    let filter = ListFilter { states: all, limit: u32::MAX, members: true, ..ListFilter::default() };
    let jobs = store.list(filter).await.unwrap().jobs;
    jobs.into_iter().map(|detail| (detail.job.id, detail.job.state.name())).collect()
}

async fn compare(database: &Path, nodes: &[Node]) {
    let store = Store::open(database, Hand::new(), entropy).await.unwrap();
    let expected = expected(nodes);
    let wanted: BTreeMap<JobId, &str> = nodes
        .iter()
        .zip(&expected)
        .flat_map(|(node, states)| states.iter().enumerate().map(|(index, state)| (node.job(index), *state)))
        .collect();
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let found = states(&store).await;
        if found == wanted {
            break;
        }
        // What is left of a settling goes on by itself.
        if Instant::now() > end {
            let wrong: Vec<_> = wanted.iter().filter(|(id, state)| found.get(id) != Some(state)).take(10).collect();
            panic!(
                "expected {wrong:?}, found {:?} of {nodes:#?}",
                wrong.iter().map(|(id, _)| found.get(id)).collect::<Vec<_>>()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    store.close().await;
}

#[test]
fn wherever_it_is_killed_each_comes_to_stand_where_the_rules_say() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    cases(2, |mut chance| {
        let dir = tempfile::tempdir().unwrap();
        // Cases that follow one another have seeds that do: one of either kind.
        let parity = chance.0 & 1;
        let (database, seed) = (dir.path().join("mld.db"), (chance.next() & !1) | parity);
        let nodes = web(seed);
        let mut kills = 0;
        loop {
            let mut child = start(&database, seed);
            // The first ones are killed soon: they have the most to do.
            let patience = Duration::from_millis(if kills < 30 { 20 + chance.below(200) } else { 120_000 });
            let end = Instant::now() + patience;
            let ended = loop {
                match child.try_wait().unwrap() {
                    Some(status) => break Some(status),
                    None if Instant::now() >= end => break None,
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            match ended {
                Some(status) => {
                    assert!(status.success(), "{status}");
                    break;
                }
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    kills += 1;
                }
            }
            assert!(kills <= 31, "it does not come to an end");
        }
        println!("{kills} kills");
        runtime.block_on(compare(&database, &nodes));
    });
}

/// The control: the model is not always of the same opinion.
#[test]
fn webs_end_in_every_way() {
    let mut seen = BTreeMap::new();
    for seed in 0..20 {
        for state in expected(&web(seed)).into_iter().flatten() {
            *seen.entry(state).or_insert(0) += 1;
        }
    }
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        ["blocked", "cancelled", "failed", "held", "succeeded"],
        "{seen:?}"
    );
}
