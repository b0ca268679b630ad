//! `mlctl pause`: jobs give their devices up and go on later.

use clap::Args;

use super::{change, which::Which};
use crate::{
    api::types::{HoldRequest, JobView},
    cli::{Context, Done},
};

const EXAMPLES: &str = "\
A running job takes a checkpoint, ends its attempt and is held: its device is free, no retry is used up, and `resume` lets it go on from there, with the same bits as if it had never been paused.
It is left the time that saving takes, 10 minutes and its own time limit at most; one that has not saved by then goes on from its last checkpoint before.
A job that waits is held.

Examples:
  mlctl pause digits
  mlctl pause 17 18 --reason 'the demo needs the GPU'
  mlctl resume 17 18
  mlctl pause -F 'state=running'";

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
        self.which.goal("pause")
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| match (job.state.as_str(), job.intent.as_deref()) {
            ("running", Some("pause")) => format!("job {} ({}) was asked to save its work and pause", job.id, job.name),
            ("running", _) => format!("job {} ({}) was asked to end before", job.id, job.name),
            _ => format!("job {} ({}) is {}", job.id, job.name, job.reason.as_deref().unwrap_or("held")),
        };
        let jobs = self.which.names(context, "pause", "not finished").await?;
        change(context, jobs, "pause", &HoldRequest { reason: self.reason }, said).await
    }
}
