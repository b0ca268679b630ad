//! `mlctl repro`: a training once more from the spec that is on record, and whether the same model comes of it, to the bit.

use clap::Args;
use mlctl_protocol::{
    JobId,
    spec::{JobSpec, Work},
};
use serde_json::value::to_raw_value;

use super::{diff, follow, job_name, job_path};
use crate::{
    api::types::{JobView, SpecView, SubmitRequest},
    cli::{
        Context, Done, Failure,
        exit::Exit,
        output::{comparison, jobs, text},
    },
};

/// The label of a repeat: the number of the job that it repeats.
const LABEL: &str = "repro-of";

const EXAMPLES: &str = "\
The job is submitted again as it was, on the versions of data and models that it was pinned to, and
bears the label repro-of. It registers no version of a model, and waits for no other job. The exit
code is 0 where the same model came of it to the bit, and 1 where another did.

Examples:
  mlctl repro digits
  mlctl repro 17 --detach && mlctl diff 17 @last      compare them later
  mlctl repro 17 -o json | jq .same_tensors";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A training job that succeeded: an id, a name or @last
    #[arg(value_parser = job_name)]
    job: String,
    /// Submit it and do not wait for what comes of it
    #[arg(long)]
    detach: bool,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("repeat {}", self.job)
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let job: JobView = context.client.get(&job_path(&self.job, "")).await?;
        if job.model.is_none() {
            return Err(nothing_to_compare(&job));
        }
        let kept: SpecView = context.client.get(&job_path(&job.id.to_string(), "spec")).await?;
        let spec = to_raw_value(&again(kept.spec, job.id))
            .map_err(|error| Failure::caused("write the spec as JSON", &error))?;
        let request = SubmitRequest { spec, key: context.new_key(), dry_run: false, hold: false };
        let (_, repeat): (_, JobView) = context.client.post_safely("/v1/jobs", &request).await?;
        if self.detach {
            jobs::submitted(&mut context.out, &repeat, true, context.clock.now())?;
            return Ok(Exit::Ok);
        }
        context.out.say(format!("job {} repeats job {} ({})", repeat.id, job.id, job.name));
        let id = repeat.id.to_string();
        let (ended, exit) = follow::follow(context, &id).await?;
        let Some(ended) = ended else { return Ok(exit) };
        if exit != Exit::Ok {
            jobs::ended(&mut context.out, &ended)?;
            return Ok(exit);
        }
        judged(context, &job, &id).await
    }
}

/// Says whether the repeat came to the same.
async fn judged(context: &mut Context<'_>, job: &JobView, repeat: &str) -> Done {
    let compared = diff::compare(context, &job.id.to_string(), repeat).await?;
    let is_same = compared.same_tensors == Some(true);
    if context.out.is_json() || !is_same {
        comparison::jobs(&mut context.out, &compared)?;
    } else if let Some(model) = &job.model {
        let (id, digest) = (job.id, text::visible_line(&model.digest));
        context.out.line(format!("reproduced: job {repeat} has trained the model of job {id} to the bit, {digest}"))?;
    }
    if is_same {
        return Ok(Exit::Ok);
    }
    if !context.out.is_json() {
        context.out.line("")?;
        context.out.line(format!("not reproduced: job {repeat} has trained another model than job {}", job.id))?;
        context.out.line("  data that is named by its place may have changed: `mlctl dataset add` makes a version of it; bits also depend on device and number of CPUs")?;
    }
    Ok(Exit::Failed)
}

fn nothing_to_compare(job: &JobView) -> Failure {
    let JobView { id, name, kind, state, .. } = job;
    let why = if kind == "train" {
        format!("job {id} ({name}) is {state} and has no model to compare with")
    } else {
        format!("job {id} ({name}) is of kind {kind}, and trains no model")
    };
    Failure::new(Exit::Conflict, why)
        .hint("name a training that succeeded; `mlctl ls -F 'kind=train and state=succeeded'` lists them")
}

/// The spec of a repeat of a job: the same work with the same resources, now.
fn again(spec: JobSpec, of: JobId) -> JobSpec {
    let mut spec = spec;
    spec.labels.insert(LABEL.to_owned(), of.to_string());
    spec.after.clear();
    spec.concurrency = None;
    (spec.time.begin, spec.time.deadline) = (None, None);
    if let Work::Train(train) = &mut spec.work {
        train.register = None;
    }
    spec
}
