//! The checkpoint folder of a command: what the program completes there goes to object storage and is reported, and what an earlier attempt had stored is brought back before the program
//! starts. Called by `program`. A failing store costs the program nothing but the checkpoint: it is warned of, and tried again.
//!
//! An entry of the folder, a file or a folder, is a checkpoint when its name ends in a number, the step (`step-500`, `checkpoint-500`, `epoch=3-step=500.ckpt`), and does not say that it is
//! unfinished (a dot or `tmp` at its beginning, `.tmp` in it); it is complete when nothing in it was written for two seconds, or when the program has ended in order. Of several the latest
//! step is stored. What lay there before the program began is not looked at until it is changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use mlctl_artifacts::{
    ArtifactError, Location, Stores, blake3_hex,
    checkpoint::Header,
    files::{self, Found},
    uploads::UPLOADS_FILE,
};
use mlctl_link::Handle;
use mlctl_protocol::{
    launch::Launch,
    message::{ReportBody, Start},
    progress::Progress,
    result::CheckpointRef,
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::end::{self, Account};

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long nothing may have been written for something to be complete.
const STILL: Duration = Duration::from_secs(2);

/// How long a store that fails is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Entries that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// Warnings of an attempt.
const MAX_WARNINGS: usize = 20;

/// Where an earlier attempt's checkpoint is brought to, in the attempt's folder.
const RESUMED: &str = "resume";

/// In the attempt's folder, while a checkpoint is not stored that should be: its path.
const UNSENT: &str = "unsent";

/// Earlier attempts that are looked at for what they could not store.
const MAX_EARLIER: u32 = 100;

/// The checkpoint folder of an attempt, before its program starts.
pub struct Prepared {
    /// The folder.
    pub dir: PathBuf,
    /// Where the checkpoint lies that the program is to go on from.
    pub resume_from: Option<PathBuf>,
    watch: Watch,
}

impl Prepared {
    /// Makes the folder and brings back what an earlier attempt had stored.
    ///
    /// # Errors
    /// The folder cannot be made, or the store does not answer: beginning anew would throw work away.
    pub async fn new(launch: &Launch, start: &Start, handle: &Handle, dir: &str) -> Result<Self, Account> {
        let dir = launch.attempt_dir.join(dir);
        fs::create_dir_all(&dir).map_err(|error| end::no_checkpoints(&dir, &error))?;
        let stores = Stores::with_s3(launch.s3.clone())
            .given_durable(start.storage.durable_uri.as_deref())
            .on_record(launch.attempt_dir.join(UPLOADS_FILE));
        let attempt = stores.open(&start.storage.attempt_uri).map_err(|error| end::storage(&error))?;
        tell_unsent(launch, handle).await;
        let (parent, resume_from) = resume(launch, start, handle, &stores).await?;
        let header = Header {
            job: launch.job,
            attempt: launch.attempt,
            token: start.token,
            step: 0,
            epoch: 0,
            created_at: String::new(),
            spec_digest: start.spec_digest.clone(),
            dataset_digest: blake3_hex(b""),
            parent,
            metrics: BTreeMap::new(),
        };
        let known = look(&dir).0;
        let stored = known.into_iter().map(|(name, (_, found))| (name, found)).collect();
        let watch = Watch {
            dir: dir.clone(),
            attempt,
            header,
            handle: handle.clone(),
            device: device(start),
            stored,
            seen: BTreeMap::new(),
            wait_until: None,
            unsent: launch.attempt_dir.join(UNSENT),
            told: BTreeSet::new(),
        };
        Ok(Self { dir, resume_from, watch })
    }

    /// Looks at the folder from now on.
    pub fn watch(self) -> Keeper {
        let (stop, stopped) = oneshot::channel();
        Keeper { stop, task: tokio::spawn(self.watch.run(stopped)) }
    }
}

/// Says what earlier attempts on this machine had completed and could not store, since they were killed before the store was back: once, and where it lies.
async fn tell_unsent(launch: &Launch, handle: &Handle) {
    let Some(attempts) = launch.attempt_dir.parent() else { return };
    let first = launch.attempt.0.saturating_sub(MAX_EARLIER).max(1);
    for attempt in first..launch.attempt.0 {
        let note = attempts.join(attempt.to_string()).join(UNSENT);
        let Ok(path) = fs::read_to_string(&note) else { continue };
        if Path::new(&path).exists() {
            let message = format!(
                "attempt {attempt} had completed a checkpoint that it could not store: it is not gone on from, and lies at {path} on this machine"
            );
            report(handle, ReportBody::Warning { message }).await;
        }
        let _ = fs::remove_file(&note);
    }
}

/// The first of the daemon's candidates that is whole, brought here: its URI and its path.
async fn resume(
    launch: &Launch,
    start: &Start,
    handle: &Handle,
    stores: &Stores,
) -> Result<(Option<String>, Option<PathBuf>), Account> {
    let to = launch.attempt_dir.join(RESUMED);
    let mut skipped = Vec::new();
    for candidate in &start.resume {
        match files::restore(stores, candidate, &to).await {
            Ok(path) => {
                handle.progress(Progress { step: Some(candidate.step), ..Progress::default() }, device(start));
                report(handle, ReportBody::Resumed { from: candidate.clone(), skipped }).await;
                return Ok((Some(candidate.uri.clone()), Some(path)));
            }
            Err(error @ (ArtifactError::Unavailable { .. } | ArtifactError::Full { .. })) => {
                return Err(end::storage(&error));
            }
            Err(error) => skipped.push(format!("the checkpoint at step {} cannot be used: {error}", candidate.step)),
        }
    }
    if !skipped.is_empty() {
        let message = format!("the command begins anew: {}", skipped.join("; "));
        report(handle, ReportBody::Warning { message }).await;
    }
    Ok((None, None))
}

/// What heartbeats call the device.
pub fn device(start: &Start) -> &'static str {
    if start.spec.resources.gpus > 0 { "gpu" } else { "cpu" }
}

/// Hands a report over from a thread that may wait.
async fn report(handle: &Handle, body: ReportBody) {
    let handle = handle.clone();
    // An error means that nobody takes reports any more: the order to end says so too.
    let _ = spawn_blocking(move || handle.report(body)).await;
}

/// Stores what the program completes.
pub struct Keeper {
    stop: oneshot::Sender<bool>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// The program has ended, in order or not: stores what is complete by that, and looks no more.
    pub async fn finish(self, in_order: bool) {
        let _ = self.stop.send(in_order);
        let _ = self.task.await;
    }
}

/// Entries that may be checkpoints, by name, with their steps; and what is wrong with others.
type Looked = (BTreeMap<String, (u64, Found)>, Vec<String>);

struct Watch {
    dir: PathBuf,
    attempt: Location,
    header: Header,
    handle: Handle,
    device: &'static str,
    /// What is stored, or was there before, as it was then.
    stored: BTreeMap<String, Found>,
    /// What is there, and since when it is as it is.
    seen: BTreeMap<String, (Found, Instant)>,
    /// A store that failed is not asked before.
    wait_until: Option<Instant>,
    /// Where it is noted that something is not stored.
    unsent: PathBuf,
    /// Warnings given.
    told: BTreeSet<String>,
}

impl Watch {
    async fn run(mut self, mut stopped: oneshot::Receiver<bool>) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let end = tokio::select! {
                biased;
                in_order = &mut stopped => Some(in_order.unwrap_or(false)),
                _ = tick.tick() => None,
            };
            let is_due = end.is_some() || self.wait_until.is_none_or(|until| Instant::now() >= until);
            if is_due {
                self.turn(end == Some(true)).await;
            }
            if end.is_some() {
                return;
            }
        }
    }

    /// Looks, and stores the latest that is complete.
    async fn turn(&mut self, all_complete: bool) {
        let dir = self.dir.clone();
        let Ok((there, wrong)) = spawn_blocking(move || look(&dir)).await else { return };
        for message in wrong {
            self.warn(message).await;
        }
        let now = Instant::now();
        let mut complete: Option<(u64, Found)> = None;
        let mut seen = BTreeMap::new();
        for (name, (step, found)) in there {
            let since = self.seen.get(&name).filter(|(before, _)| *before == found).map_or(now, |(_, since)| *since);
            let is_complete = all_complete || now.duration_since(since) >= STILL;
            let is_new = self.stored.get(&name) != Some(&found);
            if is_complete && is_new && complete.as_ref().is_none_or(|(latest, _)| *latest < step) {
                complete = Some((step, found.clone()));
            }
            seen.insert(name, (found, since));
        }
        self.seen = seen;
        if let Some((step, found)) = complete {
            self.store(step, found).await;
        }
    }

    async fn store(&mut self, step: u64, found: Found) {
        let header = Header { step, created_at: now_rfc3339(), ..self.header.clone() };
        match files::write(&self.attempt, header, &self.dir, &found).await {
            Ok(checkpoint) => {
                let _ = fs::remove_file(&self.unsent);
                self.forget_up_to(step);
                self.stored.insert(found.name.clone(), found);
                self.stored_at(checkpoint).await;
            }
            // The program was not done with it.
            Err(ArtifactError::Corrupt { .. } | ArtifactError::NotFound { .. }) => _ = self.seen.remove(&found.name),
            Err(error) => {
                self.wait_until = Some(Instant::now() + RETRY_AFTER);
                if let ArtifactError::AlreadyExists { .. } = error {
                    self.stored.insert(found.name.clone(), found.clone());
                }
                // For the attempt after one that is killed before the store is back.
                let _ = fs::write(&self.unsent, self.dir.join(&found.name).as_os_str().as_encoded_bytes());
                self.warn(format!("{} is not stored: {}", found.name, end::with_causes(&error))).await;
            }
        }
    }

    /// What is older than what is stored is not stored any more, unless it is written anew.
    fn forget_up_to(&mut self, step: u64) {
        let older = self.seen.iter().filter(|(name, _)| step_of(name).is_some_and(|older| older < step));
        let older: Vec<_> = older.map(|(name, (found, _))| (name.clone(), found.clone())).collect();
        self.stored.extend(older);
    }

    async fn stored_at(&mut self, checkpoint: CheckpointRef) {
        let step = checkpoint.step;
        report(&self.handle, ReportBody::Checkpoint { checkpoint }).await;
        self.handle.progress(Progress { step: Some(step), ..Progress::default() }, self.device);
    }

    async fn warn(&mut self, message: String) {
        if self.told.len() < MAX_WARNINGS && self.told.insert(message.clone()) {
            report(&self.handle, ReportBody::Warning { message }).await;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a checkpoint says when it was taken, and nothing is decided by it")]
fn now_rfc3339() -> String {
    Timestamp::now().to_string()
}

/// What lies in the folder and may be a checkpoint. Blocks.
fn look(dir: &Path) -> Looked {
    let (mut there, mut wrong) = (BTreeMap::new(), Vec::new());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return (there, vec![format!("the checkpoint folder cannot be looked into: {error}")]),
    };
    for entry in entries.take(MAX_ENTRIES).flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Some(step) = step_of(&name) else { continue };
        match Found::look(dir, &name) {
            Ok(Some(found)) => _ = there.insert(name, (step, found)),
            Ok(None) => {}
            // It may be gone by now, or not be done.
            Err(why) if dir.join(&name).exists() => wrong.push(format!("{name} is not stored: {why}")),
            Err(_) => {}
        }
    }
    (there, wrong)
}

/// The step of a checkpoint's name: the number at its end, endings such as `.pt` apart. `None` for what is no checkpoint, or says that it is not complete.
fn step_of(name: &str) -> Option<u64> {
    if name.starts_with('.') || name.starts_with("tmp") || name.contains(".tmp") {
        return None;
    }
    let mut stem = name;
    while let Some((before, ending)) = stem.rsplit_once('.')
        && !ending.ends_with(|c: char| c.is_ascii_digit())
    {
        stem = before;
    }
    let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    stem[stem.len() - digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_end_in_a_number_are_checkpoints() {
        for (name, step) in [
            ("500", Some(500)),
            ("step-500", Some(500)),
            ("checkpoint-500", Some(500)),
            ("epoch=3-step=00500.ckpt", Some(500)),
            ("ckpt_500.tar.gz", Some(500)),
            ("model.500", Some(500)),
            ("v1.2-7.pt", Some(7)),
            ("0.pt", Some(0)),
            (".step-500", None),
            ("step-500.tmp", None),
            ("step-500.pt.tmp-1", None),
            ("tmp-checkpoint-500", None),
            ("latest", None),
            ("last.ckpt", None),
            ("step-500-final", None),
            ("99999999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(step_of(name), step, "{name}");
        }
    }
}
