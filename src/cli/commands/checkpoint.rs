//! `mlctl checkpoint`: the checkpoints of a job.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::{
    job_name, job_path,
    pull::{self, Source},
};
use crate::{
    api::{
        query::{ListQuery, MAX_LIST_LIMIT, address},
        types::{
            CheckpointDetail, CheckpointList, GcRequest, GcView, JobList, RemovedCheckpointView, VerifyRequest,
            VerifyView,
        },
    },
    cli::{
        Context, Done, Failure,
        client::{Client, LONG_LIMIT, READ_LIMIT},
        exit::Exit,
        output::{Output, checkpoints, gc},
        times::duration,
    },
};

const EXAMPLES: &str = "\
Examples:
  mlctl checkpoint ls digits
  mlctl checkpoint show digits              the objects of the newest one
  mlctl checkpoint show digits 500
  mlctl checkpoint now digits               a running job saves its state at the end of the step
  mlctl checkpoint verify digits            reads every byte back; exit code 1 when one is damaged
  mlctl checkpoint verify --all             those of all jobs
  mlctl checkpoint rm digits/500            not the newest, nor what something else needs
  mlctl checkpoint pull digits ./newest     the newest checkpoint as a folder here, verified
  mlctl checkpoint pull digits/500 ./at-500
  mlctl checkpoint pull digits/model ./model   the final model
  mlctl checkpoint gc --dry-run             what is stored and nothing needs
  mlctl checkpoint gc --grace 1h";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List a job's checkpoints, newest first
    #[command(after_help = EXAMPLES)]
    Ls {
        /// The job: an id, a name or @last
        #[arg(value_parser = job_name)]
        job: String,
    },
    /// Show a checkpoint and its objects
    #[command(after_help = EXAMPLES)]
    Show {
        /// The job: an id, a name or @last
        #[arg(value_parser = job_name)]
        job: String,
        /// The checkpoint's step [default: the newest]
        step: Option<u64>,
    },
    /// Have a running job take a checkpoint now, and wait until it is durable
    #[command(after_help = EXAMPLES)]
    Now {
        /// The job: an id, a name or @last
        #[arg(value_parser = job_name)]
        job: String,
    },
    /// Read checkpoints back and compare every byte with its checksum
    #[command(after_help = EXAMPLES)]
    Verify {
        /// The job: an id, a name or @last
        #[arg(value_parser = job_name, required_unless_present = "all")]
        job: Option<String>,
        /// Only the checkpoint of this step [default: all]
        step: Option<u64>,
        /// Those of all jobs; where there are more than 10,000, of the newest of them
        #[arg(long, conflicts_with_all = ["job", "step"])]
        all: bool,
    },
    /// Remove checkpoints of steps
    ///
    /// The newest of a job stays, as the next attempt goes on from it, and so does what a job, a schedule or a version of a model needs.
    #[command(after_help = EXAMPLES)]
    Rm {
        /// Which
        #[arg(value_name = "JOB/STEP", value_parser = step_name, required = true)]
        steps: Vec<String>,
    },
    /// Delete what is stored of jobs and nothing needs any more
    ///
    /// Looked for are objects of attempts that were killed in the middle of a checkpoint, and what removals that were cut short have left. What a job that is there, a version of a model, or who begins with
    /// it needs is never deleted.
    #[command(after_help = EXAMPLES)]
    Gc {
        /// Say only what would be deleted
        #[arg(long)]
        dry_run: bool,
        /// How old it must be
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
        grace: Duration,
        /// Models and predictions of removed jobs too, which `mlctl rm` leaves; those that are versions stay
        #[arg(long)]
        results: bool,
    },
    /// Bring a checkpoint or the final model here and compare every byte with its checksum
    ///
    /// DIR appears when all of it is there. A pull that was broken off goes on where it was.
    #[command(after_help = EXAMPLES)]
    Pull {
        /// The job and, after a slash, a step or `model` [default: the newest checkpoint]
        #[arg(value_name = "JOB[/STEP]", value_parser = Source::parse)]
        from: Source,
        /// The folder to make; one that is there must be empty
        dir: PathBuf,
    },
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Ls { job } => format!("list the checkpoints of {job}"),
            Verb::Show { job, .. } => format!("show a checkpoint of {job}"),
            Verb::Now { job } => format!("take a checkpoint of {job}"),
            Verb::Verify { job: Some(job), .. } => format!("verify the checkpoints of {job}"),
            Verb::Verify { job: None, .. } => "verify all checkpoints".into(),
            Verb::Rm { steps } => format!("remove the checkpoint {}", steps.join(", ")),
            Verb::Pull { from, .. } => format!("pull from {}", from.job),
            Verb::Gc { .. } => "collect what nothing needs".into(),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        if let Verb::Pull { from, dir } = &self.verb {
            return pull::run(context, from, dir).await;
        }
        let verb = match self.verb {
            Verb::Rm { steps } => return remove(context, steps).await,
            verb => verb,
        };
        let Context { client, out, .. } = context;
        match verb {
            Verb::Ls { job } => {
                let list: CheckpointList = client.get(&job_path(&job, "checkpoints")).await?;
                checkpoints::list(out, &list)?;
            }
            Verb::Show { job, step } => {
                let step = match step {
                    Some(step) => step,
                    None => newest(client.get(&job_path(&job, "checkpoints")).await?)?,
                };
                let detail: CheckpointDetail = client.get(&job_path(&job, &format!("checkpoints/{step}"))).await?;
                checkpoints::show(out, &detail)?;
            }
            Verb::Now { job } => {
                let path = job_path(&job, "checkpoint");
                let taken: CheckpointDetail = client.post_body(&path, &(), LONG_LIMIT).await?;
                checkpoints::taken(out, &taken)?;
            }
            Verb::Verify { job: None, .. } => return verify_all(client, out).await,
            Verb::Verify { job: Some(job), step, .. } => {
                let path = job_path(&job, "checkpoints/verify");
                let found: VerifyView = client.post_body(&path, &VerifyRequest { step }, READ_LIMIT).await?;
                checkpoints::verified(out, &found)?;
                return Ok(if found.ok { Exit::Ok } else { Exit::Failed });
            }
            Verb::Gc { dry_run, grace, results } => {
                let request = GcRequest { dry_run, grace_seconds: Some(grace.as_secs()), results };
                return collect(client, out, &request).await;
            }
            Verb::Pull { .. } | Verb::Rm { .. } => {}
        }
        Ok(Exit::Ok)
    }
}

async fn remove(context: &mut Context<'_>, steps: Vec<String>) -> Done {
    let remove = async |client: &Client, named: &str| {
        let (job, step) = named.rsplit_once('/').unwrap_or((named, ""));
        client.delete::<RemovedCheckpointView>(&job_path(job, &format!("checkpoints/{step}"))).await
    };
    super::each(context, steps, remove, checkpoints::removed).await
}

/// Has the daemon read back the checkpoints of all jobs, one job after the other.
async fn verify_all(client: &Client, out: &mut Output) -> Done {
    let query = ListQuery {
        members: true,
        finished: Some(MAX_LIST_LIMIT),
        limit: Some(MAX_LIST_LIMIT),
        ..ListQuery::default()
    };
    let list: JobList = client.get(&address("/v1/jobs", &query)).await?;
    let spinner = gc::Spinner::new(out);
    let mut all = Vec::new();
    for job in list.jobs.iter().filter(|job| job.checkpoint.is_some()) {
        spinner.show(format!("job {}", job.id));
        let path = job_path(&job.id.to_string(), "checkpoints/verify");
        match client.post_body(&path, &VerifyRequest { step: None }, READ_LIMIT).await {
            Ok(found) => all.push(found),
            // It was removed meanwhile.
            Err(failure) if failure.exit == Exit::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    drop(spinner);
    let ok = all.iter().all(|found: &VerifyView| found.ok);
    checkpoints::all_verified(out, &all, list.note.as_deref())?;
    Ok(if ok { Exit::Ok } else { Exit::Failed })
}

/// Has the daemon collect what nothing needs, and shows how far it has come.
async fn collect(client: &Client, out: &mut Output, request: &GcRequest) -> Done {
    let mut lines = client.post_and_listen("/v1/gc", request).await?;
    let spinner = gc::Spinner::new(out);
    let mut unread = Vec::new();
    let mut last: Option<GcView> = None;
    while let Some(bytes) = lines.next().await? {
        unread.extend_from_slice(&bytes);
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let view: GcView = serde_json::from_slice(&line)
                .map_err(|error| Failure::caused("the daemon's answer is not understood", &error))?;
            spinner.show(gc::so_far(&view));
            last = Some(view);
        }
    }
    drop(spinner);
    let Some(view) = last.filter(|view| view.is_done) else {
        return Err(
            Failure::new(Exit::Unreachable, "the daemon ended before it was done").hint("ask again when it is back")
        );
    };
    if let Some(error) = view.error.clone() {
        return Err(error.into());
    }
    gc::collected(out, &view)?;
    Ok(if view.failed > 0 { Exit::Failed } else { Exit::Ok })
}

/// A job, and a step of it.
fn step_name(text: &str) -> Result<String, String> {
    let (job, step) = text.rsplit_once('/').ok_or("name a job and a step, as in digits/500")?;
    let is_step = step.parse().is_ok_and(|number: u64| number.to_string() == step);
    job_name(job)?;
    if is_step { Ok(text.to_owned()) } else { Err("a step is a number, as in digits/500".into()) }
}

fn newest(list: CheckpointList) -> Result<u64, Failure> {
    list.checkpoints.first().map(|checkpoint| checkpoint.step).ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("job {} has no checkpoint yet", list.id))
            .hint(format!("`mlctl checkpoint now {}` takes one while the job runs", list.id))
    })
}
