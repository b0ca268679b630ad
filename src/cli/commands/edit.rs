//! `mlctl edit`: change jobs that have not ended.

use std::collections::BTreeMap;

use clap::{ArgGroup, Args};

use super::{change, job_name, label};
use crate::{
    api::types::{EditRequest, JobView},
    cli::{Context, Done},
};

const EXAMPLES: &str = "\
The priority is that of a job which waits; a running one has what it waited for. The spec stays as it was submitted.

Examples:
  mlctl edit digits --priority 80
  mlctl edit 17 18 --label team=vision --label stage=final
  mlctl edit 17 --unlabel stage";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, group(ArgGroup::new("change").required(true).multiple(true).args(["priority", "label", "unlabel"])))]
pub struct Arguments {
    /// The jobs: ids, names or @last
    #[arg(value_name = "JOB", required = true, value_parser = job_name)]
    jobs: Vec<String>,
    /// 0 to 100, higher first
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    priority: Option<u8>,
    /// Set a label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Take a label away; may be repeated
    #[arg(long, value_name = "KEY")]
    unlabel: Vec<String>,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("edit {}", self.jobs.join(", "))
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let set = self.label.into_iter().map(|(key, value)| (key, Some(value)));
        let labels: BTreeMap<_, _> = self.unlabel.into_iter().map(|key| (key, None)).chain(set).collect();
        let said = |job: &JobView| {
            let pairs: Vec<_> = job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let labels = if pairs.is_empty() { "no labels".to_owned() } else { format!("labels {}", pairs.join(" ")) };
            format!("job {} ({}) has priority {} and {labels}", job.id, job.name, job.priority)
        };
        change(context, self.jobs, "edit", &EditRequest { priority: self.priority, labels }, said).await
    }
}
