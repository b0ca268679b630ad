//! Rows that are read while training goes on: the same bits however often a run is cut short and resumed, and nothing read that is not needed; and the rows of any
//! format are the same, however they are cut into blocks.

use std::ops::ControlFlow;

use mlctl_protocol::{
    message::StopClass,
    spec::{Split, SplitPart, Work},
};
use mlworker::{
    data::{self, Rows, blocks::Divider, rows::Source},
    fault::Fault,
    host::Order,
    train,
};
use serde_json::{Value, json};

use super::{
    common::Recorder,
    formats::{digest, folder, gzip, refusal},
    jobs::{Bench, SMALL, checkpoints},
    parquet::fixture,
};

/// Rows of each of eight files: a window of the smallest size takes two of them.
const ROWS: u32 = 21_000;

fn row(n: u32) -> [u32; 3] {
    let mixed = n.wrapping_mul(2_654_435_761) >> 8;
    [mixed % 1000, (mixed / 1000) % 1000, u32::from(mixed % 1000 > 500)]
}

fn files(bench: &Bench) -> String {
    let part = |file: u32| {
        let rows = (file * ROWS..(file + 1) * ROWS).map(row);
        let rows: String = rows.map(|[a, b, class]| format!("{a},{b},{class}\n")).collect();
        format!("a,b,class\n{rows}").into_bytes()
    };
    let names: Vec<_> = (0..8).map(|file| format!("part-{file}.csv")).collect();
    let all: Vec<_> = names.iter().zip(0..).map(|(name, file)| (name.as_str(), part(file))).collect();
    folder(bench, "data", &all)
}

fn job(uri: &str) -> Value {
    json!({
        "version": 1, "name": "streamed", "checkpoint": {"every_steps": 40},
        "train": {
            "loss": "cross_entropy", "scaling": "standard", "batch_size": 1500, "max_epochs": 2,
            "model": {"type": "mlp", "layers": [2, 4, 2], "dropout": 0.1},
            "data": {"format": "csv", "uri": uri, "targets": ["class"]},
            "split": {"validation": 0.05, "test": 0.05, "seed": 3},
            "stream": {"window_mib": 1},
            "optimizer": {"type": "adam", "learning_rate": 0.01}
        }
    })
}

#[test]
fn a_run_cut_short_anywhere_ends_with_the_same_bits() {
    let bench = Bench::new();
    let spec = job(&files(&bench));
    let whole = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap();
    assert!(whole.metrics["test_accuracy"] > 0.9, "{:?}", whole.metrics);
    let mut resume = Vec::new();
    let mut attempt = 0;
    // Within a window, near the end of one, in the next epoch.
    for at in [90, 61, 87] {
        attempt += 1;
        let host = Recorder::ordering(at, Order::Stop(StopClass::Preempted));
        assert!(bench.run(&spec, &host, (2, attempt), &resume).is_err());
        resume = [checkpoints(&host), resume].concat();
        assert!(host.warnings().is_empty(), "{:?}", host.warnings());
    }
    bench.as_job(&spec, &Recorder::default(), (2, 8, &resume), |job| {
        assert!(train::saved::index(job).is_some_and(|index| index.blocks.len() == 8), "no second pass is made");
    });
    let last = bench.run(&spec, &Recorder::default(), (2, attempt + 1), &resume).unwrap();
    assert_eq!(last.model.as_ref().unwrap().digest, whole.model.unwrap().digest);
    assert_eq!(last.metrics, whole.metrics);
    // A prediction finds the part again.
    let predict = json!({
        "version": 1, "name": "predict",
        "infer": {"model": {"from": last.model.unwrap().uri}, "data": spec["train"]["data"], "part": "test"},
    });
    let predicted = bench.run(&predict, &Recorder::default(), (3, 1), &[]).unwrap();
    assert!((predicted.metrics["accuracy"] - whole.metrics["test_accuracy"]).abs() < 1e-9, "{:?}", predicted.metrics);
    // The data is another under the run.
    bench.file("data/part-3.csv", "a,b,class\n1,2,0\n");
    let said = refusal("changed", bench.run(&spec, &Recorder::default(), (2, 9), &resume).map(|_| String::new()));
    assert!(said.contains("the data at") && said.contains("digest"), "{said}");
}

#[test]
fn a_resume_reads_its_window_and_the_next_and_makes_no_pass() {
    let bench = Bench::new();
    let spec = job(&files(&bench));
    bench.as_job(&spec, &Recorder::default(), (1, 1, &[]), |job| {
        let Work::Train(spec) = &job.start.spec.work else { panic!("it trains") };
        let first = data::load(job, spec, || None, || Ok(None)).unwrap();
        let index = serde_json::from_str(first.index.as_ref().unwrap().get()).unwrap();
        let again = data::load(job, spec, || Some(index), || Ok(None)).unwrap();
        assert_eq!((again.identity, again.scaler), (first.identity, first.scaler));
        let (Rows::Streamed(whole), Rows::Streamed(resumed)) = (first.rows, again.rows) else { panic!("not streamed") };
        let device = &candle_core::Device::Cpu;
        let rows = whole.count(SplitPart::Train);
        assert_eq!(rows + whole.count(SplitPart::Validation) + whole.count(SplitPart::Test), 8 * u64::from(ROWS));
        let mut batches = Vec::new();
        for start in (0..rows).step_by(1500) {
            batches.push(whole.batch(1, start..rows.min(start + 1500), device).unwrap());
        }
        // In the middle of a window, whatever falls to the other parts.
        let place = rows * 3 / 8 / 1500;
        assert_eq!(resumed.blocks_read(), 0, "nothing is read before a row is wanted");
        let batch = resumed.batch(1, place * 1500..(place + 1) * 1500, device).unwrap();
        assert!(resumed.blocks_read() <= 5, "{} of 8 blocks, two or three a window", resumed.blocks_read());
        let bits = |batch: &data::examples::Batch| batch.features.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected = &batches[usize::try_from(place).unwrap()];
        assert_eq!((bits(&batch), &batch.classes), (bits(expected), &expected.classes));
        // Each row once: what an epoch has is what another has.
        let sums = |epoch: u64| {
            let all = whole.batch(epoch, 0..rows, device).unwrap();
            (bits(&all).iter().map(|value| f64::from(*value)).sum::<f64>(), all.classes.iter().sum::<u32>(), bits(&all))
        };
        let (one, two) = (sums(0), sums(1));
        assert!((one.0 - two.0).abs() < 1e-3 && one.1 == two.1 && one.2 != two.2);
    });
}

/// An array as NumPy writes it, of little-endian f32.
fn npy(shape: &str, values: impl Iterator<Item = f32>) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}");
    let start = format!("\u{1}\0\u{76}\0{header:<117}\n");
    [&[0x93], &b"NUMPY"[..], start.as_bytes()].concat().into_iter().chain(values.flat_map(f32::to_le_bytes)).collect()
}

/// Blocks, and all rows of the three parts in the order of the data.
type Walked = (usize, [(Vec<u32>, Vec<u32>); 3]);

fn walked(bench: &Bench, spec: &Value) -> Result<Walked, Fault> {
    bench.as_job(spec, &Recorder::default(), (1, 1, &[]), |job| {
        let Work::Train(spec) = &job.start.spec.work else { panic!("it trains") };
        let loaded = data::load(job, spec, || None, || Ok(None))?;
        let index: Value = serde_json::from_str(loaded.index.as_ref().unwrap().get()).unwrap();
        let Rows::Streamed(source) = loaded.rows else { panic!("not streamed") };
        let mut parts = [const { (Vec::new(), Vec::new()) }; 3];
        for (part, (features, classes)) in
            [SplitPart::Train, SplitPart::Validation, SplitPart::Test].into_iter().zip(&mut parts)
        {
            // What is kept of the first time is what is read.
            for round in 0..2 {
                let (mut of_features, mut of_classes) = (Vec::new(), Vec::new());
                source.walk(part, 1000, &candle_core::Device::Cpu, &mut |batch| {
                    let values = batch.features.flatten_all()?.to_vec1::<f32>()?;
                    of_features.extend(values.iter().map(|value| value.to_bits()));
                    of_classes.extend(batch.classes);
                    Ok(ControlFlow::Continue(()))
                })?;
                assert!(round == 0 || (&*features, &*classes) == (&of_features, &of_classes));
                (*features, *classes) = (of_features, of_classes);
            }
        }
        Ok((index["blocks"].as_array().unwrap().len(), parts))
    })
}

#[test]
fn blocks_of_any_format_have_every_row_once_in_its_part() {
    let bench = Bench::new();
    let rows: Vec<_> = (0..300_000).map(row).collect();
    let split = Split { validation: 0.05, test: 0.05, seed: 3 };
    let mut divider = Divider::new(&split);
    let mut expected = [const { (Vec::new(), Vec::new()) }; 3];
    for (number, [a, b, class]) in (0..).zip(&rows) {
        let (features, classes) = &mut expected[divider.part(number) as usize];
        #[expect(clippy::cast_precision_loss, reason = "they are below 1000")]
        features.extend([(*a as f32).to_bits(), (*b as f32).to_bits()]);
        classes.push(*class);
    }
    let lines = |line: fn(&[u32; 3]) -> String| rows.iter().map(line).collect::<String>();
    let csv = format!("a,b,class\r\n{}", lines(|[a, b, class]| format!("{a},\"{b}\",{class}\r\n")));
    let jsonl = lines(|[a, b, class]| format!("{{\"a\":{a},\"b\":{b},\"class\":{class}}}\n\n"));
    #[expect(clippy::cast_precision_loss, reason = "they are below 1000")]
    let floats = |columns: std::ops::Range<usize>| {
        rows.iter().flat_map(move |row| row[columns.clone()].to_vec()).map(|value| value as f32)
    };
    let (x, y) = (npy("300000, 2", floats(0..2)), npy("300000,", floats(2..3)));
    let half = csv.find("\r\n").unwrap() + 2;
    let cut = csv.len() / 2 + csv[csv.len() / 2..].find("\r\n").unwrap() + 2;
    let second = [&csv.as_bytes()[..half], &csv.as_bytes()[cut..]].concat();
    let packed = folder(&bench, "packed", &[("a", gzip(&csv[..cut])), ("b", second)]);
    let y = bench.file("y.npy", y);
    for (data, blocks) in [
        (json!({"format": "csv", "uri": bench.file("x.csv", &csv), "targets": ["class"]}), 4),
        (json!({"format": "jsonl", "uri": bench.file("x.jsonl", &jsonl), "targets": ["class"]}), 9),
        (json!({"format": "npy", "uri": bench.file("x.npy", &x), "targets_uri": y}), 3),
        (json!({"format": "npy", "uri": bench.file("x.npy.gz", gzip(&x)), "targets_uri": y}), 1),
        (json!({"format": "csv", "uri": packed, "targets": ["class"]}), 3),
    ] {
        let mut spec = job("");
        spec["train"]["data"] = data.clone();
        spec["train"]["scaling"] = json!("none");
        let (found, parts) = walked(&bench, &spec).unwrap();
        assert!(found >= blocks, "{found} blocks of {data}");
        assert!(blocks > 1 || found == 1, "{found} blocks of {data}");
        assert!(parts == expected, "{data}");
    }
    // Row groups are blocks.
    for (name, blocks) in [("plain", 1), ("snappy", 2), ("zstd", 6)] {
        let mut spec = job("");
        spec["train"]["data"] =
            json!({"format": "parquet", "uri": bench.file("x.parquet", fixture(name)), "targets": ["class"]});
        spec["train"]["model"]["layers"] = json!([2, 4, 3]);
        spec["train"]["scaling"] = json!("none");
        spec["train"]["split"] = json!({"validation": 0.0, "test": 0.0});
        let (found, [train, ..]) = walked(&bench, &spec).unwrap();
        assert_eq!(found, blocks, "{name}");
        let values = [1.0, 2.0, 3.0, 4.5, -1e3, 0.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0_f32];
        assert_eq!(train, (values.map(f32::to_bits).to_vec(), vec![0, 1, 2, 1, 0, 2]), "{name}");
    }
}

#[test]
fn another_window_is_another_order_and_what_cannot_be_streamed_is_refused() {
    let bench = Bench::new();
    let mut spec = job(&files(&bench));
    let model = |spec: &Value, job| bench.run(spec, &Recorder::default(), (job, 1), &[]).unwrap().model.unwrap().digest;
    spec["train"]["max_epochs"] = json!(1);
    let first = model(&spec, 1);
    assert_eq!(model(&spec, 2), first);
    spec["train"]["stream"]["window_mib"] = json!(4);
    assert_ne!(model(&spec, 3), first);
    // A resume is refused what would be another order.
    let host = Recorder::ordering(50, Order::Stop(StopClass::Preempted));
    assert!(bench.run(&spec, &host, (4, 1), &[]).is_err());
    spec["train"]["stream"]["window_mib"] = json!(1);
    let said =
        refusal("other", bench.run(&spec, &Recorder::default(), (4, 2), &checkpoints(&host)).map(|_| String::new()));
    assert!(said.contains("stream was"), "{said}");
    let small = json!({"format": "csv", "uri": bench.file("small.csv", SMALL), "targets": ["class"]});
    assert!(digest(&bench, small.clone()).is_ok());
    spec["train"]["data"] = small;
    spec["train"]["model"]["layers"] = json!([2, 4, 3]);
    let said = refusal("few", walked(&bench, &spec).map(|_| String::new()));
    assert!(said.contains("there is none to"), "{said}");
}
