//! A training that is repeated from its record, with the real worker: the same bits where nothing has changed, and a plain word where its data has.

use serde_json::{Value, json};

use crate::support::{Daemon, Worker, until};

const SPEC: &str = r#"
version = 1
name = "rows"

[concurrency]
key = "one"
limit = 1

[train]
loss = "mse"
batch_size = 8
max_epochs = 3
register = "rows"

[train.model]
type = "mlp"
layers = [2, 8, 1]

[train.data]
format = "csv"
uri = "rows.csv"
targets = ["y"]

[train.optimizer]
type = "adam"
"#;

fn rows(factor: u32) -> String {
    let row = |n: u32| format!("{}.5,-{},{}\n", n % 5, n % 7, n % 5 * factor);
    format!("a,b,y\n{}", (0..40).map(row).collect::<String>())
}

#[test]
fn a_repeat_comes_to_the_same_bits_or_says_that_it_does_not() {
    let daemon = Daemon::with(Worker::Real);
    daemon.write("rows.csv", rows(1));
    daemon.write("rows.toml", SPEC);
    daemon.mlctl(&["submit", "rows.toml", "-w"]).ok();
    until("the version", || (daemon.mlctl(&["model", "show", "rows"]).code == 0).then_some(()));
    let said = daemon.mlctl(&["repro", "rows"]).ok();
    assert!(said.contains("reproduced: job 2 has trained the model of job 1 to the bit"), "{said}");
    let repeat = daemon.last();
    assert_eq!((&repeat["labels"]["repro-of"], &repeat["name"]), (&json!("1"), &json!("rows")));
    let versions = daemon.mlctl(&["model", "show", "rows", "-o", "json"]).json();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1, "a repeat is no version: {versions:#}");
    let compared = daemon.mlctl(&["diff", "1", "2", "-o", "json"]).json();
    let keys: Vec<_> = compared["spec"].as_array().unwrap().iter().map(|one| &one["key"]).collect();
    assert_eq!(keys, ["concurrency.key", "concurrency.limit", "labels.repro-of", "train.register"]);
    assert_eq!(compared["same_tensors"], true);

    daemon.write("rows.csv", rows(2));
    let run = daemon.mlctl(&["repro", "1"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stdout.contains("not reproduced: job 3") && run.stdout.contains("mlctl dataset add"), "{run:?}");
    let run = daemon.mlctl(&["repro", "1", "-o", "json"]);
    let compared: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &compared["same_tensors"]), (1, &json!(false)));
    let said = daemon.mlctl(&["repro", "1", "--detach"]).ok();
    assert!(said.contains("submitted job 5 (rows)"), "{said}");
    daemon.wait_for("5", "succeeded");

    daemon.mlctl(&["submit", "-w", "--name", "nothing", "--", "true"]).ok();
    daemon.mlctl(&["repro", "nothing"]).must_fail(5, &["of kind command", "state=succeeded"]);
    daemon.mlctl(&["repro", "none"]).must_fail(4, &["none"]);
    daemon.mlctl(&["diff", "1", "none"]).must_fail(4, &["none"]);
}
