//! Steps of several batches: those of one large batch to the rounding of sums, and exact over stops.

use mlctl_protocol::{ExitClass, message::StopClass, spec::OptimizerSpec};
use mlworker::{host::Order, train::session::Trained};

use super::common::{Memory, Problem, Recorder, bits};

type Kind = fn() -> Problem;

const KINDS: [Kind; 4] = [Problem::classes, Problem::images, || Problem::letters(false), || Problem::letters(true)];

/// A job of 40 rows with dropout, cut into steps of some batches: the last step of an epoch has fewer rows, and its last batch fewer still.
fn problem(kind: Kind, batch_size: u32, accumulate: u32) -> Problem {
    let mut problem = kind();
    problem.spec.optimizer =
        OptimizerSpec::Sgd { learning_rate: 0.05, momentum: 0.9, weight_decay: 0.001, nesterov: false };
    (problem.spec.batch_size, problem.spec.accumulate) = (batch_size, accumulate);
    (problem.spec.max_epochs, problem.spec.convergence) = (Some(3), None);
    problem
}

fn trained(problem: &Problem) -> (Trained, Vec<f64>) {
    let host = Recorder::default();
    let trained = problem.attempt(&host, &mut Memory::default()).unwrap();
    let losses = host.points().iter().filter_map(|point| point.values.get("loss").copied()).collect();
    (trained, losses)
}

/// The distance of all weights from others, as a part of their norm.
fn distance(ours: &Trained, theirs: &Trained) -> f64 {
    let values = |of: &Trained| -> Vec<f32> {
        of.model.values().flat_map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
    };
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let (ours, theirs) = (values(ours), values(theirs));
    norm(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b)) / norm(&mut theirs.iter().copied())
}

#[test]
fn accumulated_steps_are_those_of_one_large_batch() {
    for kind in KINDS {
        for (batch, accumulate) in [(7, 2), (4, 4), (1, 16), (9, 3), (13, 4)] {
            let (whole, losses) = trained(&problem(kind, batch * accumulate, 1));
            let (cut, again) = trained(&problem(kind, batch, accumulate));
            assert_eq!((cut.run.step, cut.run.epoch), (whole.run.step, 3));
            let apart = distance(&cut, &whole);
            assert!(apart <= 1e-6, "{accumulate} batches of {batch} of {:?}: {apart}", cut.model.keys().next());
            assert_eq!(losses.len(), again.len());
            for (ours, theirs) in again.iter().zip(&losses) {
                assert!(
                    (ours - theirs).abs() <= 1e-6 * theirs.abs(),
                    "{accumulate} batches of {batch}: {ours}, not {theirs}"
                );
            }
            assert_eq!(cut.run.metrics["train_accuracy"], whole.run.metrics["train_accuracy"]);
        }
    }
    // The control: were batches to count alike whatever their rows, or to draw the same dropout, it would show.
    let mut other = problem(Problem::classes, 14, 1);
    other.spec.seed += 1;
    assert!(distance(&trained(&other).0, &trained(&problem(Problem::classes, 14, 1)).0) > 1e-3);
}

#[test]
fn a_stop_falls_between_steps_and_changes_nothing() {
    for kind in KINDS {
        let problem = problem(kind, 3, 3);
        let (whole, _) = trained(&problem);
        assert_eq!(whole.run.step, 15);
        for at in 0..30 {
            let (host, mut vault) = (Recorder::ordering(at, Order::Stop(StopClass::Preempted)), Memory::default());
            let Err(fault) = problem.attempt(&host, &mut vault) else { break };
            assert_eq!(fault.class, ExitClass::Preempted);
            let resumed = problem.attempt(&Recorder::default(), &mut vault).unwrap();
            assert_eq!((bits(&resumed), &resumed.run), (bits(&whole), &whole.run), "stopped at poll {at}");
        }
    }
}

#[test]
fn a_run_that_is_cut_otherwise_is_another_run() {
    let mut problem = problem(Problem::classes, 4, 2);
    let mut vault = Memory::default();
    problem.attempt(&Recorder::ordering(6, Order::Stop(StopClass::Preempted)), &mut vault).unwrap_err();
    problem.spec.accumulate = 3;
    let fault = problem.attempt(&Recorder::default(), &mut vault).unwrap_err();
    assert!(fault.message.contains("accumulate was 2 and is 3"), "{fault}");
}
