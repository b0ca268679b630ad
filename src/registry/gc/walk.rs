//! One collection: the walk, what is on record of the job at hand, and what goes of it, in pieces.

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use mlctl_artifacts::{
    ArtifactError, Location,
    keys::{self, Key, Part},
    references,
};
use mlctl_protocol::JobId;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{
    Collected, Collector, GcError, MAX_NAMED, TELL_EVERY,
    judge::{Fate, Object, Roots, Standing, Terms, begun_with},
};
use crate::{domain::causes, store::StoreError};

/// Objects of a job that are held at a time before those that go are deleted.
pub(super) const PIECE: usize = 1000;

/// Requests under way at a time.
const PARALLEL: usize = 16;

/// Checkpoints on record that are read at a time.
const PAGE: u32 = 1000;

/// A job's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Home {
    job: JobId,
    instance: String,
    uri: String,
}

/// An object that nothing seems to need.
struct Candidate {
    key: Key,
    name: String,
    uri: String,
    size: u64,
    modified: Timestamp,
}

pub(super) struct Collection<'a> {
    pub(super) collector: &'a Collector,
    pub(super) terms: Terms,
    pub(super) is_dry: bool,
    heard: &'a watch::Sender<Collected>,
    pub(super) now: Timestamp,
    pub(super) collected: Collected,
    /// What checkpoints on record rest on elsewhere; read when something is about to go.
    references: Option<BTreeSet<String>>,
}

impl<'a> Collection<'a> {
    pub(super) fn new(
        collector: &'a Collector,
        terms: Terms,
        is_dry: bool,
        heard: &'a watch::Sender<Collected>,
    ) -> Self {
        let now = collector.clock.now();
        Self { collector, terms, is_dry, heard, now, collected: Collected::default(), references: None }
    }

    pub(super) async fn run(mut self) -> Result<Collected, GcError> {
        let jobs = self.collector.artifacts.open(&keys::jobs_uri(&self.collector.storage_url))?;
        let names: Vec<String> = self.collector.store.instance().names().collect();
        let mut walk = jobs.walk();
        let mut at: Option<(Home, Roots)> = None;
        let mut candidates = Vec::new();
        while let Some(found) = walk.next().await? {
            self.count(found.size);
            let Some(key) = keys::parse(&found.name).filter(|key| names.contains(&key.instance)) else {
                self.collected.foreign.add(found.size);
                continue;
            };
            if !at.as_ref().is_some_and(|(home, _)| home.job == key.job && home.instance == key.instance) {
                if let Some((home, _)) = at.take() {
                    self.clear(&jobs, &home, std::mem::take(&mut candidates)).await?;
                }
                let uri = keys::job_uri(&self.collector.storage_url, &key.instance, key.job);
                let home = Home { job: key.job, instance: key.instance.clone(), uri };
                let roots = self.roots(&home).await?;
                at = Some((home, roots));
            }
            let Some((home, roots)) = &at else { continue };
            let modified = Timestamp::from_microsecond(found.modified_us).unwrap_or(Timestamp::MAX);
            let uri = format!("{}/{}", jobs.uri(), found.name);
            match roots.judge(&Object { uri: &uri, key: &key, modified }, self.terms, self.now) {
                Fate::Garbage => {
                    candidates.push(Candidate { key, name: found.name, uri, size: found.size, modified });
                }
                fate => self.note(fate, found.size),
            }
            if candidates.len() >= PIECE {
                let home = home.clone();
                self.clear(&jobs, &home, std::mem::take(&mut candidates)).await?;
            }
        }
        if let Some((home, _)) = at {
            self.clear(&jobs, &home, candidates).await?;
        }
        self.datasets().await?;
        self.tell();
        Ok(self.collected)
    }

    pub(super) fn count(&mut self, size: u64) {
        self.collected.seen.add(size);
        if self.collected.seen.objects.is_multiple_of(TELL_EVERY) {
            self.tell();
        }
    }

    fn note(&mut self, fate: Fate, size: u64) {
        match fate {
            Fate::Needed => self.collected.needed.add(size),
            Fate::Young => self.collected.young.add(size),
            Fate::Foreign => self.collected.foreign.add(size),
            Fate::Garbage => self.collected.garbage.add(size),
        }
    }

    pub(super) fn tell(&self) {
        self.heard.send_replace(self.collected.clone());
    }

    /// What is on record of a job's folder.
    async fn roots(&self, home: &Home) -> Result<Roots, StoreError> {
        let found = self.collector.store.roots(home.job, &home.uri).await?;
        #[cfg(test)]
        let found = self.blinded(found);
        let instance = self.collector.store.instance();
        let mut epochs = found.epochs.iter().copied().chain([instance.epoch]);
        // A folder of an epoch before in which the job did not run is of another one, which a restore took back, and whose number was given again.
        let is_own = epochs.any(|epoch| instance.name_in(epoch) == home.instance);
        let standing = match found.attempts {
            Some((attempt, is_running)) if is_own => Standing::There { attempt, is_running },
            None if !found.is_known => Standing::Unknown,
            _ => Standing::Removed,
        };
        let output = found.output.as_deref().map(|file| begun_with(file).to_owned());
        let weights = found.weights.iter().chain(&found.scheduled).map(|weights| begun_with(weights).to_owned());
        let published = found.model.into_iter().chain(output);
        let uris = found.checkpoints.into_iter().chain(published).chain(weights).chain(found.versions);
        Ok(Roots { standing, uris: uris.collect() })
    }

    #[cfg(test)]
    fn blinded(&self, mut found: crate::store::StoredRoots) -> crate::store::StoredRoots {
        use super::Blind;
        match self.collector.blind {
            Some(Blind::Checkpoints) => found.checkpoints.clear(),
            Some(Blind::Published) => (found.model, found.output) = (None, None),
            Some(Blind::Weights) => found.weights.clear(),
            Some(Blind::Schedules) => found.scheduled.clear(),
            Some(Blind::Versions) => found.versions.clear(),
            Some(Blind::Datasets) | None => {}
        }
        found
    }

    /// Deletes those of these that are garbage still, by what is on record at this moment.
    async fn clear(&mut self, jobs: &Location, home: &Home, candidates: Vec<Candidate>) -> Result<(), GcError> {
        if candidates.is_empty() {
            return Ok(());
        }
        if self.references.is_none() {
            self.references = Some(self.rests().await?);
        }
        // A walk takes long, and the check of the database may have come to something meanwhile.
        self.collector.check_sound()?;
        let roots = self.roots(home).await?;
        let mut gone = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            let Candidate { key, uri, size, modified, .. } = &candidate;
            let fate = roots.judge(&Object { uri, key, modified: *modified }, self.terms, self.now);
            let is_rested_on = self.references.as_ref().is_none_or(|all| is_rested_on(all, uri));
            let fate = if is_rested_on { Fate::Needed } else { fate };
            self.note(fate, *size);
            if fate == Fate::Garbage {
                self.name(home, &candidate);
                gone.push(candidate);
            }
        }
        if !self.is_dry {
            let folders: BTreeSet<String> = gone.iter().flat_map(|one| folders_of(one, roots.standing)).collect();
            self.delete(jobs, gone).await?;
            // From the deepest up: a local disk keeps folders in which nothing is.
            for folder in folders.iter().rev() {
                jobs.join(folder)?.remove_empty().await;
            }
        }
        self.tell();
        Ok(())
    }

    /// The folder that people know garbage by.
    fn name(&mut self, home: &Home, candidate: &Candidate) {
        let folder = match candidate.key.part {
            Part::Attempt { attempt, step: Some(step) } => format!("{attempt}/{}", keys::checkpoint(step)),
            Part::Attempt { attempt, step: None } => attempt.to_string(),
            Part::Model { attempt } => format!("model/{attempt}"),
            Part::Output { attempt } => format!("output/{attempt}"),
            Part::Other => return,
        };
        self.name_folder(format!("{}/{folder}", home.uri), candidate.size);
    }

    pub(super) fn name_folder(&mut self, folder: String, size: u64) {
        let folders = &mut self.collected.folders;
        if folders.len() >= MAX_NAMED && !folders.contains_key(&folder) {
            self.collected.has_more = true;
            return;
        }
        folders.entry(folder).or_default().add(size);
    }

    /// Deletes objects. One that cannot be deleted is counted; a store that does not answer ends the collection.
    async fn delete(&mut self, jobs: &Location, gone: Vec<Candidate>) -> Result<(), GcError> {
        // A checkpoint whose manifest is gone is none any more, whatever becomes of the rest.
        let (manifests, others): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|candidate| candidate.name.ends_with(&format!("/{}", keys::MANIFEST)));
        for group in [manifests, others] {
            let deletes = group.into_iter().map(|candidate| async move {
                let deleted = async { jobs.join(&candidate.name)?.delete().await };
                (candidate.size, deleted.await.map_err(|error| (candidate.uri, error)))
            });
            let mut deletes = stream::iter(deletes).buffer_unordered(PARALLEL);
            while let Some((size, deleted)) = deletes.next().await {
                match deleted {
                    Ok(()) => self.collected.deleted.add(size),
                    Err((_, error @ ArtifactError::Unavailable { .. })) => return Err(error.into()),
                    Err((uri, error)) => {
                        warn!(uri, error = causes(&error), "an object that nothing needs cannot be deleted");
                        self.collected.failed += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// What checkpoints on record, and those that versions hold, rest on outside their own folders.
    async fn rests(&self) -> Result<BTreeSet<String>, GcError> {
        let mut found = BTreeSet::new();
        let store = &self.collector.store;
        let mut uris = store.version_uris().await?;
        let mut after = 0;
        loop {
            self.rests_of(std::mem::take(&mut uris), &mut found).await?;
            let page = store.checkpoint_uris(after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            uris = page.into_iter().map(|(_, uri)| uri).collect();
        }
        debug!(references = found.len(), "what checkpoints rest on elsewhere was read");
        Ok(found)
    }

    async fn rests_of(&self, uris: Vec<String>, found: &mut BTreeSet<String>) -> Result<(), GcError> {
        let prefix = &self.collector.storage_url;
        let reads = uris
            .into_iter()
            .map(|uri| async move { references::of(&self.collector.artifacts.open(&uri)?, prefix).await });
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL);
        while let Some(read) = reads.next().await {
            match read {
                Ok(references) => found.extend(references),
                Err(error @ (ArtifactError::Corrupt { .. } | ArtifactError::TooLarge { .. })) => {
                    return Err(GcError::Unreadable(error));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The folders that may be empty when an object is gone: those that nobody else writes to. That of a job that is there is none of them.
fn folders_of(candidate: &Candidate, standing: Standing) -> Vec<String> {
    let own = match candidate.key.part {
        Part::Attempt { .. } => 2,
        Part::Model { .. } | Part::Output { .. } => 3,
        Part::Other => return Vec::new(),
    };
    let least = if standing == Standing::Removed { 1 } else { own };
    let depth = |path: &str| path.split('/').count();
    let above = candidate.name.match_indices('/').map(|(at, _)| &candidate.name[..at]);
    above.filter(|folder| depth(folder) >= least).map(str::to_owned).collect()
}

/// Whether an object, or a folder it is in, is named by one of these.
fn is_rested_on(references: &BTreeSet<String>, uri: &str) -> bool {
    references.contains(uri) || uri.match_indices('/').any(|(at, _)| references.contains(&uri[..at]))
}
