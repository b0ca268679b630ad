//! Inference jobs over real files: with every kind of model, of every part, with bad rows, bad models and orders to end.

use mlctl_protocol::{ExitClass, message::StopClass, result::CheckpointRef};
use mlworker::{
    fault::Fault,
    host::{Done, Order},
};
use serde_json::{Value, json};

use super::{
    common::Recorder,
    jobs::{Bench, SMALL, checkpoints, digits, digits_csv, small},
};

/// A bench with a trained model of the small problem.
struct Trained {
    bench: Bench,
    data: String,
    model: String,
    checkpoint: CheckpointRef,
}

impl Trained {
    fn new() -> Self {
        let (bench, host) = (Bench::new(), Recorder::default());
        let data = bench.file("small.csv", SMALL);
        let mut spec = small(&data);
        spec["train"]["split"] = json!({"validation": 0.2, "test": 0.4, "seed": 3});
        let model = bench.run(&spec, &host, (1, 1), &[]).unwrap().model.unwrap().uri;
        let checkpoint = checkpoints(&host).remove(0);
        Self { bench, data, model, checkpoint }
    }

    fn spec(&self, from: &str) -> Value {
        json!({"version": 1, "name": "infer", "infer": {
            "model": {"from": from}, "data": {"format": "csv", "uri": self.data}, "batch_size": 2}})
    }

    fn run(&self, spec: &Value) -> Result<Done, Fault> {
        self.bench.run(spec, &Recorder::default(), (2, 1), &[])
    }

    /// The lines of JSON that a job wrote.
    fn lines(&self, done: &Done) -> Vec<Value> {
        let text = self.bench.read(&done.output.as_ref().unwrap().uri);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn the_held_out_digits_are_read_as_in_the_test_of_the_training() {
    let bench = Bench::new();
    let host = Recorder::default();
    let trained = bench.run(&digits(), &host, (1, 1), &[]).unwrap();
    let uri = trained.model.unwrap().uri;
    let data = json!({"format": "csv", "uri": format!("file://{}", digits_csv().display())});
    let infer = |from: String| {
        let spec = json!({"version": 1, "name": "i", "infer": {"model": {"from": from}, "data": data, "part": "test"}});
        let host = Recorder::default();
        (bench.run(&spec, &host, (2, 1), &[]).unwrap(), host)
    };
    let (done, host) = infer(uri.clone());
    let output = done.output.unwrap();
    assert_eq!((output.records, output.errors), (270, 0));
    assert_eq!(output.uri, bench.uri("jobs/2/output/1/predictions.jsonl"));
    assert_eq!(done.metrics["accuracy"], trained.metrics["test_accuracy"]);
    // The training's loss is of f32 means of batches.
    assert!((done.metrics["loss"] - trained.metrics["test_loss"]).abs() < 1e-6, "{:?}", done.metrics);
    assert_eq!(host.last.lock().unwrap().total, Some(270));
    let published = bench.read(&output.uri);
    // The last checkpoint holds the same weights, and so does the file with its config beside it.
    for from in [newest_checkpoint(&bench), format!("{uri}/model.safetensors")] {
        let (done, _) = infer(from.clone());
        assert!(bench.read(&done.output.unwrap().uri) == published, "{from}");
    }
}

/// The folder of job 1's newest checkpoint.
fn newest_checkpoint(bench: &Bench) -> String {
    let folder = bench.dir.path().join("jobs/1/1/checkpoints");
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    bench.uri(&format!("jobs/1/1/checkpoints/{}", names.last().unwrap()))
}

#[test]
fn weights_alone_need_their_network_and_are_not_scaled() {
    let trained = Trained::new();
    let bytes =
        std::fs::read(trained.model.strip_prefix("file://").unwrap().to_owned() + "/model.safetensors").unwrap();
    std::fs::create_dir(trained.bench.dir.path().join("bare")).unwrap();
    let bare = trained.bench.file("bare/w.safetensors", bytes);
    let fault = trained.run(&trained.spec(&bare)).unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec);
    assert!(fault.hint.unwrap().contains("infer.model.network"));
    let mut spec = trained.spec(&bare);
    spec["infer"]["model"]["network"] = json!({"type": "mlp", "layers": [2, 4, 3]});
    spec["infer"]["data"]["features"] = json!(["a", "b"]);
    let values = trained.run(&spec).unwrap();
    assert!(values.metrics.is_empty());
    assert_eq!(trained.lines(&values)[0]["values"].as_array().unwrap().len(), 3);
    spec["infer"]["data"]["targets"] = json!(["class"]);
    let classes = trained.run(&spec).unwrap();
    assert!(classes.metrics.contains_key("accuracy"), "one column to compare with: classes");
    assert_eq!(trained.lines(&classes)[0]["expected"], 0);
    spec["infer"]["part"] = json!("test");
    assert!(trained.run(&spec).unwrap_err().message.contains("no config"));
    spec["infer"]["model"]["network"]["layers"] = json!([2, 5, 3]);
    let fault = trained.run(&spec).unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec);
    assert!(
        fault.message.contains("\"layer1.weight\" is F32 of shape [4, 2] where F32 of shape [5, 2]"),
        "{}",
        fault.message
    );
}

#[test]
fn rows_are_named_by_their_column_and_results_may_be_csv() {
    let trained = Trained::new();
    let data = trained.bench.file("named.csv", "b,name,a\n2,\"x,1\",1\n4.5,y,3\n");
    let mut spec = trained.spec(&trained.model);
    spec["infer"]["data"]["uri"] = json!(data);
    spec["infer"]["id_column"] = json!("name");
    let done = trained.run(&spec).unwrap();
    assert!(done.metrics.is_empty(), "no label, no metrics");
    let lines = trained.lines(&done);
    assert_eq!((&lines[0]["id"], &lines[1]["id"]), (&json!("x,1"), &json!("y")));
    let sum: f64 = lines[0]["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6);
    spec["infer"]["output"] = json!("csv");
    let done = trained.run(&spec).unwrap();
    let uri = done.output.unwrap().uri;
    assert!(uri.ends_with("/predictions.csv"));
    let text = trained.bench.read(&uri);
    let mut csv = text.lines();
    assert_eq!(csv.next().unwrap(), "id,class,expected,probability0,probability1,probability2");
    assert_eq!(csv.next().unwrap().split_once(",0.").unwrap().0, format!("\"x,1\",{},", lines[0]["class"]));
    assert_eq!(csv.count(), 1);
    // Columns are found by name: another order of columns is the same row.
    let mut other = trained.spec(&trained.model);
    other["infer"]["data"]["uri"] = json!(trained.data);
    assert_eq!(trained.lines(&trained.run(&other).unwrap())[0]["probabilities"], lines[0]["probabilities"]);
}

#[test]
fn a_part_is_the_trainings_own_and_of_the_trainings_data_alone() {
    let trained = Trained::new();
    let mut seen = Vec::new();
    for (part, rows) in [("train", 3), ("validation", 1), ("test", 2)] {
        let mut spec = trained.spec(&trained.model);
        spec["infer"]["part"] = json!(part);
        let lines = trained.lines(&trained.run(&spec).unwrap());
        assert_eq!(lines.len(), rows, "{part}");
        seen.extend(lines.iter().map(|line| line["id"].as_u64().unwrap()));
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4, 5]);
    for other in [SMALL.replace("4.5", "4.25"), format!("{SMALL}1,1,1\n"), SMALL.replace("11,12,2\n", "")] {
        let mut spec = trained.spec(&trained.model);
        spec["infer"]["part"] = json!("train");
        spec["infer"]["data"]["uri"] = json!(trained.bench.file("other.csv", other));
        let fault = trained.run(&spec).unwrap_err();
        assert_eq!(fault.class, ExitClass::Spec);
        assert!(fault.message.contains("not the data that the model was trained on"), "{}", fault.message);
    }
}

#[test]
fn a_few_bad_rows_are_listed_and_many_end_the_job() {
    let trained = Trained::new();
    let good = "1,2,0\n".repeat(30);
    let host = Recorder::default();
    let mut spec = trained.spec(&trained.model);
    spec["infer"]["data"]["uri"] =
        json!(trained.bench.file("bad.csv", format!("a,b,class\n1,x,0\n{good}1,2\n3,4,\n3,4,soon\n")));
    let done = trained.bench.run(&spec, &host, (2, 1), &[]).unwrap();
    let output = done.output.unwrap();
    assert_eq!((output.records, output.errors), (32, 2));
    let errors = trained.bench.read(&trained.bench.uri("jobs/2/output/1/errors.jsonl"));
    let lines: Vec<Value> = errors.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], json!({"row": 0, "line": 2, "column": "b", "error": "\"x\" is not a number"}));
    assert_eq!((&lines[1]["row"], lines.len()), (&json!(31), 2));
    let warnings = host.warnings();
    assert!(warnings[0].starts_with("1 labels could not be read"), "{warnings:?}");
    assert!(warnings[1].starts_with("2 of 34 rows could not be predicted"), "{warnings:?}");
    spec["infer"]["data"]["uri"] = json!(trained.bench.file("worse.csv", "a,b,class\n1,x,0\n1,2,0\n"));
    let fault = trained.bench.run(&spec, &Recorder::default(), (3, 1), &[]).unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec);
    assert!(
        fault.message.contains("1 of 2 rows cannot be predicted") && fault.message.contains("row 0 (line 2)"),
        "{}",
        fault.message
    );
    assert!(!trained.bench.dir.path().join("jobs/3").exists(), "nothing was published");
}

#[test]
fn an_order_ends_it_and_publishes_nothing() {
    let trained = Trained::new();
    for (order, class) in [
        (Order::Stop(StopClass::Cancelled), ExitClass::Cancelled),
        (Order::Stop(StopClass::Preempted), ExitClass::Preempted),
        (Order::Stop(StopClass::Timeout), ExitClass::Timeout),
        (Order::Refused("stale".into()), ExitClass::Lost),
    ] {
        let fault =
            trained.bench.run(&trained.spec(&trained.model), &Recorder::ordering(1, order), (3, 1), &[]).unwrap_err();
        assert_eq!(fault.class, class, "{}", fault.message);
        assert!(!trained.bench.dir.path().join("jobs/3").exists());
    }
}

#[test]
fn attempts_do_not_touch_each_others_results() {
    let trained = Trained::new();
    let spec = trained.spec(&trained.model);
    let two = trained.bench.run(&spec, &Recorder::default(), (2, 2), &[]).unwrap().output.unwrap().uri;
    let before = trained.bench.read(&two);
    let mut late = spec;
    late["infer"]["output"] = json!("csv");
    let one = trained.bench.run(&late, &Recorder::default(), (2, 1), &[]).unwrap().output.unwrap().uri;
    assert_ne!(one, two);
    assert_eq!(trained.bench.read(&two), before);
}

#[test]
fn values_are_predicted_and_compared() {
    let bench = Bench::new();
    let data = bench.file("v.csv", "x,y,z\n1,2,3\n2,4,6\n3,6,9\n4,8,12\n");
    let train = json!({"version": 1, "name": "v", "train": {
        "loss": "mse", "batch_size": 4, "max_epochs": 2, "optimizer": {"type": "sgd"}, "scaling": "standard",
        "model": {"type": "mlp", "layers": [1, 2]}, "data": {"format": "csv", "uri": data, "targets": ["y", "z"]}}});
    let model = bench.run(&train, &Recorder::default(), (1, 1), &[]).unwrap().model.unwrap().uri;
    let infer = json!({"version": 1, "name": "i", "infer": {
        "model": {"from": model}, "data": {"format": "csv", "uri": data}, "output": "csv"}});
    let done = bench.run(&infer, &Recorder::default(), (2, 1), &[]).unwrap();
    let text = bench.read(&done.output.unwrap().uri);
    assert!(
        text.starts_with("id,y,z,expected_y,expected_z\n0,") && text.lines().nth(1).unwrap().ends_with(",2.0,3.0"),
        "{text}"
    );
    let rows: Vec<Vec<f64>> =
        text.lines().skip(1).map(|line| line.split(',').map(|field| field.parse().unwrap()).collect()).collect();
    let squares = rows.iter().map(|row| ((row[1] - row[3]).powi(2) + (row[2] - row[4]).powi(2)) / 2.0).sum::<f64>();
    assert!((done.metrics["loss"] - squares / 4.0).abs() < 1e-9 * squares);
}

#[test]
fn a_model_that_cannot_be_used_is_told_by_what_is_wrong_with_it() {
    let trained = Trained::new();
    let Trained { bench, model, checkpoint, .. } = &trained;
    let path = |uri: &str, name: &str| format!("{}/{name}", uri.strip_prefix("file://").unwrap());
    let run = |from: &str| trained.run(&trained.spec(from)).unwrap_err();
    for (from, part) in [
        (bench.uri("nowhere"), "holds no model"),
        (bench.uri("gone.safetensors"), "no config.json beside it"),
        ("job:digits".to_owned(), "names a job"),
        ("relative/model".to_owned(), "cannot be used as a URI"),
    ] {
        let fault = run(&from);
        assert_eq!(fault.class, ExitClass::Spec, "{}", fault.message);
        assert!(fault.message.contains(part), "{}", fault.message);
    }
    // A number of the weights changed, as no format notices.
    let weights = path(model, "model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &flipped).unwrap();
    let fault = run(model);
    assert_eq!(fault.class, ExitClass::Storage);
    assert!(fault.message.contains("digest"), "{}", fault.message);
    std::fs::write(&weights, &whole[..whole.len() - 3]).unwrap();
    assert_eq!(run(model).class, ExitClass::Spec);
    // A NaN, in weights without a checksum.
    let mut broken = whole;
    let end = broken.len() - 4;
    broken[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::create_dir(bench.dir.path().join("bare")).unwrap();
    let mut spec = trained.spec(&bench.file("bare/w.safetensors", broken));
    spec["infer"]["model"]["network"] = json!({"type": "mlp", "layers": [2, 4, 3]});
    spec["infer"]["data"]["features"] = json!(["a", "b"]);
    let fault = trained.run(&spec).unwrap_err();
    assert!(
        fault.message.contains("tensor \"layer2.weight\"") && fault.message.contains("not finite"),
        "{}",
        fault.message
    );
    // A config of a later release.
    let config = path(model, "config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("\"format\": 1", "\"format\": 9", 1)).unwrap();
    let fault = run(model);
    assert!(fault.message.contains("config format 9 is not supported"), "{}", fault.message);
    // A truncated checkpoint.
    let part = path(&checkpoint.uri, "model-00001-of-00001.safetensors");
    let bytes = std::fs::read(&part).unwrap();
    std::fs::write(&part, &bytes[..bytes.len() - 1]).unwrap();
    let fault = run(&checkpoint.uri);
    assert_eq!(fault.class, ExitClass::Storage);
    assert!(fault.message.contains("the manifest says"), "{}", fault.message);
}

#[test]
fn data_that_does_not_fit_the_model_ends_the_job() {
    let trained = Trained::new();
    for (content, edit, part) in [
        ("", (|_| ()) as fn(&mut Value), "is empty"),
        ("a,b\n", |_| (), "no rows"),
        ("a,B,class\n1,2,0\n", |_| (), "no column \"b\""),
        (SMALL, |spec| spec["infer"]["id_column"] = json!("name"), "no column \"name\""),
        (SMALL, |spec| spec["infer"]["data"]["features"] = json!(["a"]), "1 feature columns and the model takes 2"),
        (
            "a,b,class,d
1,2,0,5
",
            |spec| spec["infer"]["data"]["targets"] = json!(["class", "d"]),
            "compared with 1",
        ),
    ] {
        let mut spec = trained.spec(&trained.model);
        spec["infer"]["data"]["uri"] = json!(trained.bench.file("x.csv", content));
        edit(&mut spec);
        let fault = trained.run(&spec).unwrap_err();
        assert_eq!(fault.class, ExitClass::Spec);
        assert!(fault.message.contains(part), "{}", fault.message);
    }
}

#[test]
fn generated_rows_are_predicted_and_their_test_part_is_the_trainings() {
    let data = json!({"format": "randn", "rows": 100, "features": 4, "targets": 2, "seed": 3});
    let train = json!({"version": 1, "name": "r", "train": {
        "loss": "mse", "batch_size": 50, "max_steps": 4, "optimizer": {"type": "adam"}, "scaling": "standard",
        "model": {"type": "mlp", "layers": [4, 8, 2]}, "data": data, "split": {"test": 0.3}}});
    let bench = Bench::new();
    let trained = bench.run(&train, &Recorder::default(), (1, 1), &[]).unwrap();
    let mut infer = json!({"version": 1, "name": "i", "infer": {
        "model": {"from": trained.model.unwrap().uri}, "data": data, "part": "test", "batch_size": 7}});
    let done = bench.run(&infer, &Recorder::default(), (2, 1), &[]).unwrap();
    assert_eq!(done.output.unwrap().records, 30);
    assert!((done.metrics["loss"] - trained.metrics["test_loss"]).abs() < 1e-6);
    infer["infer"]["data"]["seed"] = json!(4);
    assert!(bench.run(&infer, &Recorder::default(), (2, 1), &[]).unwrap_err().message.contains("not the data"));
}
