//! Checkpoints that are on their way while training goes on: what is saved is the state at the step named, one is on its way at a time, and the last one is waited for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mlctl_artifacts::spool::{Kept, News};
use mlctl_protocol::{
    ExitClass,
    message::{ReportBody, StopClass},
    result::CheckpointRef,
};
use mlworker::{
    fault::Fault,
    host::Order,
    rng::{Rng, Stream},
    train::{
        flight::Flight,
        resume::Unreadable,
        saver::Vault,
        state::{Content, RunState},
    },
};

use super::{
    common::{Memory, Problem, Recorder, bits, copied, found, reference},
    resume::seed,
};

/// Checkpoints that take so many looks of the run to be durable, or a while when the run waits for them; only then their bytes are read.
#[derive(Default)]
struct Slow {
    looks: u64,
    seen: Arc<AtomicU64>,
    busy: Arc<AtomicBool>,
    begun: BTreeMap<u64, Content>,
    failing: Option<ExitClass>,
}

impl Slow {
    fn of(looks: u64) -> Self {
        Self { looks, ..Self::default() }
    }
}

impl Vault for Slow {
    fn write(&mut self, run: &RunState, content: Content) -> Flight {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "two are on their way at step {}", run.step);
        self.begun.insert(run.step, content);
        let landing = match self.failing {
            Some(class) => Err(Fault::new(class, "the store is down")),
            None => Ok(Kept::Stored(CheckpointRef { epoch: run.epoch, ..reference(run.step) })),
        };
        let (told, flight) = Flight::begun();
        let (seen, busy, until) = (self.seen.clone(), self.busy.clone(), self.looks + self.seen.load(Ordering::SeqCst));
        thread::spawn(move || {
            let began = Instant::now();
            while seen.load(Ordering::SeqCst) < until && began.elapsed() < Duration::from_millis(100) {
                thread::sleep(Duration::from_micros(100));
            }
            busy.store(false, Ordering::SeqCst);
            // The run may have ended.
            told.send(landing).ok();
        });
        flight
    }

    fn news(&mut self) -> Vec<News> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        Vec::new()
    }
}

/// Every state of a run by its step, copied at once.
fn every_state(problem: &Problem) -> BTreeMap<u64, Content> {
    let mut problem = Problem { spec: problem.spec.clone(), policy: problem.policy.clone(), ..Problem::classes() };
    problem.policy.every_steps = Some(1);
    let mut memory = Memory::default();
    problem.attempt(&Recorder::default(), &mut memory).unwrap();
    memory.kept
}

fn attempt(problem: &Problem, host: &Recorder, slow: &mut Slow) -> Result<(), Fault> {
    problem.attempt_from(host, slow, &[], |_| Err(Unreadable::This("there is none".into()))).map(|_| ())
}

fn reported(host: &Recorder) -> Vec<u64> {
    let reports = host.reports.lock().unwrap();
    let steps = reports.iter().filter_map(|body| match body {
        ReportBody::Checkpoint { checkpoint } => Some(checkpoint.step),
        _ => None,
    });
    steps.collect()
}

#[test]
fn what_is_saved_is_the_state_at_the_step_named_however_late_it_is_read() {
    let problem = Problem::classes();
    let states = every_state(&problem);
    for looks in [1, 3, 9, 1000] {
        let (host, mut slow) = (Recorder::default(), Slow::of(looks));
        attempt(&problem, &host, &mut slow).unwrap();
        let steps: Vec<u64> = slow.begun.keys().copied().collect();
        assert_eq!(reported(&host), steps, "{looks}");
        assert_eq!((steps[0], steps.last()), (4, states.keys().last()), "{looks}");
        for (step, content) in &slow.begun {
            assert_eq!(content.model, states[step].model, "the weights of step {step}, {looks}");
            assert_eq!(*content, states[step], "step {step}, {looks}");
            // The control: the state of the step after it is another one.
            assert!(states.get(&(step + 1)).is_none_or(|next| next.model != content.model));
        }
    }
}

#[test]
fn a_checkpoint_that_is_due_meanwhile_is_taken_as_soon_as_none_is_on_its_way() {
    let mut problem = Problem::classes();
    problem.policy.every_steps = Some(1);
    let (host, mut slow) = (Recorder::default(), Slow::of(3));
    attempt(&problem, &host, &mut slow).unwrap();
    let steps: Vec<u64> = slow.begun.keys().copied().collect();
    assert!(steps.len() > 3 && steps.windows(2).all(|pair| pair[1] - pair[0] >= 2), "{steps:?}");
    // One that is wished for while another is on its way is not lost.
    problem.policy.every_steps = Some(1000);
    let (host, mut slow) = (Recorder::ordering(7, Order::Checkpoint), Slow::of(2));
    attempt(&problem, &host, &mut slow).unwrap();
    assert_eq!((slow.begun.keys().next(), slow.begun.len()), (Some(&6), 2));
}

#[test]
fn an_end_waits_for_what_is_on_its_way_and_saves_the_last_state() {
    let problem = Problem::classes();
    for at in [3, 5, 6, 9, 10, 14] {
        let (host, mut slow) = (Recorder::ordering(at, Order::Stop(StopClass::Preempted)), Slow::of(1000));
        assert_eq!(attempt(&problem, &host, &mut slow).unwrap_err().class, ExitClass::Preempted);
        let steps: Vec<u64> = slow.begun.keys().copied().collect();
        assert_eq!(reported(&host), steps, "all that was begun is durable, stopped at {at}");
    }
    // An attempt that is no longer valid waits for nothing.
    let (host, mut slow) = (Recorder::ordering(7, Order::Refused("stale".into())), Slow::of(1000));
    assert_eq!(attempt(&problem, &host, &mut slow).unwrap_err().class, ExitClass::Lost);
    assert_eq!((slow.begun.len(), reported(&host).len()), (1, 0));
}

#[test]
fn a_writer_that_is_refused_ends_the_run_and_one_that_fails_is_followed_by_another() {
    let problem = Problem::classes();
    let mut stale = Slow { failing: Some(ExitClass::Lost), ..Slow::of(2) };
    assert_eq!(attempt(&problem, &Recorder::default(), &mut stale).unwrap_err().class, ExitClass::Lost);
    assert_eq!(stale.begun.len(), 1, "it is not tried again");
    let (host, mut down) = (Recorder::default(), Slow { failing: Some(ExitClass::Storage), ..Slow::of(2) });
    assert_eq!(attempt(&problem, &host, &mut down).unwrap_err().class, ExitClass::Storage);
    assert!(host.warnings()[0].contains("the checkpoint at step 4 failed and is tried again"), "{:?}", host.warnings());
    assert!(down.begun.len() > 1);
}

#[test]
fn attempts_that_are_killed_with_a_checkpoint_on_its_way_come_to_the_same_bits() {
    let mut rng = Rng::new(seed(), Stream::Data { table: 8, block: 0 });
    for round in 0..20 {
        let mut problem = Problem::classes();
        problem.policy.every_steps = Some(1 + u64::from(rng.below(4)));
        let whole = problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
        let mut durable: BTreeMap<u64, Content> = BTreeMap::new();
        let trained = loop {
            let latest = durable.last_key_value().map(|(step, content)| (*step, content.clone()));
            let candidates: Vec<_> = latest.iter().map(|(step, _)| reference(*step)).collect();
            let polls = 2 + u64::from(rng.below(25));
            let host = Recorder::ordering(polls, Order::Refused("stale".into()));
            let mut slow = Slow::of(u64::from(rng.below(6)));
            let read = |_: &_| {
                latest.as_ref().map(|(_, content)| found(content)).ok_or_else(|| Unreadable::This("gone".into()))
            };
            let end = problem.attempt_from(&host, &mut slow, &candidates, read);
            // What was reported is durable, and no more than that.
            for step in reported(&host) {
                durable.insert(step, copied(&slow.begun[&step]));
            }
            if let Ok(trained) = end {
                break trained;
            }
        };
        assert_eq!(bits(&trained), bits(&whole), "round {round}");
        assert_eq!(trained.run, whole.run, "round {round}");
    }
}
