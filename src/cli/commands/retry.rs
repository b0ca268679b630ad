//! `mlctl retry`: jobs that ended badly once more, from where they had come to.

use clap::Args;

use super::{change, job_name};
use crate::{
    api::types::JobView,
    cli::{Context, Done, output::text},
};

const EXAMPLES: &str = "\
A job that failed or was cancelled is queued again, and goes on from its last checkpoint if it has one.

Examples:
  mlctl retry digits
  mlctl ls --state failed -o name | xargs mlctl retry";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The jobs: ids, names or @last
    #[arg(value_name = "JOB", required = true, value_parser = job_name)]
    jobs: Vec<String>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("retry {}", self.jobs.join(", "))
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| {
            let from = job
                .checkpoint
                .as_ref()
                .map_or_else(|| "from the beginning".into(), |place| format!("from step {}", text::count(place.step)));
            format!("job {} ({}) is {} again, {from}", job.id, job.name, job.state)
        };
        change(context, self.jobs, "retry", &(), said).await
    }
}
