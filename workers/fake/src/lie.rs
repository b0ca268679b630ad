//! The lies that need a connection of their own, beside the link, which cannot lie. Each returns once the daemon has answered or hung up.

use std::{io, time::Duration};

use mlctl_link::frame::WorkerStream;
use mlctl_protocol::{
    AttemptNumber,
    launch::Launch,
    message::{Envelope, FromWorker, Hello, MAX_FRAME_BYTES, PROTOCOL_VERSION, ToWorker},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(5);

/// Dials as the attempt after ours, with our secret. Whether the daemon refused, as it must.
pub async fn dial_as_another_attempt(launch: &Launch) -> io::Result<bool> {
    let mut other = hello(launch);
    other.attempt = AttemptNumber(launch.attempt.0 + 1);
    let mut stream = WorkerStream::new(UnixStream::connect(&launch.socket).await?);
    stream.send(FromWorker::Hello(other)).await.map_err(io::Error::other)?;
    // Hanging up without a word is a refusal too.
    let answer = timeout(LIMIT, stream.recv()).await?;
    Ok(!matches!(answer, Ok(Some(ToWorker::Start(_) | ToWorker::Welcome { .. }))))
}

/// Dials again as ourselves, sends bytes that are no message, and waits until the daemon hangs up. Whether it did.
pub async fn send_garbage(launch: &Launch) -> io::Result<bool> {
    disturb(launch, b"\0\0\0\x08not json").await
}

/// Dials again as ourselves, announces a frame larger than any may be, and waits until the daemon hangs up. Whether it did.
pub async fn send_huge(launch: &Launch) -> io::Result<bool> {
    let length = u32::try_from(MAX_FRAME_BYTES).unwrap_or(u32::MAX - 1) + 1;
    disturb(launch, &length.to_be_bytes()).await
}

/// Dials in a version of the protocol that nobody speaks yet. Whether the daemon says which one it speaks itself.
pub async fn dial_in_another_version(launch: &Launch) -> io::Result<bool> {
    let mut raw = UnixStream::connect(&launch.socket).await?;
    raw.write_all(&frame(PROTOCOL_VERSION + 1, FromWorker::Hello(hello(launch)))?).await?;
    let mut stream = WorkerStream::new(raw);
    let answer = timeout(LIMIT, stream.recv()).await?.map_err(io::Error::other)?;
    let own = format!("version {PROTOCOL_VERSION}");
    Ok(matches!(answer, Some(ToWorker::Refused { reason }) if reason.contains(&own)))
}

/// Dials again as ourselves with a hello that says more than one does now, and then sends a message of a kind that does not exist yet. Whether the daemon
/// welcomed it; that it did not hang up on the message stands in its log. Returns once the link has dialled again.
pub async fn send_news(launch: &Launch) -> io::Result<bool> {
    let mut raw = UnixStream::connect(&launch.socket).await?;
    let mut known = serde_json::to_value(Envelope { v: PROTOCOL_VERSION, message: FromWorker::Hello(hello(launch)) })?;
    known["mood"] = "good".into();
    raw.write_all(&framed(&known)?).await?;
    let mut stream = WorkerStream::<&mut UnixStream>::new(&mut raw);
    let welcome = timeout(LIMIT, stream.recv()).await?;
    drop(stream);
    if !matches!(welcome, Ok(Some(ToWorker::Welcome { .. }))) {
        return Ok(false);
    }
    raw.write_all(&framed(&serde_json::json!({"v": PROTOCOL_VERSION, "type": "weather", "is": ["fine"]}))?).await?;
    let replaced = async { while matches!(raw.read(&mut [0; 4096]).await, Ok(1..)) {} };
    Ok(timeout(LIMIT, replaced).await.is_ok())
}

/// A message as it stands on the wire, in a version.
fn frame(v: u32, message: FromWorker) -> io::Result<Vec<u8>> {
    framed(&serde_json::to_value(Envelope { v, message })?)
}

fn framed(message: &serde_json::Value) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes()[..], &text].concat())
}

async fn disturb(launch: &Launch, bytes: &[u8]) -> io::Result<bool> {
    let mut raw = UnixStream::connect(&launch.socket).await?;
    let mut stream = WorkerStream::new(&mut raw);
    stream.send(FromWorker::Hello(hello(launch))).await.map_err(io::Error::other)?;
    let welcome = timeout(LIMIT, stream.recv()).await?;
    drop(stream);
    if !matches!(welcome, Ok(Some(ToWorker::Welcome { .. }))) {
        return Ok(false);
    }
    raw.write_all(bytes).await?;
    // Orders and acknowledgements may still be on the way before the end.
    let drained = async { while matches!(raw.read(&mut [0; 4096]).await, Ok(1..)) {} };
    Ok(timeout(LIMIT, drained).await.is_ok())
}

fn hello(launch: &Launch) -> Hello {
    Hello {
        job: launch.job,
        attempt: launch.attempt,
        secret: launch.secret.clone(),
        pid: std::process::id(),
        worker: crate::WORKER.into(),
        started: true,
    }
}
