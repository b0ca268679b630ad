//! `mlctl schedule apply`: schedules as files, each with a line, a policy and the job's spec beside it. All files are read and checked before the daemon is asked, which checks them once more and does all or
//! nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::to_raw_value;

use super::{MisfireName, OverlapName, PolicyArguments};
use crate::{
    api::types::{AddScheduleRequest, ApplyRequest, ApplyView},
    cli::{
        Context, Failure,
        client::LONG_LIMIT,
        exit::Exit,
        output::schedules,
        spec,
        times::{self, Moment},
    },
    config::document::{self, Document, Problem},
    domain::{
        rules,
        schedule::{self, Crontab},
    },
};

/// Files read at once, at most.
const MOST_FILES: usize = 1000;

/// Bytes of a file, at most.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A schedule as a file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScheduleFile {
    /// Its name; the file's without `.toml` when absent.
    name: Option<String>,
    /// When: five crontab fields, or `@daily` and the like.
    cron: String,
    /// The IANA time zone that the line is read in; UTC when absent.
    zone: Option<String>,
    /// The file of the job's spec, relative to this one.
    job: PathBuf,
    /// What becomes of runs that were missed; `once` when absent.
    #[serde(default)]
    misfire: MisfireName,
    /// Missed runs that are later than this are left out.
    catch_up: Option<String>,
    /// What becomes of a run while an earlier one has not ended; `skip` when absent, `buffer-all` with `misfire = "all"`.
    overlap: Option<OverlapName>,
    /// Pause the schedule after so many failed jobs in a row.
    pause_on_failure: Option<u32>,
    /// No runs before this moment.
    from: Option<String>,
    /// No runs after this moment.
    until: Option<String>,
    /// Submit each job up to so long after its time.
    jitter: Option<String>,
}

/// Applies the schedules of files and folders.
pub(super) async fn run(
    context: &mut Context<'_>,
    paths: &[PathBuf],
    (prune, dry_run): (bool, bool),
) -> Result<(), Failure> {
    let mut requests = Vec::new();
    let files = files(paths)?;
    for file in &files {
        requests.push(read(context, file)?);
    }
    let request = ApplyRequest { schedules: requests, prune, dry_run };
    let sent = context.client.post_body("/v1/apply", &request, LONG_LIMIT).await;
    let view: ApplyView = sent.map_err(|refusal| named(&files, refusal))?;
    schedules::applied(&mut context.out, &view)
}

/// The files meant: a folder's are those that end in `.toml`, by name.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |path: &Path, error: &std::io::Error| {
        Failure::new(Exit::Invalid, format!("{} cannot be read: {error}", path.display()))
    };
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
            let file = entry.map_err(|error| unreadable(path, &error))?.path();
            if file.extension().is_some_and(|end| end == "toml") && file.is_file() {
                found.push(file);
            }
            if found.len() > MOST_FILES {
                break;
            }
        }
        found.sort();
        files.append(&mut found);
    }
    match files.len() {
        0 => Err(Failure::new(Exit::Invalid, "there is no file that ends in .toml")),
        count if count > MOST_FILES => {
            Err(Failure::new(Exit::Invalid, format!("there are more than {MOST_FILES} files, and no more may be")))
        }
        _ => Ok(files),
    }
}

fn read(context: &Context<'_>, path: &Path) -> Result<AddScheduleRequest, Failure> {
    let shown = path.display().to_string();
    let text = document::read_file(path, MAX_FILE_BYTES)
        .map_err(|error| Failure::new(Exit::Invalid, format!("{shown} cannot be read: {error}")))?;
    let invalid = |report| Failure::report(Exit::Invalid, report);
    let document = Document::parse(&shown, &text).map_err(invalid)?;
    let file: ScheduleFile = document.read(&schemars::schema_for!(ScheduleFile)).map_err(invalid)?;
    let (mut problems, stem) = (Vec::new(), path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default());
    let (name, zone) = (file.name.clone().unwrap_or_else(|| stem.to_owned()), file.zone.as_deref().unwrap_or("UTC"));
    let mut problem =
        |key: &str, message: String, hint: String| problems.push(document.problem(key, message).hint(hint));
    if let Err(error) = Crontab::parse(&file.cron) {
        problem("cron", error.to_string(), error.hint);
    }
    let found = schedule::zone(jiff::tz::db(), zone).map_err(|error| problem("zone", error.message, error.hint));
    if let Some(wrong) = rules::schedule_name(&name) {
        problem("name", wrong.message, wrong.hint.unwrap_or_default());
    }
    let policy = policy(&document, &file, &mut problems);
    let found = match found {
        Ok(found) if problems.is_empty() => found,
        _ => return Err(invalid(document.report(problems))),
    };
    // No moment in a file depends on what time it is.
    let policy = policy.resolve(Timestamp::UNIX_EPOCH, &found)?;
    let job = path.parent().unwrap_or(Path::new("")).join(&file.job).display().to_string();
    let written = spec::open(spec::Source::File(&job), &spec::Overlay::default(), context.environment);
    let written = written.map_err(|mut failure| {
        // A mistake in the spec says where it is by itself.
        if failure.report.is_none() {
            failure.why.insert(0, format!("{shown}: its job cannot be read"));
        }
        failure
    })?;
    let spec = to_raw_value(&written.spec).map_err(|error| Failure::caused("write the spec as JSON", &error))?;
    let zone = Some(zone.to_owned());
    Ok(AddScheduleRequest { name: Some(name), cron: file.cron.clone(), zone, policy, spec })
}

/// The policy of a file, as flags would say it. A moment that depends on when the file is read would be another one each time.
fn policy(document: &Document, file: &ScheduleFile, problems: &mut Vec<Problem>) -> PolicyArguments {
    let mut span = |key: &str, text: &Option<String>| {
        let read = text.as_deref().map(times::whole_seconds).transpose();
        read.map_err(|message| problems.push(document.problem(key, message))).ok().flatten()
    };
    let (catch_up, jitter) = (span("catch_up", &file.catch_up), span("jitter", &file.jitter));
    let mut moment = |key: &str, text: &Option<String>| match text.as_deref().map(times::day_or_moment).transpose() {
        Ok(Some(Moment::Clock(_) | Moment::In(_))) | Err(_) => {
            let message = "expected a date such as 2026-11-26, or a time of one such as 2026-11-26T02:00";
            problems.push(document.problem(key, message));
            None
        }
        Ok(moment) => moment,
    };
    let (from, until) = (moment("from", &file.from), moment("until", &file.until));
    let (misfire, overlap, pause_on_failure) = (file.misfire, file.overlap, file.pause_on_failure);
    PolicyArguments { misfire, catch_up, overlap, pause_on_failure, from, until, jitter }
}

/// A refusal by the daemon, with the files' names for their numbers.
fn named(files: &[PathBuf], refusal: Failure) -> Failure {
    let why = refusal.why.iter().map(|line| {
        let number = line.trim_start().strip_prefix("schedules[").and_then(|rest| rest.split_once(']'));
        let file = number.and_then(|(number, rest)| Some((files.get(number.parse::<usize>().ok()?)?, rest)));
        file.map_or_else(
            || line.clone(),
            |(file, rest)| format!("{}: {}", file.display(), rest.trim_start_matches('.')),
        )
    });
    Failure { why: why.collect(), ..refusal }
}
