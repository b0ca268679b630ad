//! Parquet files made to harm: each says that it has more than its bytes can hold, and ends in words within the memory of a small file.

use std::time::{Duration, Instant};

use mlctl_protocol::ExitClass;
use serde_json::json;

use super::{formats::digest, jobs::Bench};

/// A structure in Thrift's compact form, whose fields come in order.
#[derive(Clone, Default)]
struct Fields(Vec<u8>, u8);

impl Fields {
    fn begin(&mut self, number: u8, kind: u8) {
        self.0.push((number - self.1) << 4 | kind);
        self.1 = number;
    }

    fn varint(&mut self, mut value: u64) {
        while value > 127 {
            self.0.push(value.to_le_bytes()[0] | 128);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn int(mut self, number: u8, value: u64) -> Self {
        self.begin(number, 6);
        self.varint(value * 2);
        self
    }

    fn int32(mut self, number: u8, value: u64) -> Self {
        self.begin(number, 5);
        self.varint(value * 2);
        self
    }

    fn name(mut self, number: u8, name: &str) -> Self {
        self.begin(number, 8);
        self.varint(name.len() as u64);
        self.0.extend(name.as_bytes());
        self
    }

    fn within(mut self, number: u8, fields: Self) -> Self {
        self.begin(number, 12);
        self.0.extend(fields.end());
        self
    }

    fn list(mut self, number: u8, kind: u8, items: Vec<Vec<u8>>) -> Self {
        self.begin(number, 9);
        self.0.push(15 << 4 | kind);
        self.varint(items.len() as u64);
        self.0.extend(items.concat());
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(0);
        self.0
    }
}

const INT64: u64 = 2;
const REQUIRED: u64 = 0;
const REPEATED: u64 = 2;

fn leaf(name: &str, repetition: u64) -> Vec<u8> {
    Fields::default().int32(1, INT64).int32(3, repetition).name(4, name).end()
}

fn group(name: &str, children: u64) -> Vec<u8> {
    Fields::default().int32(3, REQUIRED).name(4, name).int32(5, children).end()
}

/// A file of these pages, which are those of every column, and a schema; all its rows are in one group.
fn file(pages: &[Vec<u8>], dictionary: bool, schema: Vec<Vec<u8>>, columns: &[&str], rows: u64) -> Vec<u8> {
    let pages = pages.concat();
    let chunk = |name: &&str| {
        let path = vec![[&[name.len().to_le_bytes()[0]][..], name.as_bytes()].concat()];
        let meta = Fields::default().int32(1, INT64).list(2, 5, vec![vec![0]]).list(3, 8, path).int32(4, 0);
        let size = pages.len() as u64;
        let meta = meta.int(5, rows).int(6, size).int(7, size).int(9, 4);
        let meta = if dictionary { meta.int(11, 4) } else { meta };
        Fields::default().int(2, 4).within(3, meta).end()
    };
    let group = Fields::default().list(1, 12, columns.iter().map(chunk).collect()).int(2, 1).int(3, rows).end();
    let footer = Fields::default().int32(1, 1).list(2, 12, schema).int(3, rows).list(4, 12, vec![group]).end();
    let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
    [b"PAR1", &pages[..], &footer, &length, b"PAR1"].concat()
}

/// A page of so many bytes and values.
fn page(kind: u64, bytes: &[u8], values: u64) -> Vec<u8> {
    let head = Fields::default().int32(1, kind).int32(2, bytes.len() as u64).int32(3, bytes.len() as u64);
    let data = Fields::default().int32(1, values).int32(2, 0);
    let head = if kind == 2 { head.within(7, data) } else { head.within(5, data.int32(3, 3).int32(4, 3)) };
    [head.end(), bytes.to_vec()].concat()
}

/// Levels: a run of one value, behind its length.
fn run(values: u64, level: u8) -> Vec<u8> {
    let mut run = Fields::default();
    run.varint(values * 2);
    run.0.push(level);
    [&u32::try_from(run.0.len()).unwrap().to_le_bytes()[..], &run.0].concat()
}

fn flat() -> Vec<Vec<u8>> {
    vec![group("root", 3), leaf("a", REQUIRED), leaf("b", REQUIRED), leaf("class", REQUIRED)]
}

/// The most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_parquet_file_that_says_it_has_more_than_it_can_hold_ends_in_words() {
    let bench = Bench::new();
    let columns = &["a", "b", "class"];
    let good: Vec<u8> = (0..3_i64).flat_map(i64::to_le_bytes).collect();
    let deep = [vec![group("g", 1); 200_000], vec![leaf("a", REQUIRED)]].concat();
    let endless = [run(1 << 30, 1), run(1 << 30, 1)].concat();
    let lists = vec![group("root", 3), leaf("a", REPEATED), leaf("b", REQUIRED), leaf("class", REQUIRED)];
    let names = vec![group("root", 1), group(&"n".repeat(1 << 20), 2000)];
    let names = [names, vec![leaf("a", REQUIRED); 2000]].concat();
    for (name, bytes, part) in [
        ("dictionary", file(&[page(2, &good, (1 << 31) - 1)], true, flat(), columns, 3), "2147483647 values"),
        ("endless", file(&[page(0, &endless, 1 << 30)], false, lists, columns, 1), "1073741824 values"),
        ("deep", file(&[], false, deep, &[], 0), "its footer makes no sense"),
        ("children", file(&[], false, vec![group("root", (1 << 31) - 1)], &[], 0), "its footer makes no sense"),
        ("names", file(&[], false, names, &[], 0), "its footer makes no sense"),
        (
            "length",
            file(
                &[[0x15, 0, 0x15, 48, 0x15, 48, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 0].to_vec()],
                false,
                flat(),
                columns,
                3,
            ),
            "no sane header",
        ),
    ] {
        let uri = bench.file(&format!("{name}.parquet"), bytes);
        let source = json!({"format": "parquet", "uri": uri, "targets": ["class"]});
        let (began, before) = (Instant::now(), peak());
        let fault = digest(&bench, source).unwrap_err();
        assert!(fault.class == ExitClass::Spec && fault.message.contains(part), "{name}: {}", fault.message);
        assert!(began.elapsed() < Duration::from_secs(20), "{name} took {:?}", began.elapsed());
        assert!(peak() - before < 200 * 1024, "{name} took {} KiB", peak() - before);
    }
    // The control: what says no more than is true is read.
    let uri = bench.file("good.parquet", file(&[page(0, &good, 3)], false, flat(), columns, 3));
    digest(&bench, json!({"format": "parquet", "uri": uri, "targets": ["class"]})).unwrap();
}
