//! A file in parts to a store that takes them from any process: several on their way at a time, each read into kept memory, with a journal of what has arrived. Whoever sends the same file to the
//! same place again goes on with what is left, after a look at what the store has.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use object_store::{MultipartId, multipart::PartId};
use tokio::task::{JoinError, JoinSet};

use super::{
    Sent, Step, Streams,
    buffers::Reserved,
    journal::{Arrived, Journal, Left, Subject},
    local::Source,
    patience::patiently,
    send::{lent, patience},
};
use crate::{ArtifactError, Location, crc, lanes::Lane, local::blocking, transfer, uploads::Parts};

/// A file and where it goes.
pub(super) struct Parted<'a> {
    pub(super) streams: &'a Streams,
    pub(super) to: &'a Location,
    pub(super) parts: &'a Parts,
    pub(super) source: Arc<Source>,
    pub(super) part_bytes: u64,
}

type SharedJournal = Option<Arc<Mutex<Journal>>>;

/// A part that is in the store.
struct Done {
    arrived: Arrived,
    bytes: u64,
    is_reused: bool,
}

impl Parted<'_> {
    pub(super) async fn send(self) -> Result<Sent, ArtifactError> {
        let (journal, left) = self.journal().await?;
        if let Some(stale) = left.stale {
            self.abort(&stale).await;
        }
        if let Some((id, arrived)) = left.same
            && let Some(arrived) = self.still_there(&id, arrived).await?
        {
            match self.send_as(&id, arrived, &journal).await {
                // It was aborted behind our back.
                Err(ArtifactError::NotFound { .. }) => {}
                sent => return self.ended(&id, journal, sent).await,
            }
        }
        let id = self.begin(&journal).await?;
        let sent = match self.send_as(&id, BTreeMap::new(), &journal).await {
            Err(ArtifactError::NotFound { .. }) => Err(transfer::unknown_upload(self.to)),
            sent => sent,
        };
        self.ended(&id, journal, sent).await
    }

    /// The journal, where one is kept and can be.
    async fn journal(&self) -> Result<(SharedJournal, Left), ArtifactError> {
        let Some(folder) = self.streams.journals.clone() else { return Ok((None, Left::default())) };
        let subject = Subject {
            uri: self.to.uri().to_owned(),
            file: self.source.path.clone(),
            source: self.source.identity.clone(),
            part_bytes: self.part_bytes,
        };
        match blocking(move || Journal::open(&folder, subject)).await {
            Ok((journal, left)) => Ok((Some(Arc::new(Mutex::new(journal))), left)),
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                Err(ArtifactError::Refused { uri: self.to.uri().to_owned(), source: error.into() })
            }
            Err(error) => {
                tracing::warn!(%error, "no journal can be kept of this upload: a killed one begins anew");
                Ok((None, Left::default()))
            }
        }
    }

    /// What has arrived of an upload by journal and store; `None` when the store does not know the upload any more.
    async fn still_there(
        &self,
        id: &MultipartId,
        mut arrived: BTreeMap<usize, Arrived>,
    ) -> Result<Option<BTreeMap<usize, Arrived>>, ArtifactError> {
        let Some(bucket) = self.to.bucket() else { return Ok(Some(arrived)) };
        match bucket.direct.parts(self.to.uri(), self.to.key().as_ref(), id).await {
            Ok(listed) => {
                arrived.retain(|number, part| {
                    listed.iter().any(|listed| {
                        let e_tag = listed.e_tag.trim_matches('"');
                        listed.part_number == number + 1
                            && listed.size == self.length(*number)
                            && !e_tag.is_empty()
                            && part.content_id.contains(e_tag)
                    })
                });
                Ok(Some(arrived))
            }
            Err(ArtifactError::NotFound { .. }) => Ok(None),
            // It cannot be asked for its parts, or not by this key: the journal's word is tried.
            Err(ArtifactError::Refused { .. } | ArtifactError::Denied { .. }) => Ok(Some(arrived)),
            Err(error) => Err(error),
        }
    }

    async fn begin(&self, journal: &SharedJournal) -> Result<MultipartId, ArtifactError> {
        let begin = || async {
            let begun = self.parts.store.create_multipart(self.to.key()).await;
            begun.map_err(|error| ArtifactError::from_store(self.to.uri(), error))
        };
        let id = patiently(patience(self.to), begin).await?;
        if let Some(record) = &self.parts.record
            && let Err(error) = record.begun(self.to.uri(), &id).await
        {
            self.abort(&id).await;
            return Err(error);
        }
        if let Some(journal) = journal
            && let Err(error) = lock(journal).begin(&id)
        {
            tracing::warn!(%error, "no journal can be kept of this upload: a killed one begins anew");
        }
        Ok(id)
    }

    async fn send_as(
        &self,
        id: &MultipartId,
        arrived: BTreeMap<usize, Arrived>,
        journal: &SharedJournal,
    ) -> Result<Sent, ArtifactError> {
        let mut tasks = JoinSet::new();
        let done = match self.send_parts(&mut tasks, id, arrived, journal).await {
            Ok(done) => done,
            Err(error) => {
                // A part that arrives after its upload was aborted may stay for ever.
                while tasks.join_next().await.is_some() {}
                return Err(error);
            }
        };
        self.source.require_unchanged()?;
        let crc = crc::joined(done.values().map(|part| (part.arrived.crc64nvme, part.bytes)));
        let reused = done.values().filter(|part| part.is_reused).map(|part| part.bytes).sum();
        let parts = done.into_values().map(|part| PartId { content_id: part.arrived.content_id }).collect();
        let completed = self.parts.store.complete_multipart(self.to.key(), id, parts).await;
        match completed.map_err(|error| ArtifactError::from_store(self.to.uri(), error)) {
            Ok(_) => self.require_stored(crc).await?,
            // It was complete, the answer was lost, and the library asked again: the upload is gone because the object is there.
            Err(ArtifactError::NotFound { .. }) if self.holds(crc).await? => {}
            Err(error) => return Err(error),
        }
        Ok(Sent { size: self.source.identity.size, reused, crc64nvme: Some(crc) })
    }

    async fn send_parts(
        &self,
        tasks: &mut JoinSet<Result<Done, ArtifactError>>,
        id: &MultipartId,
        mut arrived: BTreeMap<usize, Arrived>,
        journal: &SharedJournal,
    ) -> Result<BTreeMap<usize, Done>, ArtifactError> {
        let count = usize::try_from(self.source.identity.size.div_ceil(self.part_bytes)).unwrap_or(usize::MAX);
        let mut done = BTreeMap::new();
        let mut take = |ended: Result<Result<Done, ArtifactError>, JoinError>| {
            let part = ended.unwrap_or_else(|error| Err(self.broken(error)))?;
            done.insert(part.arrived.number, part);
            Ok::<(), ArtifactError>(())
        };
        for number in 0..count {
            let length = usize::try_from(self.length(number)).unwrap_or(usize::MAX);
            let reserved = self.streams.buffers.reserve(length).await;
            let lane = self.streams.lanes.enter(self.to.weather()).await;
            while let Some(ended) = tasks.try_join_next() {
                take(ended)?;
            }
            let part = Part {
                streams: self.streams.clone(),
                to: self.to.clone(),
                parts: self.parts.clone(),
                source: self.source.clone(),
                id: id.clone(),
                number,
                begins_at: number as u64 * self.part_bytes,
                known: arrived.remove(&number),
                journal: journal.clone(),
            };
            tasks.spawn(part.send(reserved, lane));
        }
        while let Some(ended) = tasks.join_next().await {
            take(ended)?;
        }
        Ok(done)
    }

    /// What is left behind: nothing where all is well or hopeless, the upload where a later call may go on with it.
    async fn ended(
        &self,
        id: &MultipartId,
        journal: SharedJournal,
        sent: Result<Sent, ArtifactError>,
    ) -> Result<Sent, ArtifactError> {
        let may_go_on =
            |error: &ArtifactError| matches!(error, ArtifactError::Unavailable { .. } | ArtifactError::Denied { .. });
        if journal.is_some() && sent.as_ref().is_err_and(may_go_on) {
            return sent;
        }
        match &sent {
            Ok(_) => {
                if let Some(record) = &self.parts.record {
                    record.ended(id).await;
                }
            }
            Err(_) => self.abort(id).await,
        }
        if let Some(Ok(journal)) = journal.and_then(Arc::into_inner).map(Mutex::into_inner)
            && let Err(error) = blocking(move || journal.close()).await
        {
            tracing::debug!(%error, "the journal of an upload that is over could not be removed");
        }
        sent
    }

    async fn abort(&self, id: &MultipartId) {
        match self.parts.store.abort_multipart(self.to.key(), id).await {
            Ok(()) => {
                if let Some(record) = &self.parts.record {
                    record.ended(id).await;
                }
            }
            Err(error) => {
                tracing::debug!(uri = self.to.uri(), %error, "an upload that was given up could not be cleared away");
            }
        }
    }

    /// Fails where the store holds something else than what was sent.
    async fn require_stored(&self, crc: u64) -> Result<(), ArtifactError> {
        if self.to.bucket().is_none() {
            return Ok(());
        }
        let found = match self.to.look().await {
            // A key that may write and not read: the store has compared each part.
            Err(ArtifactError::Denied { .. }) => return Ok(()),
            found => found?,
        };
        let is_same = found.crc64nvme.is_none_or(|found| found == crc) && found.size == self.source.identity.size;
        match is_same {
            true => Ok(()),
            false => Err(ArtifactError::corrupt(self.to.uri(), "what the store holds is not what was sent")),
        }
    }

    /// Whether the object is there with this content: by its checksum, else by reading it.
    async fn holds(&self, crc: u64) -> Result<bool, ArtifactError> {
        let found = match self.to.look().await {
            Err(ArtifactError::NotFound { .. }) => return Ok(false),
            found => found?,
        };
        if found.size != self.source.identity.size {
            return Ok(false);
        }
        if let Some(found) = found.crc64nvme {
            return Ok(found == crc);
        }
        let (mut pieces, mut running) = (self.to.pieces(u64::MAX).await?, crc::Running::default());
        while let Some(piece) = pieces.next().await? {
            running.update(&piece);
        }
        Ok(running.finish() == crc)
    }

    fn length(&self, number: usize) -> u64 {
        let begin = number as u64 * self.part_bytes;
        self.part_bytes.min(self.source.identity.size.saturating_sub(begin))
    }

    fn broken(&self, error: JoinError) -> ArtifactError {
        ArtifactError::Unavailable { uri: self.to.uri().to_owned(), source: error.into() }
    }
}

/// One part on its way.
struct Part {
    streams: Streams,
    to: Location,
    parts: Parts,
    source: Arc<Source>,
    id: MultipartId,
    number: usize,
    begins_at: u64,
    /// What an earlier process says of it.
    known: Option<Arrived>,
    journal: SharedJournal,
}

impl Part {
    async fn send(self, reserved: Reserved, lane: Lane) -> Result<Done, ArtifactError> {
        let (bytes, crc64nvme) = read(&self.source, self.begins_at, reserved).await?;
        let length = bytes.len() as u64;
        if let Some(arrived) = self.known.clone().filter(|known| known.crc64nvme == crc64nvme) {
            self.streams.tell(Step::Moved(length));
            return Ok(Done { arrived, bytes: length, is_reused: true });
        }
        let PartId { content_id } = patiently(patience(&self.to), || self.put(lent(&self.to, &bytes))).await?;
        lane.done(length);
        let arrived = Arrived { number: self.number, content_id, crc64nvme };
        if let Some(journal) = &self.journal
            && let Err(error) = lock(journal).arrived(&arrived)
        {
            tracing::debug!(%error, "a part that arrived could not be written down");
        }
        self.streams.tell(Step::Moved(length));
        Ok(Done { arrived, bytes: length, is_reused: false })
    }

    async fn put(&self, bytes: Bytes) -> Result<PartId, ArtifactError> {
        let sent = self.parts.store.put_part(self.to.key(), &self.id, self.number, bytes.into()).await;
        sent.map_err(|error| ArtifactError::from_store(self.to.uri(), error))
    }
}

/// Reads what begins at a byte of a file into kept memory, and takes its checksum.
pub(super) async fn read(source: &Arc<Source>, at: u64, reserved: Reserved) -> Result<(Bytes, u64), ArtifactError> {
    let reading = Arc::clone(source);
    let read = blocking(move || {
        let mut buffer = reserved.buffer();
        reading.read(buffer.as_mut(), at)?;
        let crc = crc::of(buffer.as_ref());
        Ok((buffer.share(), crc))
    });
    read.await.map_err(|error| source.failed(error))
}

fn lock(journal: &Mutex<Journal>) -> std::sync::MutexGuard<'_, Journal> {
    // A line that a panicking thread did not write to its end is passed over when it is read.
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}
