//! Checkpoints that wait on a local disk while the store does not answer, so that training goes on. Each is a checkpoint like all others, in a folder of the attempt's own, and is sent as it
//! is: in the order in which they were taken, objects first, the manifest last, every byte compared with the manifest on its way. Written by the worker that trains; a later attempt of the
//! job on the same machine finds what was not sent. The one place that decides what goes when there is no more room: the oldest.
//!
//! It reads no clock: when the store went away is the moment at which the first checkpoint that waits was taken.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mlctl_protocol::{AttemptNumber, JobId, result::CheckpointRef};

use crate::{
    ArtifactError, Body, Location, Stores, Upload,
    checkpoint::{self, Header, Part, Which, compare},
    keys,
    manifest::{MAX_MANIFEST_BYTES, Object},
};

/// Between two tries to reach a store that is away: the first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// How often in a row something that the store holds may come damaged before that is believed: it may have been damaged on the way.
const MAX_DAMAGED: u32 = 5;

/// What became of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    /// It is in the store.
    Stored(CheckpointRef),
    /// It is on the local disk, durable, and waits for the store.
    Waiting,
}

/// Why a checkpoint is kept nowhere.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The store, or the local disk, failed in a way that waiting does not heal.
    #[error(transparent)]
    Failed(#[from] ArtifactError),
    /// The store does not answer, and the checkpoint is larger than all that may wait for it.
    #[error(
        "the object storage does not answer ({why}), and the checkpoint's {size} bytes are more than the {limit} that may wait for it on this machine"
    )]
    NoRoom {
        /// What the store did not answer.
        why: String,
        /// The checkpoint, in bytes.
        size: u64,
        /// All that may wait, in bytes.
        limit: u64,
    },
}

/// What has happened since it was last asked.
#[derive(Debug)]
pub enum News {
    /// The store does not answer: checkpoints wait from now on.
    Away {
        /// When the first of them was taken, RFC 3339.
        since: String,
        /// What the store did not answer.
        why: String,
    },
    /// A checkpoint that waited is in the store.
    Sent(CheckpointRef),
    /// One that waited was given up for a newer one, or could not be read any more.
    Lost {
        /// Its step.
        step: u64,
        /// Why, for a person.
        why: String,
    },
    /// All that waited is in the store.
    Back {
        /// How many that were.
        sent: u64,
    },
    /// The store answers, and refuses: nothing is sent any more. What waits stays where it is.
    Refused(ArtifactError),
}

/// What waits now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Since when the store does not answer, RFC 3339.
    pub since: String,
    /// Checkpoints that wait.
    pub checkpoints: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The checkpoints of an attempt on their way. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The attempt's folder in the store.
    to: Location,
    /// The same for one who tries again by himself.
    impatient: Location,
    /// The folder on the local disk.
    at: Location,
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first. While there are some, or one is being sent, the store counts as away.
    waiting: VecDeque<CheckpointRef>,
    away: Option<Absence>,
    news: Vec<News>,
}

#[derive(Debug)]
struct Absence {
    since: String,
    why: String,
    sent: u64,
}

impl Spool {
    /// A way into an attempt's folder `to`, which is `impatient` for tries that are repeated here, over a folder `at` of the local disk in which `max_bytes` may wait at most.
    #[must_use]
    pub fn new(to: Location, impatient: Location, at: Location, max_bytes: u64) -> Self {
        Self { inner: Arc::new(Inner { to, impatient, at, max_bytes, state: Mutex::default() }) }
    }

    /// Makes a checkpoint durable: in the store, or, while that does not answer, on the local disk. Must be called from within a runtime, which sends what waits.
    ///
    /// # Errors
    /// [`SpoolError`]; then it is nowhere.
    pub async fn write<B: Into<Body>>(&self, header: Header, parts: Vec<Part<B>>) -> Result<Kept, SpoolError> {
        let parts: Vec<_> = parts.into_iter().map(Part::in_pieces).collect();
        let known = self.inner.lock().away.as_ref().map(|absence| absence.why.clone());
        // What waits here has all of it beside its manifest, and is sent so.
        let here = |part: &Part<Body>| Part { bytes: part.bytes.clone().shared(false), ..part.clone() };
        let waiting = parts.iter().map(here).collect();
        let why = match known {
            Some(why) => why,
            None => match checkpoint::write(&self.inner.to, header.clone(), parts).await {
                Ok(stored) => return Ok(Kept::Stored(stored)),
                Err(error @ ArtifactError::Unavailable { .. }) => with_causes(&error),
                Err(error) => return Err(error.into()),
            },
        };
        self.keep(header, waiting, why).await
    }

    async fn keep(&self, header: Header, parts: Vec<Part<Body>>, why: String) -> Result<Kept, SpoolError> {
        let size = parts.iter().map(|part| part.bytes.size()).sum();
        if size > self.inner.max_bytes {
            return Err(SpoolError::NoRoom { why, size, limit: self.inner.max_bytes });
        }
        self.inner.make_room(size).await;
        let since = header.created_at.clone();
        let kept = match checkpoint::write(&self.inner.at, header.clone(), parts.clone()).await {
            // Better the newest than all the others.
            Err(ArtifactError::Full { .. }) => {
                self.inner.make_room(self.inner.max_bytes).await;
                checkpoint::write(&self.inner.at, header, parts).await?
            }
            kept => kept?,
        };
        let begins = {
            let mut state = self.inner.lock();
            state.waiting.push_back(kept);
            let begins = state.away.is_none();
            if begins {
                state.news.push(News::Away { since: since.clone(), why: why.clone() });
                state.away = Some(Absence { since, why, sent: 0 });
            }
            begins
        };
        if begins {
            tokio::spawn(Arc::clone(&self.inner).send_all());
        }
        Ok(Kept::Waiting)
    }

    /// What has happened since this was last asked, in its order.
    #[must_use]
    pub fn news(&self) -> Vec<News> {
        mem::take(&mut self.inner.lock().news)
    }

    /// What waits, while the store is away.
    #[must_use]
    pub fn away(&self) -> Option<Away> {
        let state = self.inner.lock();
        let bytes = state.waiting.iter().map(|kept| kept.size_bytes).sum();
        let checkpoints = state.waiting.len() as u64;
        state.away.as_ref().map(|absence| Away { since: absence.since.clone(), checkpoints, bytes })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up the oldest until a checkpoint of this size has room.
    async fn make_room(&self, size: u64) {
        loop {
            let oldest = {
                let mut state = self.lock();
                let taken: u64 = state.waiting.iter().map(|kept| kept.size_bytes).sum();
                if taken.saturating_add(size) <= self.max_bytes {
                    return;
                }
                let Some(oldest) = state.waiting.pop_front() else { return };
                let why = format!("no more than {} bytes may wait on this machine, and newer ones do", self.max_bytes);
                state.news.push(News::Lost { step: oldest.step, why });
                oldest
            };
            self.delete(&oldest).await;
        }
    }

    async fn delete(&self, kept: &CheckpointRef) {
        let deleted = async { self.folder(kept)?.delete_prefix().await };
        if let Err(error) = deleted.await {
            tracing::warn!(uri = kept.uri, %error, "a checkpoint that does not wait any more could not be deleted");
        }
    }

    fn folder(&self, kept: &CheckpointRef) -> Result<Location, ArtifactError> {
        self.at.join(&keys::checkpoint(kept.step))
    }

    /// Sends what waits, the oldest first, until nothing does or the store refuses.
    async fn send_all(self: Arc<Self>) {
        let (mut pause, mut damaged) = (PAUSES.0, 0);
        while let Some(next) = self.next() {
            let failure = match self.send(&next).await {
                Ok(stored) => {
                    self.sent(&next, stored);
                    self.delete(&next).await;
                    (pause, damaged) = (PAUSES.0, 0);
                    continue;
                }
                Err(failure) => failure,
            };
            damaged = if matches!(failure, Failure::Store(ArtifactError::Corrupt { .. })) { damaged + 1 } else { 0 };
            match failure {
                Failure::Store(
                    error @ (ArtifactError::Unavailable { .. }
                    | ArtifactError::Full { .. }
                    | ArtifactError::Corrupt { .. }),
                ) if damaged <= MAX_DAMAGED => {
                    tracing::debug!(%error, "the object storage does not answer yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                Failure::Store(error) => {
                    let mut state = self.lock();
                    state.away = None;
                    state.waiting.clear();
                    state.news.push(News::Refused(error));
                    return;
                }
                Failure::Here(error) => self.lost(&next, &error),
            }
        }
    }

    /// The oldest; `None`, and the absence is over, when nothing waits.
    fn next(&self) -> Option<CheckpointRef> {
        let mut state = self.lock();
        let next = state.waiting.front().cloned();
        if next.is_none()
            && let Some(Absence { sent, .. }) = state.away.take()
        {
            state.news.push(News::Back { sent });
        }
        next
    }

    fn sent(&self, kept: &CheckpointRef, stored: CheckpointRef) {
        let mut state = self.lock();
        state.waiting.retain(|other| other.step != kept.step);
        state.news.push(News::Sent(stored));
        if let Some(absence) = &mut state.away {
            absence.sent += 1;
        }
    }

    /// One that was given up while it was sent is told of already.
    fn lost(&self, kept: &CheckpointRef, error: &ArtifactError) {
        let mut state = self.lock();
        let before = state.waiting.len();
        state.waiting.retain(|other| other.step != kept.step);
        if state.waiting.len() < before {
            state.news.push(News::Lost { step: kept.step, why: with_causes(error) });
        }
    }

    async fn send(&self, kept: &CheckpointRef) -> Result<CheckpointRef, Failure> {
        let folder = self.folder(kept).map_err(Failure::Here)?;
        let local = folder.join(keys::MANIFEST).map_err(Failure::Here)?;
        let json = local.get(MAX_MANIFEST_BYTES).await.map_err(Failure::Here)?;
        let manifest = checkpoint::parse(&local, &json, Some(&kept.manifest_digest)).map_err(Failure::Here)?;
        let to = self.impatient.join(&keys::checkpoint(manifest.step)).map_err(Failure::Store)?;
        let at = to.join(keys::MANIFEST).map_err(Failure::Store)?;
        // A try that took effect, and whose answer did not come: of this one, or of the one before it was kept here.
        if let Some(stored) = checkpoint::same_state(&at, &to, &manifest).await.map_err(Failure::Store)? {
            return Ok(stored);
        }
        for object in &manifest.objects {
            let (from, to) = (folder.join(&object.name), to.join(&object.name));
            copy(&from.map_err(Failure::Here)?, to.map_err(Failure::Store)?, object).await?;
        }
        checkpoint::commit_bytes(&at, &to, &manifest, json).await.map_err(Failure::Store)
    }
}

/// Where the sending of a checkpoint failed.
enum Failure {
    /// It cannot be read here.
    Here(ArtifactError),
    /// It cannot be written there.
    Store(ArtifactError),
}

/// Copies an object in pieces: little of it is in memory. What is not as the manifest says is found before there is a manifest in the store.
async fn copy(from: &Location, to: Location, object: &Object) -> Result<(), Failure> {
    let mut pieces = from.pieces(object.size_bytes).await.map_err(Failure::Here)?;
    let mut upload = Upload::new(to);
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = pieces.next().await.map_err(Failure::Here)? {
        hasher.update(&piece);
        upload.write(&piece).await.map_err(Failure::Store)?;
    }
    let found = (pieces.size(), hasher.finalize().to_hex().to_string());
    if let Err(what) = compare(object, &found) {
        upload.abort().await;
        return Err(Failure::Here(ArtifactError::corrupt(from.uri(), what)));
    }
    upload.finish().await.map(|_| ()).map_err(Failure::Store)
}

/// What earlier attempts of a job left waiting, the latest step first. `attempts` is the folder of the job's attempts on this machine.
///
/// # Errors
/// [`ArtifactError::Refused`], [`ArtifactError::Unavailable`].
pub async fn left_by_earlier(
    stores: &Stores,
    attempts: &Location,
    own: (JobId, AttemptNumber, &str),
) -> Result<Vec<CheckpointRef>, ArtifactError> {
    let (job, attempt, spec_digest) = own;
    let mut left = Vec::new();
    for folder in earlier(attempts, attempt).await? {
        for found in checkpoint::list(&folder).await?.found {
            // Job numbers come again after a restore, and a job may have been edited.
            let manifest = checkpoint::manifest(stores, Which::from(&found)).await;
            if manifest.is_ok_and(|manifest| manifest.job == job && manifest.spec_digest == spec_digest) {
                left.push(found);
            }
        }
    }
    left.sort_by_key(|found| std::cmp::Reverse(found.step));
    Ok(left)
}

/// Deletes what earlier attempts left waiting: a later one has gone on from it, or from better.
///
/// # Errors
/// As [`Location::delete_prefix`].
pub async fn clear_earlier(attempts: &Location, attempt: AttemptNumber) -> Result<(), ArtifactError> {
    for folder in earlier(attempts, attempt).await? {
        folder.delete_prefix().await?;
    }
    Ok(())
}

/// The folders in which checkpoints of earlier attempts wait, or none.
async fn earlier(attempts: &Location, attempt: AttemptNumber) -> Result<Vec<Location>, ArtifactError> {
    let numbers = attempts.folders().await?.into_iter().filter_map(|name| name.parse::<u32>().ok());
    let mut folders = Vec::new();
    for number in numbers.filter(|number| *number < attempt.0) {
        let folder = attempts.join(&keys::spool(AttemptNumber(number)))?;
        if !folder.folders().await?.is_empty() {
            folders.push(folder);
        }
    }
    Ok(folders)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mlctl_protocol::{
        FencingToken,
        s3::{S3Access, S3Checksum, S3Credentials},
    };

    use super::*;
    use crate::manifest::Role;

    const NONE: [u64; 0] = [];

    fn header(step: u64) -> Header {
        Header {
            job: JobId(1),
            attempt: AttemptNumber(1),
            token: FencingToken(1),
            step,
            epoch: 0,
            created_at: format!("2026-01-01T00:00:{step:02}Z"),
            spec_digest: "5".repeat(64),
            dataset_digest: "0".repeat(64),
            parent: None,
            metrics: [("loss".to_owned(), 0.1 + 0.2)].into(),
        }
    }

    fn parts(step: u64) -> Vec<Part> {
        let bytes = Bytes::from(vec![u8::try_from(step).unwrap(); 1000]);
        vec![Part { name: "state.json".into(), role: Role::State, bytes }]
    }

    /// A store at which nobody is.
    fn nobody() -> Stores {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let credentials =
            S3Credentials { access_key_id: "id".into(), secret_access_key: "secret".into(), session_token: None };
        Stores::with_s3(Some(S3Access {
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            region: "us-east-1".into(),
            path_style: true,
            checksum: S3Checksum::None,
            ca_pem: None,
            proxy: None,
            retry_seconds: 0,
            credentials,
        }))
    }

    struct Scene {
        dir: tempfile::TempDir,
        stores: Stores,
        away: Location,
    }

    impl Scene {
        fn new() -> Self {
            let away = nobody().open("s3://bucket/jobs/1/1").unwrap();
            Self { dir: tempfile::tempdir().unwrap(), stores: Stores::with_memory(), away }
        }

        fn attempts(&self) -> Location {
            self.stores.open(&format!("file://{}", self.dir.path().display())).unwrap()
        }

        /// One whose store is away, and for what waits is `to`.
        fn spool(&self, to: &Location, max_bytes: u64) -> Spool {
            let at = self.attempts().join(&keys::spool(AttemptNumber(1))).unwrap();
            Spool::new(self.away.clone(), to.clone(), at, max_bytes)
        }

        async fn left(&self, attempt: u32, spec_digest: &str) -> Vec<u64> {
            let own = (JobId(1), AttemptNumber(attempt), spec_digest);
            let left = left_by_earlier(&self.stores, &self.attempts(), own).await.unwrap();
            left.iter().map(|found| found.step).collect()
        }
    }

    #[tokio::test]
    async fn what_waits_is_sent_in_its_order_as_it_is() {
        let scene = Scene::new();
        let to = scene.stores.open("memory:///jobs/1/1").unwrap();
        let spool = scene.spool(&to, 1 << 20);
        for step in [1, 2, 3] {
            assert_eq!(spool.write(header(step), parts(step)).await.unwrap(), Kept::Waiting);
        }
        let mut news = Vec::new();
        while !matches!(news.last(), Some(News::Back { .. })) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            news.extend(spool.news());
        }
        let sent: Vec<&CheckpointRef> =
            news.iter().filter_map(|news| if let News::Sent(sent) = news { Some(sent) } else { None }).collect();
        assert_eq!(sent.iter().map(|sent| sent.step).collect::<Vec<_>>(), [1, 2, 3], "{news:?}");
        for sent in sent {
            let read = checkpoint::read(&scene.stores, sent, 1 << 20).await.unwrap();
            assert_eq!((read.parts, read.manifest.created_at), (parts(sent.step), header(sent.step).created_at));
        }
        assert!(matches!(&news[0], News::Away { since, .. } if since == "2026-01-01T00:00:01Z"), "{news:?}");
        assert_eq!(spool.away(), None);
        assert_eq!(scene.left(2, &"5".repeat(64)).await, NONE, "nothing is left here");
    }

    #[tokio::test]
    async fn beyond_the_limit_the_oldest_go_and_a_later_attempt_finds_the_rest() {
        let scene = Scene::new();
        let spool = scene.spool(&scene.away, 2500);
        for step in [1, 2, 3, 4] {
            assert_eq!(spool.write(header(step), parts(step)).await.unwrap(), Kept::Waiting);
        }
        let away = spool.away().unwrap();
        assert_eq!((away.checkpoints, away.bytes), (2, 2000));
        let lost: Vec<u64> = spool
            .news()
            .iter()
            .filter_map(|news| if let News::Lost { step, .. } = news { Some(*step) } else { None })
            .collect();
        assert_eq!(lost, [1, 2]);
        let large = vec![Part { name: "state.json".into(), role: Role::State, bytes: vec![0_u8; 2501] }];
        assert!(matches!(spool.write(header(5), large).await, Err(SpoolError::NoRoom { size: 2501, limit: 2500, .. })));

        let digest = "5".repeat(64);
        assert_eq!(scene.left(2, &digest).await, [4, 3]);
        assert_eq!(scene.left(1, &digest).await, NONE, "its own are not an earlier attempt's");
        assert_eq!(scene.left(2, &"6".repeat(64)).await, NONE, "nor those of another spec");
        clear_earlier(&scene.attempts(), AttemptNumber(2)).await.unwrap();
        assert_eq!(scene.left(2, &digest).await, NONE);
    }

    #[tokio::test]
    async fn what_is_damaged_here_does_not_come_to_be_there() {
        let scene = Scene::new();
        let (from, to) = (scene.attempts().join("x").unwrap(), scene.stores.open("memory:///x").unwrap());
        from.put(vec![1; 1000].into()).await.unwrap();
        let right = Object {
            name: "x".into(),
            role: Role::State,
            size_bytes: 1000,
            blake3: crate::blake3_hex(&[1; 1000]),
            uri: None,
            chunks: None,
        };
        assert!(copy(&from, to.clone(), &right).await.is_ok());
        to.delete().await.unwrap();
        let wrong = Object { blake3: "0".repeat(64), ..right };
        assert!(matches!(copy(&from, to.clone(), &wrong).await, Err(Failure::Here(_))));
        assert_eq!(to.size().await.unwrap(), None);
    }
}
