//! `mlctl retry`: jobs that ended badly once more, from where they had come to.

use clap::Args;

use super::{change, which::Which};
use crate::{
    api::types::JobView,
    cli::{Context, Done, output::text},
};

const EXAMPLES: &str = "\
A job that failed or was cancelled is queued again, and goes on from its last checkpoint if it has one.

Examples:
  mlctl retry digits
  mlctl retry -F 'exit_class=storage and finished>2026-11-25'
  mlctl ls --state failed -o name | xargs mlctl retry";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
}

impl Arguments {
    pub fn goal(&self) -> String {
        self.which.goal("retry")
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| {
            let from = job
                .checkpoint
                .as_ref()
                .map_or_else(|| "from the beginning".into(), |place| format!("from step {}", text::count(place.step)));
            format!("job {} ({}) is {} again, {from}", job.id, job.name, job.state)
        };
        let jobs = self.which.names(context, "retry", "state=failed or state=cancelled").await?;
        change(context, jobs, "retry", &(), said).await
    }
}
