//! `mlctl ls`: what waits, runs and ended.

use std::time::Duration;

use clap::{Args, builder::PossibleValuesParser};

use crate::{
    api::{
        query::{ListQuery, MAX_LIST_LIMIT, address},
        types::JobList,
    },
    cli::{Context, Done, exit::Exit, output::jobs},
};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Without a filter: the unfinished jobs and the 10 that ended last, newest first.

Examples:
  mlctl ls
  mlctl ls --state failed --limit 50
  mlctl ls --all -o wide
  mlctl ls --state queued,running -o name | xargs mlctl cancel
  mlctl ls -o json | jq '.jobs[].name'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Only these states, separated by commas
    #[arg(long, value_name = "STATES", value_delimiter = ',', value_parser = PossibleValuesParser::new(["queued", "held", "running", "succeeded", "failed", "cancelled"]))]
    state: Vec<String>,
    /// Only this kind
    #[arg(long, value_parser = PossibleValuesParser::new(["train", "infer"]))]
    kind: Option<String>,
    /// Only this user's, by login name or user id
    #[arg(long)]
    user: Option<String>,
    /// Jobs at most
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// All that ended, not the last 10 alone
    #[arg(short, long, conflicts_with = "state")]
    all: bool,
    /// Show the list anew every 2 seconds until Ctrl-C
    #[arg(long)]
    watch: bool,
}

impl Arguments {
    pub fn goal(&self) -> String {
        "list jobs".into()
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let query = ListQuery {
            state: (!self.state.is_empty()).then(|| self.state.join(",")),
            kind: self.kind,
            user: self.user,
            finished: self.all.then_some(MAX_LIST_LIMIT),
            limit: self.limit.or_else(|| self.all.then_some(MAX_LIST_LIMIT)),
        };
        let path = address("/v1/jobs", &query);
        loop {
            let list: JobList = context.client.get(&path).await?;
            if self.watch {
                context.out.clear()?;
            }
            jobs::list(&mut context.out, &list, context.clock.now())?;
            if list.jobs.is_empty() {
                context.out.say("no jobs; `mlctl spec init train` writes a spec to begin with");
            }
            if !self.watch {
                return Ok(Exit::Ok);
            }
            context.out.flush()?;
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }
}
