//! Evaluations over real files: two models on the same rows, overall and by slice, and what cannot be compared.

use mlctl_protocol::ExitClass;
use serde_json::{Value, json};

use super::{
    common::Recorder,
    jobs::{Bench, digits, digits_csv},
};

/// A bench with two models of the digits: one that was trained well, and one that was not trained long.
fn stage() -> (Bench, [String; 2]) {
    let bench = Bench::new();
    let models = [1, 12].map(|epochs| {
        let mut spec = digits();
        spec["train"]["max_epochs"] = json!(epochs);
        bench.run(&spec, &Recorder::default(), (epochs, 1), &[]).unwrap().model.unwrap().uri
    });
    (bench, models)
}

fn spec(models: &[String], uri: &str) -> Value {
    let models: Vec<_> = models.iter().map(|from| json!({"from": from})).collect();
    json!({"version": 1, "name": "e", "evaluate": {
        "models": models, "data": {"format": "csv", "uri": uri}, "part": "test"}})
}

#[test]
fn two_models_are_compared_on_the_rows_that_neither_has_seen() {
    let (bench, models) = stage();
    let digits = format!("file://{}", digits_csv().display());
    let mut spec = spec(&models, &digits);
    spec["evaluate"]["slice"] = json!("label");
    let run = |spec: &Value| bench.run(spec, &Recorder::default(), (20, 1), &[]);
    let done = run(&spec).unwrap();
    let output = done.output.unwrap();
    assert_eq!((output.records, output.errors), (270, 0));
    let text = bench.read(&output.uri);
    let account: Value = serde_json::from_str(&text).unwrap();
    // What an inference job says of each alone.
    for (index, from) in models.iter().enumerate() {
        let alone = json!({"version": 1, "name": "i", "infer": {
            "model": {"from": from}, "data": {"format": "csv", "uri": digits}, "part": "test"}});
        let alone = bench.run(&alone, &Recorder::default(), (21, 1), &[]).unwrap().metrics;
        assert_eq!(account["all"]["models"][index], json!(alone));
        let name = |metric: &str| if index == 0 { metric.to_owned() } else { format!("{index}.{metric}") };
        assert_eq!((done.metrics[&name("loss")], done.metrics[&name("accuracy")]), (alone["loss"], alone["accuracy"]));
    }
    let accuracy = &account["all"]["differences"][0]["accuracy"];
    let of = |key: &str| accuracy[key].as_f64().unwrap();
    assert!(of("low") < of("mean") && of("mean") < of("high") && of("low") > 0.0, "{accuracy}");
    assert!(of("above") > 0.99, "{accuracy}");
    for (metric, key) in [("difference", "mean"), ("difference_low", "low"), ("difference_high", "high")] {
        assert_eq!(done.metrics[&format!("1.accuracy_{metric}")], of(key));
    }
    let slices = account["slices"].as_array().unwrap();
    assert_eq!(slices.len(), 10, "the digits");
    assert_eq!(slices.iter().map(|slice| slice["rows"].as_u64().unwrap()).sum::<u64>(), 270);
    // Again: the same to the byte.
    assert_eq!(bench.read(&run(&spec).unwrap().output.unwrap().uri), text);
    // With itself there is no difference.
    spec["evaluate"]["models"][1] = spec["evaluate"]["models"][0].clone();
    let same: Value = serde_json::from_str(&bench.read(&run(&spec).unwrap().output.unwrap().uri)).unwrap();
    let loss = &same["all"]["differences"][0]["loss"];
    assert_eq!(
        (&loss["mean"], &loss["low"], &loss["high"], &loss["above"]),
        (&json!(0.0), &json!(0.0), &json!(0.0), &json!(0.5))
    );
}

#[test]
fn what_cannot_be_compared_is_the_users_to_mend() {
    let (bench, models) = stage();
    let mut other = digits();
    other["train"]["max_epochs"] = json!(1);
    other["train"]["split"]["seed"] = json!(99);
    let other = bench.run(&other, &Recorder::default(), (3, 1), &[]).unwrap().model.unwrap().uri;
    let uri = format!("file://{}", digits_csv().display());
    let run = |spec: &Value| bench.run(spec, &Recorder::default(), (22, 1), &[]).unwrap_err();
    let fault = run(&spec(&[models[0].clone(), other], &uri));
    assert_eq!(fault.class, ExitClass::Spec, "{fault:?}");
    assert!(fault.message.contains("other divisions"), "{fault:?}");
    let features: Vec<String> = (0..64).map(|index| format!("p{index}")).collect();
    let unlabelled = bench.file("bare.csv", format!("{}\n{}\n", features.join(","), vec!["1"; 64].join(",")));
    let mut bare = spec(&models, &unlabelled);
    bare["evaluate"]["part"] = Value::Null;
    let fault = run(&bare);
    assert_eq!(fault.class, ExitClass::Spec, "{fault:?}");
}
