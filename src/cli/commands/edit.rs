//! `mlctl edit`: change jobs that have not ended.

use std::collections::BTreeMap;

use clap::{ArgGroup, Args};

use super::{change, job_name, label};
use crate::{
    api::types::{EditRequest, JobView},
    cli::{
        Context, Done,
        output::text,
        times::{self, Moment},
    },
};

const EXAMPLES: &str = "\
Priority, queue and start time are those of a job that waits; a running one has what it waited for. A running job goes by its new deadline, time limit and retries at once. Of a job that failed or was cancelled, these
three can be changed before `retry`. The spec stays as it was submitted. Of an array, each job takes what it can where it stands.

Examples:
  mlctl edit digits --priority 80
  mlctl edit 17 18 --label team=vision --label stage=final
  mlctl edit 17 --unlabel stage
  mlctl edit sweep --queue night --deadline 08:00    all jobs of an array
  mlctl edit 17 --queue night
  mlctl edit digits --time 6h --deadline 08:00
  mlctl edit digits --no-deadline && mlctl retry digits
  mlctl edit night --begin 0               start it as soon as there is room";

const CHANGES: [&str; 10] =
    ["priority", "queue", "label", "unlabel", "begin", "deadline", "no_deadline", "time", "no_time", "retries"];

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("change").required(true).multiple(true).args(CHANGES)))]
pub struct Arguments {
    /// The jobs or arrays: ids, names or @last
    #[arg(value_name = "JOB", required = true, value_parser = job_name)]
    jobs: Vec<String>,
    /// 0 to 100, higher first
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    priority: Option<u8>,
    /// Another queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Set a label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Take a label away; may be repeated
    #[arg(long, value_name = "KEY")]
    unlabel: Vec<String>,
    /// Not before this moment, or this long from now
    #[arg(long, value_name = "TIME|DURATION", value_parser = times::moment)]
    begin: Option<Moment>,
    /// It must have ended by this moment, or this long from now
    #[arg(long, value_name = "TIME|DURATION", value_parser = times::moment, conflicts_with = "no_deadline")]
    deadline: Option<Moment>,
    /// Take the deadline away
    #[arg(long)]
    no_deadline: bool,
    /// How long each attempt may run, counted from its start
    #[arg(short, long, value_name = "DURATION", value_parser = times::whole_seconds, conflicts_with = "no_time")]
    time: Option<u32>,
    /// Take the time limit away
    #[arg(long)]
    no_time: bool,
    /// How often it is tried again when it dies, in all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    retries: Option<u32>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("edit {}", self.jobs.join(", "))
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let now = context.clock.now();
        let set = self.label.into_iter().map(|(key, value)| (key, Some(value)));
        let labels: BTreeMap<_, _> = self.unlabel.into_iter().map(|key| (key, None)).chain(set).collect();
        let deadline = times::resolved_here("--deadline", self.deadline, now)?;
        let request = EditRequest {
            priority: self.priority,
            queue: self.queue,
            labels,
            begin: times::resolved_here("--begin", self.begin, now)?.map(Some),
            deadline: (self.no_deadline || deadline.is_some()).then_some(deadline),
            time_limit_seconds: (self.no_time || self.time.is_some()).then_some(self.time),
            retries: self.retries,
        };
        let said = |job: &JobView| {
            let pairs: Vec<_> = job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let labels = if pairs.is_empty() { "no labels".to_owned() } else { format!("labels {}", pairs.join(" ")) };
            let mut has = vec![format!("queue {}", job.queue), format!("priority {}", job.priority), labels];
            has.extend(job.not_before.map(|at| format!("start time {}", text::moment(at, now))));
            has.extend(job.deadline.map(|at| format!("deadline {}", text::moment(at, now))));
            has.extend(job.time_limit_seconds.map(|limit| format!("time limit {}", text::duration(limit.into()))));
            if request.retries.is_some() {
                has.push(format!("{} retries", job.retry_limit));
            }
            let last = has.pop().unwrap_or_default();
            format!("job {} ({}) has {} and {last}", job.id, job.name, has.join(", "))
        };
        change(context, self.jobs, "edit", &request, said).await
    }
}
