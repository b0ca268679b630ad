//! Checkpoints written and read while requests are spoiled at random. `MLCTL_TEST_SEED` repeats a group of scenarios, `MLCTL_TEST_CASES` says how many groups.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mlctl_artifacts::{
    ArtifactError, Stores,
    checkpoint::{self, Part},
    spool::{Kept, News, Spool},
};
use mlctl_protocol::result::CheckpointRef;

use super::{
    chance::{Chance, cases},
    header::header,
    proxy::{Fault, Proxy},
    s3::Server,
    works::{Ways, parts},
};

/// Scenarios at a time, which mostly wait, and how often.
const ABREAST: u64 = 100;
const GROUPS: u64 = 2;

/// Requests after which all is well: what was put off must get through then.
const SPOILED: usize = 40;

/// How long that may take, with the spool's pauses between its tries.
const DRAINED: Duration = Duration::from_secs(300);

/// Of our own success.
const CONFLICT: Fault = Fault::SayAfter(412, "PreconditionFailed");

#[test]
fn whatever_is_spoiled_nothing_committed_is_lost_and_nothing_corrupt_is_read() {
    let Some(server) = Server::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut faults = 0;
    cases(GROUPS, |mut chance| {
        let scenarios = (0..ABREAST).map(|_| scenario(&server, Chance(chance.next())));
        faults += runtime.block_on(join_all(scenarios)).into_iter().sum::<usize>();
    });
    println!("{faults} requests were spoiled");
    assert!(faults > 0);
}

/// Returns how many requests were spoiled.
async fn scenario(server: &Server, mut chance: Chance) -> usize {
    let (seed, often, is_spooled) = (chance.next(), 2 + chance.below(10), chance.once_in(2));
    // Who tries again after a pause needs fewer of them to be put off for as long.
    let spoiled = if is_spooled { SPOILED / 2 } else { SPOILED };
    let proxy = Proxy::before(&server.url, move |number, request| {
        let mut chance = Chance(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let fault = (number < spoiled && chance.once_in(often)).then(|| fault(&mut chance))?;
        // Nobody says so of what has no condition; and one whose lies about a manifest agree with each other makes it another's, which ends an attempt.
        let is_wrong = fault == CONFLICT && !request.is_create();
        let is_lie = matches!(fault, Fault::Stale | Fault::Say(200, _));
        let is_manifest = request.line.starts_with("GET ") && request.line.ends_with("/manifest.json");
        Some(if is_wrong || is_lie && is_manifest { Fault::Lose } else { fault })
    });
    let ways = Ways::to(server, &format!("random/{seed:x}"), proxy, 1);
    let size = if chance.once_in(10) { 18 << 20 } else { chance.pick(&[100, 70_000]) };
    if is_spooled {
        spooled(&ways, &mut chance, size).await;
    } else {
        direct(&ways, &mut chance, size).await;
    }
    ways.proxy.faults()
}

fn fault(chance: &mut Chance) -> Fault {
    let share = chance.below(1000);
    chance.pick(&[
        Fault::Say(500, "InternalError"),
        Fault::Say(503, "SlowDown"),
        Fault::Say(200, "InternalError"),
        Fault::Say(400, "ExpiredToken"),
        Fault::SayAfter(500, "InternalError"),
        CONFLICT,
        Fault::HangUp,
        Fault::Lose,
        Fault::CutRequest(share),
        Fault::CutAnswer(share),
        Fault::Shorten(share),
        Fault::SpoilRequest(share),
        Fault::SpoilAnswer(share),
        Fault::Drip,
        Fault::Stale,
    ])
}

/// A checkpoint written, tried again as a run does that must have it, and read.
async fn direct(ways: &Ways, chance: &mut Chance, size: usize) {
    for step in [10, 20] {
        let expected = parts(size, chance.below(1 << 40));
        let mut saved = None;
        // Each try makes requests, and so comes closer to the end of the faults.
        while saved.is_none() {
            match checkpoint::write(&ways.spoiled, header(step), expected.clone()).await {
                Ok(reference) => saved = Some(reference),
                Err(error) => may_be(&error),
            }
            let is_there = ways.has(step, &expected).await;
            assert!(is_there || saved.is_none(), "step {step} was acknowledged and is not there");
        }
        loaded(ways, &saved.unwrap(), &expected).await;
    }
}

/// The same by way of a folder on this machine, while the store does not answer.
async fn spooled(ways: &Ways, chance: &mut Chance, size: usize) {
    let here = tempfile::tempdir().unwrap();
    let at = Stores::new().open(&format!("file://{}/spool", here.path().display())).unwrap();
    let impatient = ways.stores.impatient().open(ways.spoiled.uri()).unwrap();
    let spool = Spool::new(ways.spoiled.clone(), impatient, at, 1 << 30);
    let mut kept: Vec<(u64, Vec<Part>)> = Vec::new();
    let mut stored = Vec::new();
    for step in [10, 20, 30] {
        let expected = parts(size, chance.below(1 << 40));
        match spool.write(header(step), expected.clone()).await {
            Ok(Kept::Stored(reference)) => stored.push(reference),
            Ok(Kept::Waiting) => {}
            // Kept nowhere, and said so: the run tries again later.
            Err(_) => continue,
        }
        kept.push((step, expected));
    }
    // Those that wait get through, whatever was spoiled on the way.
    let begun = Instant::now();
    while begun.elapsed() < DRAINED {
        for news in spool.news() {
            match news {
                News::Sent(reference) => stored.push(reference),
                News::Lost { step, why } => panic!("step {step} is given up: {why}"),
                News::Refused(error) => panic!("the store is said to refuse: {error}"),
                News::Away { .. } | News::Back { .. } => {}
            }
        }
        if spool.away().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for (step, expected) in &kept {
        let reference = stored.iter().find(|reference| reference.step == *step);
        let reference = reference.unwrap_or_else(|| panic!("step {step} waits for ever: {:?}", ways.proxy.seen()));
        assert!(ways.has(*step, expected).await, "step {step} was acknowledged and is not there");
        loaded(ways, reference, expected).await;
    }
}

/// Whatever comes through the proxy, it is what was written, or an error.
async fn loaded(ways: &Ways, reference: &CheckpointRef, expected: &[Part]) {
    match ways.load(reference).await {
        Ok(found) => assert!(found == expected, "a corrupt read of step {} was accepted", reference.step),
        Err(error) => drop(error),
    }
}

/// What a write may fail with. That another has written there would end an attempt, and there is no other.
fn may_be(error: &ArtifactError) {
    assert!(!matches!(error, ArtifactError::AlreadyExists { .. } | ArtifactError::Denied { .. }), "{error}");
}
