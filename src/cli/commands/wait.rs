//! `mlctl wait`: until jobs have ended.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::{array, follow, job_name, job_path};
use crate::{
    api::types::{ArrayDetail, ArrayView, JobList, JobView, SCHEMA},
    cli::{
        Context, Done, Failure,
        exit::Exit,
        output::{self, jobs},
        times,
    },
    config::OutputForm,
};

const EXAMPLES: &str = "\
The exit code is that of the worst end: 0 all succeeded, 20 one failed or was quarantined, 22 one ran into its time limit, 21 one was cancelled; 8 when --timeout ran out.
An array is waited for as a whole: 0 all members succeeded, 20 one failed, 21 none failed and one was cancelled.

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
        let (mut waited, mut arrays) = (Vec::new(), Vec::new());
        for job in &self.jobs {
            match context.client.get::<JobView>(&job_path(job, "")).await {
                Ok(found) => waited.push(found),
                Err(failure) if array::is_meant(&failure) => {
                    let found: ArrayDetail = context.client.get(&array::path(job, "")).await?;
                    arrays.push(found.array);
                }
                Err(failure) => return Err(failure),
            }
        }
        let mut worst = Exit::Ok;
        let mut ended = Vec::new();
        let mut ended_arrays = Vec::new();
        for array in arrays {
            let (array, exit) = match array::wait(context, &array, until).await? {
                (Some(array), exit) => (array, exit),
                (None, Exit::WaitedTooLong) => return Err(array_too_long(&array)),
                (None, exit) => return Ok(exit),
            };
            worst = worst.worse(exit);
            match context.out.form {
                OutputForm::Json => {}
                OutputForm::Jsonl => context.out.json(&array)?,
                _ => output::arrays::ended(&mut context.out, &array)?,
            }
            context.out.flush()?;
            ended_arrays.push(array);
        }
        for job in waited {
            let job = if job.is_settled() {
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
            match (&ended[..], &ended_arrays[..]) {
                ([job], []) if self.jobs.len() == 1 => context.out.json(job)?,
                ([], [array]) if self.jobs.len() == 1 => context.out.json(array)?,
                _ => {
                    let list = JobList { schema: SCHEMA, jobs: ended, arrays: ended_arrays, note: None };
                    context.out.json(&list)?;
                }
            }
        }
        Ok(worst)
    }
}

fn array_too_long(array: &ArrayView) -> Failure {
    let why = format!("array {} ({}) is still {} after the time given", array.id, array.name, array.state);
    Failure::new(Exit::WaitedTooLong, why).hint(format!("it goes on: `mlctl wait {}` waits again", array.id))
}

fn too_long(job: &JobView) -> Failure {
    let why = format!("job {} ({}) is still {} after the time given", job.id, job.name, job.state);
    Failure::new(Exit::WaitedTooLong, why).hint(format!("it goes on: `mlctl wait {}` waits again", job.id))
}
