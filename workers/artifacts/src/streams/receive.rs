//! An object to a file: in ranges, several at a time, each written where it belongs as it comes; the whole is compared with the store's checksum before the file is seen.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::GetResult;
use tokio::task::JoinSet;

use super::{Received, Step, Streams, local::Partial, patience::patiently, send::patience};
use crate::{
    ArtifactError, Location, crc,
    local::{blocking, uri},
    location::Looked,
    transfer::PART_BYTES,
};

/// What is asked for by one request, in bytes.
const RANGE_BYTES: u64 = PART_BYTES as u64;

/// What gathers in memory before it is written, in bytes.
const GATHERED_BYTES: usize = 512 * 1024;

/// What a range counts for in the budget: what has gathered, what is being written, and what the connection holds.
const RANGE_BUDGET_BYTES: usize = 3 * 1024 * 1024;

impl Streams {
    /// Writes an object as a file, over an older one if there is one. The file appears when all of it is on the disk and is what the store says it is.
    ///
    /// # Errors
    /// As [`Location::get`], with the file's URI where it is the file that cannot be written; [`ArtifactError::Corrupt`] when what came is not what the store has a checksum of.
    pub async fn receive(&self, from: &Location, file: &Path) -> Result<Received, ArtifactError> {
        let found = from.look().await?;
        self.tell(Step::Expect(found.size));
        self.receive_found(from, file, found, true).await
    }

    pub(super) async fn receive_found(
        &self,
        from: &Location,
        file: &Path,
        found: Looked,
        with_name: bool,
    ) -> Result<Received, ArtifactError> {
        if found.size <= RANGE_BYTES {
            return self.receive_whole(from, file, found.size, with_name).await;
        }
        let failed = |error| ArtifactError::from_io(&uri(file), error);
        self.folders.make_folder_of(file.to_owned()).await.map_err(failed)?;
        let target = file.to_owned();
        let partial = Arc::new(blocking(move || Partial::create(&target)).await.map_err(failed)?);
        let crc = self.receive_ranges(from, &partial, &found).await?;
        compare(from, found.crc64nvme, crc)?;
        let published = blocking(move || match Arc::into_inner(partial) {
            Some(partial) => partial.publish(with_name),
            None => Err(io::Error::other("it is still being written")),
        });
        published.await.map_err(failed)?;
        Ok(Received { size: found.size, is_verified: found.crc64nvme.is_some() })
    }

    /// By one request: what is small.
    pub(super) async fn receive_whole(
        &self,
        from: &Location,
        file: &Path,
        size: u64,
        with_name: bool,
    ) -> Result<Received, ArtifactError> {
        let _reserved = self.buffers.reserve(usize::try_from(size).unwrap_or(usize::MAX)).await;
        let lane = self.lanes.enter(from.weather()).await;
        let get = || async {
            let found = from.fetch(None, None).await?;
            let (size, crc64nvme) = (found.meta.size, whole_crc(&found));
            if size > RANGE_BYTES {
                return Err(ArtifactError::corrupt(from.uri(), "it changed while it was read"));
            }
            let bytes = found.bytes().await.map_err(|error| ArtifactError::from_store(from.uri(), error))?;
            require_all(from, bytes.len() as u64, size)?;
            Ok((bytes, crc64nvme))
        };
        let (bytes, crc64nvme) = patiently(patience(from), get).await?;
        let size = bytes.len() as u64;
        if crc64nvme.is_some() {
            compare(from, crc64nvme, crc::of(&bytes))?;
        }
        let failed = |error| ArtifactError::from_io(&uri(file), error);
        self.folders.make_folder_of(file.to_owned()).await.map_err(failed)?;
        let target = file.to_owned();
        let written = blocking(move || {
            let partial = Partial::create(&target)?;
            partial.write(&bytes, 0)?;
            partial.publish(with_name)
        });
        written.await.map_err(failed)?;
        lane.done(size);
        self.tell(Step::Moved(size));
        Ok(Received { size, is_verified: crc64nvme.is_some() })
    }

    /// Answers with the checksum of all that was written.
    async fn receive_ranges(
        &self,
        from: &Location,
        partial: &Arc<Partial>,
        found: &Looked,
    ) -> Result<u64, ArtifactError> {
        let mut tasks = JoinSet::new();
        let mut done = BTreeMap::new();
        let mut take = |ended: Result<Result<(u64, u64, u64), ArtifactError>, tokio::task::JoinError>| {
            let broken = |error: tokio::task::JoinError| ArtifactError::Unavailable {
                uri: from.uri().to_owned(),
                source: error.into(),
            };
            let (begin, crc, length) = ended.unwrap_or_else(|error| Err(broken(error)))?;
            done.insert(begin, (crc, length));
            Ok::<(), ArtifactError>(())
        };
        for number in 0..found.size.div_ceil(RANGE_BYTES) {
            let range = number * RANGE_BYTES..found.size.min((number + 1) * RANGE_BYTES);
            let reserved = self.buffers.reserve(RANGE_BUDGET_BYTES).await;
            let lane = self.lanes.enter(from.weather()).await;
            while let Some(ended) = tasks.try_join_next() {
                take(ended)?;
            }
            let part = Ranged {
                streams: self.clone(),
                from: from.clone(),
                partial: partial.clone(),
                version: found.version.clone(),
                range,
            };
            tasks.spawn(async move {
                let _reserved = reserved;
                let (begin, length) = (part.range.start, part.range.end - part.range.start);
                let crc = patiently(patience(&part.from), || part.receive()).await?;
                lane.done(length);
                part.streams.tell(Step::Moved(length));
                Ok((begin, crc, length))
            });
        }
        while let Some(ended) = tasks.join_next().await {
            take(ended)?;
        }
        Ok(crc::joined(done.into_values()))
    }
}

/// A part of an object on its way.
struct Ranged {
    streams: Streams,
    from: Location,
    partial: Arc<Partial>,
    version: Option<String>,
    range: Range<u64>,
}

impl Ranged {
    /// Answers with its checksum.
    async fn receive(&self) -> Result<u64, ArtifactError> {
        let found = self.from.fetch(Some(self.range.clone()), self.version.clone()).await?;
        let mut writer = Writer { partial: self.partial.clone(), at: self.range.start, crc: crc::Running::default() };
        if !self.from.is_remote() {
            let bytes = found.bytes().await.map_err(|error| ArtifactError::from_store(self.from.uri(), error))?;
            require_all(&self.from, bytes.len() as u64, self.range.end - self.range.start)?;
            return Ok(self.write(writer, vec![bytes]).await?.crc.finish());
        }
        let mut stream = found.into_stream();
        let (mut gathered, mut bytes) = (Vec::new(), 0);
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| ArtifactError::from_store(self.from.uri(), error))?;
            bytes += piece.len();
            gathered.push(piece);
            if bytes >= GATHERED_BYTES {
                writer = self.write(writer, std::mem::take(&mut gathered)).await?;
                bytes = 0;
            }
        }
        writer = self.write(writer, gathered).await?;
        require_all(&self.from, writer.at - self.range.start, self.range.end - self.range.start)?;
        Ok(writer.crc.finish())
    }

    async fn write(&self, writer: Writer, pieces: Vec<Bytes>) -> Result<Writer, ArtifactError> {
        let path: PathBuf = self.partial.target().to_owned();
        let written = blocking(move || writer.write(&pieces)).await;
        written.map_err(|error| ArtifactError::from_io(&uri(&path), error))
    }
}

/// Where a range has come to.
struct Writer {
    partial: Arc<Partial>,
    at: u64,
    crc: crc::Running,
}

impl Writer {
    fn write(mut self, pieces: &[Bytes]) -> io::Result<Self> {
        for piece in pieces {
            self.crc.update(piece);
            self.partial.write(piece, self.at)?;
            self.at += piece.len() as u64;
        }
        Ok(self)
    }
}

/// What the store says of the whole object.
fn whole_crc(found: &GetResult) -> Option<u64> {
    found.extensions.get::<crate::s3::WholeCrc>().map(|crc| crc.0)
}

fn require_all(from: &Location, read: u64, size: u64) -> Result<(), ArtifactError> {
    match read == size {
        true => Ok(()),
        false => Err(ArtifactError::Unavailable {
            uri: from.uri().to_owned(),
            source: format!("{read} of {size} bytes came").into(),
        }),
    }
}

fn compare(from: &Location, known: Option<u64>, found: u64) -> Result<(), ArtifactError> {
    match known {
        Some(known) if known != found => {
            let what = format!("its CRC-64/NVME is {found:016x}, that on record in the store {known:016x}");
            Err(ArtifactError::corrupt(from.uri(), what))
        }
        _ => Ok(()),
    }
}
