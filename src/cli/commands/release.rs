//! `mlctl release`: let held jobs wait for their turn again.

use clap::Args;

use super::{change, which::Which};
use crate::{
    api::types::JobView,
    cli::{Context, Done},
};

const EXAMPLES: &str = "\
Examples:
  mlctl release digits
  mlctl release -F 'label.team=vision'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
}

impl Arguments {
    pub fn goal(&self) -> String {
        self.which.goal("release")
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let said = |job: &JobView| format!("job {} ({}) is released and {}", job.id, job.name, job.state);
        let jobs = self.which.names(context, "release", "state=held").await?;
        change(context, jobs, "release", &(), said).await
    }
}
