//! `mlctl wait`: until jobs have ended.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::{follow, job_name, job_path};
use crate::{
    api::types::{JobList, JobView, SCHEMA},
    cli::{Context, Done, Failure, exit::Exit, output::jobs, times},
    config::OutputForm,
};

const EXAMPLES: &str = "\
The exit code is that of the worst end: 0 all succeeded, 20 one failed, 22 one ran into its time limit, 21 one was cancelled; 8 when --timeout ran out.

Examples:
  mlctl wait digits && mlctl submit predict.toml
  mlctl wait 17 18 19 --timeout 2h
  mlctl wait @last -o json | jq .metrics";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The jobs: ids, names or @last
    #[arg(value_name = "JOB", required = true, value_parser = job_name)]
    jobs: Vec<String>,
    /// Give up after this long, for example 90s, 10m or 2h
    #[arg(long, value_name = "DURATION", value_parser = times::duration)]
    timeout: Option<Duration>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("wait for {}", self.jobs.join(", "))
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let until = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // All are looked up before one is waited for: names may come to mean other jobs, and a misspelt one is said at once.
        let mut waited = Vec::new();
        for job in &self.jobs {
            let found: JobView = context.client.get(&job_path(job, "")).await?;
            waited.push(found);
        }
        let mut worst = Exit::Ok;
        let mut ended = Vec::new();
        for job in waited {
            let job = if job.is_terminal() {
                job
            } else {
                match follow::silently(context, &job.id.to_string(), until).await? {
                    (Some(job), _) => job,
                    (None, Exit::WaitedTooLong) => return Err(too_long(&job)),
                    (None, exit) => return Ok(exit),
                }
            };
            worst = worst.worse(Exit::of_job(&job));
            match context.out.form {
                OutputForm::Json => {}
                OutputForm::Jsonl => context.out.json(&job)?,
                OutputForm::Name => context.out.line(job.id.to_string())?,
                OutputForm::Table | OutputForm::Wide => jobs::ended(&mut context.out, &job)?,
            }
            context.out.flush()?;
            ended.push(job);
        }
        if context.out.form == OutputForm::Json {
            match (&ended[..], self.jobs.len()) {
                ([job], 1) => context.out.json(job)?,
                _ => context.out.json(&JobList { schema: SCHEMA, jobs: ended, note: None })?,
            }
        }
        Ok(worst)
    }
}

fn too_long(job: &JobView) -> Failure {
    let why = format!("job {} ({}) is still {} after the time given", job.id, job.name, job.state);
    Failure::new(Exit::WaitedTooLong, why).hint(format!("it goes on: `mlctl wait {}` waits again", job.id))
}
