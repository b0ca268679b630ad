//! The number of threads changes how long a run takes and nothing else. Thread counts are read once per process, so each is tried in a
//! process of its own: this test binary again.

use std::process::Command;

use mlctl_protocol::spec::{Activation, ConvolutionSpec, GptSpec, ImageShape, ModelSpec};
use mlworker::{
    data::examples::Answers,
    rng::{Rng, Stream},
};

use super::common::{Memory, Problem, Recorder, bits};

/// A run whose tensors are large enough to be worked on in parallel.
fn wide() -> Problem {
    let mut problem = Problem::classes();
    let (rows, width) = (1500_u32, 120);
    let mut features = vec![0.0; rows as usize * width];
    Rng::new(5, Stream::Data { table: 0, block: 0 }).fill_normal(&mut features);
    problem.examples.answers = Answers::Classes((0..rows).map(|row| row % 70).collect());
    (problem.examples.features, problem.examples.width) = (features, width);
    (problem.examples.train, problem.examples.validation) = ((0..1200).collect(), (1200..rows).collect());
    let (activation, dropout) = (Activation::Relu, 0.25);
    problem.spec.model = ModelSpec::Mlp { layers: vec![120, 600, 70], activation, dropout };
    problem.spec.batch_size = 1100;
    problem.spec.max_epochs = Some(2);
    problem
}

/// The same rows as images of three channels.
fn images() -> Problem {
    let mut problem = wide();
    let convolution = |channels, pool| ConvolutionSpec { channels, kernel: 3, pool };
    problem.spec.model = ModelSpec::Cnn {
        image: ImageShape { channels: 3, height: 8, width: 5 },
        convolutions: vec![convolution(32, 1), convolution(48, 2)],
        layers: vec![70],
        activation: Activation::Relu,
        dropout: 0.0,
    };
    problem
}

/// Text, in sequences longer than a block of queries, and wide enough for blocks to run in parallel.
fn letters(llama: bool) -> Problem {
    let mut problem = Problem::letters(llama);
    let ModelSpec::Gpt(gpt) = problem.spec.model else { unreachable!("a transformer") };
    problem.spec.model =
        ModelSpec::Gpt(GptSpec { context: 100, width: 96, heads: 4, kv_heads: Some(2), hidden: Some(300), ..gpt });
    let (tokens, parts) = problem.text.take().unwrap();
    problem.text = Some((tokens.into_iter().cycle().take(1801).collect(), [parts[0].min(12), 4, 2]));
    (problem.spec.batch_size, problem.spec.max_epochs) = (8, Some(3));
    problem
}

#[test]
#[ignore = "run by the test below, in a process for each number of threads"]
fn child() {
    let mut hasher = blake3::Hasher::new();
    let mut metrics = Vec::new();
    for problem in [wide(), images(), letters(false), letters(true)] {
        let trained = problem.attempt(&Recorder::default(), &mut Memory::default()).unwrap();
        for (name, bits) in bits(&trained) {
            hasher.update(name.as_bytes());
            for value in bits {
                hasher.update(&value.to_le_bytes());
            }
        }
        metrics.push(trained.run.metrics);
    }
    println!("digest={} {metrics:?}", hasher.finalize().to_hex());
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let digest = |threads: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "threads::child", "--ignored", "--nocapture"])
            .env("RAYON_NUM_THREADS", threads)
            .env("CANDLE_NUM_THREADS", "1")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.split_once("digest=")).map(|(_, digest)| digest.to_owned());
        line.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))
    };
    let one = digest("1");
    assert!(one.len() > 64 && one.contains("val_loss"), "{one}");
    assert_eq!(digest("2"), one);
    assert_eq!(digest("3"), one);
}
