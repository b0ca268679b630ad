//! What a checkpoint costs a training: `ops/bench checkpoint`. How long steps take without any, with checkpoints that are let go at once (what the step after one costs by itself), and with
//! checkpoints that are hashed and written to a folder meanwhile, beside a copy of the same bytes into memory that has been used before.
#![expect(clippy::print_stdout, reason = "a benchmark's result is its output")]

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use candle_core::Device;
use mlctl_artifacts::{
    Location, Stores,
    checkpoint::{self, Header, Part},
    keys,
    manifest::Role,
    spool::Kept,
};
use mlctl_protocol::{
    AttemptNumber, ExitClass, FencingToken, JobId,
    message::ReportBody,
    progress::{Metrics, Progress, StorageAway},
    result::CheckpointRef,
    spec::{
        Activation, CheckpointPolicy, DataSource, Loss, ModelSpec, OptimizerSpec, Scaling, Select, Split, TrainSpec,
    },
};
use mlworker::{
    data::{
        examples::{Answers, Examples},
        rows::Shuffled,
    },
    fault::Fault,
    host::{Host, Order},
    rng::{Rng, Stream},
    train::{
        flight::Flight,
        learner::Learner,
        plan::Plan,
        saver::{Saver, Vault},
        session::{Session, Work},
        state::{Content, Identity, RunState},
    },
};
use rayon::prelude::*;
use tokio::runtime::Runtime;

/// A model of 256 MiB, and rows a step.
const LAYERS: [u32; 3] = [4096, 8192, 4096];
const BATCH: u32 = 32;
/// Steps of a round, and between two checkpoints.
const STEPS: u64 = 48;
const EVERY: u64 = 12;
/// Rounds of each kind, one after the other.
const ROUNDS: usize = 3;
/// Bytes of a weight and its two averages.
const BYTES_A_WEIGHT: usize = 12;

/// Hears when each step was done.
struct Clock(Instant, Mutex<Vec<(Option<u64>, Duration)>>);

impl Host for Clock {
    fn progress(&self, progress: Progress) {
        let mut done = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        // It is told again at the end of an epoch.
        if done.last().is_none_or(|(step, _)| *step != progress.step) {
            done.push((progress.step, self.0.elapsed()));
        }
    }
    fn storage_away(&self, _: Option<StorageAway>) {}
    fn report(&self, _: ReportBody) -> Result<(), Fault> {
        Ok(())
    }
    fn order(&self) -> Option<Order> {
        None
    }
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
    fn now_rfc3339(&self) -> String {
        String::new()
    }
}

/// Lets checkpoints go, or writes them to a folder; the steps at which they were taken.
struct Store<'a> {
    to: Option<(&'a Runtime, Location)>,
    taken: Vec<u64>,
}

impl Vault for Store<'_> {
    fn write(&mut self, run: &RunState, content: Content) -> Flight {
        self.taken.push(run.step);
        let Some((runtime, to)) = self.to.clone() else {
            let (step, epoch, uri, manifest_digest) = (run.step, run.epoch, String::new(), String::new());
            let metrics = Metrics::new();
            return Flight::landed(Ok(Kept::Stored(CheckpointRef {
                step,
                epoch,
                uri,
                size_bytes: 0,
                manifest_digest,
                metrics,
            })));
        };
        let header = Header {
            job: JobId(1),
            attempt: AttemptNumber(1),
            token: FencingToken(1),
            step: run.step,
            epoch: run.epoch,
            created_at: String::new(),
            spec_digest: "0".repeat(64),
            dataset_digest: "0".repeat(64),
            parent: None,
            metrics: Metrics::new(),
        };
        let (told, flight) = Flight::begun();
        let mut parts =
            vec![Part { name: keys::CHECKPOINT_STATE.into(), role: Role::State, bytes: content.state.into() }];
        for (what, role, files) in
            [("model", Role::Model, content.model), ("optimizer", Role::Optimizer, content.optimizer)]
        {
            let count = files.len();
            let part = |(number, bytes)| Part { name: keys::shard(what, number, count), role, bytes };
            parts.extend((1..).zip(files).map(part));
        }
        runtime.spawn(async move {
            let written = checkpoint::write(&to, header, parts).await;
            told.send(written.map(Kept::Stored).map_err(|error| Fault::storage(&error))).ok();
        });
        flight
    }
}

/// How long steps took: those that left their state to a checkpoint, and the others.
#[derive(Default)]
struct Times {
    leaving: Vec<Duration>,
    others: Vec<Duration>,
    whole: Vec<Duration>,
}

/// One round. Checkpoints are taken every `every` steps.
fn round(examples: &Examples, every: u64, to: Option<(&Runtime, Location)>, times: &mut Times) -> Result<(), Fault> {
    let spec = TrainSpec {
        seed: 0,
        model: ModelSpec::Mlp { layers: LAYERS.to_vec(), activation: Activation::Relu, dropout: 0.0 },
        register: None,
        init: None,
        data: DataSource::Randn { rows: 1, features: 1, targets: 1, seed: 0 },
        stream: None,
        split: Split::default(),
        scaling: Scaling::None,
        loss: Loss::Mse,
        optimizer: OptimizerSpec::Adam { learning_rate: 1e-4, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 },
        schedule: None,
        groups: Vec::new(),
        ema: None,
        max_grad_value: None,
        max_grad_norm: None,
        freeze: Vec::new(),
        accumulate: 1,
        batch_size: BATCH,
        max_epochs: None,
        max_steps: Some(STEPS),
        convergence: None,
        select: Select::Last,
        detect: None,
    };
    let policy = CheckpointPolicy { every_steps: Some(every), keep: 1, ..CheckpointPolicy::default() };
    let (device, host) = (Device::Cpu, Clock(Instant::now(), Mutex::default()));
    let plan = Plan::new(&spec, &policy, examples.train.len() as u64)?;
    let identity = Identity::new(&spec, "")?;
    let source = Shuffled::new(examples, spec.seed);
    let work = Work {
        spec: &spec,
        plan: &plan,
        source: &source,
        identity: &identity,
        threads: 1,
        device: &device,
        host: &host,
        patience: Duration::ZERO,
    };
    let learner = Learner::fresh(&spec, &device)?;
    let mut store = Store { to, taken: Vec::new() };
    Session::new(work, &|_, _| (), Saver::new(&mut store, None, host.elapsed()), learner).train()?;
    let done = host.1.into_inner().unwrap_or_else(PoisonError::into_inner);
    let done: Vec<Duration> = done.into_iter().map(|(_, at)| at).collect();
    let whole = |times: &[Duration]| times.last().zip(times.first()).map(|(last, first)| *last - *first);
    times.whole.extend(whole(&done));
    for (step, pair) in (2..).zip(done.windows(2)) {
        // Memory for the first is fresh; the last is the end's, after the last step.
        match store.taken.iter().position(|taken| taken + 1 == step) {
            Some(0) => {}
            Some(_) => times.leaving.push(pair[1] - pair[0]),
            None => times.others.push(pair[1] - pair[0]),
        }
    }
    Ok(())
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

/// A copy of as many bytes as a checkpoint has into memory that was written before, on as many threads as there are.
fn copies(values: usize, times: &mut Vec<Duration>) {
    let (from, mut to) = (vec![1.0_f32; values], vec![0.0_f32; values]);
    for copy in 0..6 {
        let start = Instant::now();
        to.par_chunks_mut(1 << 14).zip(from.par_chunks(1 << 14)).for_each(|(to, from)| to.copy_from_slice(from));
        if copy > 0 {
            times.push(start.elapsed());
        }
        std::hint::black_box(&to);
    }
}

fn measure(dir: &Path) -> Result<(), Fault> {
    let rows = BATCH * 8;
    let (width, outputs) = (LAYERS[0] as usize, LAYERS[LAYERS.len() - 1] as usize);
    let mut features = vec![0.0; rows as usize * width];
    Rng::new(0, Stream::Data { table: 0, block: 0 }).fill_normal(&mut features);
    let mut values = vec![0.0; rows as usize * outputs];
    Rng::new(0, Stream::Data { table: 1, block: 0 }).fill_normal(&mut values);
    let answers = Answers::Values { values, width: outputs };
    let examples = Examples { features, width, answers, train: (0..rows).collect(), validation: vec![], test: vec![] };
    let failed = |error: &dyn std::fmt::Display| Fault::new(ExitClass::Crash, error.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| failed(&error))?;
    let weights: usize = LAYERS.windows(2).map(|pair| (pair[0] * pair[1] + pair[1]) as usize).sum();
    let (mut plain, mut sink, mut folder, mut copied) =
        (Times::default(), Times::default(), Times::default(), Vec::new());
    for number in 0..ROUNDS {
        copies(weights * BYTES_A_WEIGHT / size_of::<f32>(), &mut copied);
        round(&examples, u64::MAX, None, &mut plain)?;
        round(&examples, EVERY, None, &mut sink)?;
        let to = Stores::new().open(&format!("file://{}/{number}", dir.display())).map_err(|error| failed(&error))?;
        round(&examples, EVERY, Some((&runtime, to.clone())), &mut folder)?;
        runtime.block_on(to.delete_prefix()).map_err(|error| failed(&error))?;
    }
    let step = median(&mut plain.others);
    let copy = median(&mut copied);
    println!("a checkpoint of {} MiB, of a model of {} MiB", (weights * BYTES_A_WEIGHT) >> 20, (weights * 4) >> 20);
    println!("{:<72} {copy:>8.1} ms", "a copy of its bytes into memory used before");
    println!("{:<72} {step:>8.1} ms", "a step without checkpoints");
    let leaving = median(&mut sink.leaving) - median(&mut sink.others);
    println!("{:<72} {leaving:>8.1} ms", "what a step costs more that leaves its state to a checkpoint");
    println!("{:<72} {:>8.2}", "  of the copy", leaving / copy);
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    let rate = |times: &mut Times| (STEPS - 1) as f64 * 1000.0 / median(&mut times.whole);
    let (without, with) = (rate(&mut plain), rate(&mut folder));
    println!("{:<72} {without:>8.2} /s", "steps without checkpoints");
    println!("{:<72} {with:>8.2} /s", "steps while checkpoints are hashed and written to a folder");
    Ok(())
}

fn main() -> Result<(), Fault> {
    let failed = |error: std::io::Error| Fault::new(ExitClass::Disk, error.to_string());
    let dir = tempfile::tempdir().map_err(failed)?;
    // On a thread of its own, as in the worker: glibc gives it another arena than the main thread's.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| measure(dir.path()));
        thread.join().unwrap_or_else(|_| Err(Fault::new(ExitClass::Crash, "the benchmark panicked")))
    })
}
