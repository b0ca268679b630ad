//! The same rows in every format give the same model to the bit; and every mistake in a file is told with its place and a way out.

use std::{
    io::Write,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use flate2::{Compression, write::GzEncoder};
use mlctl_protocol::{ExitClass, result::OutputRef};
use mlworker::fault::Fault;
use serde_json::{Value, json};
use zstd::stream::raw::CParameter;

use super::{
    common::Recorder,
    jobs::{Bench, SMALL, small},
};

/// The rows of [`SMALL`].
const JSONL: &str = "{\"a\": 1, \"b\": 2, \"class\": 0}\n{\"b\":4.5,\"a\":3,\"class\":1}\n\n{\"a\":-1e3,\"b\":0.0,\"class\":2,\"note\":[1,{}]}\r\n\
    {\"a\": \"7\", \"b\": 8, \"class\": 1}\n{\"a\":9,\"b\":10,\"class\":0}\n{\"a\":11,\"b\":12,\"class\":2}";

pub fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    zstd::encode_all(bytes.as_ref(), 1).unwrap()
}

/// A file that NumPy wrote (`fixtures/npy/make.py`).
fn numpy(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/npy").join(name)).unwrap()
}

/// The small job on a source of other data.
pub fn job(data: Value) -> Value {
    let mut spec = small("file:///none");
    spec["train"]["data"] = data;
    spec
}

fn csv(uri: &str) -> Value {
    json!({"format": "csv", "uri": uri, "targets": ["class"]})
}

fn jsonl(uri: &str) -> Value {
    json!({"format": "jsonl", "uri": uri, "targets": ["class"]})
}

fn npy(uri: &str, targets_uri: &str) -> Value {
    json!({"format": "npy", "uri": uri, "targets_uri": targets_uri})
}

/// Trains, as a job of its own, and tells the digest of the model.
pub fn digest(bench: &Bench, data: Value) -> Result<String, Fault> {
    static JOBS: AtomicU64 = AtomicU64::new(1);
    let number = JOBS.fetch_add(1, Ordering::Relaxed);
    bench.run(&job(data), &Recorder::default(), (number, 1), &[]).map(|done| done.model.unwrap().digest)
}

#[test]
fn the_same_rows_in_any_format_make_the_same_model() {
    let bench = Bench::new();
    let plain = digest(&bench, csv(&bench.file("x.csv", SMALL))).unwrap();
    let halves = [gzip(&SMALL[..20]), gzip(&SMALL[20..])].concat();
    let frames = [zstandard(&SMALL[..20]), zstandard(&SMALL[20..])].concat();
    let mut sources = vec![
        csv(&bench.file("x.csv.gz", gzip(SMALL))),
        csv(&bench.file("x.csv.zst", zstandard(SMALL))),
        csv(&bench.file("halves.csv.gz", halves)),
        csv(&bench.file("frames.csv.zst", frames)),
        jsonl(&bench.file("x.jsonl", JSONL)),
        jsonl(&bench.file("bom.jsonl", format!("\u{feff}\n{JSONL}\n"))),
        jsonl(&bench.file("x.jsonl.gz", gzip(JSONL))),
        jsonl(&bench.file("x.jsonl.zst", zstandard(JSONL))),
    ];
    let vectors = "{\"v\":[1,2],\"class\":0}\n{\"class\":1,\"v\":[3,4.5]}\n{\"v\":[-1e3,0],\"class\":2}\n{\"v\":[7,\"8\"],\"class\":1}\n\
        {\"v\":[ 9 , 10 ],\"class\":0}\n{\"v\":[11,12],\"class\":2}\n";
    let vectors = bench.file("vectors.jsonl", vectors);
    sources.push(jsonl(&vectors));
    sources.push(json!({"format": "jsonl", "uri": vectors, "features": ["v"], "targets": ["class"]}));
    sources.push(json!({"format": "jsonl", "uri": vectors, "features": ["v[0]", "v[1]"], "targets": ["class"]}));
    let classes = bench.file("y.npy", numpy("y_i8.npy"));
    for name in ["x_f2", "x_f4", "x_f8", "x_f4_big_endian", "x_f4_cube"] {
        sources.push(npy(&bench.file(name, numpy(&format!("{name}.npy"))), &classes));
    }
    let features = bench.file("x.npy.gz", gzip(numpy("x_f4.npy")));
    for name in ["y_u1", "y_i2_big_endian", "y_f4_column"] {
        sources.push(npy(&features, &bench.file(name, zstandard(numpy(&format!("{name}.npy"))))));
    }
    for source in sources {
        assert_eq!(digest(&bench, source.clone()).unwrap(), plain, "{source}");
    }
}

/// Writes files into a folder; the folder's URI, with a slash at its end.
pub fn folder(bench: &Bench, name: &str, files: &[(&str, Vec<u8>)]) -> String {
    for (file, content) in files {
        std::fs::create_dir_all(bench.dir.path().join(name).join(file).parent().unwrap()).unwrap();
        bench.file(&format!("{name}/{file}"), content);
    }
    bench.uri(name) + "/"
}

#[test]
fn rows_in_several_files_are_those_of_one() {
    let bench = Bench::new();
    let plain = digest(&bench, csv(&bench.file("x.csv", SMALL))).unwrap();
    let lines: Vec<_> = SMALL.split_inclusive('\n').collect();
    let part = |rows: std::ops::Range<usize>| format!("{}{}", lines[0], lines[1..][rows].concat()).into_bytes();
    let parts = folder(
        &bench,
        "csv",
        &[
            ("b.csv", part(2..3)),
            ("a.csv", part(0..2)),
            ("c/a.csv", part(3..3)),
            ("d.csv", gzip(part(3..6))),
            ("_SUCCESS", vec![]),
        ],
    );
    let json: Vec<_> = JSONL.split_inclusive('\n').collect();
    let files =
        [("p-1.jsonl", json[0].into()), ("p-2.jsonl", vec![]), ("p-3.jsonl.zst", zstandard(json[1..].concat()))];
    let jsons = folder(&bench, "jsonl", &[files.as_slice(), &[("other", b"no".to_vec())]].concat());
    // The header of the file that NumPy wrote, for other numbers of rows.
    let (x, y) = (numpy("x_f4.npy"), numpy("y_u1.npy"));
    let cut = |whole: &[u8], size: usize, rows: std::ops::Range<usize>| {
        let at = whole.len() - 6 * size;
        let header = String::from_utf8_lossy(&whole[10..at]).replacen("(6,", &format!("({},", rows.len()), 1);
        [&whole[..10], header.as_bytes(), &whole[at..][rows.start * size..rows.end * size]].concat()
    };
    let arrays = folder(
        &bench,
        "npy",
        &[("x1", cut(&x, 8, 0..1)), ("x2", cut(&x, 8, 1..6)), ("y1", cut(&y, 1, 0..1)), ("y2", cut(&y, 1, 1..6))],
    );
    let sources = [
        csv(&parts),
        csv(&format!("{parts}**/?.csv")),
        jsonl(&format!("{jsons}p-*")),
        npy(&format!("{arrays}x*"), &format!("{arrays}y?")),
    ];
    for source in sources {
        assert_eq!(digest(&bench, source.clone()).unwrap(), plain, "{source}");
    }
}

#[test]
fn what_is_wrong_in_one_of_several_files_is_told_with_its_name() {
    let bench = Bench::new();
    let parts = |name: &str, b: &str| {
        let a = "a,b,class\n1,2,0\n3,4,1\n".as_bytes().to_vec();
        csv(&folder(&bench, name, &[("a.csv", a), ("b.csv", b.into())]))
    };
    for (name, b, part) in [
        ("row", "a,b,class\n1,2,0\n1,x,0\n", "row/b.csv: row 1 (line 3), column \"b\": \"x\" is not a number"),
        ("order", "b,a,class\n1,2,0\n", "order/b.csv is not of the same columns as"),
        ("more", "a,b,class,d\n1,2,0,1\n", "it has 4 columns, and that has 3"),
        ("empty", "", "empty/b.csv is empty"),
    ] {
        let said = refusal(part, digest(&bench, parts(name, b)));
        assert!(said.contains(part), "{part}: {said}");
    }
    for (data, part) in [
        (csv(&bench.uri("row/*.tsv")), "there is no file that matches in"),
        (csv(&bench.uri("nowhere/")), "there is no file in"),
        (npy(&bench.uri("row/*"), &bench.uri("row/a*")), "are 2 files and"),
    ] {
        let said = refusal(part, digest(&bench, data));
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn several_files_are_predicted_and_known_again() {
    let bench = Bench::new();
    let rows = |from: u32| {
        let rows = (from..from + 20).map(|n| format!("r{n},{n},{},{}\n", n * n, n % 3));
        format!("id,a,b,class\n{}", rows.collect::<String>()).into_bytes()
    };
    let uri = folder(&bench, "d", &[("a.csv", rows(0)), ("b.csv", rows(20))]);
    let data = json!({"format": "csv", "uri": uri, "targets": ["class"], "features": ["a", "b"]});
    let mut spec = job(data.clone());
    spec["train"]["split"] = json!({"test": 0.25});
    let trained = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap();
    let infer = |job: u64, more: Value| {
        let mut spec = json!({"version": 1, "name": "i", "infer": {
            "model": {"from": trained.model.as_ref().unwrap().uri}, "data": data, "id_column": "id", "batch_size": 7}});
        spec["infer"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bench.run(&spec, &Recorder::default(), (job, 1), &[])
    };
    let done = infer(2, json!({"part": "test"})).unwrap();
    assert_eq!(done.metrics["accuracy"], trained.metrics["test_accuracy"]);
    bench.file("d/b.csv", [rows(20), b"r40,x,1,1\n".to_vec()].concat());
    let done = infer(3, json!({})).unwrap();
    let output = done.output.unwrap();
    assert_eq!((output.records, output.errors), (40, 1));
    assert!(bench.read(&output.uri).lines().last().unwrap().starts_with("{\"id\":\"r39\","));
    let listed: Value = serde_json::from_str(&bench.read(&bench.uri("jobs/3/output/1/errors.jsonl"))).unwrap();
    assert_eq!((&listed["row"], &listed["line"], &listed["file"]), (&json!(40), &json!(22), &json!("b.csv")));
    let fault = infer(4, json!({"part": "test"})).unwrap_err();
    assert!(fault.message.contains("not the data that the model was trained on"), "{}", fault.message);
}

/// The message and the hint of a job that ended as the user's mistake.
#[track_caller]
pub fn refusal(what: &str, ended: Result<String, Fault>) -> String {
    let fault = ended.unwrap_err();
    assert_eq!(fault.class, ExitClass::Spec, "{what}: {}", fault.message);
    format!("{} / {}", fault.message, fault.hint.unwrap())
}

#[test]
fn a_line_of_json_that_is_wrong_is_told_with_its_number() {
    let bench = Bench::new();
    let first = "{\"a\":1,\"b\":2,\"class\":0}\n";
    for (content, parts) in [
        (String::new(), ["is empty", "one JSON object"]),
        ("\n\n \n".into(), ["is empty", "one JSON object"]),
        ("1,2\n".into(), ["line 1: it is no JSON object", "one JSON object"]),
        ("[1, 2]\n".into(), ["line 1: it is no JSON object: invalid type: sequence", "one JSON object"]),
        ("{\"a\":1,\"b\":2}\n".into(), ["has no column \"class\"", "its columns are \"a\", \"b\""]),
        (
            "{\"a\":[1,2],\"class\":0}\n{\"a\":[1],\"class\":0}".into(),
            ["row 1 (line 2): \"a\" has 1 numbers, and 2", "correct"],
        ),
        ("{\"a\":[1,2],\"class\":0}\n{\"a\":7,\"class\":0}".into(), ["row 1 (line 2): \"a\" is no array", "correct"]),
        ("{\"a\":[1,[2]],\"class\":0}".into(), ["column \"a[1]\": \"[2]\" is not a number", "correct"]),
        ("{\"a\":[1,2],\"class\":0}\n{\"class\":0}".into(), ["column \"a[0]\": nothing is where", "correct"]),
        ("{\"a\":[1,2,3],\"class\":0}".into(), ["the data has 3 feature columns and the model takes 2", "begin train"]),
        ("{\"a\":1,\"a\":2,\"class\":0}\n".into(), ["more than one column \"a\"", "differently"]),
        (format!("{first}\n{{\"a\":1,\n"), ["row 1 (line 3): it is no JSON object: EOF", "correct the row"]),
        (format!("{first}{{\"a\":1}} x\n"), ["row 1 (line 2): it is no JSON object: trailing", "correct the row"]),
        (format!("{first}{{\"a\":1,\"class\":0}}"), ["column \"b\": nothing is where a number", "correct the row"]),
        (format!("{first}{{\"a\":null,\"b\":1,\"class\":0}}"), ["column \"a\": nothing is where", "correct the row"]),
        (format!("{first}{{\"a\":true,\"b\":1,\"class\":0}}"), ["\"true\" is not a number", "correct the row"]),
        (format!("{first}{{\"a\":[1],\"b\":1,\"class\":0}}"), ["\"[1]\" is not a number", "correct the row"]),
        (format!("{first}{{\"a\":1e99,\"b\":1,\"class\":0}}"), ["\"1e99\" is too large", "correct the row"]),
        (format!("{first}{{\"a\":1,\"b\":1,\"class\":3}}"), ["\"3\" is not a class of", "correct the row"]),
    ] {
        let said = refusal(&content, digest(&bench, jsonl(&bench.file("bad.jsonl", &content))));
        for part in parts {
            assert!(said.contains(part), "{content}: {said}");
        }
    }
    let long = [b"{\"a\":\"".as_slice(), &vec![b'x'; 33 << 20]].concat();
    let said = refusal("long", digest(&bench, jsonl(&bench.file("long.jsonl", long))));
    assert!(said.contains("line 1 of") && said.contains("bytes"), "{said}");
}

#[test]
fn an_array_that_is_no_table_of_numbers_is_told_by_its_file() {
    let bench = Bench::new();
    let file = |name: &str| bench.file(name, numpy(name));
    let (x, y) = (file("x_f4.npy"), file("y_i8.npy"));
    let whole = numpy("x_f4.npy");
    let cut = bench.file("cut.npy", &whole[..whole.len() - 1]);
    let longer = bench.file("longer.npy", [whole.as_slice(), &[0]].concat());
    let headless = bench.file("headless.npy", &whole[..40]);
    for (features, targets, part) in [
        (&file("refused_fortran.npy"), &y, "refused_fortran.npy cannot be used: it is laid out column by column"),
        (&file("refused_objects.npy"), &y, "\"|O\" is none of numbers"),
        (&file("refused_text.npy"), &y, "\"<U1\" is none of numbers"),
        (&file("refused_complex.npy"), &y, "\"<c16\" is none of numbers"),
        (&file("refused_structured.npy"), &y, "structured"),
        (&file("refused_scalar.npy"), &y, "a single number"),
        (&file("refused_archive.npz"), &y, "is not a .npy file"),
        (&cut, &y, "cut.npy cannot be used: it ends before the last row"),
        (&longer, &y, "longer.npy cannot be used: it goes on behind the last row"),
        (&headless, &y, "no sane length"),
        (&x, &file("y_short.npy"), "has 6 rows, and"),
        (&x, &file("y_half.npy"), "row 0, column \"y0\": 0.5 is not a whole number"),
        (&file("x_infinite.npy"), &y, "row 1, column \"x1\": inf is no finite number"),
        (&file("x_large.npy"), &y, "row 1, column \"x1\": 1e300 is too large a number"),
        (&y, &y, "the data has 1 feature columns and the model takes 2"),
        (&x, &x, "learns one column of class numbers"),
        (&x, &bench.uri("gone.npy"), "gone.npy does not exist"),
    ] {
        let said = refusal(part, digest(&bench, npy(features, targets)));
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_compressed_file_that_is_damaged_or_becomes_too_much_ends_the_job() {
    let bench = Bench::new();
    // Numbers that do not compress to nothing, so that there is a middle to damage.
    let rows: String =
        (0..20_000_u32).map(|n| format!("{},{},{}\n", n.wrapping_mul(2_654_435_761), n % 97, n % 3)).collect();
    let text = format!("a,b,class\n{rows}");
    // The checksum is the last of it but four bytes.
    let flipped = |mut bytes: Vec<u8>| {
        let place = bytes.len() - 6;
        bytes[place] ^= 1;
        bytes
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let newlines = vec![b'\n'; 80 << 20];
    let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
    wide.set_parameter(CParameter::WindowLog(29)).unwrap();
    wide.write_all(text.as_bytes()).unwrap();
    for (what, content, parts) in [
        ("gzip, cut", cut(gzip(&text)), ["cannot be decompressed as gzip", "at line"]),
        ("zstd, cut", cut(zstandard(&text)), ["cannot be decompressed as zstd", "at line"]),
        ("gzip, changed", flipped(gzip(&text)), ["cannot be decompressed as gzip", "copy it again"]),
        ("gzip, not all of it", [gzip(&text), b"and so on".to_vec()].concat(), ["as gzip", "copy it again"]),
        ("gzip, little", vec![0x1f, 0x8b], ["as gzip", "copy it again"]),
        ("gzip, made to harm", gzip(&newlines), ["becomes too much", "200 times as large"]),
        ("zstd, made to harm", zstandard(&newlines), ["becomes too much", "200 times as large"]),
        ("zstd, a window of half a GiB", wide.finish().unwrap(), ["as zstd", "compress it again"]),
    ] {
        let said = refusal(what, digest(&bench, csv(&bench.file("bad.csv", content))));
        for part in parts {
            assert!(said.contains(part), "{what}: {said}");
        }
    }
}

#[test]
fn every_format_is_predicted() {
    let bench = Bench::new();
    let classes = bench.file("y.npy", zstandard(numpy("y_i8.npy")));
    let data = npy(&bench.file("x.npy", numpy("x_f4.npy")), &classes);
    let mut spec = job(data.clone());
    spec["train"]["split"] = json!({"test": 0.5});
    let trained = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap();
    let model = trained.model.unwrap().uri;
    let infer = |data: Value, more: Value| {
        let mut spec =
            json!({"version": 1, "name": "i", "infer": {"model": {"from": model}, "data": data, "batch_size": 4}});
        spec["infer"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let done = bench.run(&spec, &Recorder::default(), (2, 1), &[])?;
        let output: OutputRef = done.output.unwrap();
        Ok::<_, Fault>((bench.read(&output.uri), output.errors, done.metrics))
    };
    let (arrays, errors, metrics) = infer(data.clone(), json!({})).unwrap();
    assert_eq!((arrays.lines().count(), errors), (6, 0));
    assert!(metrics.contains_key("accuracy"));
    let (_, _, metrics) = infer(data, json!({"part": "test"})).unwrap();
    assert_eq!(metrics["accuracy"], trained.metrics["test_accuracy"]);
    let unlabelled = json!({"format": "npy", "uri": bench.uri("x.npy")});
    let (_, _, metrics) = infer(unlabelled.clone(), json!({})).unwrap();
    assert!(metrics.is_empty(), "no label, no metrics");
    let fault = infer(unlabelled, json!({"part": "test"})).unwrap_err();
    assert!(fault.message.contains("not the data that the model was trained on"), "{}", fault.message);
    // The columns of arrays are x0, x1 and y0; a file that names its own is told which are meant.
    let features = json!({"format": "jsonl", "uri": bench.file("x.jsonl.gz", gzip(JSONL)), "features": ["a", "b"], "targets": ["class"]});
    let (lines, errors, _) = infer(features.clone(), json!({})).unwrap();
    assert_eq!((lines, errors), (arrays, 0));
    let (named, _, _) = infer(features, json!({"id_column": "class"})).unwrap();
    assert!(named.starts_with("{\"id\":\"0\","), "{named}");
    let bad = format!("{{\"x0\":1,\"x1\":2}}\n{}no json\n", "{\"x0\":1,\"x1\":2}\n".repeat(20));
    let (_, errors, _) = infer(json!({"format": "jsonl", "uri": bench.file("bad.jsonl", bad)}), json!({})).unwrap();
    assert_eq!(errors, 1);
    let listed: Value = serde_json::from_str(&bench.read(&bench.uri("jobs/2/output/1/errors.jsonl"))).unwrap();
    assert_eq!((&listed["row"], &listed["line"]), (&json!(21), &json!(22)));
    assert!(listed["error"].as_str().unwrap().contains("it is no JSON object"), "{listed}");
}

#[test]
fn arrays_in_lines_are_learnt_and_predicted() {
    let bench = Bench::new();
    let lines: String =
        (0..8).map(|n| format!("{{\"id\":\"r{n}\",\"x\":[{n},{},1],\"y\":[{n},0.5]}}\n", n * n)).collect();
    let data = json!({"format": "jsonl", "uri": bench.file("x.jsonl", lines), "features": ["x"], "targets": ["y"]});
    let train = json!({"version": 1, "name": "t", "train": {
        "loss": "mse", "batch_size": 4, "max_steps": 3, "optimizer": {"type": "adam"}, "scaling": "standard",
        "model": {"type": "mlp", "layers": [3, 2]}, "data": data}});
    let model = bench.run(&train, &Recorder::default(), (1, 1), &[]).unwrap().model.unwrap().uri;
    let mut infer = json!({"version": 1, "name": "i", "infer": {
        "model": {"from": model}, "data": data, "id_column": "id", "output": "csv"}});
    let done = bench.run(&infer, &Recorder::default(), (2, 1), &[]).unwrap();
    assert!(done.metrics["loss"].is_finite());
    let text = bench.read(&done.output.unwrap().uri);
    assert!(text.starts_with("id,y[0],y[1],expected_y[0],expected_y[1]\nr0,"), "{text}");
    // The model's config knows its columns, so the spec need not name them.
    infer["infer"]["data"] = json!({"format": "jsonl", "uri": data["uri"]});
    let again = bench.run(&infer, &Recorder::default(), (3, 1), &[]).unwrap();
    assert_eq!(bench.read(&again.output.unwrap().uri), text);
}

#[test]
fn a_file_cut_or_changed_anywhere_ends_in_words_or_in_a_model() {
    let bench = Bench::new();
    let classes = bench.file("y.npy", numpy("y_i8.npy"));
    type Source = fn(&str, &str) -> Value;
    let files: [(&str, Vec<u8>, Source); 5] = [
        ("csv.gz", gzip(SMALL), |uri, _| csv(uri)),
        ("csv.zst", zstandard(SMALL), |uri, _| csv(uri)),
        ("jsonl", JSONL.into(), |uri, _| jsonl(uri)),
        ("npy", numpy("x_f4.npy"), npy),
        ("npy.gz", gzip(numpy("x_f4.npy")), npy),
    ];
    for (name, whole, source) in files {
        // Every place of the beginning, where sizes and types are, and some of the rest.
        for at in (0..whole.len()).filter(|at| *at < 24 || at % 17 == 0) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            for content in [changed, whole[..at].to_vec()] {
                if let Err(fault) = digest(&bench, source(&bench.file(name, content), &classes)) {
                    assert_eq!(fault.class, ExitClass::Spec, "{name} {at}: {}", fault.message);
                    assert!(fault.hint.is_some(), "{name} {at}: {}", fault.message);
                }
            }
        }
    }
}
