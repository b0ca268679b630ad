//! Which jobs a verb is about: those that are named, and those that a filter finds. Called by the verbs that take many; a filter is asked of the daemon as `ls` does it, and a person is asked before
//! something is done to what it found.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, IsTerminal as _},
};

use clap::Args;
use mlctl_protocol::JobId;

use super::{array, job_name, ls::checked};
use crate::{
    api::{
        query::{ListQuery, MAX_LIST_LIMIT, address},
        types::{ArrayDetail, JobList},
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

    /// What is to be removed: the jobs meant that have ended and are no array's, and the arrays of which the filter finds every member.
    pub async fn removable(self, context: &Context<'_>) -> Result<Vec<String>, Failure> {
        let Some(text) = &self.filter else { return Ok(self.jobs) };
        let list = self.list(context, text, "finished").await?;
        let mut members: BTreeMap<JobId, u64> = BTreeMap::new();
        for array in list.jobs.iter().filter_map(|job| job.array.as_ref()) {
            *members.entry(array.id).or_default() += 1;
        }
        let mut found: Vec<String> =
            list.jobs.iter().filter(|job| job.array.is_none()).map(|job| job.id.to_string()).collect();
        let (jobs, mut arrays, mut in_part) = (found.len(), 0, 0);
        for (id, some) in members {
            let array: ArrayDetail = context.client.get(&array::path(&id.to_string(), "")).await?;
            if array.array.counts.values().sum::<u64>() == some {
                arrays += 1;
                found.push(id.to_string());
            } else {
                in_part += 1;
            }
        }
        if in_part > 0 {
            let what = counted(in_part, "array");
            context
                .out
                .say(format!("of {what} the filter finds some jobs and not all: an array is removed as a whole"));
        }
        let parts = [(jobs, "job"), (arrays, "array")].into_iter().filter(|(number, _)| *number > 0);
        let what = parts.map(|(number, what)| counted(number, what)).collect::<Vec<_>>().join(" and ");
        self.confirm(context, "remove", found, &what)
    }

    /// The jobs meant. `only` is a filter for those that the verb can be done to. Empty when there are none, or when a person says no.
    pub async fn names(self, context: &Context<'_>, verb: &str, only: &str) -> Result<Vec<String>, Failure> {
        let Some(text) = &self.filter else { return Ok(self.jobs) };
        let list = self.list(context, text, only).await?;
        let found: Vec<String> = list.jobs.iter().map(|job| job.id.to_string()).collect();
        let what = counted(found.len(), "job");
        self.confirm(context, verb, found, &what)
    }

    /// All jobs that the filter finds and that this one finds too.
    async fn list(&self, context: &Context<'_>, text: &str, only: &str) -> Result<JobList, Failure> {
        checked(text)?;
        let filter = Some(format!("({only}) and ({text})"));
        let query = ListQuery { filter, limit: Some(MAX_LIST_LIMIT), ..ListQuery::default() };
        let list: JobList = context.client.get(&address("/v1/jobs", &query)).await?;
        if let Some(note) = &list.note {
            context.out.say(note);
        }
        Ok(list)
    }

    /// What is named and what was found, `what` in words, if a person says yes to it.
    fn confirm(
        self,
        context: &Context<'_>,
        verb: &str,
        found: Vec<String>,
        what: &str,
    ) -> Result<Vec<String>, Failure> {
        let what = match (found.len(), self.jobs.len()) {
            (0, _) => {
                context.out.say(format!("the filter finds no job to {verb}"));
                return Ok(self.jobs);
            }
            (_, 0) => what.to_owned(),
            (_, named) => format!("{what} that the filter finds and {named} that are named"),
        };
        if !self.yes && !confirmed(context, &format!("{verb} {what}? [y/N]"))? {
            context.out.say("nothing was done");
            return Ok(Vec::new());
        }
        Ok(self.jobs.into_iter().chain(found).collect())
    }
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
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
