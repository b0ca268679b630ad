//! `mlctl logs`: what a job's worker prints.

use std::pin::pin;

use clap::{Args, builder::PossibleValuesParser};

use super::{
    follow::{self as watching},
    job_name, job_path,
};
use crate::{
    api::{
        query::{LogStream, LogsQuery, address},
        types::{JobView, LogAttempt, LogPiece, follow},
    },
    cli::{
        Context, Done,
        client::Followed,
        exit::Exit,
        output::logs::{self, Printer},
    },
};

const EXAMPLES: &str = "\
Control characters are shown as ^X, so that a log cannot move the cursor or retitle the window; --raw passes them through.

Examples:
  mlctl logs digits                  what its worker said in its last attempt
  mlctl logs digits -f               and what it prints from now on, into later attempts
  mlctl logs 17 --attempt 1 --stream stdout
  mlctl logs @last --tail 20
  mlctl logs 17 --raw | less -R";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The job: an id, a name or @last
    #[arg(value_parser = job_name)]
    job: String,
    /// Go on with what is printed from now on, until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// The attempt, from 1 [default: the last one]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
    /// Which of the worker's streams [default: stderr; of a command stdout, which has all that it prints]
    #[arg(long, value_parser = PossibleValuesParser::new(["stdout", "stderr"]))]
    stream: Option<String>,
    /// Only the last lines, so many
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// The bytes as they are, escape sequences included
    #[arg(long)]
    raw: bool,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("show the log of {}", self.job)
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let query = LogsQuery {
            attempt: self.attempt,
            stream: self.stream.as_deref().map(|stream| match stream {
                "stdout" => LogStream::Stdout,
                _ => LogStream::Stderr,
            }),
            tail: self.tail,
            follow: self.follow,
        };
        if self.follow {
            let job: JobView = context.client.get(&job_path(&self.job, "")).await?;
            let path = address(&job_path(&job.id.to_string(), "logs"), &query);
            return follow_log(context, path, &job, self.raw, self.tail.is_some()).await;
        }
        let mut download = context.client.download(&address(&job_path(&self.job, "logs"), &query)).await?;
        let mut printer = Printer::new(self.raw);
        while let Some(piece) = download.next().await? {
            printer.print(&mut context.out, &piece)?;
        }
        printer.finish(&mut context.out)?;
        Ok(Exit::Ok)
    }
}

async fn follow_log(context: &mut Context<'_>, path: String, job: &JobView, raw: bool, has_tail: bool) -> Done {
    let Context { client, out, .. } = context;
    let mut events = client.events(path);
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut printer = Printer::new(raw);
    let mut place = Place::default();
    loop {
        let followed = tokio::select! {
            followed = events.next() => followed?,
            _ = &mut interrupted => {
                printer.finish(out)?;
                out.say(format!("not followed any more; the job runs on: mlctl logs {} -f", job.id));
                return Ok(Exit::Interrupted);
            }
        };
        let message = match followed {
            Some(Followed::Message(message)) => message,
            Some(Followed::Away) => {
                out.say("the daemon is away; the job runs on");
                continue;
            }
            Some(Followed::Back) => {
                place.again(has_tail);
                continue;
            }
            None => break,
        };
        match message.event.as_str() {
            follow::ATTEMPT => {
                let LogAttempt { attempt } = watching::parse(&message.data)?;
                if place.enter(attempt) {
                    logs::attempt(out, attempt);
                }
            }
            follow::LOG => {
                let piece: LogPiece = watching::parse(&message.data)?;
                printer.print(out, place.fresh(&piece.text).as_bytes())?;
                out.flush()?;
            }
            _ => {}
        }
    }
    printer.finish(out)?;
    Ok(Exit::Ok)
}

/// How far a followed log is printed: after a restart of the daemon it comes from its beginning again.
#[derive(Debug, Default)]
struct Place {
    attempt: u32,
    /// Bytes of the attempt that were printed.
    printed: usize,
    /// Bytes that come once more.
    again: usize,
}

impl Place {
    /// Goes to an attempt; whether it follows another one.
    fn enter(&mut self, attempt: u32) -> bool {
        let follows = self.attempt != 0 && self.attempt != attempt;
        if self.attempt != attempt {
            *self = Self { attempt, ..Self::default() };
        }
        follows
    }

    /// The log comes anew: from its beginning, or, with a tail, from a place that nobody knows.
    fn again(&mut self, has_tail: bool) {
        self.again = if has_tail { 0 } else { self.printed };
        self.printed = 0;
    }

    /// What of a piece was not printed before.
    fn fresh<'a>(&mut self, text: &'a str) -> &'a str {
        let known = text.floor_char_boundary(self.again.min(text.len()));
        self.again -= known;
        self.printed += text.len();
        &text[known..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_after_a_restart_is_not_printed_twice() {
        let mut place = Place::default();
        assert!(!place.enter(1), "the first one is no news");
        assert_eq!(place.fresh("one\n"), "one\n");
        assert_eq!(place.fresh("twö"), "twö");
        place.again(false);
        assert!(!place.enter(1));
        assert_eq!(place.fresh("one\nt"), "");
        assert_eq!(place.fresh("wö\nthree\n"), "\nthree\n");
        place.again(false);
        assert!(place.enter(2), "the job was tried again meanwhile");
        assert_eq!(place.fresh("one\n"), "one\n");
        place.again(true);
        assert_eq!(place.fresh("one\n"), "one\n", "a tail has no beginning");
    }
}
