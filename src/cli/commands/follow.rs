//! `mlctl follow`, and following for other verbs: a job to its end, over restarts of the daemon, with or without a word.

use std::{pin::pin, time::Duration};

use clap::Args;
use tokio::time::Instant;

use super::{job_name, job_path};
use crate::{
    api::types::{FollowedPoints, JobView, follow as names},
    cli::{
        Context, Done, Failure,
        client::Followed,
        exit::Exit,
        output::{follow::Watch, jobs},
    },
};

const EXAMPLES: &str = "\
On a terminal a bar shows how far the job is; in a pipe there is a line a second at most. Ctrl-C ends the following, not the job.

Examples:
  mlctl follow digits
  mlctl follow @last && echo well done
  mlctl follow 17 2>progress.log";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The job: an id, a name or @last
    #[arg(value_parser = job_name)]
    job: String,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("follow {}", self.job)
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        // A name may come to mean another job while this one is followed.
        let job: JobView = context.client.get(&job_path(&self.job, "")).await?;
        let (ended, exit) = follow(context, &job.id.to_string()).await?;
        if let Some(job) = ended {
            if context.out.is_json() {
                context.out.json(&job)?;
            } else {
                jobs::ended(&mut context.out, &job)?;
            }
        }
        Ok(exit)
    }
}

/// How following ended: the job as it ended, unless the following was interrupted, and the exit code.
pub type Watched = Result<(Option<JobView>, Exit), Failure>;

/// Follows a job and shows how it goes.
pub async fn follow(context: &Context<'_>, id: &str) -> Watched {
    let mut watch = Watch::new(&context.out);
    watched(context, id, None, |news| match news {
        News::Job(job) => watch.job(job, Instant::now().into_std()),
        News::Points(points) => watch.points(&points.points),
        News::Away => watch.say("the daemon is away; the job runs on, and is followed again when the daemon is back"),
        News::Back => watch.say("the daemon is back"),
        News::Interrupted(id) => watch.say(&format!("not followed any more; the job runs on: mlctl follow {id}")),
        News::Over => watch.close(),
    })
    .await
}

/// Waits for a job's end without a word, but not past `until`.
pub async fn silently(context: &Context<'_>, id: &str, until: Option<Instant>) -> Watched {
    watched(context, id, until, |news| {
        if let News::Interrupted(id) = news {
            context.out.say(format!("not waited for any more; the job runs on: mlctl wait {id}"));
        }
    })
    .await
}

/// What happens while a job is followed.
enum News<'a> {
    Job(&'a JobView),
    Points(&'a FollowedPoints),
    Away,
    Back,
    Interrupted(&'a str),
    Over,
}

async fn watched(context: &Context<'_>, id: &str, until: Option<Instant>, mut tell: impl FnMut(News<'_>)) -> Watched {
    let mut events = context.client.events(job_path(id, "follow"));
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let far = Instant::now() + Duration::from_secs(100 * 365 * 86_400);
    let ended = loop {
        let followed = tokio::select! {
            followed = events.next() => followed,
            _ = &mut interrupted => {
                tell(News::Interrupted(id));
                break Ok((None, Exit::Interrupted));
            }
            () = tokio::time::sleep_until(until.unwrap_or(far)) => break Ok((None, Exit::WaitedTooLong)),
        };
        let message = match followed {
            Ok(Some(Followed::Message(message))) => message,
            Ok(Some(Followed::Away)) => {
                tell(News::Away);
                continue;
            }
            Ok(Some(Followed::Back)) => {
                tell(News::Back);
                continue;
            }
            Ok(None) => break Err(Failure::new(Exit::Failed, "the daemon ended the stream without the job's end")),
            Err(failure) => break Err(failure),
        };
        match message.event.as_str() {
            names::METRICS => tell(News::Points(&parse(&message.data)?)),
            names::JOB => {
                let job: JobView = parse(&message.data)?;
                tell(News::Job(&job));
                // It goes on when a person has looked at it, which nobody should wait for without knowing.
                if job.needs_a_person() {
                    let exit = Exit::of_job(&job);
                    break Ok((Some(job), exit));
                }
            }
            names::END => {
                let job: JobView = parse(&message.data)?;
                tell(News::Job(&job));
                let exit = Exit::of_job(&job);
                break Ok((Some(job), exit));
            }
            // A kind of message of a later version.
            _ => {}
        }
    };
    tell(News::Over);
    ended
}

/// The data of a message.
pub fn parse<T: serde::de::DeserializeOwned>(data: &str) -> Result<T, Failure> {
    serde_json::from_str(data).map_err(|error| {
        Failure::caused("a message of the daemon's is not understood", &error)
            .hint("mlctl and mld must be of the same release: `mlctl version`, `mlctl daemon status`")
    })
}
