//! Checkpoints that are on their way while training goes on: what is saved is the state at the step named, one is on its way at a time, and the last one is waited for.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::SyncSender,
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
        flight::{Flight, Landing},
        plan::Plan,
        resume::Unreadable,
        saver::{Saver, Vault},
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

/// A checkpoint's step, and where it is told what has become of it.
type Begun = (u64, SyncSender<Landing>);

/// Checkpoints that land when the test says so.
#[derive(Clone, Default)]
struct Handed(Rc<RefCell<Vec<Begun>>>);

impl Vault for Handed {
    fn write(&mut self, run: &RunState, _: Content) -> Flight {
        let (told, flight) = Flight::begun();
        self.0.borrow_mut().push((run.step, told));
        flight
    }
}

impl Handed {
    fn steps(&self) -> Vec<u64> {
        self.0.borrow().iter().map(|(step, _)| *step).collect()
    }

    /// Tells the last one what has become of it.
    fn land(&self, failing: Option<ExitClass>) {
        let handed = self.0.borrow();
        let (step, told) = handed.last().unwrap();
        let failed = failing.map(|class| Fault::new(class, "the store is down"));
        told.send(failed.map_or(Ok(Kept::Stored(reference(*step))), Err)).unwrap();
    }
}

/// Goes to a step at a time of the run, in seconds, and takes a checkpoint if one is due.
fn step(saver: &mut Saver<'_>, plan: &Plan, (host, content): (&Recorder, &Content), (step, now): (u64, u64)) -> bool {
    let state = RunState { step, ..RunState::default() };
    saver.catch_up(host).unwrap();
    let due = saver.is_due(plan, &state, Duration::from_secs(now));
    if due {
        saver.begin(host, &state, copied(content));
    }
    due
}

#[test]
fn a_checkpoint_that_is_due_meanwhile_is_taken_as_soon_as_none_is_on_its_way() {
    let mut problem = Problem::classes();
    let content = &every_state(&problem)[&1];
    problem.policy.every_steps = Some(2);
    let plan = Plan::new(&problem.spec, &problem.policy, 40).unwrap();
    let (host, handed) = (Recorder::default(), Handed::default());
    let mut vault = handed.clone();
    let mut saver = Saver::new(&mut vault, None, Duration::ZERO);
    let mut to = |at| step(&mut saver, &plan, (&host, content), (at, 0));
    assert!([1, 2, 3, 4].map(&mut to) == [false, true, false, false]);
    handed.land(None);
    assert!([5, 6].map(&mut to) == [true, false]);
    handed.land(None);
    assert!([7, 9].map(&mut to) == [true, false]);
    handed.land(None);
    assert!(!to(11), "nothing was due meanwhile");
    // One that is wished for while another is on its way is not lost.
    assert!(to(12));
    saver.wish();
    assert!(!step(&mut saver, &plan, (&host, content), (13, 0)));
    handed.land(None);
    assert!(step(&mut saver, &plan, (&host, content), (15, 0)));
    assert_eq!(handed.steps(), [2, 5, 7, 12, 15]);
}

#[test]
fn a_checkpoint_that_is_wished_for_after_a_failure_is_what_would_have_been_tried_again() {
    let mut problem = Problem::classes();
    let content = &every_state(&problem)[&1];
    problem.policy.every_steps = Some(1000);
    let plan = Plan::new(&problem.spec, &problem.policy, 40).unwrap();
    let (host, handed) = (Recorder::default(), Handed::default());
    let mut vault = handed.clone();
    let mut saver = Saver::new(&mut vault, None, Duration::ZERO);
    let mut to = |at, now, wished| {
        saver.catch_up(&host).unwrap();
        if wished {
            saver.wish();
        }
        step(&mut saver, &plan, (&host, content), (at, now))
    };
    assert!(to(1, 0, true));
    handed.land(Some(ExitClass::Storage));
    assert!(to(2, 0, true), "a wish waits for no second try");
    assert!(!to(3, 60, false), "it is on its way for longer than until the failed one is tried again");
    handed.land(None);
    assert!(!to(4, 60, false), "{:?}", handed.steps());
    // The control: without a wish it is tried again, once.
    assert!(to(5, 60, true));
    handed.land(Some(ExitClass::Storage));
    let tried = [(6, 1), (7, 60), (8, 61)].map(|(at, now)| to(at, now, false));
    assert_eq!(tried, [false, true, false]);
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
    let (host, mut never) = (Recorder::ordering(7, Order::Refused("stale".into())), Handed::default());
    let end = problem.attempt_from(&host, &mut never, &[], |_| Err(Unreadable::This("there is none".into())));
    assert_eq!(end.unwrap_err().class, ExitClass::Lost);
    assert_eq!((never.steps().len(), reported(&host).len()), (1, 0));
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
