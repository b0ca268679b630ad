//! `mlctl why`: why a job is where it is, in a line.

use clap::Args;

use super::{job_name, job_path};
use crate::{
    api::types::WhyView,
    cli::{Context, Done, exit::Exit, output::jobs},
};

const EXAMPLES: &str = "\
Examples:
  mlctl why digits
  mlctl why 17 -o json | jq -r .reason";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The job: an id, a name or @last
    #[arg(value_parser = job_name)]
    job: String,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("say why {} is where it is", self.job)
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let why: WhyView = context.client.get(&job_path(&self.job, "why")).await?;
        jobs::why(&mut context.out, &why, context.clock.now())?;
        Ok(Exit::Ok)
    }
}
