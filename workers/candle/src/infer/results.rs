//! A file of results on its way to storage: streamed as it is made, so that little is left to do at the end. While a remote store does not answer, predicting goes on: what was streamed is also copied to this
//! machine's disk, within the limit of what may wait there, and is sent from there once there is nothing more to predict and the store is back. The copy has no name: it ends with the process.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use mlctl_artifacts::{ArtifactError, Location, Upload};
use mlctl_protocol::{ExitClass, message::ReportBody};

use crate::{fault::Fault, job::Job, storage};

/// Seconds for which the store is tried again before predicting goes on without it.
const PATIENCE_SECONDS: u32 = 10;

/// How much of the copy is read at once, in bytes.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A file of results being written.
pub(crate) struct Results<'a> {
    job: Job<'a>,
    at: Location,
    /// None once the store did not answer in the middle: a part that is lost is lost for the whole.
    upload: Option<Upload>,
    copy: Option<LocalCopy>,
    /// Why there is no copy any more, though there was one.
    gave_up: Option<String>,
}

impl<'a> Results<'a> {
    /// Results under a name in the job's folder for them.
    pub(crate) fn new(job: Job<'a>, name: &str) -> Result<Self, Fault> {
        let copy = LocalCopy::new(job);
        let stores = if copy.is_some() { job.stores.patient_for(PATIENCE_SECONDS) } else { job.stores.clone() };
        let at = stores.open(&job.start.storage.output_uri).and_then(|folder| folder.join(name));
        let at = at.map_err(|error| Fault::storage(&error))?;
        let copy = copy.filter(|_| at.is_remote());
        Ok(Self { job, upload: Some(Upload::new(at.clone())), at, copy, gave_up: None })
    }

    pub(crate) fn uri(&self) -> &str {
        self.at.uri()
    }

    pub(crate) fn write(&mut self, text: &[u8]) -> Result<(), Fault> {
        if let Some(copy) = &mut self.copy
            && let Err(why) = copy.append(text)
        {
            self.copy = None;
            tracing::warn!("{} can be kept on this machine no longer: {why}", self.at.uri());
            self.gave_up = Some(why);
        }
        let Some(upload) = &mut self.upload else { return self.check_kept() };
        match self.job.runtime.block_on(upload.write(text)) {
            Err(error @ ArtifactError::Unavailable { .. }) if self.copy.is_some() => {
                self.upload = None;
                let why = Fault::storage(&error).message;
                let message = format!(
                    "the object storage does not answer ({why}): predicting goes on, and the results are sent from this machine at the end"
                );
                self.job.host.report(ReportBody::Warning { message })
            }
            written => written.map_err(|error| Fault::storage(&error)),
        }
    }

    /// Without the store the results must be here.
    fn check_kept(&self) -> Result<(), Fault> {
        let Some(why) = self.gave_up.as_ref().filter(|_| self.upload.is_none()) else { return Ok(()) };
        let message = format!("the object storage does not answer, and the results cannot wait for it here: {why}");
        Err(Fault::new(ExitClass::Storage, message).with_hint("allow more with storage.spool_max_bytes in mld.toml"))
    }

    /// Makes the file appear. Where it can be sent again it waits for a store that does not answer, as long as the settings say.
    pub(crate) fn finish(self) -> Result<(), Fault> {
        self.check_kept()?;
        let Self { job, at, mut upload, copy, .. } = self;
        let Some(mut copy) = copy else {
            let finished = upload.map(|upload| job.runtime.block_on(upload.finish())).transpose();
            return finished.map(drop).map_err(|error| Fault::storage(&error));
        };
        storage::patiently(job, "the results of the job wait for it", || match upload.take() {
            Some(upload) => job.runtime.block_on(upload.finish()).map(drop),
            None => job.runtime.block_on(copy.send(&at)),
        })
    }

    /// Gives the file up.
    pub(crate) fn abort(self) {
        if let Some(upload) = self.upload {
            self.job.runtime.block_on(upload.abort());
        }
    }
}

/// What was written, on this machine's disk.
struct LocalCopy {
    file: File,
    bytes: u64,
    limit: u64,
}

impl LocalCopy {
    /// One in the attempt's folder, if results may wait on this machine and it can be made.
    fn new(job: Job<'_>) -> Option<Self> {
        let place = job.start.storage.spool.as_ref().filter(|place| place.max_bytes > 0)?;
        let folder = folder(&place.attempts_uri, &job.attempt.to_string())?;
        let made = fs::create_dir_all(&folder).and_then(|()| tempfile::tempfile_in(&folder));
        let file = made.inspect_err(|error| tracing::warn!("results cannot wait on this machine: {error}")).ok()?;
        Some(Self { file, bytes: 0, limit: place.max_bytes })
    }

    fn append(&mut self, text: &[u8]) -> Result<(), String> {
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        if self.bytes > self.limit {
            return Err(format!("they are more than the {} bytes that may wait", self.limit));
        }
        self.file.write_all(text).map_err(|error| error.to_string())
    }

    /// Sends all of it.
    async fn send(&mut self, at: &Location) -> Result<(), ArtifactError> {
        let unreadable = |error: io::Error| ArtifactError::Corrupt {
            uri: at.uri().to_owned(),
            what: format!("its copy on this machine cannot be read: {error}"),
        };
        self.file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let (mut upload, mut chunk) = (Upload::new(at.clone()), vec![0; CHUNK_BYTES]);
        loop {
            let read = self.file.read(&mut chunk).map_err(unreadable)?;
            if read == 0 {
                return upload.finish().await.map(drop);
            }
            upload.write(&chunk[..read]).await?;
        }
    }
}

/// The attempt's folder on this machine.
fn folder(attempts_uri: &str, attempt: &str) -> Option<PathBuf> {
    attempts_uri.strip_prefix("file://").map(|path| Path::new(path).join(attempt))
}
