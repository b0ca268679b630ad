//! Objects that are written in parts, on record while they are: a worker that is killed in the middle leaves parts in the store that nobody sees and somebody pays for, and
//! no S3 store can be asked for them in a way that all understand. So each upload is written down in the attempt's folder before its first part, and struck out at its end;
//! the daemon clears away what an ended attempt left open.

use std::{
    collections::{BTreeMap, HashMap},
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use object_store::{
    MultipartId, MultipartUpload, PutPayload, PutResult, UploadPart,
    multipart::{MultipartStore, PartId},
    path::Path as Key,
};
use serde::{Deserialize, Serialize};

use crate::{ArtifactError, Location, Stores, s3::Bucket};

/// The record's name in an attempt's folder.
pub const UPLOADS_FILE: &str = "uploads.jsonl";

/// The largest record that is read, in bytes.
const MAX_RECORD_BYTES: u64 = 16 * 1024 * 1024;

/// A line of the record.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begun { uri: String, id: String },
    Ended { id: String },
}

/// Where uploads are written down. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    file: Arc<PathBuf>,
}

impl Record {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file: Arc::new(file) }
    }

    /// An upload was begun.
    pub(crate) async fn begun(&self, uri: &str, id: &MultipartId) -> Result<(), ArtifactError> {
        let written = self.write(Line::Begun { uri: uri.to_owned(), id: id.clone() }).await;
        written.map_err(|error| ArtifactError::from_io(&format!("file://{}", self.file.display()), error))
    }

    /// An upload is over. What is not struck out is cleared away once more, which finds nothing.
    pub(crate) async fn ended(&self, id: &MultipartId) {
        if let Err(error) = self.write(Line::Ended { id: id.clone() }).await {
            tracing::debug!(%error, "the end of an upload could not be written down");
        }
    }

    async fn write(&self, line: Line) -> io::Result<()> {
        let file = Arc::clone(&self.file);
        let written = tokio::task::spawn_blocking(move || {
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            let mut file = OpenOptions::new().append(true).create(true).open(&*file)?;
            file.write_all(&text)?;
            file.sync_data()
        });
        written.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

/// Begins an object in parts, on record.
pub(crate) async fn begin(
    store: Arc<dyn MultipartStore>,
    key: Key,
    uri: &str,
    record: Record,
) -> Result<Box<dyn MultipartUpload>, ArtifactError> {
    let id = store.create_multipart(&key).await.map_err(|error| ArtifactError::from_store(uri, error))?;
    if let Err(error) = record.begun(uri, &id).await {
        if let Err(error) = store.abort_multipart(&key, &id).await {
            tracing::debug!(uri, %error, "an upload that was given up could not be cleared away");
        }
        return Err(error);
    }
    Ok(Box::new(Recorded { store, key, id, record, sent: Arc::default(), asked: 0 }))
}

struct Recorded {
    store: Arc<dyn MultipartStore>,
    key: Key,
    id: MultipartId,
    record: Record,
    /// The parts that arrived, by number.
    sent: Arc<Mutex<BTreeMap<usize, PartId>>>,
    asked: usize,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").field("key", &self.key).field("id", &self.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for Recorded {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let number = self.asked;
        self.asked += 1;
        let (store, key, id, sent) = (self.store.clone(), self.key.clone(), self.id.clone(), self.sent.clone());
        Box::pin(async move {
            let part = store.put_part(&key, &id, number, data).await?;
            sent.lock().unwrap_or_else(PoisonError::into_inner).insert(number, part);
            Ok(())
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let parts: Vec<PartId> = {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *sent).into_values().collect()
        };
        if parts.len() != self.asked {
            let source = format!("{} of {} parts arrived", parts.len(), self.asked).into();
            return Err(object_store::Error::Generic { store: "parts", source });
        }
        let done = self.store.complete_multipart(&self.key, &self.id, parts).await?;
        self.record.ended(&self.id).await;
        Ok(done)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.store.abort_multipart(&self.key, &self.id).await?;
        self.record.ended(&self.id).await;
        Ok(())
    }
}

/// Clears away what an ended attempt left open, by its record, and the record. Answers with how many uploads that were. Only what lies under `home` is touched: the record is
/// the worker's word.
///
/// # Errors
/// The record cannot be read, or the store does not answer: it stays, to be tried again.
pub async fn clear(stores: &Stores, file: &Path, home: &str) -> Result<usize, ArtifactError> {
    let of_file = |error| ArtifactError::from_io(&format!("file://{}", file.display()), error);
    let path = file.to_owned();
    let read =
        tokio::task::spawn_blocking(move || read(&path)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let Some(open) = read.map_err(of_file)? else { return Ok(0) };
    let mut cleared = 0;
    for (id, uri) in open {
        if !uri.starts_with(&format!("{}/", home.trim_end_matches('/'))) {
            tracing::warn!(uri, "an upload is left alone: it is not where this job may write");
            continue;
        }
        match stores.open(&uri)?.abort_upload(&id).await {
            Ok(()) => cleared += 1,
            Err(ArtifactError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    tokio::fs::remove_file(file).await.map_err(of_file)?;
    Ok(cleared)
}

/// The uploads of a record that have not ended, by id. `None` where there is no record.
fn read(file: &Path) -> io::Result<Option<HashMap<String, String>>> {
    let opened = match OpenOptions::new().read(true).open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !opened.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    opened.take(MAX_RECORD_BYTES).read_to_end(&mut bytes)?;
    let mut open = HashMap::new();
    // A line that cannot be read is one that was not written to its end.
    for line in bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
        match line {
            Line::Begun { uri, id } => _ = open.insert(id, uri),
            Line::Ended { id } => _ = open.remove(&id),
        }
    }
    Ok(Some(open))
}

/// One store by two of its traits.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn MultipartStore>,
    pub(crate) record: Option<Record>,
    /// Where it is one of S3's.
    pub(crate) bucket: Option<Bucket>,
}

/// An upload that is open in a store: its parts are stored and paid for, and nobody sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// The object that it would make.
    pub uri: String,
    /// What the store calls it.
    pub id: MultipartId,
    /// Since when it is open: RFC 3339, as the store writes it.
    pub begun: String,
}

impl Location {
    /// The uploads that are open under this folder, and of an object of this name, whoever began them, by URI.
    ///
    /// # Errors
    /// [`ArtifactError::Refused`] where the store has no such list; else as [`Self::list`].
    pub async fn open_uploads(&self) -> Result<Vec<OpenUpload>, ArtifactError> {
        let Some(bucket) = self.bucket() else {
            let source = "only an S3 store has uploads that stay open".into();
            return Err(ArtifactError::Refused { uri: self.uri().to_owned(), source });
        };
        let prefix = self.key().as_ref();
        let listed = bucket.direct.uploads(self.uri(), prefix).await?;
        let under = |key: &str| {
            key.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/')).map(str::to_owned)
        };
        let mut open: Vec<_> = listed
            .into_iter()
            .filter_map(|upload| {
                let rest = under(&upload.key)?;
                Some(OpenUpload { uri: format!("{}{rest}", self.uri()), id: upload.upload_id, begun: upload.initiated })
            })
            .collect();
        open.sort_unstable_by(|a, b| (&a.uri, &a.begun).cmp(&(&b.uri, &b.begun)));
        Ok(open)
    }

    /// Gives up an upload that another process began: its parts are gone.
    ///
    /// # Errors
    /// [`ArtifactError::NotFound`] when it is over already; else as [`Self::delete`].
    pub async fn abort_upload(&self, id: &str) -> Result<(), ArtifactError> {
        let Some(Parts { store, .. }) = self.parts() else { return Ok(()) };
        let aborted = store.abort_multipart(self.key(), &id.to_owned()).await;
        aborted.map_err(|error| ArtifactError::from_store(self.uri(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Upload;

    #[tokio::test]
    async fn what_a_killed_writer_left_is_cleared_away_and_what_was_finished_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(UPLOADS_FILE);
        let stores = Stores::with_memory().on_record(file.clone());
        let home = "memory:///jobs/7";
        let at = |name: &str| stores.open(&format!("{home}/{name}")).unwrap();
        assert_eq!(clear(&stores, &file, home).await.unwrap(), 0, "there is no record yet");
        at("whole").put(vec![1; 20 << 20].into()).await.unwrap();
        let mut given_up = Upload::new(at("given-up"));
        given_up.write(&vec![2; 20 << 20]).await.unwrap();
        given_up.abort().await;
        let mut killed = Upload::new(at("killed"));
        killed.write(&vec![3; 20 << 20]).await.unwrap();
        std::mem::forget(killed);
        let mut elsewhere = Upload::new(stores.open("memory:///jobs/70/x").unwrap());
        elsewhere.write(&vec![4; 20 << 20]).await.unwrap();
        // Cut off in the middle of a line.
        let mut record = OpenOptions::new().append(true).open(&file).unwrap();
        record.write_all(b"{\"begun\":{\"uri\":\"mem").unwrap();
        assert_eq!(clear(&stores, &file, home).await.unwrap(), 1);
        assert!(!file.exists());
        assert_eq!(at("whole").size().await.unwrap(), Some(20 << 20));
        assert!(elsewhere.finish().await.is_ok(), "another job's was left alone");
    }

    #[test]
    fn lines_are_as_they_were() {
        let begun = Line::Begun { uri: "s3://b/x".into(), id: "1".into() };
        let text = r#"{"begun":{"uri":"s3://b/x","id":"1"}}"#;
        assert_eq!(serde_json::to_string(&begun).unwrap(), text);
        assert_eq!(serde_json::from_str::<Line>(text).unwrap(), begun);
        assert_eq!(serde_json::from_str::<Line>(r#"{"ended":{"id":"1"}}"#).unwrap(), Line::Ended { id: "1".into() });
    }
}
