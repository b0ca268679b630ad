//! `mlctl release`: let held jobs wait for their turn again.

use clap::Args;

use super::{change, job_name};
use crate::{
    api::types::JobView,
    cli::{Context, Done},
};

const EXAMPLES: &str = "\
Examples:
  mlctl release digits
  mlctl ls --state held -o name | xargs mlctl release";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The jobs: ids, names or @last
    #[arg(value_name = "JOB", required = true, value_parser = job_name)]
    jobs: Vec<String>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("release {}", self.jobs.join(", "))
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| format!("job {} ({}) is released and {}", job.id, job.name, job.state);
        change(context, self.jobs, "release", &(), said).await
    }
}
