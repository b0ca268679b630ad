//! `mlctl show`: everything about a job.

use clap::Args;

use super::{array, job_name, job_path};
use crate::{
    api::{
        query::{ArrayQuery, LogsQuery, MAX_PAGE_LIMIT, PageQuery, address},
        types::{ArrayDetail, AttemptList, EventList, EventView, JobView, SpecView},
    },
    cli::{
        Context, Done, Failure,
        exit::Exit,
        output::{arrays, jobs, text},
        sweep::goal_parser,
    },
    config::OutputForm,
    domain::array::Goal,
};

/// Lines of its log that a failed job shows.
const LOG_LINES: u32 = 20;

/// Bytes of them that are looked at.
const MAX_LOG_BYTES: usize = 64 * 1024;

const EXAMPLES: &str = "\
Examples:
  mlctl show digits
  mlctl show @last -o json | jq .metrics.test_accuracy
  mlctl show 17 --spec > again.json       the spec as the daemon keeps it
  mlctl show 17 --attempts                each start of it
  mlctl show 17 --events                  what happened to it
  mlctl show sweep --metric test_accuracy --best 10
  mlctl show 17.3                         member 3 of array 17";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The job: an id, a name or @last
    #[arg(value_parser = job_name)]
    job: String,
    /// Its spec as JSON, with every default filled in
    #[arg(long)]
    spec: bool,
    /// Its attempts instead
    #[arg(long, conflicts_with = "spec")]
    attempts: bool,
    /// What happened to it instead, oldest first
    #[arg(long, conflicts_with_all = ["spec", "attempts"])]
    events: bool,
    /// Of an array: what its members are compared by [default: what the submit said, else val_loss or train_loss]
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,
    /// Of an array: which end of the metric is the best [default: what the submit said, else max for names that end in accuracy, min for others]
    #[arg(long, value_parser = goal_parser())]
    goal: Option<Goal>,
    /// Of an array: how many of the best members
    #[arg(long, value_name = "N")]
    best: Option<u32>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("show {}", self.job)
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        if self.spec {
            let view: SpecView = context.client.get(&job_path(&self.job, "spec")).await?;
            context.out.json(&view.spec)?;
            return Ok(Exit::Ok);
        }
        if self.attempts {
            let list: AttemptList = context.client.get(&job_path(&self.job, "attempts")).await?;
            jobs::attempts(&mut context.out, &list, context.clock.now())?;
            return Ok(Exit::Ok);
        }
        if self.events {
            let list = events(context, &self.job).await?;
            jobs::events(&mut context.out, &list)?;
            return Ok(Exit::Ok);
        }
        let job = match context.client.get::<JobView>(&job_path(&self.job, "")).await {
            Ok(job) => job,
            Err(failure) if array::is_meant(&failure) => return self.array(context).await,
            Err(failure) => return Err(failure),
        };
        match context.out.form {
            OutputForm::Json | OutputForm::Jsonl => context.out.json(&job)?,
            OutputForm::Name => context.out.line(job.id.to_string())?,
            OutputForm::Table | OutputForm::Wide => {
                let log = if job.state == "failed" { last_lines(context, &job).await } else { Vec::new() };
                jobs::show(&mut context.out, &job, &log, context.clock.now())?;
            }
        }
        Ok(Exit::Ok)
    }
}

impl Arguments {
    async fn array(self, context: &mut Context<'_>) -> Done {
        let query = ArrayQuery { metric: self.metric, goal: self.goal, best: self.best };
        let detail: ArrayDetail = context.client.get(&address(&array::path(&self.job, ""), &query)).await?;
        arrays::show(&mut context.out, &detail, context.clock.now())?;
        Ok(Exit::Ok)
    }
}

/// All events of a job, page by page.
async fn events(context: &Context<'_>, job: &str) -> Result<EventList, Failure> {
    let path = job_path(job, "events");
    let mut query = PageQuery { limit: Some(MAX_PAGE_LIMIT), ..PageQuery::default() };
    let mut list: EventList = context.client.get(&address(&path, &query)).await?;
    let mut is_full = |events: &[EventView]| {
        query.after = events.last().map(|event| event.id);
        (events.len() >= MAX_PAGE_LIMIT as usize).then(|| query.clone())
    };
    let mut next = is_full(&list.events);
    while let Some(query) = next {
        let page: EventList = context.client.get(&address(&path, &query)).await?;
        next = is_full(&page.events);
        list.events.extend(page.events);
    }
    Ok(list)
}

/// The last lines of a job's log. That there are none is no failure of the verb's.
async fn last_lines(context: &Context<'_>, job: &JobView) -> Vec<String> {
    let query = LogsQuery { tail: Some(LOG_LINES), ..LogsQuery::default() };
    let path = address(&job_path(&job.id.to_string(), "logs"), &query);
    let bytes = read(context, &path).await.unwrap_or_default();
    let text = text::visible(&String::from_utf8_lossy(&bytes));
    text.lines().map(str::to_owned).collect()
}

async fn read(context: &Context<'_>, path: &str) -> Result<Vec<u8>, Failure> {
    let mut download = context.client.download(path).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_LOG_BYTES {
            bytes.truncate(MAX_LOG_BYTES);
            break;
        }
    }
    Ok(bytes)
}
