//! The turn of a run: which stage comes next by what the ones before it have come to.

use mlctl_artifacts::ArtifactError;
use mlctl_protocol::{
    ExitClass, JobId, JobSpec,
    evaluation::{self, Evaluation, SCHEMA},
    spec::{DataSource, RetrainSpec, TrainSpec, Work},
};
use tracing::info;

use super::{Kept, Pipeline};
use crate::{
    domain::{
        Command, Event, Exit, Job, JobState, Uid,
        alias::{AliasError, CHAMPION, Change, MAX_REASON, Pick},
        promotion::{self, Check},
        retrain::{self, Conclusion, Fate, Stage},
    },
    store::{ModelVersion, NewJob, NewMove, StoreError},
};

/// Events of a run that are looked at for its last retry, at most.
const MAX_EVENTS: u32 = 1000;

/// A run, and what it is to do.
struct Run {
    job: Job,
    spec: JobSpec,
    retrain: RetrainSpec,
}

/// What stands where a stage is.
enum Standing {
    /// There is no job yet.
    Absent,
    /// It has not ended.
    Open,
    /// It succeeded.
    Done(Box<Job>),
    /// It failed or was cancelled.
    Over(Box<Job>),
}

impl Pipeline {
    /// Does what comes next, if anything does.
    pub(super) async fn turn(&self, id: JobId) -> Result<(), Kept> {
        let job = self.store.job(id).await?.job;
        if !matches!(job.state, JobState::Blocked { .. }) || self.waits(id).await? {
            return Ok(());
        }
        let spec = self.store.spec(id).await?;
        let Work::Retrain(retrain) = &spec.work else { return Ok(()) };
        let run = Run { job, retrain: (**retrain).clone(), spec };
        match self.advance(&run).await {
            Err(kept) if let Some(exit) = kept.fatal(&run.retrain.model) => self.end(&run, exit, None).await,
            done => done,
        }
    }

    /// Takes it to its next stage, or to its end.
    async fn advance(&self, run: &Run) -> Result<(), Kept> {
        let trained = match self.stage(run, Stage::Train).await? {
            Standing::Open => return Ok(()),
            Standing::Absent => return self.begin(run).await,
            Standing::Over(job) => return self.failed(run, Stage::Train, &job).await,
            Standing::Done(job) => job,
        };
        // Registered once, however often it is asked for.
        let (challenger, _) = self.registry.register(&run.retrain.model, trained.id, None, Uid::SYSTEM).await?;
        match self.stage(run, Stage::Evaluate).await? {
            Standing::Open => Ok(()),
            Standing::Absent => self.evaluate(run, &challenger).await,
            Standing::Over(job) => self.failed(run, Stage::Evaluate, &job).await,
            Standing::Done(job) => self.decide(run, &challenger, &job).await,
        }
    }

    /// Whether something has not ended that it waits for: what its spec names, or a stage.
    async fn waits(&self, run: JobId) -> Result<bool, StoreError> {
        Ok(!self.store.awaited(&[run], false).await?.is_empty())
    }

    async fn stage(&self, run: &Run, stage: Stage) -> Result<Standing, StoreError> {
        let Some(job) = self.store.stage(&run.job, stage).await? else { return Ok(Standing::Absent) };
        Ok(match job.state {
            JobState::Succeeded => Standing::Done(Box::new(job)),
            JobState::Failed | JobState::Cancelled => Standing::Over(Box::new(job)),
            _ => Standing::Open,
        })
    }

    /// Trains, unless the newest version was trained in the same way on the same data.
    async fn begin(&self, run: &Run) -> Result<(), Kept> {
        if let Some(version) = self.has_seen(&run.retrain).await? {
            let name = &run.retrain.model;
            return self.conclude(run, Conclusion::without_news(name, version)).await;
        }
        self.submit(run, Stage::Train, retrain::training(run.job.id, &run.spec, &run.retrain)).await
    }

    /// The newest version of the model, where its job is on record and did what is to be done now. Only versions of datasets are known to be the same; files may have changed.
    async fn has_seen(&self, retrain: &RetrainSpec) -> Result<Option<u32>, StoreError> {
        if !matches!(retrain.train.data, DataSource::Dataset { pinned: Some(_), .. }) {
            return Ok(None);
        }
        let Some(newest) = self.version(&retrain.model, &Pick::Newest).await? else { return Ok(None) };
        let before = match self.store.spec(newest.content.job).await {
            Ok(spec) => spec.work,
            Err(StoreError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        // What it begins with is another champion each time.
        let without_init = |train: &TrainSpec| TrainSpec { init: None, ..train.clone() };
        let is_same = matches!(&before, Work::Train(train) if without_init(train) == without_init(&retrain.train));
        Ok(is_same.then_some(newest.version))
    }

    /// A version, where there is one.
    async fn version(&self, model: &str, pick: &Pick) -> Result<Option<ModelVersion>, StoreError> {
        match self.store.model_version(model, pick).await {
            Ok(version) => Ok(Some(version)),
            Err(StoreError::NoModel(_) | StoreError::NoVersion { .. } | StoreError::Alias { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn champion(&self, run: &Run) -> Result<Option<ModelVersion>, StoreError> {
        self.version(&run.retrain.model, &Pick::Alias(CHAMPION.to_owned())).await
    }

    async fn evaluate(&self, run: &Run, challenger: &ModelVersion) -> Result<(), Kept> {
        let champion = self.champion(run).await?;
        let models = champion.iter().chain([challenger]).map(|version| version.content.uri.clone()).collect();
        let spec = retrain::evaluation(run.job.id, &run.spec, &run.retrain, models);
        self.submit(run, Stage::Evaluate, spec).await
    }

    async fn submit(&self, run: &Run, stage: Stage, spec: JobSpec) -> Result<(), Kept> {
        let new = NewJob { spec, user: run.job.user, key: stage.key(run.job.id), asked: None, hold: None };
        let submitted = self.store.submit(new).await?;
        info!(job_id = %run.job.id, stage = stage.name(), stage_job = %submitted.id,
            "retraining {} ({}) goes on with stage {}: job {}", run.job.id, run.job.name, stage.name(), submitted.id);
        Ok(())
    }

    /// A stage has ended badly: the run has failed, unless a person has had it retried since.
    async fn failed(&self, run: &Run, stage: Stage, job: &Job) -> Result<(), Kept> {
        let events = self.store.events(Some(run.job.id), 0, MAX_EVENTS).await?;
        let retried = events.iter().rev().find_map(|stored| match &stored.event {
            Event::Retried { by } => Some((stored.at, *by)),
            _ => None,
        });
        if let Some((at, by)) = retried
            && job.finished_at.is_some_and(|finished| finished <= at)
        {
            self.store.command(job.id, None, Command::Retry { by }).await?;
            return Ok(());
        }
        let (name, id) = (stage.name(), job.id);
        let class = job.exit.as_ref().map_or(ExitClass::Cancelled, |exit| exit.class);
        let why = job.exit.as_ref().and_then(|exit| exit.message.as_deref());
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        let exit = Exit {
            class,
            message: Some(format!("its stage {name}, job {id}, {}{why}", ended(&job.state, class))),
            hint: Some(format!("`mlctl show {id}` says more; `mlctl retry {}` goes on at this stage", run.job.id)),
        };
        self.end(run, exit, None).await
    }

    /// Has the gate decide, promotes, and ends the run.
    async fn decide(&self, run: &Run, challenger: &ModelVersion, job: &Job) -> Result<(), Kept> {
        let found = match &job.output {
            Some(output) => self.found(&output.uri).await?,
            None => Err("it has no results".to_owned()),
        };
        let found = match found {
            Ok(found) => found,
            Err(why) => return self.unreadable(run, job, &why).await,
        };
        let champion = self.champion(run).await?;
        let checks = promotion::checks(&run.retrain.gate, &found, challenger.content.size_bytes());
        let before = if found.models.len() > 1 { found.models.first() } else { None };
        let is_as_compared = champion.as_ref().map(|champion| &champion.content.uri) == before;
        let mut fate = if checks.iter().any(|check| !check.passed) {
            Fate::Refused
        } else if champion.as_ref().is_some_and(|champion| champion.version == challenger.version) {
            // Before the daemon was killed, or by a person.
            Fate::Promoted
        } else if is_as_compared {
            Fate::Passed
        } else {
            Fate::Overtaken
        };
        if fate == Fate::Passed {
            let expect = champion.as_ref().map_or(0, |champion| champion.version);
            fate = match self.promote(run, challenger, expect, &checks).await {
                Ok(()) => Fate::Promoted,
                // Somebody was faster.
                Err(StoreError::Alias { why: AliasError::Moved { .. }, .. }) => Fate::Overtaken,
                Err(error) => return Err(error.into()),
            };
        }
        let champion = champion.map(|champion| champion.version).filter(|version| *version != challenger.version);
        let conclusion = fate.conclusion(&run.retrain.model, challenger.version, champion, checks);
        self.conclude(run, conclusion).await
    }

    /// What an evaluation found, or why nobody can tell.
    async fn found(&self, uri: &str) -> Result<Result<Evaluation, String>, Kept> {
        let bytes = match self.artifacts.open(uri)?.get(evaluation::MAX_BYTES).await {
            Ok(bytes) => bytes,
            Err(error @ (ArtifactError::NotFound { .. } | ArtifactError::TooLarge { .. })) => {
                return Ok(Err(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(match serde_json::from_slice::<Evaluation>(&bytes) {
            Ok(found) if found.schema == SCHEMA => Ok(found),
            Ok(found) => Err(format!("{uri} is of version {}, and this build reads version {SCHEMA}", found.schema)),
            Err(error) => Err(format!("{uri} cannot be understood: {error}")),
        })
    }

    async fn unreadable(&self, run: &Run, job: &Job, why: &str) -> Result<(), Kept> {
        let message = format!("what its stage {}, job {}, found cannot be read: {why}", Stage::Evaluate.name(), job.id);
        let hint = format!("`mlctl rm {}`, then `mlctl retry {}` compares once more", job.id, run.job.id);
        self.end(run, Exit { class: ExitClass::Storage, message: Some(message), hint: Some(hint) }, None).await
    }

    async fn promote(
        &self,
        run: &Run,
        challenger: &ModelVersion,
        expect: u32,
        checks: &[Check],
    ) -> Result<(), StoreError> {
        let reason = format!("retraining {}: {}", run.job.name, retrain::in_line(checks));
        let reason = reason.chars().take(MAX_REASON).collect();
        let change = Change::Set { alias: CHAMPION.to_owned(), version: challenger.version };
        let moved = NewMove {
            model: run.retrain.model.clone(),
            change,
            expect: Some(expect),
            by: run.job.user,
            job: Some(run.job.id),
            reason: Some(reason),
        };
        self.store.move_alias(moved).await.map(drop)
    }

    async fn conclude(&self, run: &Run, conclusion: Conclusion) -> Result<(), Kept> {
        self.end(run, Exit { class: ExitClass::Ok, message: None, hint: None }, Some(conclusion)).await
    }

    async fn end(&self, run: &Run, exit: Exit, conclusion: Option<Conclusion>) -> Result<(), Kept> {
        let told = conclusion.as_ref().map(|conclusion| conclusion.told.clone());
        let told = told.or_else(|| exit.message.clone()).unwrap_or_default();
        let conclusion = conclusion.map(Box::new);
        self.store.command(run.job.id, None, Command::Conclude { exit, conclusion }).await?;
        info!(job_id = %run.job.id, "retraining {} ({}) is over: {told}", run.job.id, run.job.name);
        Ok(())
    }
}

/// `failed (spec)`.
fn ended(state: &JobState, class: ExitClass) -> String {
    if matches!(state, JobState::Cancelled) { "was cancelled".to_owned() } else { format!("failed ({class})") }
}
