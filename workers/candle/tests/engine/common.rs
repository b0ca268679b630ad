//! What the tests of the training loop share: a host that records and orders, a vault in memory, a small problem.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use candle_core::Device;
use mlctl_artifacts::{Body, spool::Kept};
use mlctl_protocol::{
    ExitClass,
    message::ReportBody,
    progress::{MetricPoint, Metrics, Progress, StorageAway},
    result::CheckpointRef,
    spec::{
        Activation, CheckpointPolicy, Convergence, ConvolutionSpec, DataSource, FeedForward, GptSpec, ImageShape, Loss,
        ModelSpec, Norm, OptimizerSpec, Positions, Scaling, Select, Split, SplitPart, TrainSpec,
    },
};
use mlworker::{
    bundle::tensors,
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
        resume::{Resume, Unreadable},
        saver::{Saver, Vault},
        session::{Session, Trained, Work},
        state::{Content, Found, Identity, RunState},
    },
};

/// A host whose time is counted in looks at the clock, and which gives one order at a given poll.
#[derive(Default)]
pub struct Recorder {
    pub at: Option<(u64, Order)>,
    polls: AtomicU64,
    looks: AtomicU64,
    pub last: Mutex<Progress>,
    pub reports: Mutex<Vec<ReportBody>>,
}

impl Host for Recorder {
    fn progress(&self, progress: Progress) {
        *self.last.lock().unwrap() = progress;
    }

    fn storage_away(&self, _: Option<StorageAway>) {}

    fn report(&self, body: ReportBody) -> Result<(), Fault> {
        self.reports.lock().unwrap().push(body);
        Ok(())
    }

    fn order(&self) -> Option<Order> {
        let poll = self.polls.fetch_add(1, Ordering::Relaxed);
        let (at, order) = self.at.as_ref()?;
        let due = if matches!(order, Order::Checkpoint) { poll == *at } else { poll >= *at };
        due.then(|| order.clone())
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(10) * u32::try_from(self.looks.fetch_add(1, Ordering::Relaxed)).unwrap()
    }

    fn now_rfc3339(&self) -> String {
        "2026-01-01T00:00:00Z".into()
    }
}

impl Recorder {
    pub fn ordering(at: u64, order: Order) -> Self {
        Self { at: Some((at, order)), ..Self::default() }
    }

    pub fn points(&self) -> Vec<MetricPoint> {
        let reports = self.reports.lock().unwrap();
        let points = reports.iter().filter_map(|body| match body {
            ReportBody::Metrics { points } => Some(points.clone()),
            _ => None,
        });
        points.flatten().collect()
    }

    pub fn warnings(&self) -> Vec<String> {
        let reports = self.reports.lock().unwrap();
        let warnings = reports.iter().filter_map(|body| match body {
            ReportBody::Warning { message } => Some(message.clone()),
            _ => None,
        });
        warnings.collect()
    }
}

/// Checkpoints in memory; the first `failing` writes fail.
#[derive(Default)]
pub struct Memory {
    pub kept: BTreeMap<u64, Content>,
    pub failing: u32,
    pub class: Option<ExitClass>,
}

impl Vault for Memory {
    fn write(&mut self, run: &RunState, content: Content) -> Flight {
        if self.failing > 0 {
            self.failing -= 1;
            return Flight::landed(Err(Fault::new(self.class.unwrap_or(ExitClass::Storage), "the store is down")));
        }
        assert!(self.kept.insert(run.step, copied(&content)).is_none(), "a second checkpoint at step {}", run.step);
        Flight::landed(Ok(Kept::Stored(CheckpointRef { epoch: run.epoch, ..reference(run.step) })))
    }
}

/// A job: three classes from six features, remainder batches, dropout, Adam, validation, test and early stopping.
pub struct Problem {
    pub spec: TrainSpec,
    pub policy: CheckpointPolicy,
    pub examples: Examples,
    /// Tokens of sequences, instead of rows: the text, and how many of the sequences are of each part.
    pub text: Option<(Vec<u32>, [u32; 3])>,
}

impl Problem {
    pub fn classes() -> Self {
        let (rows, width) = (64_u32, 6);
        let mut features = vec![0.0; rows as usize * width];
        Rng::new(3, Stream::Data { table: 0, block: 0 }).fill_normal(&mut features);
        let class = |row: &[f32]| if row[0] > 0.4 { 2 } else { u32::from(row[1] > row[2]) };
        let classes = features.chunks(width).map(class).collect();
        let spec = TrainSpec {
            seed: 11,
            model: ModelSpec::Mlp { layers: vec![6, 12, 8, 3], activation: Activation::Relu, dropout: 0.25 },
            register: None,
            init: None,
            data: DataSource::Randn { rows: 1, features: 1, targets: 1, seed: 0 },
            stream: None,
            split: Split::default(),
            scaling: Scaling::None,
            loss: Loss::CrossEntropy,
            optimizer: OptimizerSpec::Adam { learning_rate: 0.02, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 },
            schedule: None,
            groups: Vec::new(),
            ema: None,
            max_grad_value: None,
            max_grad_norm: None,
            freeze: Vec::new(),
            accumulate: 1,
            batch_size: 9,
            max_epochs: Some(12),
            max_steps: None,
            convergence: Some(Convergence { patience: 3, min_improvement: 1e-4 }),
            select: Select::Last,
            detect: None,
        };
        let examples = Examples {
            features,
            width,
            answers: Answers::Classes(classes),
            train: (0..40).collect(),
            validation: (40..52).collect(),
            test: (52..rows).collect(),
        };
        let policy = CheckpointPolicy { every_steps: Some(4), keep: 3, ..CheckpointPolicy::default() };
        Self { spec, policy, examples, text: None }
    }

    /// The same rows as images of two by three pixels.
    pub fn images() -> Self {
        let mut problem = Self::classes();
        let convolution = |channels, kernel, pool| ConvolutionSpec { channels, kernel, pool };
        problem.spec.model = ModelSpec::Cnn {
            image: ImageShape { channels: 1, height: 2, width: 3 },
            convolutions: vec![convolution(5, 3, 1), convolution(4, 2, 2)],
            layers: vec![8, 3],
            activation: Activation::Relu,
            dropout: 0.25,
        };
        problem
    }

    /// A transformer on a text of seven letters, with dropout, of Llama's shape or of GPT-2's.
    pub fn letters(llama: bool) -> Self {
        let mut problem = Self::classes();
        let mut rng = Rng::new(6, Stream::Data { table: 0, block: 0 });
        let mut tokens = vec![0_u32];
        for at in 0..260 {
            let next = if rng.below(4) == 0 { rng.below(7) } else { (tokens[at] * 3 + 1) % 7 };
            tokens.push(next);
        }
        problem.text = Some((tokens, [40, 7, 5]));
        let (norm, positions, feed_forward) = match llama {
            true => (Norm::Rms, Positions::Rope, FeedForward::Swiglu),
            false => (Norm::Layer, Positions::Learned, FeedForward::Gelu),
        };
        problem.spec.model = ModelSpec::Gpt(GptSpec {
            vocab: Some(7),
            context: 5,
            width: 12,
            depth: 2,
            heads: 3,
            kv_heads: llama.then_some(1),
            norm,
            norm_eps: 1e-5,
            positions,
            rope_base: 10_000.0,
            feed_forward,
            hidden: Some(20),
            bias: None,
            tied: !llama,
            dropout: 0.1,
        });
        problem
    }

    /// One attempt, from the latest checkpoint in the vault if there is one.
    pub fn attempt(&self, host: &Recorder, vault: &mut Memory) -> Result<Trained, Fault> {
        let latest = vault.kept.last_key_value().map(|(step, content)| (*step, content.clone()));
        let candidates: Vec<_> = latest.iter().map(|(step, _)| reference(*step)).collect();
        self.attempt_from(host, vault, &candidates, |_| {
            latest.as_ref().map(|(_, content)| found(content)).ok_or_else(|| Unreadable::This("gone".into()))
        })
    }

    fn sequences(&self) -> Option<Sequences> {
        let ModelSpec::Gpt(gpt) = &self.spec.model else { return None };
        let (tokens, parts) = self.text.clone()?;
        Some(Sequences::new(tokens, gpt.context as usize, parts, self.spec.seed))
    }

    /// One attempt, from the first usable candidate.
    pub fn attempt_from(
        &self,
        host: &Recorder,
        vault: &mut dyn Vault,
        candidates: &[CheckpointRef],
        read: impl FnMut(&CheckpointRef) -> Result<Found, Unreadable>,
    ) -> Result<Trained, Fault> {
        let (spec, device) = (&self.spec, &Device::Cpu);
        let (rows, sequences) = (Shuffled::new(&self.examples, spec.seed), self.sequences());
        let source = sequences.as_ref().map_or(&rows as &dyn Source, |sequences| sequences);
        let plan = Plan::new(spec, &self.policy, source.count(SplitPart::Train))?;
        let identity = &Identity::new(spec, "dataset")?;
        let resume = Resume { spec, identity, threads: 1, device };
        let (learner, from) = resume.first_of(candidates, host, read, || Learner::fresh(spec, device))?;
        let saver = Saver::new(vault, from.map(|from| from.step), host.elapsed());
        let work = Work { spec, plan: &plan, source, identity, threads: 1, device, host, patience: Duration::ZERO };
        Session::new(work, &|step, _| step, saver, learner).train()
    }
}

/// The same content in memory of its own.
pub fn copied(content: &Content) -> Content {
    let copy = |files: &[Body]| files.iter().map(|file| Body::from(file.whole().to_vec())).collect();
    Content { model: copy(&content.model), optimizer: copy(&content.optimizer), state: content.state.clone() }
}

/// What is read of a content that was kept.
pub fn found(content: &Content) -> Found {
    let decode = |files: &[Body]| files.iter().flat_map(|file| tensors::decode(&file.whole()).unwrap()).collect();
    Found { state: content.state.clone(), model: decode(&content.model), optimizer: decode(&content.optimizer) }
}

/// A checkpoint's reference in memory.
pub fn reference(step: u64) -> CheckpointRef {
    CheckpointRef {
        step,
        epoch: 0,
        uri: format!("memory:///{step}"),
        size_bytes: 0,
        manifest_digest: String::new(),
        metrics: Metrics::new(),
    }
}

/// The bytes of every tensor by name.
pub fn bits(trained: &Trained) -> BTreeMap<String, Vec<u32>> {
    let bits = |tensor: &candle_core::Tensor| {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    trained.model.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
}
