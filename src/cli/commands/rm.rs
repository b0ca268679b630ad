//! `mlctl rm`: remove finished jobs for good.

use clap::Args;

use super::{
    array, first_failure, job_path,
    which::{Which, confirmed},
};
use crate::{
    api::{
        query::{RemoveQuery, address},
        types::RemovedView,
    },
    cli::{Context, Done, exit::Exit, output::removal},
};

const EXAMPLES: &str = "\
A job that has ended goes with its record, events, curve, logs and checkpoints; nothing brings it back, and its id is never used again. Its model and predictions stay in
storage and are named, unless --objects deletes them too. An array is removed with all its members, by a filter when it finds all of them. What has not ended is refused: `cancel` it first.
On a terminal rm asks first; -y answers.

Examples:
  mlctl rm digits
  mlctl rm -y 17 18 19
  mlctl rm --objects 17
  mlctl rm -F 'state=failed and age>30d'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Delete models and predictions too
    #[arg(long)]
    objects: bool,
}

impl Arguments {
    pub fn goal(&self) -> String {
        self.which.goal("remove")
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        if !self.which.yes && !self.which.is_filter() && !confirmed(context, &self.question())? {
            context.out.say("nothing was removed");
            return Ok(Exit::Failed);
        }
        let query = RemoveQuery { objects: self.objects };
        let mut failures = Vec::new();
        // Arrays go as a whole, by name.
        for name in self.which.removable(context).await? {
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
        let what = match self.which.named() {
            [one] => one.clone(),
            many => format!("these {} jobs", many.len()),
        };
        let objects = if self.objects { " with models and predictions" } else { "" };
        format!("remove {what} for good{objects}? [y/N]")
    }
}
