//! `mlctl ls`: what waits, runs and ended.

use std::{collections::BTreeMap, time::Duration};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use mlctl_protocol::spec::Work;

use super::{job_name, label};
use crate::{
    api::{
        query::{ListQuery, MAX_LIST_LIMIT, SortField, address},
        types::JobList,
    },
    cli::{Context, Done, Failure, exit::Exit, output::jobs, times::duration},
    config::document::{FlagMistake, Report},
    domain::{Filter, FilterError, JobState},
};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Without a filter: the unfinished jobs and the 10 that ended last, newest first. --sort orders what is listed, and --limit takes the newest whatever the order.

A filter compares fields of a job: id, name, kind, state, user, queue, priority, label.KEY, exit_class, attempt, retries, cpus, gpus, array; submitted, started, finished (times
in UTC); age (since the submit). Operators: = != < <= > >=, and ~ !~ for a pattern with * and ?. What a job may lack, such as label.KEY or finished, may stand alone: it has it.
Texts with other signs than letters, digits and _-.:/@+*?%, stand in quotes.

Examples:
  mlctl ls
  mlctl ls --state failed --limit 50
  mlctl ls --since 24h --label team=vision --sort finished
  mlctl ls --state queued --sort priority     the most urgent first
  mlctl ls -F 'state=failed and label.team=vision and priority>=60 and age<7d and not name~tmp*'
  mlctl ls -F 'exit_class=oom_device or (state=running and started<2026-11-25)'
  mlctl ls --all -o wide
  mlctl ls --array sweep --state failed       the members of an array, which is one row otherwise
  mlctl ls --state queued,running -o name | xargs mlctl cancel
  mlctl ls -o json | jq '.jobs[].name'";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Only these states, separated by commas
    #[arg(long, value_name = "STATES", value_delimiter = ',', value_parser = PossibleValuesParser::new(JobState::names()))]
    state: Vec<String>,
    /// Only this kind
    #[arg(long, value_parser = PossibleValuesParser::new(Work::KINDS))]
    kind: Option<String>,
    /// Only this user's, by login name or user id
    #[arg(long)]
    user: Option<String>,
    /// Only this queue's
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only those with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Of those that ended, all since then: 90m, 24h or 7d ago, or a date or time in UTC
    #[arg(long, value_name = "DURATION|TIME", value_parser = since)]
    since: Option<Since>,
    /// Only what this finds, whatever its state, members of arrays one by one: fields compared, joined by and, or, not and ( )
    #[arg(short = 'F', long, value_name = "FILTER", allow_hyphen_values = true)]
    filter: Option<String>,
    /// The order of what is listed
    #[arg(long, value_name = "FIELD", value_parser = sort_parser())]
    sort: Option<SortField>,
    /// Jobs at most
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// All that ended, not the last 10 alone
    #[arg(short, long, conflicts_with = "state")]
    all: bool,
    /// The members of this array, by index: its id, its name or @last
    #[arg(long, value_name = "ARRAY", value_parser = job_name, conflicts_with_all = ["kind", "user", "queue", "label", "since", "all", "members"])]
    array: Option<String>,
    /// Members of arrays one by one, not a row for each array
    #[arg(long)]
    members: bool,
    /// Show the list anew every 2 seconds until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// A moment as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Ago(Duration),
    At(Timestamp),
}

impl Since {
    fn moment(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(duration) => now.saturating_sub(duration).unwrap_or(Timestamp::MIN),
            Self::At(moment) => moment,
        }
    }
}

/// A duration before now, in which a day has 24 hours, or a moment: a time with its offset from UTC, or a date or a time in UTC.
fn since(text: &str) -> Result<Since, String> {
    let wrong = "expected a duration such as 90m, 24h or 7d, or a time such as 2026-11-25 or 2026-11-25T02:30:00Z";
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(Since::At(moment));
    }
    if let Ok(moment) = text.parse::<DateTime>().and_then(|local| TimeZone::UTC.to_timestamp(local)) {
        return Ok(Since::At(moment));
    }
    duration(text).map(Since::Ago).map_err(|_| wrong.into())
}

fn sort_parser() -> impl TypedValueParser<Value = SortField> {
    let names = SortField::ALL.map(|(name, _)| name);
    PossibleValuesParser::new(names).map(|name| {
        let found = SortField::ALL.into_iter().find(|(field, _)| *field == name);
        found.map_or_else(SortField::default, |(_, field)| field)
    })
}

impl Arguments {
    pub fn goal(&self) -> String {
        "list jobs".into()
    }

    fn query(&self, now: Timestamp) -> Result<ListQuery, Failure> {
        let labels: BTreeMap<&str, &str> =
            self.label.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let labels = (!labels.is_empty()).then(|| serde_json::to_string(&labels)).transpose();
        Ok(ListQuery {
            state: (!self.state.is_empty()).then(|| self.state.join(",")),
            kind: self.kind.clone(),
            user: self.user.clone(),
            queue: self.queue.clone(),
            labels: labels.map_err(|error| Failure::caused("write the labels as JSON", &error))?,
            since: self.since.map(|since| since.moment(now)),
            sort: self.sort,
            finished: self.all.then_some(MAX_LIST_LIMIT),
            limit: self.limit.or_else(|| (self.all || self.array.is_some()).then_some(MAX_LIST_LIMIT)),
            array: self.array.clone(),
            members: self.members,
            filter: self.filter.clone(),
        })
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        if let Some(text) = &self.filter {
            checked(text)?;
        }
        loop {
            let path = address("/v1/jobs", &self.query(context.clock.now())?);
            let list: JobList = context.client.get(&path).await?;
            if self.watch {
                context.out.clear()?;
            }
            jobs::list(&mut context.out, &list, context.clock.now())?;
            if list.jobs.is_empty() && list.arrays.is_empty() {
                context.out.say("no jobs; `mlctl spec init train` writes a spec to begin with");
            }
            if let Some(note) = &list.note {
                context.out.flush()?;
                context.out.say(note);
            }
            if !self.watch {
                return Ok(Exit::Ok);
            }
            context.out.flush()?;
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }
}

/// Refuses a filter that cannot be read, with all that is wrong with it, where it stands.
pub(super) fn checked(text: &str) -> Result<(), Failure> {
    let Err(errors) = Filter::parse(text) else { return Ok(()) };
    let mistakes = errors.into_iter().map(|FilterError { column, end, message, hint }| FlagMistake {
        flag: "--filter",
        text,
        span: column..end,
        path: "filter",
        message,
        hint,
    });
    Err(Failure::report(Exit::Usage, Report::of_flags(mistakes.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_a_duration_or_a_time() {
        let now: Timestamp = "2026-11-26T00:00:00Z".parse().unwrap();
        for (text, moment) in [
            ("90m", "2026-11-25T22:30:00Z"),
            ("7d", "2026-11-19T00:00:00Z"),
            ("1h30m", "2026-11-25T22:30:00Z"),
            ("0s", "2026-11-26T00:00:00Z"),
            ("2026-11-25", "2026-11-25T00:00:00Z"),
            ("2026-11-25T02:30:00", "2026-11-25T02:30:00Z"),
            ("2026-11-25T02:30:00Z", "2026-11-25T02:30:00Z"),
            ("2026-11-25T02:30:00+01:00", "2026-11-25T01:30:00Z"),
        ] {
            assert_eq!(since(text).unwrap().moment(now).to_string(), moment, "{text}");
        }
        for text in ["", "yesterday", "-1h", "1y", "1mo", "2026-13-01", "99999999999999h"] {
            assert!(since(text).is_err(), "{text}");
        }
        assert_eq!(since("100000d").unwrap().moment(Timestamp::MIN), Timestamp::MIN);
    }
}
