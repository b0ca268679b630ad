//! The bytes of a data file as they come in, decompressed where the file is compressed by gzip or zstd, which its first bytes tell. In memory are
//! two pieces of the file and a piece of what comes out of it; what comes out is bounded, so that a small file cannot become an endless one.

use std::{
    io::{self, BufRead, Read},
    sync::Arc,
};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use mlctl_artifacts::{ArtifactError, Location, Pieces, Stores};
use tokio::runtime::Handle;

use crate::{fault::Fault, job::Job, pinned::Pinned, storage};

/// How much is decompressed at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// What any compressed file may become.
const FREE_BYTES: u64 = 64 * 1024 * 1024;

/// How many times its own size a file may become beyond that. Tables of numbers shrink to a fifth, those of few values to a fiftieth.
const MAX_RATIO: u64 = 200;

/// What a file may become at most.
const MAX_BYTES: u64 = 1 << 40;

/// The logarithm of the most memory that zstd may take: what its own programs take.
const ZSTD_WINDOW_LOG: u32 = 27;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What files are read through. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access<'a> {
    stores: Stores,
    runtime: Handle,
    /// The job that can be told that a store is waited for, where that is on the job's own thread.
    job: Option<Job<'a>>,
    /// The version of a dataset that is read, where it is one.
    pinned: Option<Arc<Pinned>>,
}

impl<'a> Access<'a> {
    /// That of a job.
    #[must_use]
    pub fn of(job: Job<'a>) -> Self {
        Self { stores: job.stores.clone(), runtime: job.runtime.clone(), job: Some(job), pinned: job.pinned.cloned() }
    }

    /// The same for other threads, which wait for no store that is away longer than its own tries take.
    #[must_use]
    pub fn apart(&self) -> Access<'static> {
        Access { stores: self.stores.clone(), runtime: self.runtime.clone(), job: None, pinned: self.pinned.clone() }
    }

    /// That of who looks at data without a job.
    #[must_use]
    pub const fn without_job(stores: Stores, runtime: Handle) -> Self {
        Self { stores, runtime, job: None, pinned: None }
    }

    pub(super) const fn pinned(&self) -> Option<&Arc<Pinned>> {
        self.pinned.as_ref()
    }

    pub(super) const fn stores(&self) -> &Stores {
        &self.stores
    }

    pub(super) const fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Reads of a file that was opened; a remote store that does not answer is waited for.
    pub(super) fn patiently<T>(
        &self,
        at: &Location,
        mut read: impl FnMut() -> Result<T, ArtifactError>,
    ) -> Result<T, Fault> {
        let Some(job) = self.job else { return read().map_err(|error| Fault::input("the data", &error)) };
        let again = || match read() {
            Err(error @ ArtifactError::Unavailable { .. }) if at.is_remote() => Err(error),
            read => Ok(read),
        };
        let read = storage::patiently(job, "the job's data is waited for", again)?;
        read.map_err(|error| Fault::input("the data", &error))
    }

    /// A file, and its version of this moment to be read.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub(super) fn open(&self, uri: &str) -> Result<(Location, Pieces), Fault> {
        let fault = |error| Fault::input("the data", &error);
        let at = self.stores().open(uri).map_err(fault)?;
        let pieces = self.runtime().block_on(at.pieces(u64::MAX)).map_err(fault)?;
        Ok((at, pieces))
    }
}

/// Whether a file with this beginning is compressed.
pub(super) fn is_compressed(beginning: &[u8]) -> bool {
    beginning.starts_with(GZIP) || beginning.starts_with(ZSTD)
}

/// A file being read.
pub(super) struct Stream<'a> {
    uri: String,
    decoder: Decoder<'a>,
    /// Bytes that came out of it.
    made: u64,
}

enum Decoder<'a> {
    Plain(Stored<'a>),
    Gzip(MultiGzDecoder<Stored<'a>>),
    Zstd(zstd::stream::read::Decoder<'static, Stored<'a>>),
}

impl<'a> Stream<'a> {
    /// Opens a file and looks at its first bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn open(access: &Access<'a>, uri: &str) -> Result<Self, Fault> {
        let (at, pieces) = access.open(uri)?;
        let uri = at.uri().to_owned();
        let mut stored = Stored::new(access, Some(at), pieces);
        stored.refill()?;
        let decoder = if stored.piece.starts_with(GZIP) {
            Decoder::Gzip(MultiGzDecoder::new(stored))
        } else if stored.piece.starts_with(ZSTD) {
            let decoder = zstd::stream::read::Decoder::with_buffer(stored).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Ok(decoder)
            });
            Decoder::Zstd(decoder.map_err(|error| damaged(&uri, "zstd", &error))?)
        } else {
            Decoder::Plain(stored)
        };
        Ok(Self { uri, decoder, made: 0 })
    }

    /// A part of a file that is not compressed.
    pub(super) fn of(access: &Access<'a>, uri: &str, pieces: Pieces) -> Self {
        Self { uri: uri.to_owned(), decoder: Decoder::Plain(Stored::new(access, None, pieces)), made: 0 }
    }

    /// Bytes that came out of it.
    pub(super) const fn made(&self) -> u64 {
        self.made
    }

    /// The file.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// The next bytes, never none of them; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read on, is damaged, or becomes too much.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let (read, what) = match &mut self.decoder {
            Decoder::Plain(stored) => {
                let bytes = stored.take()?;
                self.made += bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                return Ok(bytes);
            }
            Decoder::Gzip(decoder) => (chunk(decoder), "gzip"),
            Decoder::Zstd(decoder) => (chunk(decoder), "zstd"),
        };
        let bytes = read.map_err(|error| match self.stored_mut().fault.take() {
            Some(fault) => fault,
            None => damaged(&self.uri, what, &error),
        })?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.made += bytes.len() as u64;
        let used = self.stored().used;
        if self.made > MAX_BYTES || self.made > FREE_BYTES && self.made / MAX_RATIO > used {
            return Err(Fault::spec(
                format!("{} becomes too much: {used} bytes of it have become {} already", self.uri, self.made),
                format!(
                    "decompressed, a file may be {MAX_RATIO} times as large; when it is meant to be so, name it decompressed"
                ),
            ));
        }
        Ok(Some(bytes))
    }

    /// Whether it is compressed, so that what is wrong with it may lie at any line.
    pub(super) const fn is_compressed(&self) -> bool {
        !matches!(self.decoder, Decoder::Plain(_))
    }

    /// The BLAKE3 of the file as it is stored, once it is read to its end.
    pub(super) fn content_digest(&self) -> String {
        self.stored().hasher.finalize().to_hex().to_string()
    }

    /// What the store calls this version of the file, where it has such a thing.
    pub(super) fn version(&self) -> Option<String> {
        self.stored().pieces.version().map(str::to_owned)
    }

    fn stored(&self) -> &Stored<'a> {
        match &self.decoder {
            Decoder::Plain(stored) => stored,
            Decoder::Gzip(decoder) => decoder.get_ref(),
            Decoder::Zstd(decoder) => decoder.get_ref(),
        }
    }

    fn stored_mut(&mut self) -> &mut Stored<'a> {
        match &mut self.decoder {
            Decoder::Plain(stored) => stored,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

/// The next decompressed bytes; none at the end.
fn chunk(decoder: &mut impl Read) -> io::Result<Bytes> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut filled = 0;
    while filled < buffer.len() {
        match decoder.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}

fn damaged(uri: &str, what: &str, error: &io::Error) -> Fault {
    Fault::spec(
        format!("{uri} cannot be decompressed as {what}, which its first bytes say it is: {error}"),
        "copy it again from where it came from, or compress it again",
    )
}

/// A file as it is stored.
struct Stored<'a> {
    job: Option<Job<'a>>,
    runtime: Handle,
    /// The file, where it is read from its beginning on.
    at: Option<Location>,
    pieces: Pieces,
    /// What is left of the piece.
    piece: Bytes,
    /// Bytes of all pieces so far.
    fetched: u64,
    hasher: blake3::Hasher,
    /// Bytes given to the decoder.
    used: u64,
    /// Why the last read failed, which an `io::Error` cannot carry.
    fault: Option<Fault>,
}

impl<'a> Stored<'a> {
    fn new(access: &Access<'a>, at: Option<Location>, pieces: Pieces) -> Self {
        let (job, runtime, hasher) = (access.job, access.runtime.clone(), blake3::Hasher::new());
        Self { job, runtime, at, pieces, piece: Bytes::new(), fetched: 0, hasher, used: 0, fault: None }
    }

    /// Fetches the next piece; none is left at the end. A remote store that stops to answer in the middle is waited for.
    fn refill(&mut self) -> Result<(), Fault> {
        let next = match (self.runtime.block_on(self.pieces.next()), self.job, self.at.clone()) {
            (Err(ArtifactError::Unavailable { .. }), Some(job), Some(at)) if self.fetched > 0 && at.is_remote() => {
                self.go_on(job, &at)?
            }
            (next, ..) => next.map_err(|error| Fault::input("the data", &error))?,
        };
        self.piece = next.unwrap_or_default();
        self.fetched += self.piece.len() as u64;
        self.hasher.update(&self.piece);
        Ok(())
    }

    /// Opens the file once more where it was left, which must be the same one. What is wrong with it by then is told as of any data.
    fn go_on(&mut self, job: Job<'_>, at: &Location) -> Result<Option<Bytes>, Fault> {
        let Self { pieces, fetched, .. } = self;
        let again = || {
            job.runtime.block_on(async {
                let mut again = at.pieces(u64::MAX).await?;
                if (again.size(), again.version()) != (pieces.size(), pieces.version()) {
                    let what = "it was changed while it was read".to_owned();
                    return Ok(Err(ArtifactError::Corrupt { uri: at.uri().to_owned(), what }));
                }
                again.skip(*fetched);
                match again.next().await {
                    Ok(piece) => Ok(Ok((again, piece))),
                    Err(error @ ArtifactError::Unavailable { .. }) => Err(error),
                    Err(error) => Ok(Err(error)),
                }
            })
        };
        let (again, piece) = storage::patiently(job, "the job's data is waited for", again)?
            .map_err(|error| Fault::input("the data", &error))?;
        *pieces = again;
        Ok(piece)
    }

    /// The next piece as it is.
    fn take(&mut self) -> Result<Option<Bytes>, Fault> {
        if self.piece.is_empty() {
            self.refill()?;
        }
        Ok(Some(std::mem::take(&mut self.piece)).filter(|piece| !piece.is_empty()))
    }
}

impl BufRead for Stored<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece.is_empty()
            && let Err(fault) = self.refill()
        {
            self.fault = Some(fault);
            return Err(io::Error::other("the file cannot be read on"));
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, n: usize) {
        self.used += n as u64;
        drop(self.piece.split_to(n));
    }
}

impl Read for Stored<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}
