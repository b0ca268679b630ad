//! Job specs for both workers: the same job, said in the words that each understands. Sizes are chosen so that a job lasts long enough to be hit and not much longer.

use serde_json::{Value, json};

use super::Worker;

/// How long a job takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Over before one can look.
    Short,
    /// A few seconds, with a checkpoint every few of them: long enough to be hit by something.
    Long,
    /// Never over by itself.
    Endless,
}

/// A training job of a length.
pub fn training(worker: Worker, name: &str, length: Length) -> Value {
    match worker {
        Worker::Fake => fake(
            name,
            match length {
                Length::Short => "steps:10:5",
                Length::Long => "steps:120:20",
                Length::Endless => "steps:10000000:10",
            },
        ),
        Worker::Real => real(name, length),
    }
}

/// A training job that saves nothing but at an order, and at its end.
pub fn saved_by_order(name: &str) -> Value {
    let mut spec = training(Worker::Real, name, Length::Long);
    spec["checkpoint"] = json!({"every_steps": 1_000_000_000});
    spec
}

/// How many steps such a job does.
pub const fn steps(worker: Worker, length: Length) -> u64 {
    match (worker, length) {
        (Worker::Fake, Length::Short) => 10,
        (Worker::Fake, Length::Long) => 120,
        (Worker::Real, Length::Short) => 40,
        (Worker::Real, Length::Long) => 400,
        (_, Length::Endless) => 10_000_000,
    }
}

/// A job for the fake worker: its script, and a spec around it.
pub fn fake(name: &str, script: &str) -> Value {
    json!({
        "version": 1,
        "name": name,
        "labels": {"fake": script},
        "retry": {"limit": 3, "backoff_seconds": 1, "max_backoff_seconds": 1},
        "train": {
            "seed": 1,
            "model": {"type": "mlp", "layers": [4, 8, 2]},
            "data": {"format": "randn", "rows": 64, "features": 4, "targets": 2, "seed": 1},
            "loss": "mse",
            "optimizer": {"type": "adam"},
            "batch_size": 8,
            "max_epochs": 1,
        },
    })
}

fn real(name: &str, length: Length) -> Value {
    let (hidden, rows, batch_size, every) = match length {
        Length::Short => (16, 64, 8, 10),
        Length::Long => (256, 2000, 400, 20),
        Length::Endless => (64, 2000, 100, 200),
    };
    json!({
        "version": 1,
        "name": name,
        "checkpoint": {"every_steps": every},
        "retry": {"limit": 3, "backoff_seconds": 1, "max_backoff_seconds": 1},
        "train": {
            "seed": 7,
            "model": {"type": "mlp", "layers": [32, hidden, hidden, 8], "dropout": 0.1},
            "data": {"format": "randn", "rows": rows, "features": 32, "targets": 8, "seed": 3},
            "split": {"validation": 0.2, "test": 0.1, "seed": 5},
            "scaling": "standard",
            "loss": "mse",
            "optimizer": {"type": "adamw"},
            "batch_size": batch_size,
            "max_steps": steps(Worker::Real, length),
        },
    })
}

/// A small job as it stands in a file: what is said before its `[train]` table, and its epochs.
pub fn written(head: &str, epochs: u32) -> String {
    format!(
        r#"version = 1
{head}

[train]
model = {{ type = "mlp", layers = [4, 8, 2] }}
data = {{ format = "randn", rows = 64, features = 4, targets = 2 }}
loss = "mse"
optimizer = {{ type = "adam" }}
batch_size = 8
max_epochs = {epochs}
"#
    )
}
