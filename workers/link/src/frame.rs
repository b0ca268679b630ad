//! Frames on the workers' socket, for both ends: a big-endian u32 length, then that many bytes of JSON with `v` and `type`. The worker's
//! link and the daemon's accept side use it. It checks size and version and nothing else: what a message may say when is theirs.

use std::{io, marker::PhantomData, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use mlctl_protocol::message::{Envelope, FromWorker, MAX_FRAME_BYTES, PROTOCOL_VERSION, ToWorker};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec, LengthDelimitedCodecError};

/// How long a peer may take to make room for a frame before the connection counts as dead.
pub const SEND_LIMIT: Duration = Duration::from_secs(10);

/// A connection as the worker sees it.
pub type WorkerStream<S> = FramedStream<S, ToWorker, FromWorker>;

/// A connection as the daemon sees it.
pub type DaemonStream<S> = FramedStream<S, FromWorker, ToWorker>;

/// A frame could not be read or written. After any of these the connection is of no more use, but for one last answer to
/// [`FrameError::Version`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The frame is larger than [`MAX_FRAME_BYTES`]; nothing of it was read or sent.
    #[error("a frame is larger than {MAX_FRAME_BYTES} bytes")]
    TooLarge,
    /// The frame is no message. Its content is not repeated here: it may hold a secret.
    #[error("a frame is not a message: {what} at byte {column}")]
    Garbage {
        /// `syntax`, `data` or `end`.
        what: &'static str,
        /// Where, counted from 1.
        column: usize,
    },
    /// The peer speaks another version of the protocol.
    #[error("the peer speaks version {found} of the worker protocol, this build version {PROTOCOL_VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// The connection failed, or the peer took no frame for [`SEND_LIMIT`].
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// Both directions of a connection, before they are [`split`](FramedStream::split).
#[derive(Debug)]
pub struct FramedStream<S, Rx, Tx> {
    reader: FrameReader<ReadHalf<S>, Rx>,
    writer: FrameWriter<WriteHalf<S>, Tx>,
}

impl<S: AsyncRead + AsyncWrite, Rx: DeserializeOwned, Tx: Serialize> FramedStream<S, Rx, Tx> {
    /// Speaks frames over a stream of bytes.
    pub fn new(stream: S) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self { reader: FrameReader::new(read), writer: FrameWriter::new(write) }
    }

    /// The next message; see [`FrameReader::recv`].
    ///
    /// # Errors
    /// As [`FrameReader::recv`].
    pub async fn recv(&mut self) -> Result<Option<Rx>, FrameError> {
        self.reader.recv().await
    }

    /// Sends a message; see [`FrameWriter::send`].
    ///
    /// # Errors
    /// As [`FrameWriter::send`].
    pub async fn send(&mut self, message: Tx) -> Result<(), FrameError> {
        self.writer.send(message).await
    }

    /// The two directions, to be used at once: a peer that waits for room to write must still be read from.
    pub fn split(self) -> (FrameReader<ReadHalf<S>, Rx>, FrameWriter<WriteHalf<S>, Tx>) {
        (self.reader, self.writer)
    }
}

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader<R, Rx> {
    frames: FramedRead<R, LengthDelimitedCodec>,
    messages: PhantomData<fn() -> Rx>,
}

impl<R: AsyncRead + Unpin, Rx: DeserializeOwned> FrameReader<R, Rx> {
    /// Reads frames from a stream of bytes.
    pub fn new(read: R) -> Self {
        Self { frames: FramedRead::new(read, codec()), messages: PhantomData }
    }

    /// The next message, or `None` when the peer has closed the connection between frames. Cancel safe: dropped in a `select!`, it loses
    /// nothing. It waits for ever; the caller sets the limit.
    ///
    /// # Errors
    /// Every [`FrameError`].
    pub async fn recv(&mut self) -> Result<Option<Rx>, FrameError> {
        match self.frames.next().await {
            None => Ok(None),
            Some(frame) => decode(&frame.map_err(sort_io)?).map(Some),
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W, Tx> {
    frames: FramedWrite<W, LengthDelimitedCodec>,
    limit: Duration,
    messages: PhantomData<fn(Tx)>,
}

impl<W: AsyncWrite + Unpin, Tx: Serialize> FrameWriter<W, Tx> {
    /// Writes frames to a stream of bytes.
    pub fn new(write: W) -> Self {
        Self { frames: FramedWrite::new(write, codec()), limit: SEND_LIMIT, messages: PhantomData }
    }

    /// Sends a message and waits until the operating system has it, at most [`SEND_LIMIT`]. Not cancel safe: run it to its end.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`], [`FrameError::Io`].
    pub async fn send(&mut self, message: Tx) -> Result<(), FrameError> {
        let frame = encode(message)?;
        match tokio::time::timeout(self.limit, self.frames.send(frame)).await {
            Ok(sent) => sent.map_err(sort_io),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read").into()),
        }
    }
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_codec()
}

fn encode(message: impl Serialize) -> Result<Bytes, FrameError> {
    let json = serde_json::to_vec(&Envelope::new(message)).map_err(|error| io::Error::other(error.to_string()))?;
    if json.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge);
    }
    Ok(json.into())
}

fn decode<M: DeserializeOwned>(frame: &[u8]) -> Result<M, FrameError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    match serde_json::from_slice::<Envelope<M>>(frame) {
        Ok(Envelope { v: PROTOCOL_VERSION, message }) => Ok(message),
        Ok(Envelope { v, .. }) => Err(FrameError::Version { found: v }),
        // What cannot be read may be of a version that says things otherwise.
        Err(error) => match serde_json::from_slice(frame) {
            Ok(Version { v }) if v != PROTOCOL_VERSION => Err(FrameError::Version { found: v }),
            _ => Err(FrameError::Garbage { what: category(&error), column: error.column() }),
        },
    }
}

fn category(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Syntax => "syntax",
        serde_json::error::Category::Eof => "end",
        serde_json::error::Category::Io | serde_json::error::Category::Data => "data",
    }
}

fn sort_io(error: io::Error) -> FrameError {
    match error.get_ref() {
        Some(inner) if inner.is::<LengthDelimitedCodecError>() => FrameError::TooLarge,
        _ => FrameError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn daemon_reads(bytes: &[u8]) -> Result<Option<FromWorker>, FrameError> {
        let (mut peer, ours) = tokio::io::duplex(1 << 20);
        peer.write_all(bytes).await.unwrap();
        drop(peer);
        DaemonStream::new(ours).recv().await
    }

    fn framed(json: &str) -> Vec<u8> {
        [&u32::try_from(json.len()).unwrap().to_be_bytes(), json.as_bytes()].concat()
    }

    #[tokio::test]
    async fn messages_pass_both_ways() {
        let (a, b) = tokio::io::duplex(64);
        let (mut worker, mut daemon) = (WorkerStream::new(a), DaemonStream::new(b));
        let (sent, received) = tokio::join!(daemon.send(ToWorker::Ack { seq: 7 }), worker.recv());
        sent.unwrap();
        assert_eq!(received.unwrap(), Some(ToWorker::Ack { seq: 7 }));
        drop(daemon);
        assert_eq!(worker.recv().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_message_is_told_apart() {
        assert!(matches!(daemon_reads(&[0xff; 8]).await, Err(FrameError::TooLarge)));
        assert!(matches!(daemon_reads(b"\0\0\0\x05{\"v\"").await, Err(FrameError::Io(_))), "a cut frame");
        assert!(matches!(daemon_reads(&framed("{\"v\":")).await, Err(FrameError::Garbage { what: "end", .. })));
        assert!(matches!(daemon_reads(&framed("\u{7f}")).await, Err(FrameError::Garbage { what: "syntax", .. })));
        assert!(matches!(daemon_reads(&framed("{\"v\":1}")).await, Err(FrameError::Garbage { what: "data", .. })));
        assert!(matches!(daemon_reads(&framed("")).await, Err(FrameError::Garbage { .. })));
        assert!(matches!(
            daemon_reads(&framed("{\"v\":2,\"type\":\"x\"}")).await,
            Err(FrameError::Version { found: 2 })
        ));
        assert!(matches!(daemon_reads(&framed("{\"v\":9,\"kind\":[]}")).await, Err(FrameError::Version { found: 9 })));
        assert!(matches!(daemon_reads(&framed("{\"v\":1,\"type\":\"later\"}")).await, Ok(Some(FromWorker::Unknown))));
    }

    #[tokio::test]
    async fn errors_do_not_repeat_what_was_sent() {
        let hello =
            r#"{"v":1,"type":"hello","job":"1","attempt":1,"secret":1,"pid":"canary","worker":"","started":false}"#;
        let error = daemon_reads(&framed(hello)).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
    }

    #[tokio::test]
    async fn a_frame_too_large_is_not_sent() {
        let (a, _b) = tokio::io::duplex(64);
        let reason = "x".repeat(MAX_FRAME_BYTES);
        assert!(matches!(DaemonStream::new(a).send(ToWorker::Refused { reason }).await, Err(FrameError::TooLarge)));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (a, _b) = tokio::io::duplex(64);
        let reason = "x".repeat(1000);
        let mut daemon = DaemonStream::new(a);
        daemon.writer.limit = Duration::from_millis(10);
        let error = daemon.send(ToWorker::Refused { reason }).await.unwrap_err();
        assert!(matches!(error, FrameError::Io(ref io) if io.kind() == io::ErrorKind::TimedOut), "{error}");
    }
}
