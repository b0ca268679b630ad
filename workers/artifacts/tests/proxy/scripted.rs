//! One fault at a time, at a chosen request, and what must come of it.

use futures_util::{StreamExt as _, stream};
use mlctl_artifacts::{ArtifactError, Location, Upload, checkpoint, streams::Streams};

use super::{
    header::header,
    proxy::{
        Fault::{
            self, CutAnswer, CutRequest, Drip, HangUp, Lose, Say, SayAfter, Shorten, SpoilAnswer, SpoilRequest, Stale,
        },
        Proxy,
    },
    s3::Server,
    works::{Ways, content, parts},
};

const SMALL: usize = 1000;
const LARGE: usize = 20 << 20;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Reads an object of so many bytes.
    Get(usize),
    /// The same in pieces.
    Pieces(usize),
    Size,
    List,
    Put(usize),
    /// Writes an object as it is made.
    Stream(usize),
    /// Sends a file.
    Send(usize),
    /// Receives one.
    Receive(usize),
    Create,
    Delete,
    /// Writes a checkpoint whose model has so many bytes.
    Save(usize),
    /// Writes one that is there already.
    Again,
    /// Reads one.
    Load(usize),
}

/// What must come of it. Whatever comes, what is read is right, and what is there is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Works,
    /// It is not known to have worked, and the store does not answer.
    Unavailable,
    /// The store will not let us.
    Denied,
    /// What was read is not what was written, and this is found.
    Corrupt,
    /// Somebody has made it already: our own try may be meant.
    Exists,
}

/// A row: what is done, the requests that are spoiled (a part of their first line), how many of them, how, and what must come of it.
type Script = (Work, &'static str, usize, Fault, Then);

const ALWAYS: usize = usize::MAX;
const MANIFEST: &str = "/manifest.json";
const MODEL: &str = "/model-";

const READS: &[Script] = &[
    (Work::Get(SMALL), "GET", 2, Say(500, "InternalError"), Then::Works),
    (Work::Get(SMALL), "GET", 2, Say(503, "SlowDown"), Then::Works),
    (Work::Get(SMALL), "GET", 1, Say(429, "TooManyRequests"), Then::Works),
    (Work::Get(SMALL), "GET", 2, HangUp, Then::Works),
    (Work::Get(SMALL), "GET", 2, Lose, Then::Works),
    (Work::Get(SMALL), "GET", 1, CutAnswer(500), Then::Works),
    (Work::Get(SMALL), "GET", 1, Drip, Then::Works),
    (Work::Get(SMALL), "GET", ALWAYS, Say(500, "InternalError"), Then::Unavailable),
    (Work::Get(SMALL), "GET", ALWAYS, Say(403, "ExpiredToken"), Then::Unavailable),
    (Work::Get(SMALL), "GET", 1, Say(403, "AccessDenied"), Then::Denied),
    (Work::Get(SMALL), "GET", 1, Say(403, "RequestTimeTooSkewed"), Then::Denied),
    (Work::Get(SMALL), "GET", 1, Say(307, "TemporaryRedirect"), Then::Denied),
    (Work::Get(LARGE), "GET", 2, CutAnswer(300), Then::Works),
    (Work::Get(LARGE), "GET", 3, Say(503, "SlowDown"), Then::Works),
    (Work::Get(LARGE), "GET", 2, HangUp, Then::Works),
    (Work::Pieces(LARGE), "HEAD", 1, Say(500, "InternalError"), Then::Works),
    (Work::Pieces(LARGE), "GET", 2, CutAnswer(900), Then::Works),
    (Work::Size, "HEAD", 2, HangUp, Then::Works),
    (Work::Size, "HEAD", 2, Say(503, "SlowDown"), Then::Works),
    (Work::List, "GET", 2, Say(500, "InternalError"), Then::Works),
    (Work::List, "GET", 1, CutAnswer(500), Then::Unavailable),
    (Work::List, "GET", 1, Lose, Then::Works),
    (Work::List, "GET", ALWAYS, Shorten(700), Then::Unavailable),
    (Work::Receive(LARGE), "GET", 2, CutAnswer(500), Then::Works),
    (Work::Receive(LARGE), "GET", 1, Shorten(500), Then::Works),
    (Work::Receive(LARGE), "GET", 1, SpoilAnswer(500), Then::Corrupt),
    (Work::Receive(LARGE), "HEAD", 1, Say(503, "SlowDown"), Then::Works),
    (Work::Receive(LARGE), "HEAD", ALWAYS, Say(500, "InternalError"), Then::Unavailable),
    (Work::Receive(SMALL), "GET", 1, SpoilAnswer(500), Then::Corrupt),
    (Work::Receive(SMALL), "GET", 2, HangUp, Then::Works),
    (Work::Load(SMALL), MODEL, 1, SpoilAnswer(500), Then::Corrupt),
    (Work::Load(SMALL), MODEL, 1, Shorten(500), Then::Corrupt),
    (Work::Load(LARGE), MODEL, ALWAYS, SpoilAnswer(700), Then::Corrupt),
    (Work::Load(SMALL), MODEL, 1, Say(404, "NoSuchKey"), Then::Corrupt),
    (Work::Load(SMALL), MANIFEST, 1, SpoilAnswer(300), Then::Corrupt),
    (Work::Load(SMALL), MANIFEST, 1, Shorten(500), Then::Corrupt),
    (Work::Load(LARGE), "GET", 3, CutAnswer(500), Then::Works),
    (Work::Load(SMALL), "GET", 3, Say(500, "InternalError"), Then::Works),
];

const WRITES: &[Script] = &[
    (Work::Put(SMALL), "PUT", 2, Say(500, "InternalError"), Then::Works),
    (Work::Put(SMALL), "PUT", 2, Say(503, "SlowDown"), Then::Works),
    (Work::Put(SMALL), "PUT", 2, HangUp, Then::Works),
    (Work::Put(SMALL), "PUT", 2, Lose, Then::Works),
    (Work::Put(SMALL), "PUT", 2, CutRequest(500), Then::Works),
    (Work::Put(SMALL), "PUT", 1, SayAfter(500, "InternalError"), Then::Works),
    (Work::Put(SMALL), "PUT", ALWAYS, SpoilRequest(500), Then::Unavailable),
    (Work::Put(SMALL), "PUT", ALWAYS, Say(403, "ExpiredToken"), Then::Unavailable),
    (Work::Put(LARGE), "POST", 1, Say(503, "SlowDown"), Then::Works),
    (Work::Put(LARGE), "partNumber=2", 2, Say(500, "InternalError"), Then::Works),
    (Work::Put(LARGE), "partNumber=2", 1, Lose, Then::Works),
    (Work::Put(LARGE), "partNumber=1", 1, CutRequest(500), Then::Works),
    (Work::Put(LARGE), "partNumber=2", ALWAYS, SpoilRequest(500), Then::Unavailable),
    (Work::Put(LARGE), "?uploadId", 1, Say(200, "InternalError"), Then::Works),
    (Work::Put(LARGE), "?uploadId", 1, HangUp, Then::Works),
    (Work::Put(LARGE), "?uploadId", 1, Lose, Then::Works),
    (Work::Put(LARGE), "?uploadId", 1, SayAfter(500, "InternalError"), Then::Works),
    (Work::Put(LARGE), "?uploadId", 1, SayAfter(200, "InternalError"), Then::Works),
    (Work::Put(LARGE), "partNumber=2", 1, Say(404, "NoSuchUpload"), Then::Unavailable),
    (Work::Stream(LARGE), "partNumber=2", 1, Say(404, "NoSuchUpload"), Then::Unavailable),
    (Work::Send(LARGE), "partNumber=2", 1, Say(404, "NoSuchUpload"), Then::Unavailable),
    (Work::Stream(LARGE), "partNumber=2", 1, Lose, Then::Works),
    (Work::Stream(LARGE), "?uploadId", 1, Lose, Then::Works),
    (Work::Send(LARGE), "?uploads", 1, HangUp, Then::Works),
    (Work::Send(LARGE), "partNumber=2", 2, Lose, Then::Works),
    (Work::Send(LARGE), "partNumber=1", 1, CutRequest(500), Then::Works),
    (Work::Send(LARGE), "partNumber=2", 1, SpoilRequest(500), Then::Works),
    (Work::Send(LARGE), "partNumber=2", ALWAYS, SpoilRequest(500), Then::Unavailable),
    (Work::Send(LARGE), "?uploadId", 1, Lose, Then::Works),
    (Work::Send(LARGE), "?uploadId", 1, SayAfter(500, "InternalError"), Then::Works),
    (Work::Send(LARGE), "HEAD", 1, Say(403, ""), Then::Works),
    (Work::Send(SMALL), "PUT", 2, Lose, Then::Works),
    (Work::Again, MANIFEST, 1, SpoilAnswer(500), Then::Works),
    (Work::Again, MANIFEST, 1, Shorten(500), Then::Works),
    (Work::Again, MANIFEST, 2, Shorten(500), Then::Corrupt),
    (Work::Again, MANIFEST, ALWAYS, Shorten(500), Then::Corrupt),
    (Work::Stream(LARGE), "partNumber=2", ALWAYS, SpoilRequest(500), Then::Unavailable),
    (Work::Create, "PUT", 1, Say(500, "InternalError"), Then::Works),
    (Work::Create, "PUT", 1, SayAfter(500, "InternalError"), Then::Exists),
    (Work::Create, "PUT", 1, Lose, Then::Exists),
    (Work::Delete, "DELETE", 1, Lose, Then::Works),
    (Work::Delete, "DELETE", 2, Say(500, "InternalError"), Then::Works),
    (Work::Save(SMALL), MANIFEST, 1, Lose, Then::Works),
    (Work::Save(SMALL), "PUT", 2, Lose, Then::Works),
    (Work::Save(SMALL), "PUT", ALWAYS, SpoilRequest(500), Then::Unavailable),
    (Work::Save(SMALL), MANIFEST, ALWAYS, Say(403, "ExpiredToken"), Then::Unavailable),
    (Work::Save(LARGE), "PUT", 3, CutRequest(900), Then::Works),
    (Work::Save(LARGE), "PUT", 5, Say(503, "SlowDown"), Then::Works),
];

/// Those that are about the request which creates a manifest: the first one with its name asks whether there is one.
const CREATES: &[Script] = &[
    (Work::Save(SMALL), MANIFEST, 1, Lose, Then::Works),
    (Work::Save(SMALL), MANIFEST, 1, SayAfter(412, "PreconditionFailed"), Then::Works),
    (Work::Save(SMALL), MANIFEST, 1, SayAfter(500, "InternalError"), Then::Works),
    (Work::Save(SMALL), MANIFEST, 1, Say(409, "ConditionalRequestConflict"), Then::Works),
    (Work::Save(SMALL), MANIFEST, ALWAYS, SpoilRequest(500), Then::Unavailable),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_ends_as_it_must() {
    let Some(server) = Server::start() else { return };
    let any = READS.iter().chain(WRITES).map(|script| (script, ""));
    let all: Vec<_> = any.chain(CREATES.iter().map(|script| (script, "PUT"))).enumerate().collect();
    let server = &server;
    let failed: Vec<String> = stream::iter(all)
        .map(|(number, (script, method))| async move {
            let found = play(server, number, script, method).await;
            found.err().map(|found| format!("{number} {method} {script:?}: {found}"))
        })
        .buffer_unordered(6)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Plays a row in a folder of its own. What is wrong, in words.
async fn play(server: &Server, number: usize, script: &Script, method: &'static str) -> Result<(), String> {
    let &(work, part, times, fault, then) = script;
    let count = std::sync::atomic::AtomicUsize::new(0);
    let proxy = Proxy::before(&server.url, move |_, request| {
        let is_meant = request.line.contains(part) && request.line.starts_with(method);
        (is_meant && count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < times).then_some(fault)
    });
    // Long enough for a busy machine where it is to work, and no longer than needed where it cannot.
    let ways = Ways::to(server, &format!("scripted-{number}"), proxy, if times == ALWAYS { 1 } else { 30 });
    let found = attempt(&ways, work).await;
    if ways.proxy.faults() == 0 {
        return Err(format!("no request is like {part}: {:?}", ways.proxy.seen()));
    }
    let came = match &found {
        Ok(()) => Then::Works,
        Err(ArtifactError::Unavailable { .. }) => Then::Unavailable,
        Err(ArtifactError::Denied { .. }) => Then::Denied,
        Err(ArtifactError::Corrupt { .. }) => Then::Corrupt,
        Err(ArtifactError::AlreadyExists { .. }) => Then::Exists,
        Err(_) => return Err(format!("{found:?}")),
    };
    if came == then { Ok(()) } else { Err(format!("{came:?}: {found:?}, {:?}", ways.proxy.seen())) }
}

/// Does it, and looks past the proxy that nothing is there which was not meant.
async fn attempt(ways: &Ways, work: Work) -> Result<(), ArtifactError> {
    let (at, sure) = (ways.spoiled.join("x").unwrap(), ways.sure.join("x").unwrap());
    match work {
        Work::Get(size) | Work::Pieces(size) => {
            let expected = content(size, 1);
            sure.put(expected.clone()).await.unwrap();
            let found = if work == Work::Get(size) { at.get(1 << 30).await? } else { in_pieces(&at).await?.into() };
            assert!(found == expected, "{work:?} gave something else");
        }
        Work::Size => {
            sure.put("123".into()).await.unwrap();
            assert_eq!(at.size().await?, Some(3));
        }
        Work::List => {
            for name in ["a", "b", "c"] {
                ways.sure.join(name).unwrap().put(name.into()).await.unwrap();
            }
            let found: Vec<_> = ways.spoiled.list().await?.into_iter().map(|entry| entry.name).collect();
            assert_eq!(found, ["a", "b", "c"]);
        }
        Work::Put(size) | Work::Stream(size) => {
            let put = if work == Work::Put(size) { at.put(content(size, 1)).await } else { streamed(&at, size).await };
            whole_or_not(&sure, size, put.is_ok()).await;
            put?;
        }
        Work::Send(size) => sent(&at, &sure, size).await?,
        Work::Receive(size) => received(&at, &sure, size).await?,
        Work::Create => {
            let created = at.create(content(SMALL, 1)).await;
            whole_or_not(&sure, SMALL, created.is_ok()).await;
            created?;
        }
        Work::Delete => {
            sure.put("x".into()).await.unwrap();
            at.delete().await?;
            assert_eq!(sure.size().await.unwrap(), None);
        }
        Work::Save(size) => {
            let saved = checkpoint::write(&ways.spoiled, header(10), parts(size, 1)).await;
            assert!(
                ways.has(10, &parts(size, 1)).await || saved.is_err(),
                "a checkpoint that was acknowledged is lost"
            );
            saved?;
        }
        Work::Again => {
            let parts = parts(SMALL, 1);
            let first = checkpoint::write(&ways.sure, header(10), parts.clone()).await.unwrap();
            assert_eq!(
                checkpoint::write(&ways.spoiled, header(10), parts).await?.manifest_digest,
                first.manifest_digest
            );
        }
        Work::Load(size) => {
            let reference = checkpoint::write(&ways.sure, header(10), parts(size, 1)).await.unwrap();
            assert!(ways.load(&reference).await? == parts(size, 1), "a corrupt read was accepted");
        }
    }
    Ok(())
}

async fn sent(at: &Location, sure: &Location, size: usize) -> Result<(), ArtifactError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    std::fs::write(&file, content(size, 1)).unwrap();
    let sent = Streams::default().send(&file, at).await;
    whole_or_not(sure, size, sent.is_ok()).await;
    sent.map(|_| ())
}

async fn received(at: &Location, sure: &Location, size: usize) -> Result<(), ArtifactError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x");
    sure.put(content(size, 1)).await.unwrap();
    let received = Streams::default().receive(at, &file).await;
    match std::fs::read(&file) {
        Ok(found) => assert!(found == content(size, 1), "something else was received"),
        Err(_) => assert!(received.is_err()),
    }
    received.map(|_| ())
}

async fn in_pieces(at: &Location) -> Result<Vec<u8>, ArtifactError> {
    let (mut pieces, mut found) = (at.pieces(1 << 30).await?, Vec::new());
    while let Some(piece) = pieces.next().await? {
        found.extend_from_slice(&piece);
    }
    Ok(found)
}

async fn streamed(at: &Location, size: usize) -> Result<(), ArtifactError> {
    let mut upload = Upload::new(at.clone());
    for piece in content(size, 1).chunks(1_000_003) {
        upload.write(piece).await?;
    }
    upload.finish().await.map(|_| ())
}

async fn whole_or_not(sure: &Location, size: usize, must: bool) {
    match sure.get(1 << 30).await {
        Ok(found) => assert!(found == content(size, 1), "something else was written"),
        Err(error) => assert!(!must && matches!(error, ArtifactError::NotFound { .. }), "{error}"),
    }
}

/// The control of it all: where nobody compares, what the proxy does is there to be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_compared_is_not_found() {
    let Some(server) = Server::start() else { return };
    for (number, fault) in [SpoilAnswer(500), Shorten(500), Stale].into_iter().enumerate() {
        let proxy = Proxy::before(&server.url, move |_, request| request.line.starts_with("GET").then_some(fault));
        let ways = Ways::to(&server, &format!("control-{number}"), proxy, 2);
        let (at, sure) = (ways.spoiled.join("x").unwrap(), ways.sure.join("x").unwrap());
        for seed in [1, 2] {
            sure.put(content(SMALL, seed)).await.unwrap();
            let found = at.get(1 << 30).await.unwrap();
            assert_eq!(found == content(SMALL, seed), fault == Stale && seed == 1, "{fault:?}");
        }
    }
    let proxy = Proxy::before(&server.url, |_, request| request.line.starts_with("PUT").then_some(SpoilRequest(500)));
    let access = mlctl_protocol::s3::S3Access {
        endpoint: Some(proxy.url.clone()),
        checksum: mlctl_protocol::s3::S3Checksum::None,
        ..server.access()
    };
    let at = mlctl_artifacts::Stores::with_s3(Some(access)).open("s3://ml-test/control/x").unwrap();
    at.put(content(SMALL, 1)).await.unwrap();
    assert!(at.get(1 << 30).await.unwrap() != content(SMALL, 1), "without a checksum the server takes anything");
}
