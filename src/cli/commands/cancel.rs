//! `mlctl cancel`: end jobs for good.

use clap::Args;

use super::{change, which::Which};
use crate::{
    api::types::JobView,
    cli::{Context, Done},
};

const EXAMPLES: &str = "\
A running job is asked to stop and ended by force when it does not; what it has checkpointed stays.

Examples:
  mlctl cancel digits
  mlctl cancel -F 'state=queued and label.team=vision'
  mlctl cancel 17 18 19
  mlctl retry 17                  goes on from the last checkpoint";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
}

impl Arguments {
    pub fn goal(&self) -> String {
        self.which.goal("cancel")
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| match job.state.as_str() {
            "cancelled" => format!("job {} ({}) is cancelled", job.id, job.name),
            _ => format!("job {} ({}) was asked to stop", job.id, job.name),
        };
        let jobs = self.which.names(context, "cancel", "not finished").await?;
        change(context, jobs, "cancel", &(), said).await
    }
}
