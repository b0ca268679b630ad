//! `mlctl rm`: remove finished jobs for good.

use std::io::{self, BufRead as _, IsTerminal as _};

use clap::Args;

use super::{array, first_failure, job_name, job_path};
use crate::{
    api::{
        query::{RemoveQuery, address},
        types::RemovedView,
    },
    cli::{Context, Done, Failure, exit::Exit, output::removal},
};

const EXAMPLES: &str = "\
A job that has ended goes with its record, events, curve, logs and checkpoints; nothing brings it back, and its id is never used again. Its model and predictions stay in
storage and are named, unless --objects deletes them too. An array is removed with all its members. What has not ended is refused: `cancel` it first.
On a terminal rm asks first; -y answers.

Examples:
  mlctl rm digits
  mlctl rm -y 17 18 19
  mlctl rm --objects 17
  mlctl ls -F 'finished and age>30d' --limit 10000 -o name | xargs -r mlctl rm -y";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The jobs or arrays: ids, names or @last
    #[arg(value_name = "JOB", required = true, value_parser = job_name)]
    jobs: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Delete models and predictions too
    #[arg(long)]
    objects: bool,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("remove {}", self.jobs.join(", "))
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        if !self.yes && !confirmed(context, &self.question())? {
            context.out.say("nothing was removed");
            return Ok(Exit::Failed);
        }
        let query = RemoveQuery { objects: self.objects };
        let mut failures = Vec::new();
        for name in self.jobs {
            let removed = match context.client.delete::<RemovedView>(&address(&job_path(&name, ""), &query)).await {
                Err(failure) if array::is_meant(&failure) => {
                    context.client.delete(&address(&array::path(&name, ""), &query)).await
                }
                answer => answer,
            };
            match removed {
                Ok(view) => removal::removed(&mut context.out, &view)?,
                Err(failure) if failure.exit == Exit::Unreachable => return Err(failure),
                Err(failure) => failures.push((name, failure)),
            }
        }
        first_failure(failures)
    }

    fn question(&self) -> String {
        let what = match self.jobs.as_slice() {
            [one] => one.clone(),
            many => format!("these {} jobs", many.len()),
        };
        let objects = if self.objects { " with models and predictions" } else { "" };
        format!("remove {what} for good{objects}? [y/N]")
    }
}

/// Whether a person says yes. Programs are not asked.
fn confirmed(context: &Context<'_>, question: &str) -> Result<bool, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(true);
    }
    context.out.ask(question);
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::caused("read the answer", &error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
