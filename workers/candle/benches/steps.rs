//! Training steps per second of the loop itself, data in memory: `ops/bench train` runs it beside PyTorch, `cargo bench --workspace --bench steps` alone. Set RAYON_NUM_THREADS,
//! CANDLE_NUM_THREADS and the MALLOC_ thresholds as the daemon does, or the numbers mean little.
#![expect(clippy::print_stdout, reason = "a benchmark's result is its output")]

use std::time::{Duration, Instant};

use candle_core::Device;
use mlctl_artifacts::spool::Kept;
use mlctl_protocol::{
    message::ReportBody,
    progress::{Metrics, Progress, StorageAway},
    result::CheckpointRef,
    spec::{
        Activation, CheckpointPolicy, ConvolutionSpec, DataSource, FeedForward, GptSpec, ImageShape, Loss, ModelSpec,
        Norm, OptimizerSpec, Positions, Scaling, Select, Split, TrainSpec,
    },
};
use mlworker::{
    data::{
        examples::{Answers, Examples},
        rows::{Shuffled, Source},
        text::Sequences,
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

struct Deaf(Instant);

impl Host for Deaf {
    fn progress(&self, _: Progress) {}
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

struct Nowhere;

impl Vault for Nowhere {
    fn write(&mut self, run: &RunState, _: Content) -> Flight {
        let (step, epoch, uri, manifest_digest) = (run.step, run.epoch, String::new(), String::new());
        let metrics = Metrics::new();
        Flight::landed(Ok(Kept::Stored(CheckpointRef { step, epoch, uri, size_bytes: 0, manifest_digest, metrics })))
    }
}

/// Sequences of letters for a transformer. That they are drawn at random changes nothing of what they cost.
fn letters(model: &ModelSpec, rows: u32) -> Option<Sequences> {
    let ModelSpec::Gpt(gpt) = model else { return None };
    let mut rng = Rng::new(0, Stream::Data { table: 2, block: 0 });
    let tokens = (0..=rows * gpt.context).map(|_| rng.below(model.outputs())).collect();
    Some(Sequences::new(tokens, gpt.context as usize, [rows, 0, 0], 0))
}

/// The training that is measured.
fn training(model: &ModelSpec, loss: Loss, batch_size: u32, steps: u64) -> TrainSpec {
    TrainSpec {
        seed: 0,
        model: model.clone(),
        register: None,
        init: None,
        data: DataSource::Randn { rows: 1, features: 1, targets: 1, seed: 0 },
        stream: None,
        split: Split::default(),
        scaling: Scaling::None,
        loss,
        optimizer: OptimizerSpec::Adam { learning_rate: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 },
        schedule: None,
        groups: Vec::new(),
        ema: None,
        max_grad_value: None,
        max_grad_norm: None,
        freeze: Vec::new(),
        accumulate: 1,
        batch_size,
        max_epochs: None,
        max_steps: Some(steps),
        convergence: None,
        select: Select::Last,
        detect: None,
    }
}

fn measure(
    options: Options,
    name: &str,
    model: &ModelSpec,
    (rows, batch_size): (u32, u32),
    loss: Loss,
) -> Result<(), Fault> {
    let (width, outputs) = (usize::try_from(model.inputs()).unwrap_or(0), model.outputs());
    let mut features = vec![0.0; rows as usize * width];
    Rng::new(0, Stream::Data { table: 0, block: 0 }).fill_normal(&mut features);
    let answers = match loss {
        Loss::CrossEntropy => Answers::Classes((0..rows).map(|row| row % outputs).collect()),
        Loss::Mse => {
            let mut values = vec![0.0; (rows * outputs) as usize];
            Rng::new(0, Stream::Data { table: 1, block: 0 }).fill_normal(&mut values);
            Answers::Values { values, width: outputs as usize }
        }
    };
    let train = (0..rows).collect();
    let examples = Examples { features, width, answers, train, validation: vec![], test: vec![] };
    let sequences = letters(model, rows);
    let run = |steps: u64| -> Result<Duration, Fault> {
        let (spec, device, host) = (training(model, loss, batch_size, steps), Device::Cpu, Deaf(Instant::now()));
        let plan = Plan::new(&spec, &CheckpointPolicy::default(), u64::from(rows))?;
        let identity = Identity::new(&spec, "")?;
        let shuffled = Shuffled::new(&examples, spec.seed);
        let source = sequences.as_ref().map_or(&shuffled as &dyn Source, |sequences| sequences);
        let work = Work {
            spec: &spec,
            plan: &plan,
            source,
            identity: &identity,
            threads: 1,
            device: &device,
            host: &host,
            patience: Duration::ZERO,
        };
        let learner = Learner::fresh(&spec, &device)?;
        let start = Instant::now();
        Session::new(work, &|_, _| (), Saver::new(&mut Nowhere, None, host.elapsed()), learner).train()?;
        Ok(start.elapsed())
    };
    // As many steps as take about so long, three times; the middle one counts. A step of seconds needs no twenty to be known.
    let warm = if sequences.is_some() { 2 } else { 20 };
    let one = run(warm.into())?.max(Duration::from_micros(20)) / warm;
    let steps = u64::try_from((options.length / 3).as_nanos() / one.as_nanos().max(1)).unwrap_or(1).max(warm.into());
    let mut rounds = [run(steps)?, run(steps)?, run(steps)?];
    rounds.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    let rate = steps as f64 / rounds[1].as_secs_f64();
    if options.json {
        println!("{{\"steps_per_s\": {rate}, \"rss_mb\": {}}}", peak_mib());
    } else {
        println!("{name:<28} batch {batch_size:>5}  {rate:>9.1} steps/s  {:>8.3} ms/step", 1000.0 / rate);
    }
    Ok(())
}

/// The most memory that this process has had.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// How to measure, and how to tell.
#[derive(Clone, Copy)]
struct Options {
    length: Duration,
    json: bool,
}

/// A perceptron: the article's, or a small one.
fn mlp(layers: &[u32]) -> ModelSpec {
    ModelSpec::Mlp { layers: layers.to_vec(), activation: Activation::Relu, dropout: 0.0 }
}

/// Two convolutions over grey images of 28 by 28, and two linear layers.
fn cnn() -> ModelSpec {
    let convolution = |channels| ConvolutionSpec { channels, kernel: 3, pool: 2 };
    ModelSpec::Cnn {
        image: ImageShape { channels: 1, height: 28, width: 28 },
        convolutions: vec![convolution(32), convolution(64)],
        layers: vec![128, 10],
        activation: Activation::Relu,
        dropout: 0.0,
    }
}

/// nanoGPT's model of characters.
fn gpt() -> ModelSpec {
    ModelSpec::Gpt(GptSpec {
        vocab: Some(65),
        context: 256,
        width: 384,
        depth: 6,
        heads: 6,
        kv_heads: None,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        positions: Positions::Learned,
        rope_base: 10_000.0,
        feed_forward: FeedForward::Gelu,
        hidden: None,
        bias: None,
        tied: true,
        dropout: 0.0,
    })
}

/// A job by its name, at one batch size for some seconds, as a line of JSON; or, without arguments, a table.
fn measure_all(arguments: &[String]) -> Result<(), Fault> {
    let article = ("1000-500-100-10, mse, adam", mlp(&[1000, 500, 100, 10]), 10_000, Loss::Mse);
    let letters = ("gpt 6 x 384, 256 letters, ce", gpt(), 64, Loss::CrossEntropy);
    let images = ("cnn 28x28-32-64-128-10, ce", cnn(), 2_000, Loss::CrossEntropy);
    if let [job, batch, seconds] = arguments {
        let wrong = |what: &str| Fault::spec(format!("expected {what}"), "steps mlp|cnn|gpt BATCH SECONDS");
        let (name, model, rows, loss) = match job.as_str() {
            "mlp" => article,
            "cnn" => images,
            "gpt" => letters,
            _ => return Err(wrong("mlp, cnn or gpt")),
        };
        let batch = batch.parse().map_err(|_| wrong("a batch size"))?;
        let length = seconds.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let options = Options { length: length.ok_or_else(|| wrong("a number of seconds"))?, json: true };
        return measure(options, name, &model, (rows, batch), loss);
    }
    let options = Options { length: Duration::from_secs(3), json: false };
    let small = ("64-128-10, ce, adam", mlp(&[64, 128, 10]), 1437, Loss::CrossEntropy);
    for (job, batches) in [(article, [1000, 128, 32].as_slice()), (small, &[64]), (images, &[128, 32]), (letters, &[8])]
    {
        let (name, model, rows, loss) = job;
        for batch in batches {
            measure(options, name, &model, (rows, *batch), loss)?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Fault> {
    // On a thread of its own, as in the worker: glibc gives it another arena than the main thread's.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let thread = std::thread::spawn(move || measure_all(&arguments));
    thread.join().unwrap_or_else(|_| Err(Fault::new(mlctl_protocol::ExitClass::Crash, "the benchmark panicked")))
}
