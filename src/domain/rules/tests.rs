//! Tables: a change to a good spec, and the paths and words of what is found.

use mlctl_protocol::JobSpec;
use serde_json::{Value as Json, json};

use super::problems;

fn train() -> Json {
    json!({
        "version": 1, "name": "digits", "labels": {"team": "vision"},
        "train": {
            "model": {"type": "mlp", "layers": [64, 32, 10]},
            "data": {"format": "csv", "uri": "file:///data/digits.csv", "targets": ["label"]},
            "loss": "cross_entropy", "optimizer": {"type": "adam"}, "batch_size": 64, "max_epochs": 5,
        }
    })
}

fn infer() -> Json {
    json!({
        "version": 1, "name": "predict",
        "infer": {"model": {"from": "job:digits"}, "data": {"format": "csv", "uri": "/data/digits.csv"}, "id_column": "id"}
    })
}

/// The problems after each change of `pointer` to a value, as `path: message`.
fn found(mut document: Json, changes: &[(&str, Json)]) -> Vec<String> {
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match document.pointer_mut(parent).unwrap() {
            Json::Object(fields) => _ = fields.insert(key.to_owned(), value.clone()),
            Json::Array(items) => items[key.parse::<usize>().unwrap()] = value.clone(),
            other => panic!("nothing can be put into {other}"),
        }
    }
    let spec: JobSpec = serde_json::from_value(document).unwrap();
    problems(&spec).into_iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
}

/// Changes, and parts of what is found.
type Case<'a> = (&'a [(&'a str, Json)], &'a [&'a str]);

#[track_caller]
fn check(document: &Json, cases: &[Case<'_>]) {
    for (changes, expected) in cases {
        let found = found(document.clone(), changes);
        let fits =
            found.len() == expected.len() && found.iter().zip(*expected).all(|(found, part)| found.contains(part));
        assert!(fits, "{changes:?}\nfound    {found:#?}\nexpected {expected:#?}");
    }
}

#[test]
fn what_makes_sense_is_accepted() {
    let randn = json!({"format": "randn", "rows": 1000, "features": 1000, "targets": 10});
    check(
        &train(),
        &[
            (&[], &[]),
            (&[("/name", json!("Digits_2.final-x"))], &[]),
            (&[("/labels", json!({"fake": "steps 3; crash \"SIGKILL\"", "ml.example/a-b_c": ""}))], &[]),
            (&[("/train/convergence", json!({"patience": 3}))], &[]),
            (&[("/train/max_epochs", json!(null)), ("/train/max_steps", json!(10))], &[]),
            (&[("/train/split", json!({"validation": 0.1, "test": 0.2}))], &[]),
            (&[("/train/optimizer", json!({"type": "sgd", "learning_rate": 0.1, "momentum": 0.9}))], &[]),
            (&[("/train/data/uri", json!("/data/a b/ü.csv"))], &[]),
            (&[("/train/data/format", json!("jsonl"))], &[]),
            (&[("/train/data", json!({"format": "npy", "uri": "/x.npy", "targets_uri": "/y.npy"}))], &[]),
            (
                &[
                    ("/train/data", randn),
                    ("/train/loss", json!("mse")),
                    ("/train/model/layers", json!([1000, 500, 100, 10])),
                ],
                &[],
            ),
        ],
    );
    let network = json!({"type": "mlp", "layers": [64, 10]});
    check(
        &infer(),
        &[
            (&[], &[]),
            (&[("/infer/model/from", json!("job:17"))], &[]),
            (&[("/infer/model/from", json!("file:///models/digits"))], &[]),
            (&[("/infer/model", json!({"from": "/m/a.safetensors", "network": network}))], &[]),
            (&[("/infer/model", json!({"from": "/m/a.pth", "key": "state", "network": network}))], &[]),
        ],
    );
}

#[test]
fn text_is_for_transformers_alone_and_their_heads_share_the_width() {
    let gpt = |more: Json| {
        let mut network = json!({"type": "gpt", "context": 8, "width": 12, "depth": 2, "heads": 3});
        network.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        network
    };
    let text = json!({"format": "text", "uri": "/data/book.txt", "tokenizer": "bytes"});
    let on_text = |network: Json| [("/train/model", network), ("/train/data", text.clone())];
    let characters = json!({"format": "text", "uri": "/data/book.txt", "tokenizer": "characters"});
    check(
        &train(),
        &[
            (&on_text(gpt(json!({}))), &[]),
            (&[("/train/model", gpt(json!({"vocab": 60}))), ("/train/data", characters)], &[]),
            (
                &[("/train/model", gpt(json!({})))],
                &["train.model.type: a gpt learns from text, and the data is a table"],
            ),
            (&[("/train/data", text.clone())], &["train.model.type: the data is text, which a gpt alone learns from"]),
            (&on_text(gpt(json!({"vocab": 255}))), &["train.model.vocab: bytes are 256 tokens"]),
            (&on_text(gpt(json!({"heads": 5}))), &["train.model.heads: 5 heads do not share a width of 12 evenly"]),
            (
                &on_text(gpt(json!({"kv_heads": 2}))),
                &["train.model.kv_heads: 2 heads of keys and values do not serve 3"],
            ),
            (
                &on_text(gpt(json!({"heads": 4, "positions": "rope"}))),
                &["train.model.positions: rope turns pairs of values, and a head has 3"],
            ),
            (
                &on_text(gpt(json!({"width": 65536, "heads": 1, "depth": 1000}))),
                &["train.model.depth: its weights are more than 2^36 numbers"],
            ),
            (
                &on_text(gpt(json!({"context": 0, "depth": 1001, "dropout": 1.0}))),
                &[
                    "train.model.context: expected from 1 to 131072, found 0",
                    "train.model.depth: expected from 1 to 1000, found 1001",
                    "train.model.dropout: expected from 0 to 0.99, found 1",
                ],
            ),
            (
                &[
                    &on_text(gpt(json!({})))[..],
                    &[
                        ("/train/loss", json!("mse")),
                        ("/train/scaling", json!("standard")),
                        ("/train/stream", json!({})),
                    ],
                ]
                .concat(),
                &["train.loss: the next token", "train.scaling: tokens", "train.stream: text is read into memory"],
            ),
        ],
    );
    let network = json!({"from": "/m/a.safetensors", "network": gpt(json!({"vocab": 9}))});
    check(
        &infer(),
        &[
            (
                &[("/infer/data", text), ("/infer/id_column", Json::Null)],
                &["infer.data.format: an inference job predicts rows"],
            ),
            (&[("/infer/model", network)], &["infer.model.network.type: an inference job predicts rows"]),
        ],
    );
}

#[test]
fn images_agree_with_the_data_and_with_what_is_done_to_them() {
    let cnn = |image: Json, convolutions: Json| json!({"type": "cnn", "image": image, "convolutions": convolutions, "layers": [32, 10]});
    let image = |channels, height, width| json!({"channels": channels, "height": height, "width": width});
    let (eight, two) = (image(1, 8, 8), json!([{"channels": 4}, {"channels": 8, "kernel": 5, "pool": 1}]));
    let randn = json!({"format": "randn", "rows": 10, "features": 63, "targets": 10});
    let network = cnn(image(1, 3, 3), json!([{"channels": 4}, {"channels": 4}]));
    check(
        &train(),
        &[
            (&[("/train/model", cnn(eight.clone(), two.clone()))], &[]),
            (
                &[
                    ("/train/model", cnn(eight.clone(), two.clone())),
                    ("/train/data", randn),
                    ("/train/loss", json!("mse")),
                ],
                &["train.model.image: the network takes 64 features, the data has 63"],
            ),
            (
                &[("/train/model", cnn(eight.clone(), json!([{"channels": 4}, {"channels": 4, "pool": 5}])))],
                &["train.model.convolutions[1].pool: the image is 4 x 4 there, too small to be pooled by 5"],
            ),
            (
                &[("/train/model", cnn(image(3, 1000, 1000), two.clone()))],
                &["train.model.image: the image has 3000000 values, more than 1,000,000"],
            ),
            (
                &[("/train/model", cnn(eight.clone(), json!([])))],
                &["train.model.convolutions: expected from 1 to 100 items"],
            ),
            (
                &[("/train/model", cnn(image(0, 8, 8), json!([{"channels": 4, "kernel": 0}])))],
                &[
                    "train.model.convolutions[0].kernel: expected from 1 to 31, found 0",
                    "train.model.image.channels: expected from 1 to 10000, found 0",
                ],
            ),
            (
                &[("/train/model", cnn(eight, two)), ("/train/model/layers", json!([1]))],
                &["train.model.layers[0]: cross_entropy needs an output"],
            ),
        ],
    );
    check(
        &infer(),
        &[(
            &[("/infer/model", json!({"from": "/m/a.pth", "network": network}))],
            &["infer.model.network.convolutions[1].pool: the image is 1 x 1 there"],
        )],
    );
}

#[test]
fn times_and_retries() {
    let (early, late) = (json!("2126-11-26T02:00:00+01:00"), json!("2126-11-26T03:00:00Z"));
    check(
        &train(),
        &[
            (&[("/time", json!({"begin": early, "deadline": late}))], &[]),
            (&[("/time", json!({"deadline": late}))], &[]),
            (
                &[("/time", json!({"begin": late, "deadline": early}))],
                &["time.deadline: it is not after the start time"],
            ),
            (
                &[("/time", json!({"begin": late, "deadline": late}))],
                &["time.deadline: it is not after the start time"],
            ),
            (
                &[("/time", json!({"begin": "at dawn", "deadline": "tomorrow"}))],
                &["time.begin: \"at dawn\" is no moment", "time.deadline: \"tomorrow\" is no moment"],
            ),
            (&[("/retry", json!({"on": ["crash", "timeout", "lost"], "infrastructure_limit": 0}))], &[]),
            (&[("/retry", json!({"on": []}))], &["retry.on: expected from 1 to 13 items"]),
            (&[("/retry", json!({"infrastructure_limit": 101}))], &["retry.infrastructure_limit: expected"]),
            (
                &[("/retry", json!({"on": ["spec", "crash", "ok"]}))],
                &["retry.on[0]: a job that ended as spec", "retry.on[2]: a job that ended as ok"],
            ),
        ],
    );
}

#[test]
fn weights_to_begin_with() {
    let init = |value: Json| [("/train/init", value)];
    for (value, expected) in [
        (json!({"from": "job:digits"}), None),
        (json!({"from": "/m/model.pt", "key": "state"}), None),
        (json!({"from": "/m/folder"}), None),
        (json!({"from": "model.pth"}), Some("train.init.from: expected an absolute path")),
        (json!({"from": "job:"}), Some("train.init.from: expected the name or the id")),
        (json!({"from": "/m/folder", "key": "state"}), Some("train.init.key: a key is given for a .pth file only")),
        (json!({"from": "/m/a.pth", "key": ""}), Some("train.init.key: expected from 1 to 200 characters")),
    ] {
        let found = found(train(), &init(value.clone()));
        let fits = match expected {
            None => found.is_empty(),
            Some(part) => found.len() == 1 && found[0].contains(part),
        };
        assert!(fits, "{value}: {found:?}");
    }
}

#[test]
fn names_and_labels() {
    let many: Json = (0..65).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    check(
        &train(),
        &[
            (&[("/name", json!("@last"))], &["name: names with `@`"]),
            (&[("/name", json!("12"))], &["name: a name of digits"]),
            (&[("/name", json!("a b"))], &["name: ' ' cannot be"]),
            (&[("/name", json!("größe"))], &["name: 'ö' cannot be"]),
            (&[("/name", json!("a/b"))], &["name: '/' cannot be"]),
            (&[("/name", json!(".."))], &["name: a name starts with"]),
            (&[("/name", json!("-f"))], &["name: a name starts with"]),
            (&[("/name", json!(""))], &["name: expected from 1 to 100 characters, found 0"]),
            (&[("/name", json!("x".repeat(101)))], &["name: expected from 1 to 100 characters, found 101"]),
            (&[("/labels", many)], &["labels: a job has 64 labels at most, found 65"]),
            (&[("/labels", json!({"": "v", "a b": "v"}))], &["labels.: \"\" cannot", "labels.a b: \"a b\" cannot"]),
            (&[("/labels", json!({"k": "a\nb"}))], &["labels.k: the value of a label is one line"]),
            (&[("/labels", json!({"k": "x".repeat(1025)}))], &["labels.k: the value of a label has 1024 bytes"]),
            (
                &[("/retry", json!({"backoff_seconds": 20, "max_backoff_seconds": 10}))],
                &["retry.max_backoff_seconds: it is smaller"],
            ),
        ],
    );
}

#[test]
fn data_and_network_agree() {
    let randn = json!({"format": "randn", "rows": 10, "features": 3, "targets": 2});
    check(
        &train(),
        &[
            (&[("/train/model/layers", json!([64, 1]))], &["train.model.layers[1]: cross_entropy needs an output"]),
            (&[("/train/data/targets", json!([]))], &["train.data: there are no target columns"]),
            (
                &[("/train/data", json!({"format": "npy", "uri": "/x.npy"}))],
                &["train.data: there is no array to learn"],
            ),
            (
                &[("/train/data", json!({"format": "npy", "uri": "x.npy", "targets_uri": "s3:y.npy"}))],
                &["train.data.uri: expected an absolute", "train.data.targets_uri: expected an absolute"],
            ),
            (
                &[("/train/data/format", json!("jsonl")), ("/train/data/features", json!(["label"]))],
                &["train.data.features[0]: the column \"label\" is a target"],
            ),
            (
                &[("/train/data/targets", json!(["a", "b"]))],
                &["train.data.targets: cross_entropy takes one target column, found 2"],
            ),
            (
                &[("/train/loss", json!("mse"))],
                &["train.model.layers[2]: the network has 10 outputs, the data 1 target"],
            ),
            (
                &[("/train/data/features", json!(["a", "b"]))],
                &["train.model.layers[0]: the network takes 64 features, the data has 2"],
            ),
            (
                &[
                    ("/train/data/targets", json!(["a", "a"])),
                    ("/train/loss", json!("mse")),
                    ("/train/model/layers", json!([4, 2])),
                ],
                &["train.data.targets[1]: the column \"a\" is listed twice"],
            ),
            (
                &[("/train/data/features", json!(["", "label"])), ("/train/model/layers/0", json!(2))],
                &[
                    "train.data.features[0]: a column must have a name",
                    "train.data.features[1]: the column \"label\" is a target",
                ],
            ),
            (
                &[("/train/data", randn)],
                &[
                    "train.model.layers[0]: the network takes 64 features, the data has 3",
                    "train.loss: cross_entropy needs class numbers",
                ],
            ),
            (
                &[
                    ("/train/data", json!({"format": "randn", "rows": 1_000_000_000, "features": 1000, "targets": 10})),
                    ("/train/loss", json!("mse")),
                    ("/train/model/layers/0", json!(1000)),
                ],
                &["train.data.rows: 1000000000 rows of 1010 columns"],
            ),
        ],
    );
}

#[test]
fn files_are_named_in_one_way() {
    for (uri, expected) in [
        ("data/x.csv", "expected an absolute path"),
        ("file://data/x.csv", "expected an absolute path"),
        ("gs://bucket/x.csv", "the scheme \"gs\" is not understood"),
        ("s3://bucket", "it names a bucket"),
        ("s3://Bucket/x.csv", "a bucket's name has 3 to 63"),
        ("s3://key:secret@bucket/x.csv", "a bucket's name has 3 to 63"),
        ("s3://bucket/a//x.csv", "a name in it is empty"),
        ("s3://bucket/../x.csv", "a name in it is empty"),
        ("s3://bucket/x\u{7}.csv", "there is a control character"),
        ("file:///a/../b.csv", "`..` is not allowed"),
        ("/a\n.csv", "control character"),
        ("file:///", "it names the root"),
        (&format!("/{}", "x".repeat(4096)), "longer than 4,096 bytes"),
    ] {
        let found = found(train(), &[("/train/data/uri", json!(uri))]);
        assert!(
            matches!(&found[..], [one] if one.starts_with("train.data.uri: ") && one.contains(expected)),
            "{uri}: {found:?}"
        );
    }
}

#[test]
fn numbers_of_training_are_in_range() {
    let sgd = |key: &str, value: f64| json!({"type": "sgd", key: value});
    check(
        &train(),
        &[
            (&[("/train/max_epochs", json!(null))], &["train: the training has no end"]),
            (
                &[("/train/split", json!({"validation": 0.5, "test": 0.5}))],
                &["train.split: validation and test take everything"],
            ),
            (
                &[("/train/split", json!({"validation": 0.1, "test": 0.9}))],
                &["train.split: validation and test take everything"],
            ),
            (
                &[("/train/optimizer/learning_rate", json!(0.0))],
                &["train.optimizer.learning_rate: expected a positive number, found 0.0"],
            ),
            (&[("/train/optimizer/learning_rate", json!(-1e-3))], &["train.optimizer.learning_rate"]),
            (&[("/train/optimizer/learning_rate", json!(1e39))], &["train.optimizer.learning_rate"]),
            (&[("/train/optimizer/weight_decay", json!(-0.1))], &["train.optimizer.weight_decay"]),
            (
                &[("/train/optimizer/betas", json!([1.0, -0.1]))],
                &["train.optimizer.betas[0]", "train.optimizer.betas[1]"],
            ),
            (&[("/train/optimizer/eps", json!(1e-50))], &["train.optimizer.eps"]),
            (
                &[("/train/optimizer", sgd("momentum", 1.0))],
                &["train.optimizer.momentum: expected a number from 0 to less than 1"],
            ),
            (&[("/train/optimizer", sgd("learning_rate", f64::MIN_POSITIVE))], &["train.optimizer.learning_rate"]),
            (
                &[("/train/optimizer", json!({"type": "sgd", "nesterov": true}))],
                &["train.optimizer.momentum: expected a momentum for Nesterov's to look ahead with, found 0.0"],
            ),
            (&[("/train/optimizer", json!({"type": "sgd", "nesterov": true, "momentum": 0.9}))], &[]),
            (&[("/train/stream", json!({}))], &[]),
            (
                &[("/train/stream", json!({"window_mib": 0}))],
                &["train.stream.window_mib: expected from 1 to 1048576, found 0"],
            ),
            (
                &[
                    ("/train/data", json!({"format": "randn", "rows": 10, "features": 1000, "targets": 10})),
                    ("/train/loss", json!("mse")),
                    ("/train/model/layers/0", json!(1000)),
                    ("/train/stream", json!({})),
                ],
                &["train.stream: generated data is not read from anywhere"],
            ),
            (&[("/train/max_grad_norm", json!(0.0))], &["train.max_grad_norm: expected a positive number, found 0.0"]),
            (&[("/train/max_grad_norm", json!(1e-50))], &["train.max_grad_norm"]),
            (&[("/train/freeze", json!(["layer1.*", "a[b"]))], &["train.freeze[1]: no pattern of names of tensors"]),
            (&[("/train/freeze", json!([""]))], &["train.freeze[0]: no pattern of names of tensors: it is empty"]),
            (&[("/train/max_grad_norm", json!(1.0)), ("/train/model/activation", json!("gelu"))], &[]),
        ],
    );
}

#[test]
fn groups_averages_and_what_is_added_up_make_sense() {
    check(
        &train(),
        &[
            (
                &[("/train/max_grad_value", json!(-1.0))],
                &["train.max_grad_value: expected a positive number, found -1.0"],
            ),
            (&[("/train/ema", json!(0.999))], &[]),
            (&[("/train/ema", json!(1.0))], &["train.ema: expected a number from 0.5 to less than 1, found 1.0"]),
            (&[("/train/ema", json!(0.1))], &["train.ema"]),
            (&[("/train/accumulate", json!(0))], &["train.accumulate: expected from 1 to 1000000, found 0"]),
            (&[("/train/accumulate", json!(4)), ("/train/max_grad_value", json!(0.5))], &[]),
            (
                &[(
                    "/train/groups",
                    json!([{"tensors": ["*.bias"], "weight_decay": 0.0}, {"tensors": ["layer1.*"], "learning_rate_factor": 0.1}]),
                )],
                &[],
            ),
            (
                &[("/train/groups", json!([{"tensors": []}]))],
                &["train.groups[0].tensors: expected from 1 to 100 items"],
            ),
            (&[("/train/groups", json!([{"tensors": ["*"]}]))], &["train.groups[0]: the group changes nothing"]),
            (
                &[(
                    "/train/groups",
                    json!([{"tensors": ["ok", "a[b"], "learning_rate_factor": 0.0, "weight_decay": -0.1}]),
                )],
                &[
                    "train.groups[0].tensors[1]: no pattern of names of tensors",
                    "train.groups[0].learning_rate_factor: expected a positive number, found 0.0",
                    "train.groups[0].weight_decay: expected 0 or a positive number, found -0.1",
                ],
            ),
            (&[("/train/optimizer", json!({"type": "lion"}))], &[]),
            (
                &[("/train/optimizer", json!({"type": "lion", "learning_rate": 0.0, "betas": [0.9, 1.0]}))],
                &["train.optimizer.learning_rate: expected a positive number", "train.optimizer.betas[1]"],
            ),
        ],
    );
}

#[test]
fn the_best_is_chosen_by_what_is_validated_and_detectors_look_for_something() {
    check(
        &train(),
        &[
            (
                &[("/train/select", json!("best"))],
                &["train.select: the best weights are chosen by rows that are validated on"],
            ),
            (&[("/train/select", json!("best_accuracy")), ("/train/split", json!({"validation": 0.1}))], &[]),
            (
                &[
                    ("/train/select", json!("best_accuracy")),
                    ("/train/split", json!({"validation": 0.1})),
                    ("/train/loss", json!("mse")),
                    ("/train/model/layers/2", json!(1)),
                ],
                &["train.select: there is an accuracy only where classes are learnt"],
            ),
            (
                &[(
                    "/train/detect",
                    json!({"diverged": {"factor": 10}, "plateau": {"epochs": 20}, "dead_gradients": {"steps": 50}}),
                )],
                &[],
            ),
            (
                &[(
                    "/train/detect",
                    json!({"diverged": {"factor": 2.0, "epochs": 0}, "plateau": {"epochs": 1}, "dead_gradients": {"steps": 0}}),
                )],
                &[
                    "train.detect.dead_gradients.steps: expected at least 1",
                    "train.detect.diverged.epochs: expected at least 1",
                    "train.detect.plateau.epochs: expected at least 2",
                ],
            ),
            (
                &[("/train/detect", json!({"diverged": {"factor": 1.0}, "plateau": {"epochs": 2, "share": 1.0}}))],
                &[
                    "train.detect.diverged.factor: expected a number above 1, found 1.0",
                    "train.detect.plateau.share: expected a share from 0 to less than 1, found 1.0",
                ],
            ),
            (&[("/train/detect", json!({}))], &["train.detect: nothing is looked for"]),
        ],
    );
}

#[test]
fn a_schedule_rises_falls_and_leaves_its_warm_up() {
    let schedule = |schedule: Json| [("/train/schedule", schedule)];
    for good in [
        json!({"type": "constant", "warmup_steps": 100}),
        json!({"type": "linear", "min_learning_rate": 1e-3}),
        json!({"type": "cosine", "warmup_steps": 10, "min_learning_rate": 1e-5, "steps": 11}),
        json!({"type": "step", "step_size": 30, "gamma": 1.0}),
        json!({"type": "one_cycle"}),
        json!({"type": "inverse_sqrt", "warmup_steps": 4000, "timescale": 10}),
    ] {
        check(&train(), &[(&schedule(good), &[])]);
    }
    let cosine = json!({"type": "cosine", "warmup_steps": 500});
    for (bad, expected) in [
        (
            json!({"type": "cosine", "min_learning_rate": 0.01}),
            "train.schedule.min_learning_rate: expected a number from 0 to the optimizer's learning_rate of 0.001, found 0.01",
        ),
        (json!({"type": "linear", "min_learning_rate": -1e-9}), "train.schedule.min_learning_rate"),
        (json!({"type": "linear", "steps": 0}), "train.schedule.steps: expected at least 1"),
        (
            json!({"type": "linear", "steps": 10, "warmup_steps": 10}),
            "train.schedule.warmup_steps: the warm-up of 10 steps leaves nothing of the 10 that there are",
        ),
        (json!({"type": "step", "step_size": 0}), "train.schedule.step_size: expected at least 1"),
        (
            json!({"type": "step", "step_size": 1, "gamma": 0.0}),
            "train.schedule.gamma: expected a number above 0 and up to 1",
        ),
        (json!({"type": "step", "step_size": 1, "gamma": 1.5}), "train.schedule.gamma"),
        (json!({"type": "one_cycle", "div_factor": 0.5}), "train.schedule.div_factor: expected a number from 1 on"),
        (json!({"type": "one_cycle", "final_div_factor": 1e60}), "train.schedule.final_div_factor"),
        (json!({"type": "inverse_sqrt", "timescale": 0}), "train.schedule.timescale"),
    ] {
        check(&train(), &[(&schedule(bad), &[expected])]);
    }
    // As long as the training: one without an end has no such schedule.
    check(
        &train(),
        &[
            (
                &[("/train/max_steps", json!(500)), ("/train/schedule", cosine.clone())],
                &["train.schedule.warmup_steps"],
            ),
            (&[("/train/max_steps", json!(501)), ("/train/schedule", cosine.clone())], &[]),
            (&[("/train/max_epochs", json!(null)), ("/train/schedule", cosine)], &["train: the training has no end"]),
        ],
    );
}

#[test]
fn inference_has_a_model() {
    let network = json!({"type": "mlp", "layers": [64, 10]});
    let randn = json!({"format": "randn", "rows": 10, "features": 3, "targets": 2});
    check(
        &infer(),
        &[
            (&[("/infer/model/from", json!("job:"))], &["infer.model.from: expected the name or the id"]),
            (&[("/infer/model/from", json!("models/digits"))], &["infer.model.from: expected an absolute path"]),
            (&[("/infer/model/from", json!("hf://bert"))], &["infer.model.from: the scheme \"hf\""]),
            (&[("/infer/model/network", network.clone())], &["infer.model.network: the shape of the network"]),
            (&[("/infer/model", json!({"from": "/m/a.pth"}))], &["infer.model: a PyTorch file holds weights"]),
            (&[("/infer/model", json!({"from": "job:a", "key": "b"}))], &["infer.model.key: a key is given for"]),
            (&[("/infer/data", randn.clone())], &["infer.id_column: neither generated data nor"]),
            (&[("/infer/id_column", json!(""))], &["infer.id_column: a column must have a name"]),
            (
                &[
                    ("/infer/data", randn),
                    ("/infer/id_column", json!(null)),
                    ("/infer/model", json!({"from": "/m.safetensors", "network": network})),
                ],
                &["infer.model.network.layers[0]: the network takes 64 features, the data has 3"],
            ),
        ],
    );
}

#[test]
fn an_evaluation_compares_what_models_say_of_rows() {
    let evaluate = json!({
        "version": 1, "name": "compare",
        "evaluate": {
            "models": [{"from": "model:digits@champion"}, {"from": "job:digits"}],
            "data": {"format": "csv", "uri": "/data/digits.csv", "targets": ["label"]}, "part": "test", "slice": "country",
        }
    });
    let text = json!({"format": "text", "uri": "/data/genesis.txt", "tokenizer": "bytes"});
    let npy = json!({"format": "npy", "uri": "/data/x.npy"});
    check(
        &evaluate,
        &[
            (&[], &[]),
            (&[("/evaluate/models/1/from", json!("job:"))], &["evaluate.models[1].from: "]),
            (&[("/evaluate/models/0/from", json!("model.pth"))], &["evaluate.models[0]"]),
            (
                &[("/evaluate/data", text)],
                &["evaluate.data.format: an evaluation compares what models say of rows of numbers"],
            ),
            (&[("/evaluate/data", npy)], &["evaluate.slice: neither generated data nor an array"]),
        ],
    );
}

#[test]
fn everything_is_found_at_once() {
    let changes = [
        ("/name", json!("7")),
        ("/train/data/uri", json!("x.csv")),
        ("/train/optimizer/eps", json!(0.0)),
        ("/train/max_epochs", json!(null)),
    ];
    let found = found(train(), &changes);
    let paths: Vec<_> = found.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(paths, ["name", "train.data.uri", "train.optimizer.eps", "train"]);
}

#[test]
fn the_bounds_of_the_schema_hold_for_json() {
    check(
        &train(),
        &[
            (
                &[("/priority", json!(101)), ("/resources", json!({"cpus": 0})), ("/retry", json!({"limit": 101}))],
                &[
                    "priority: expected from 0 to 100, found 101",
                    "resources.cpus: expected from 1 to 1024, found 0",
                    "retry.limit",
                ],
            ),
            (&[("/train/model/layers", json!([64]))], &["train.model.layers: expected from 2 to 1000 items, found 1"]),
            (&[("/train/model/layers/1", json!(0))], &["train.model.layers[1]: expected from 1 to 1000000, found 0"]),
            (&[("/train/model/dropout", json!(1.0))], &["train.model.dropout: expected from 0 to 0.99, found 1"]),
            (&[("/train/split", json!({"test": -0.1}))], &["train.split.test: expected from 0 to 0.9, found -0.1"]),
            (&[("/train/batch_size", json!(0))], &["train.batch_size"]),
            (&[("/train/max_steps", json!(0))], &["train.max_steps: expected at least 1"]),
            (&[("/train/optimizer", json!({"type": "sgd", "momentum": 2.0}))], &["train.optimizer.momentum"]),
            (&[("/train/convergence", json!({"patience": 0}))], &["train.convergence.patience"]),
            (&[("/train/data/uri", json!(""))], &["train.data.uri"]),
            (
                &[("/train/data", json!({"format": "randn", "rows": 0, "features": 0, "targets": 1}))],
                &["train.data.features", "train.data.rows"],
            ),
            (&[("/checkpoint", json!({"keep": 0, "every_steps": 0}))], &["checkpoint.every_steps", "checkpoint.keep"]),
            (
                &[(
                    "/checkpoint",
                    json!({"keep_best": {"metric": "", "count": 0}, "keep_nightly": 4000, "keep_weekly": 521}),
                )],
                &[
                    "checkpoint.keep_best.count",
                    "checkpoint.keep_best.metric",
                    "checkpoint.keep_nightly",
                    "checkpoint.keep_weekly",
                ],
            ),
        ],
    );
    check(
        &infer(),
        &[
            (&[("/infer/batch_size", json!(0))], &["infer.batch_size"]),
            (&[("/infer/model/from", json!(""))], &["infer.model.from"]),
        ],
    );
}

#[test]
fn a_start_time_is_a_moment_with_an_offset() {
    let begin = |text: &str| [("/time", json!({"begin": text}))];
    for good in ["2026-11-26T02:00:00Z", "2026-11-26T02:00:00.25+01:00", "1999-01-01T00:00:00Z"] {
        check(&train(), &[(&begin(good), &[])]);
    }
    for wrong in ["2026-11-26T02:00:00", "02:00", "soon", "2026-02-30T00:00:00Z"] {
        check(&train(), &[(&begin(wrong), &["time.begin: "])]);
    }
    check(&train(), &[(&begin(""), &["time.begin: expected from 1 to 64 characters"])]);
    let time = |text: &str| mlctl_protocol::spec::TimePolicy { begin: Some(text.into()), ..Default::default() };
    let found = super::begin(&time("2026-11-26T02:00:00.123456789Z")).unwrap();
    assert_eq!(found.to_string(), "2026-11-26T02:00:00.123456Z", "what is kept in microseconds comes back the same");
}

#[test]
fn a_command_can_be_run_and_its_parameters_stand_somewhere() {
    let command = json!({
        "version": 1, "name": "c",
        "command": {"argv": ["./t.sh", "--lr={lr}"], "cwd": "/srv", "env": {"A": "b"}, "params": {"lr": 0.1}}
    });
    let many =
        |count: usize, value: &str| Json::Object((0..count).map(|index| (format!("V{index}"), json!(value))).collect());
    check(
        &command,
        &[
            (&[], &[]),
            (&[("/command/argv", json!([]))], &["command.argv: expected from 1 to 1000"]),
            (&[("/command/argv/0", json!(""))], &["command.argv[0]: \"\" is no program"]),
            (&[("/command/argv/0", json!("bin/"))], &["command.argv[0]"]),
            (&[("/command/argv/0", json!("{lr}/"))], &["command.argv[0]: \"0.1/\""]),
            (&[("/command/argv/1", json!("\0{lr}"))], &["command.argv[1]: an argument has no NUL"]),
            (&[("/command/argv/1", json!("x"))], &["command.params.lr: no argument has {lr}"]),
            (&[("/command/params", json!({"a b": 1}))], &["command.params.a b"]),
            (&[("/command/cwd", json!("srv"))], &["command.cwd: \"srv\" is no absolute path"]),
            (&[("/command/cwd", Json::Null)], &["command.cwd: the folder in which it runs is missing"]),
            (&[("/command/checkpoint_dir", json!("ckpt"))], &[]),
            (&[("/command/checkpoint_dir", json!("a/../../b"))], &["command.checkpoint_dir: "]),
            (&[("/command/env", json!({"ML_X": "1"}))], &["command.env.ML_X: variables that begin with ML_"]),
            (&[("/command/env", json!({"A=B": "1"}))], &["cannot be the name of a variable"]),
            (&[("/command/env", json!({"A": "\0"}))], &["command.env.A: a variable has no NUL"]),
            (
                &[("/command/env", json!({"A": "x".repeat(65_537)}))],
                &["command.env.A: a variable has 65536 bytes at most"],
            ),
            (&[("/command/env", many(257, "x"))], &["command.env: a command has 256 variables at most, found 257"]),
            (
                &[("/command/env", many(200, &"x".repeat(1000)))],
                &["command: arguments and variables have 196608 bytes"],
            ),
        ],
    );
}

#[test]
fn a_job_does_one_thing() {
    let mut both = train();
    both["command"] = json!({"argv": ["true"]});
    assert!(serde_json::from_value::<JobSpec>(both).unwrap_err().to_string().contains("keep one of"));
    let none = json!({"version": 1, "name": "x"});
    assert!(serde_json::from_value::<JobSpec>(none).unwrap_err().to_string().contains("nothing to do"));
}
