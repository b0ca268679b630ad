//! `mlctl hold`: keep jobs from starting.

use clap::Args;

use super::{change, which::Which};
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
  mlctl hold -F 'label.team=vision'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// What for, in a line: `why` and `ls` tell it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        self.which.goal("hold")
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| {
            let reason = job.reason.as_deref().unwrap_or("held");
            format!("job {} ({}) is {reason}", job.id, job.name)
        };
        let jobs = self.which.names(context, "hold", "state=queued or state=blocked").await?;
        change(context, jobs, "hold", &HoldRequest { reason: self.reason }, said).await
    }
}
