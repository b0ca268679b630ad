//! `mlctl resume`: paused jobs go on. To the daemon it is a release.

use clap::Args;

use super::{change, which::Which};
use crate::{
    api::types::JobView,
    cli::{Context, Done, output::text},
};

const EXAMPLES: &str = "\
The same as `release`: a job that was paused or held waits for its turn again, at the place that its priority and age give it, and goes on from its last checkpoint.

Examples:
  mlctl resume digits
  mlctl resume -F 'user=ada'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
}

impl Arguments {
    pub fn goal(&self) -> String {
        self.which.goal("resume")
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| {
            let from =
                job.checkpoint.as_ref().map(|place| format!(" and goes on from step {}", text::count(place.step)));
            format!("job {} ({}) is {} again{}", job.id, job.name, job.state, from.unwrap_or_default())
        };
        let jobs = self.which.names(context, "resume", "state=held").await?;
        change(context, jobs, "release", &(), said).await
    }
}
