//! Which jobs a verb is about: those that are named, and those that a filter finds. Called by the verbs that take many; a filter is asked of the daemon as `ls` does it, and a person is asked before
//! something is done to what it found.

use std::io::{self, BufRead as _, IsTerminal as _};

use clap::Args;

use super::{job_name, ls::checked};
use crate::{
    api::{
        query::{ListQuery, MAX_LIST_LIMIT, address},
        types::JobList,
    },
    cli::{Context, Failure},
};

#[derive(Debug, Args)]
pub struct Which {
    /// The jobs or arrays: ids, names or @last
    #[arg(value_name = "JOB", required_unless_present = "filter", value_parser = job_name)]
    jobs: Vec<String>,
    /// All jobs that this finds and that it can be done to, as for `ls`; says how many and asks first
    #[arg(short = 'F', long, value_name = "FILTER", allow_hyphen_values = true)]
    filter: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

impl Which {
    pub fn goal(&self, verb: &str) -> String {
        match &self.filter {
            Some(_) => format!("{verb} what the filter finds"),
            None => format!("{verb} {}", self.jobs.join(", ")),
        }
    }

    /// Whether a filter says which, so that it asks a person itself.
    pub const fn is_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// The names given.
    pub fn named(&self) -> &[String] {
        &self.jobs
    }

    /// The jobs meant. `only` is a filter for those that the verb can be done to. Empty when there are none, or when a person says no.
    pub async fn names(self, context: &Context<'_>, verb: &str, only: &str) -> Result<Vec<String>, Failure> {
        let Some(text) = &self.filter else { return Ok(self.jobs) };
        checked(text)?;
        let filter = Some(format!("({only}) and ({text})"));
        let query = ListQuery { filter, limit: Some(MAX_LIST_LIMIT), ..ListQuery::default() };
        let list: JobList = context.client.get(&address("/v1/jobs", &query)).await?;
        if let Some(note) = &list.note {
            context.out.say(note);
        }
        let found: Vec<String> = list.jobs.iter().map(|job| job.id.to_string()).collect();
        let what = match (found.len(), self.jobs.len()) {
            (0, _) => {
                context.out.say(format!("the filter finds no job to {verb}"));
                return Ok(self.jobs);
            }
            (1, 0) => "1 job".to_owned(),
            (found, 0) => format!("{found} jobs"),
            (found, named) => format!("{found} jobs that the filter finds and {named} that are named"),
        };
        if !self.yes && !confirmed(context, &format!("{verb} {what}? [y/N]"))? {
            context.out.say("nothing was done");
            return Ok(Vec::new());
        }
        Ok(self.jobs.into_iter().chain(found).collect())
    }
}

/// Whether a person says yes. Programs are not asked.
pub fn confirmed(context: &Context<'_>, question: &str) -> Result<bool, Failure> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(true);
    }
    context.out.ask(question);
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::caused("read the answer", &error))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
