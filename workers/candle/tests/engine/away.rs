//! A store that goes away in the middle of reading data: it is waited for and gone on with, if it is still the same object. Played by a server that hangs up as it is told.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use mlctl_protocol::{
    message::{ReportBody, SpoolPlace},
    progress::{Progress, StorageAway},
};
use mlworker::{
    fault::Fault,
    host::{Done, Host, Order},
};
use serde_json::{Value, json};

use super::{
    common::Recorder,
    jobs::{Bench, SMALL, small},
    puppet::{Answer, Asked, Puppet},
};

/// A piece of a file, as it is read.
const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// How long the store does not answer.
const AWAY: Duration = Duration::from_secs(3);

/// A recorder by a real clock.
struct Clocked {
    recorder: Recorder,
    begin: Instant,
}

impl Clocked {
    fn new() -> Self {
        Self { recorder: Recorder::default(), begin: Instant::now() }
    }
}

impl Host for Clocked {
    fn progress(&self, progress: Progress) {
        self.recorder.progress(progress);
    }

    fn storage_away(&self, away: Option<StorageAway>) {
        self.recorder.storage_away(away);
    }

    fn report(&self, body: ReportBody) -> Result<(), Fault> {
        self.recorder.report(body)
    }

    fn order(&self) -> Option<Order> {
        self.recorder.order()
    }

    fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    fn now_rfc3339(&self) -> String {
        self.recorder.now_rfc3339()
    }
}

/// Rows of two features, with a column besides that makes them long: a piece and a half.
fn wide() -> String {
    let pad = "x".repeat(1000);
    let rows = PIECE_BYTES * 3 / 2 / 1000;
    let rows = (0..rows).map(|n| format!("{}.5,{},{pad}\n", n % 7, n % 5));
    ["a,b,pad\n".to_owned()].into_iter().chain(rows).collect()
}

/// A bucket with one object, whose second piece is away for a while; afterwards it is called by this name.
fn bucket(content: String, name_afterwards: &'static str) -> Puppet {
    let (content, asked_first) = (Arc::new(content.into_bytes()), OnceLock::new());
    Puppet::new(move |_, asked: &Asked| {
        let is_over = asked_first.get().is_some_and(|at: &Instant| at.elapsed() >= AWAY);
        let name = if is_over { name_afterwards } else { "first" };
        let range = asked.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (from, to) = match range {
            Some((from, to)) => (from.parse().unwrap(), to.parse::<usize>().unwrap() + 1),
            None => (0, content.len()),
        };
        if from >= PIECE_BYTES {
            asked_first.get_or_init(Instant::now);
        }
        // The first piece, which is asked for at the same time, comes whole.
        let is_first_piece = range.is_some() && from == 0;
        if asked_first.get().is_some() && !is_over && !is_first_piece {
            return Answer::HangUp;
        }
        let status = if range.is_some() { 206 } else { 200 };
        let headers = format!(
            "etag: \"{name}\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-range: bytes {from}-{}/{}\r\n",
            to - 1,
            content.len()
        );
        Answer::Say(status, headers.leak(), content[from..to].to_vec())
    })
}

/// Predicts the rows of a file, by a model that was trained on the small problem.
fn predict(bench: &Bench, host: &dyn Host, uri: &str) -> Result<Done, Fault> {
    let data = bench.file("small.csv", SMALL);
    let model = bench.run(&small(&data), &Recorder::default(), (1, 1), &[]).unwrap().model.unwrap().uri;
    let data = json!({"format": "csv", "uri": uri, "features": ["a", "b"]});
    let spec: Value =
        json!({"version": 1, "name": "i", "infer": {"model": {"from": model}, "data": data, "batch_size": 500}});
    bench.run(&spec, host, (2, 1), &[])
}

fn bench(puppet: &Puppet) -> Bench {
    let mut bench = Bench::new();
    bench.stores = puppet.stores();
    bench.spool = Some(SpoolPlace { attempts_uri: bench.uri("attempts/2"), max_bytes: 1 << 30, wait_seconds: 60 });
    bench
}

#[test]
fn data_that_is_away_in_the_middle_is_waited_for_and_read_on() {
    let expected = {
        let bench = Bench::new();
        let uri = bench.file("wide.csv", wide());
        let done = predict(&bench, &Recorder::default(), &uri).unwrap();
        bench.read(&done.output.unwrap().uri)
    };
    let puppet = bucket(wide(), "first");
    let (bench, host) = (bench(&puppet), Clocked::new());
    let done = predict(&bench, &host, "s3://bucket/wide.csv").unwrap();
    assert!(bench.read(&done.output.unwrap().uri) == expected, "every row once, and each as it is");
    let warnings = host.recorder.warnings();
    assert!(warnings.iter().any(|warning| warning.contains("the job's data is waited for")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("is back")), "{warnings:?}");
}

#[test]
fn data_that_was_changed_meanwhile_is_not_read_on() {
    let puppet = bucket(wide(), "second");
    let (bench, host) = (bench(&puppet), Clocked::new());
    let fault = predict(&bench, &host, "s3://bucket/wide.csv").unwrap_err();
    assert!(fault.message.contains("changed while it was read"), "{fault:?}");
}
