//! Parquet files as pyarrow writes them (`fixtures/parquet/make.py`) are the table that other formats are; every mistake in one is told with its place; and one cut or
//! changed anywhere ends in words or in a model.

use std::path::Path;

use mlctl_protocol::ExitClass;
use mlworker::data::{parquet::Parquet, stream::Access};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use super::{
    common::Recorder,
    formats::{digest, folder, job, refusal},
    jobs::{Bench, SMALL},
};

pub fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
    std::fs::read(folder.join(format!("{name}.parquet"))).unwrap()
}

fn parquet(uri: &str) -> Value {
    json!({"format": "parquet", "uri": uri, "targets": ["class"]})
}

fn features(uri: &str, names: &[&str]) -> Value {
    json!({"format": "parquet", "uri": uri, "targets": ["class"], "features": names})
}

#[test]
fn columns_of_any_type_and_encoding_make_the_model_of_the_same_rows() {
    let bench = Bench::new();
    let csv = json!({"format": "csv", "uri": bench.file("x.csv", SMALL), "targets": ["class"]});
    let plain = digest(&bench, csv).unwrap();
    let file = |name: &str| bench.file(&format!("{name}.parquet"), fixture(name));
    let parts: Vec<_> = ["a", "b"].map(|name| (name, fixture("list"))).into();
    let folder =
        folder(&bench, "nothing", &[("a", fixture("plain")), ("b", fixture("nothing")), ("c", fixture("nothing"))]);
    for source in [
        parquet(&file("plain")),
        parquet(&file("snappy")),
        parquet(&file("zstd")),
        parquet(&file("pages")),
        parquet(&file("split")),
        parquet(&file("list")),
        features(&file("text"), &["a", "b"]),
        features(&file("date"), &["a", "b"]),
        features(&file("nested"), &["a", "b"]),
        features(&file("list"), &["v[0]", "v[1]"]),
        parquet(&folder),
    ] {
        assert_eq!(digest(&bench, source.clone()).unwrap(), plain, "{source}");
    }
    let twice = super::formats::folder(&bench, "twice", &parts);
    assert_ne!(digest(&bench, parquet(&twice)).unwrap(), plain);
}

#[test]
fn what_is_wrong_in_a_parquet_file_is_told_with_its_place() {
    let bench = Bench::new();
    let file = |name: &str| bench.file(&format!("{name}.parquet"), fixture(name));
    for (source, part) in [
        (parquet(&file("null")), "null.parquet: row 1, column \"a\": null is where a number must be"),
        (parquet(&file("nan")), "nan.parquet: row 1, column \"b\": 1e300 is too large a number"),
        (features(&file("ragged"), &["v"]), "row 1, column \"v[0]\": \"v\" has 1 numbers, and 2 in the first row"),
        (parquet(&file("words")), "words.parquet: row 2, column \"a\": \"x\" is not a number"),
        (features(&file("words"), &["b", "b"]), "named twice"),
        (features(&file("words"), &["b"]), "the data has 1 feature columns"),
        (features(&file("words"), &["b", "c"]), "has no column \"c\""),
        (parquet(&file("date")), "column \"when\" of"),
        (parquet(&file("nested")), "it holds lists of lists"),
        (parquet(&file("brotli")), "cannot be read as Parquet"),
        (parquet(&bench.file("x.csv", SMALL)), "is no Parquet file"),
        (parquet(&bench.file("empty", "")), "is no Parquet file"),
        (parquet(&file("nothing")), "the data has no rows"),
        (parquet(&bench.uri("gone.parquet")), "does not exist"),
    ] {
        let said = refusal(part, digest(&bench, source));
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_parquet_file_that_is_replaced_while_it_is_read_has_no_digest_of_the_other() {
    let bench = Bench::new();
    let (uri, other) = (bench.file("x.parquet", fixture("plain")), bench.uri("other.parquet"));
    let path = |uri: &str| uri.strip_prefix("file://").unwrap().to_owned();
    let expected = blake3::hash(&fixture("plain")).to_hex().to_string();
    for round in 0..20 {
        bench.file("x.parquet", fixture("plain"));
        bench.file("other.parquet", fixture("split"));
        bench.as_job(&job(parquet(&uri)), &Recorder::default(), (1, 1, &[]), |job| {
            let mut file = Parquet::open(&Access::of(job), &uri).unwrap();
            std::fs::rename(path(&other), path(&uri)).unwrap();
            let end = loop {
                match file.advance() {
                    Ok(true) => {}
                    end => break end,
                }
            };
            assert!(end.is_err() || file.content_digest() == expected, "round {round}");
        });
    }
}

#[test]
fn parquet_is_predicted_with_its_ids() {
    let bench = Bench::new();
    let data = features(&bench.file("text.parquet", fixture("text")), &["a", "b"]);
    let mut spec = job(data.clone());
    spec["train"]["split"] = json!({"test": 0.5});
    let trained = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap();
    let spec = json!({"version": 1, "name": "i", "infer": {
        "model": {"from": trained.model.unwrap().uri}, "data": data, "id_column": "id", "part": "test"}});
    let done = bench.run(&spec, &Recorder::default(), (2, 1), &[]).unwrap();
    assert_eq!(done.metrics["accuracy"], trained.metrics["test_accuracy"]);
    let text = bench.read(&done.output.unwrap().uri);
    assert!(text.lines().count() == 3 && text.starts_with("{\"id\":\"r"), "{text}");
}

#[test]
fn a_parquet_file_cut_or_changed_anywhere_ends_in_words_or_in_a_model() {
    let bench = Bench::new();
    let wholes: Vec<_> = ["plain", "snappy", "zstd", "split", "list", "text"].map(fixture).into();
    let change = (0..wholes.len(), any::<prop::sample::Index>(), 0..8_u8, any::<bool>(), any::<u8>());
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let tried = runner.run(&change, |(file, at, bit, cut, byte)| {
        let mut bytes = wholes[file].clone();
        let at = at.index(bytes.len());
        match (cut, bit) {
            (true, 0) => drop(bytes.drain(..at)),
            (true, 1..4) => bytes.truncate(at),
            (true, _) => bytes[at] = byte,
            (false, bit) => bytes[at] ^= 1 << bit,
        }
        let named = if file == 5 { &["a", "b"][..] } else { &[] };
        if let Err(fault) = digest(&bench, features(&bench.file("changed", bytes), named)) {
            prop_assert_eq!(fault.class, ExitClass::Spec, "{} {}", at, fault.message);
            prop_assert!(fault.hint.is_some(), "{} {}", at, fault.message);
        }
        Ok(())
    });
    tried.unwrap();
}
