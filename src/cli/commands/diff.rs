//! `mlctl diff`: two jobs side by side, by what is on record of them: what they were told to do, and what came of it.

use clap::Args;
use serde::Serialize;

use super::{job_name, job_path};
use crate::{
    api::types::{JobView, SCHEMA, SpecView},
    cli::{Context, Done, Failure, exit::Exit, output::comparison},
    domain::difference::{Difference, Pair, differences, pairs},
};

const EXAMPLES: &str = "\
Examples:
  mlctl diff 17 18
  mlctl diff digits-low-lr digits
  mlctl diff 17.3 17.8                         two members of an array
  mlctl diff 17 @last -o json | jq .spec";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A job: an id, a name or @last
    #[arg(value_name = "A", value_parser = job_name)]
    a: String,
    /// Another
    #[arg(value_name = "B", value_parser = job_name)]
    b: String,
}

/// Two jobs and what differs between them.
#[derive(Debug, Serialize)]
pub struct JobComparison {
    /// The version of this form.
    pub schema: u32,
    /// The one that was named first.
    pub a: JobView,
    /// The other.
    pub b: JobView,
    /// Whether the tensors of their models are the same to the bit; unknown where one has no model.
    pub same_tensors: Option<bool>,
    /// The keys of their specs that differ.
    pub spec: Vec<Difference>,
    /// Every metric that one of them has.
    pub metrics: Vec<Pair>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("compare {} with {}", self.a, self.b)
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let compared = compare(context, &self.a, &self.b).await?;
        comparison::jobs(&mut context.out, &compared)?;
        Ok(Exit::Ok)
    }
}

/// Compares two jobs that are named.
pub(super) async fn compare(context: &Context<'_>, a: &str, b: &str) -> Result<JobComparison, Failure> {
    let ((a, a_spec), (b, b_spec)) = (found(context, a).await?, found(context, b).await?);
    let digests = a.model.as_ref().zip(b.model.as_ref());
    Ok(JobComparison {
        schema: SCHEMA,
        same_tensors: digests.map(|(a, b)| a.digest == b.digest),
        spec: differences(&a_spec, &b_spec),
        metrics: pairs(&a.metrics, &b.metrics),
        a,
        b,
    })
}

/// A job and its spec.
async fn found(context: &Context<'_>, name: &str) -> Result<(JobView, serde_json::Value), Failure> {
    let job: JobView = context.client.get(&job_path(name, "")).await?;
    // By its number: a name may come to mean another.
    let kept: SpecView = context.client.get(&job_path(&job.id.to_string(), "spec")).await?;
    let spec = serde_json::to_value(kept.spec).map_err(|error| Failure::caused("read a spec", &error))?;
    Ok((job, spec))
}
