//! Training on rows that stay in storage: whatever kills the worker within an epoch, the next attempt reads on at the very row and the model is the same to the bit.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Daemon, Worker, processes};

/// Enough for some blocks of a MiB.
const ROWS: u32 = 160_000;

/// Steps between two checkpoints. An epoch has about 500, no multiple of it.
const EVERY: u64 = 40;

/// Eight numbers, and whether the first is large.
fn line(row: u32) -> String {
    let numbers = (0..8).map(|column| (row.wrapping_mul(2_654_435_761).wrapping_add(column * 97_003) >> 7) % 1000);
    let numbers: Vec<_> = numbers.collect();
    let text: String = numbers.iter().map(|number| format!("{number},")).collect();
    format!("{text}{}\n", u32::from(numbers[0] > 500))
}

fn job(name: &str, data: &Path, window_mib: u32) -> Value {
    json!({
        "version": 1,
        "name": name,
        "checkpoint": {"every_steps": EVERY},
        "retry": {"limit": 100, "backoff_seconds": 1, "max_backoff_seconds": 1},
        "train": {
            "seed": 5,
            "model": {"type": "mlp", "layers": [8, 256, 256, 2], "dropout": 0.1},
            "data": {"format": "csv", "uri": format!("file://{}", data.display()), "targets": ["class"]},
            "stream": {"window_mib": window_mib},
            "split": {"validation": 0.05, "test": 0.05, "seed": 2},
            "scaling": "standard",
            "loss": "cross_entropy",
            "optimizer": {"type": "adam"},
            "batch_size": 288,
            "max_epochs": 2,
        },
    })
}

#[test]
fn a_worker_killed_within_an_epoch_reads_on_at_the_row_and_ends_with_the_same_bits() {
    let mut daemon = Daemon::with(Worker::Real);
    let rows: String = (0..ROWS).map(line).collect();
    let data = daemon.write("rows.csv", format!("a,b,c,d,e,f,g,h,class\n{rows}"));
    let id = daemon.submit(&job("undisturbed", &data, 1));
    let undisturbed = daemon.wait_for(&id, "succeeded");
    assert_eq!(undisturbed["attempt"], 1);
    assert!(undisturbed["metrics"]["test_accuracy"].as_f64() > Some(0.9), "{undisturbed:#}");
    let id = daemon.submit(&job("disturbed", &data, 1));
    for attempt in 1..=2 {
        processes::kill(daemon.wait_for_checkpoint(&id, attempt));
    }
    let disturbed = daemon.wait_for(&id, "succeeded");
    assert_eq!(disturbed["attempt"], 3, "{disturbed:#}");
    let resumed: Vec<_> = daemon.events(&id).into_iter().filter(|event| event["event"] == "resumed").collect();
    assert_eq!(resumed.len(), 2, "{resumed:#?}");
    let epoch = undisturbed["progress"]["step"].as_u64().unwrap() / 2;
    // One that was due while another was on its way is taken a few steps later.
    let within = |event: &Value| !event["step"].as_u64().unwrap().is_multiple_of(epoch);
    assert!(epoch > EVERY && resumed.iter().any(within), "within an epoch: {resumed:#?}");
    assert_eq!(disturbed["model"]["digest"], undisturbed["model"]["digest"]);
    assert_eq!(disturbed["metrics"]["test_loss"], undisturbed["metrics"]["test_loss"]);
    // Blocks that are shuffled together are another order, or the comparison would prove nothing.
    let id = daemon.submit(&job("wider", &data, 4));
    assert_ne!(daemon.wait_for(&id, "succeeded")["model"]["digest"], undisturbed["model"]["digest"]);
}
