//! Versions of datasets: what a look at files says of them; and jobs that are pinned to a version, which read its files and no others, and end in words where one of them is not what it was.

use mlctl_protocol::{
    ExitClass,
    dataset::{ColumnKind, Manifest, Surveyed},
    message::StopClass,
};
use mlworker::{data::survey, host::Order};
use serde_json::{Value, json};

use super::{
    common::Recorder,
    formats::{folder, gzip, job},
    jobs::{Bench, SMALL, checkpoints},
    parquet::fixture,
};

/// What a look at data says.
fn look(source: &Value) -> Surveyed {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut said = Vec::new();
    let asked = json!({"v": 1, "source": source}).to_string();
    let is_made = survey::answer(asked.as_bytes(), &mut said, runtime.handle()).unwrap();
    let last = String::from_utf8(said).unwrap().lines().last().unwrap().to_owned();
    let last = serde_json::from_str(&last).unwrap();
    assert_eq!(is_made, matches!(last, Surveyed::Done { .. }), "{last:?}");
    last
}

fn manifest(source: &Value) -> Manifest {
    match look(source) {
        Surveyed::Done { manifest } => manifest,
        other => panic!("{other:?}"),
    }
}

fn wrong(source: &Value, words: &[&str]) {
    let Surveyed::Failed { message, hint, is_temporary } = look(source) else { panic!("{source}") };
    assert!(!is_temporary && hint.is_some());
    words.iter().for_each(|word| assert!(message.contains(word), "{word:?} is not in {message:?}"));
}

/// The data of a job that is pinned to what these files are now; `more` is what the spec says of their columns.
fn pinned(bench: &Bench, files: &Value, more: &Value) -> Value {
    let text = serde_json::to_string(&manifest(files)).unwrap();
    let at = bench.file("manifest", &text);
    let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
    let mut pin = json!({"manifest": at, "digest": digest, "format": files["format"], "uri": files["uri"]});
    if let Some(targets) = files.get("targets_uri") {
        pin["targets_uri"] = targets.clone();
    }
    let mut data = json!({"format": "dataset", "dataset": "small/3", "pinned": pin});
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    data
}

#[test]
fn a_look_at_files_says_what_they_are() {
    let bench = Bench::new();
    let rows = |text: &str| text.as_bytes().to_vec();
    let files = [
        ("a.csv", rows("id,a,b,class\nx,1,2,0\ny,3,4.5,1\n")),
        ("b.csv.gz", gzip("id,a,b,class\nz,-1e3,0,2\n")),
        ("c.csv", rows("id,a,b,class\n7,7,,1\n8,9,10,0\n9,11,12,2\n")),
    ];
    let found = manifest(&json!({"format": "csv", "uri": folder(&bench, "d", &files)}));
    let kinds: Vec<_> = found.columns.iter().map(|column| (column.name.as_str(), column.kind)).collect();
    use ColumnKind::{Number, Text};
    assert_eq!(kinds, [("id", Text), ("a", Number), ("b", Text), ("class", Number)]);
    assert_eq!((found.rows, found.targets.len()), (Some(6), 0));
    for (object, ((name, content), rows)) in found.objects.iter().zip(files.iter().zip([2, 1, 3])) {
        let blake3 = blake3::hash(content).to_hex().to_string();
        assert_eq!((object.name.as_str(), &object.blake3, object.rows), (*name, &blake3, Some(rows)));
        assert_eq!((object.size_bytes, &object.etag), (content.len() as u64, &None), "a local file has no tag");
    }
    // One file is known by its name.
    let one = manifest(&json!({"format": "csv", "uri": bench.file("small.csv", SMALL)}));
    assert_eq!((one.objects[0].name.as_str(), one.rows), ("small.csv", Some(6)));
    let found = manifest(&json!({"format": "parquet", "uri": bench.file("x.parquet", fixture("plain"))}));
    assert!(found.rows > Some(0) && !found.columns.is_empty());
    let text =
        manifest(&json!({"format": "text", "uri": bench.file("x.txt", "In the beginning"), "tokenizer": "bytes"}));
    assert_eq!((text.rows, text.objects[0].size_bytes, text.columns.len()), (None, 16, 0));
    wrong(&json!({"format": "csv", "uri": bench.file("bad.csv", "a,b\n1,2\n3\n")}), &["bad.csv", "row 1", "1 field"]);
    wrong(&json!({"format": "csv", "uri": bench.file("none.csv", "a,b\n")}), &["no rows"]);
    wrong(&json!({"format": "csv", "uri": bench.uri("gone.csv")}), &["gone.csv", "does not exist"]);
    wrong(&json!({"format": "randn", "rows": 1, "features": 1, "targets": 1}), &["no files"]);
}

#[test]
fn arrays_have_their_targets_in_files_of_their_own() {
    let bench = Bench::new();
    let array = |name: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/npy");
        std::fs::read(format!("{folder}/{name}.npy")).unwrap()
    };
    let (x, y) = (bench.file("x.npy", array("x_f4")), bench.file("y.npy", array("y_i8")));
    let files = json!({"format": "npy", "uri": x, "targets_uri": y});
    let found = manifest(&files);
    assert_eq!((found.rows, found.objects.len(), found.targets[0].name.as_str()), (Some(6), 1, "y.npy"));
    let spec = job(pinned(&bench, &files, &json!({})));
    let run = |number| bench.run(&spec, &Recorder::default(), (number, 1), &[]);
    assert_eq!(
        run(1).unwrap().model.unwrap().digest,
        bench.run(&job(files), &Recorder::default(), (2, 1), &[]).unwrap().model.unwrap().digest
    );
    let mut changed = array("y_i8");
    // The last class, 2 of eight bytes, is 1 from now on.
    let last = changed.len() - 8;
    changed[last] ^= 3;
    bench.file("y.npy", changed);
    let fault = run(3).unwrap_err();
    assert!(fault.class == ExitClass::Spec && fault.message.contains("y.npy is not what it was"), "{fault:?}");
}

/// What may have become of a file.
type Change = fn(&Bench);

const HALF: &str = "a,b,class\n9,10,0\n11,12,2\n";

fn halves(bench: &Bench) -> Value {
    let first = "a,b,class\n1,2,0\n3,4.5,1\n-1e3,0,2\n7,8,1\n".as_bytes().to_vec();
    let uri = folder(bench, "d", &[("part-0.csv", first), ("part-1.csv", HALF.as_bytes().to_vec())]);
    json!({"format": "csv", "uri": format!("{uri}part-*.csv")})
}

const CHANGES: [(&str, Change, &str); 3] = [
    ("missing", |bench| std::fs::remove_file(bench.dir.path().join("d/part-1.csv")).unwrap(), "it is not there"),
    ("cut off", |bench| drop(bench.file("d/part-1.csv", &HALF[..HALF.len() - 2])), "bytes, and had"),
    ("changed", |bench| drop(bench.file("d/part-1.csv", HALF.replace("12", "13"))), "its content is another"),
];

#[test]
fn a_pinned_job_reads_the_files_of_its_version_and_says_which_is_another() {
    let columns = json!({"targets": ["class"]});
    for streamed in [false, true] {
        let bench = Bench::new();
        let files = halves(&bench);
        let mut plain = job(json!({"format": "csv", "uri": files["uri"], "targets": ["class"]}));
        let mut spec = job(pinned(&bench, &files, &columns));
        for spec in [&mut plain, &mut spec] {
            if streamed {
                spec["train"]["stream"] = json!({});
            }
        }
        let expected = bench.run(&plain, &Recorder::default(), (1, 1), &[]).unwrap().model.unwrap();
        // It has come since, and is none of the version's.
        bench.file("d/part-2.csv", "other,columns\n1,2\n");
        let host = Recorder::ordering(3, Order::Stop(StopClass::Preempted));
        assert_eq!(bench.run(&spec, &host, (2, 1), &[]).unwrap_err().class, ExitClass::Preempted);
        let resume = checkpoints(&host);
        assert!(!resume.is_empty());
        let model = bench.run(&spec, &Recorder::default(), (2, 2), &resume).unwrap().model.unwrap();
        assert_eq!(model.digest, expected.digest, "it is the model of the same files, named by a pattern");
        let predict = |number| {
            let data = spec["train"]["data"].clone();
            let infer = json!({"model": {"from": model.uri}, "data": data});
            bench.run(&json!({"version": 1, "name": "p", "infer": infer}), &Recorder::default(), (number, 1), &[])
        };
        assert!(predict(3).is_ok());
        for (number, (what, change, word)) in (1_u32..).zip(CHANGES) {
            halves(&bench);
            change(&bench);
            let anew = bench.run(&spec, &Recorder::default(), (10 + u64::from(number), 1), &[]).unwrap_err();
            let resumed = bench.run(&spec, &Recorder::default(), (2, 9 + number), &resume).unwrap_err();
            let predicted = predict(20 + u64::from(number)).unwrap_err();
            for fault in [anew, resumed, predicted] {
                assert_eq!(fault.class, ExitClass::Spec, "{what}: {fault:?}");
                for word in ["d/part-1.csv is not what it was", "version small/3", word] {
                    assert!(fault.message.contains(word), "{what}: {word:?} is not in {:?}", fault.message);
                }
            }
        }
    }
}

#[test]
fn a_manifest_that_is_damaged_or_gone_is_the_stores_fault() {
    let bench = Bench::new();
    let spec = job(pinned(&bench, &halves(&bench), &json!({"targets": ["class"]})));
    let class = || bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap_err();
    bench.file("manifest", "{}");
    let fault = class();
    assert!(fault.class == ExitClass::Storage && fault.message.contains("damaged"), "{fault:?}");
    std::fs::remove_file(bench.dir.path().join("manifest")).unwrap();
    assert_eq!(class().class, ExitClass::Storage);
    let unpinned = job(json!({"format": "dataset", "dataset": "small", "targets": ["class"]}));
    let fault = bench.run(&unpinned, &Recorder::default(), (1, 1), &[]).unwrap_err();
    assert!(fault.class == ExitClass::Spec && fault.message.contains("small"), "{fault:?}");
}

#[test]
fn a_mistake_in_a_row_of_a_version_says_how_to_find_out_whether_it_was_there_before() {
    let bench = Bench::new();
    let spec = job(pinned(&bench, &halves(&bench), &json!({"targets": ["class"]})));
    bench.file("d/part-1.csv", HALF.replace("12", "xy"));
    let fault = bench.run(&spec, &Recorder::default(), (1, 1), &[]).unwrap_err();
    assert!(fault.message.contains("part-1.csv") && fault.message.contains("\"xy\""), "{fault:?}");
    assert!(fault.hint.as_ref().unwrap().contains("mlctl dataset verify small/3"), "{fault:?}");
}
