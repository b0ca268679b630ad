//! The verbs: one file each, with its flags and what it does. A verb asks the daemon and hands the answer to `output`.

mod array;
pub mod cancel;
pub mod checkpoint;
pub mod completion;
pub mod config;
pub mod daemon;
pub mod dataset;
pub mod db;
pub mod device;
pub mod diff;
pub mod doctor;
pub mod edit;
pub mod follow;
pub mod hold;
pub mod logs;
pub mod ls;
pub mod model;
pub mod notify;
pub mod pause;
pub mod plot;
pub mod pull;
pub mod queue;
pub mod release;
pub mod repro;
pub mod resume;
pub mod retry;
pub mod rm;
pub mod schedule;
pub mod show;
pub mod spec;
pub mod stop;
pub mod storage;
pub mod submit;
mod survey;
pub mod version;
pub mod wait;
mod which;
pub mod why;

use serde::Serialize;

use super::{
    Context, Done, Failure,
    client::{ANSWER_LIMIT, Client},
    exit::Exit,
    output::{Output, jobs},
};
use crate::api::{query::segment, types::JobView};

/// The path of a job, and of something of it: `/v1/jobs/digits`, `/v1/jobs/digits/why`.
fn job_path(job: &str, rest: &str) -> String {
    let slash = if rest.is_empty() { "" } else { "/" };
    format!("/v1/jobs/{}{slash}{rest}", segment(job))
}

/// Refuses what names no job before the daemon is asked: an empty text would lead to another path.
fn job_name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a job is named by id, name or @last".into()),
        "." | ".." => Err("this is no name of a job".into()),
        text => Ok(text.to_owned()),
    }
}

/// Asks for something to be done to each of several jobs, and says what became of each. What is an array is asked as a whole.
async fn change(
    context: &mut Context<'_>,
    names: Vec<String>,
    what: &str,
    body: &impl Serialize,
    said: impl Fn(&JobView) -> String,
) -> Done {
    let mut failures = Vec::new();
    for name in names {
        match context.client.post_body::<JobView>(&job_path(&name, what), body, ANSWER_LIMIT).await {
            Ok(job) => jobs::changed(&mut context.out, &job, &said(&job))?,
            Err(failure) if array::is_meant(&failure) => {
                if let Err(failure) = array::change(context, &name, what, body, failure).await {
                    failures.push((name, failure));
                }
            }
            Err(failure) => failures.push((name, failure)),
        }
    }
    first_failure(failures)
}

/// Asks for something of each of several that are named, and says what became of each. Where there is no daemon, it is asked once.
async fn each<T>(
    context: &mut Context<'_>,
    names: Vec<String>,
    ask: impl AsyncFn(&Client, &str) -> Result<T, Failure>,
    said: impl Fn(&mut Output, &T) -> Result<(), Failure>,
) -> Done {
    let mut failures = Vec::new();
    for name in names {
        match ask(&context.client, &name).await {
            Ok(view) => said(&mut context.out, &view)?,
            Err(failure) if failure.exit == Exit::Unreachable => return Err(failure),
            Err(failure) => failures.push((name, failure)),
        }
    }
    first_failure(failures)
}

/// A label on the command line.
fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.into(), value.into())).ok_or_else(|| "expected KEY=VALUE".into())
}

/// Does something to each of several jobs, and fails at the end with the first failure.
fn first_failure(failures: Vec<(String, Failure)>) -> Result<Exit, Failure> {
    let Some((_, first)) = failures.first() else { return Ok(Exit::Ok) };
    let (exit, code, hint) = (first.exit, first.code, first.hint.clone());
    let many = failures.len() > 1;
    let why = failures.into_iter().flat_map(|(job, failure)| {
        failure.why.into_iter().map(move |why| if many { format!("{job}: {why}") } else { why })
    });
    Err(Failure { exit, code, why: why.collect(), problems: Vec::new(), report: None, hint })
}
