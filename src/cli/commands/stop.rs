//! `mlctl stop`: end jobs with their work saved.

use clap::Args;

use super::{change, which::Which};
use crate::{
    api::types::JobView,
    cli::{Context, Done},
};

const EXAMPLES: &str = "\
A running job takes a checkpoint and ends as cancelled. It is left the time that takes, 10 minutes and its own time limit at most, where `cancel` ends it by force after the daemon's grace time.
A job that waits has nothing to save and is cancelled.

Examples:
  mlctl stop digits
  mlctl stop 17 18 && mlctl wait 17 18
  mlctl cancel digits             after a stop: do not wait any longer
  mlctl retry digits              goes on from there";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
}

impl Arguments {
    pub fn goal(&self) -> String {
        self.which.goal("stop")
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| match (job.state.as_str(), job.intent.as_deref()) {
            ("cancelled", _) => format!("job {} ({}) is cancelled", job.id, job.name),
            (_, Some("cancel")) => format!("job {} ({}) was asked to stop at once before", job.id, job.name),
            _ => format!("job {} ({}) was asked to save its work and stop", job.id, job.name),
        };
        let jobs = self.which.names(context, "stop", "not finished").await?;
        change(context, jobs, "stop", &(), said).await
    }
}
