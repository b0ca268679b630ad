//! `mlctl hold`: keep jobs from starting.

use clap::Args;

use super::{change, job_name};
use crate::{
    api::types::{HoldRequest, JobView},
    cli::{Context, Done},
};

const EXAMPLES: &str = "\
A held job never starts. `release` lets it wait for its turn again, at the place that its priority and age give it; `cancel` ends it.
A job that runs cannot be held: `stop` ends it with its work saved.

Examples:
  mlctl hold digits
  mlctl hold 17 18 --reason 'until the data is there'
  mlctl ls --state held -o name | xargs mlctl release";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The jobs: ids, names or @last
    #[arg(value_name = "JOB", required = true, value_parser = job_name)]
    jobs: Vec<String>,
    /// What for, in a line: `why` and `ls` tell it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("hold {}", self.jobs.join(", "))
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| {
            let reason = job.reason.as_deref().unwrap_or("held");
            format!("job {} ({}) is {reason}", job.id, job.name)
        };
        change(context, self.jobs, "hold", &HoldRequest { reason: self.reason }, said).await
    }
}
