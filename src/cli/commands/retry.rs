//! `mlctl retry`: jobs that ended badly once more, from where they had come to.

use clap::Args;

use super::{first_failure, job_name, job_path};
use crate::{
    api::types::JobView,
    cli::{
        Context, Done,
        output::{jobs, text},
    },
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
        let mut failures = Vec::new();
        for name in self.jobs {
            match context.client.post::<JobView>(&job_path(&name, "retry")).await {
                Ok(job) => {
                    let from = job.checkpoint.as_ref().map_or_else(
                        || "from the beginning".into(),
                        |place| format!("from step {}", text::count(place.step)),
                    );
                    let said = format!("job {} ({}) is {} again, {from}", job.id, job.name, job.state);
                    jobs::changed(&mut context.out, &job, &said)?;
                }
                Err(failure) => failures.push((name, failure)),
            }
        }
        first_failure(failures)
    }
}
