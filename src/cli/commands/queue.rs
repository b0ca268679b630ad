//! `mlctl queue`: how much of the machine the jobs of a queue may have, and whether they go.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use crate::{
    api::{
        query::segment,
        types::{QueueList, QueueRequest, QueueView},
    },
    cli::{
        Context, Done,
        client::{ANSWER_LIMIT, Client},
        exit::Exit,
        output::queues,
    },
    domain::queue::{Flow, Order, queue_name},
};

const EXAMPLES: &str = "\
A job stands in the queue that `mlctl submit --queue` names, or in `default`. What a queue's running jobs have together never exceeds its limits; what runs already when a limit is lowered
goes on. A job without room has it kept: in a best-effort queue, those behind it start only if they do not delay it, in a strict one they wait in any case.

Examples:
  mlctl queue set night --running 2 --gpus 1       makes the queue, or changes it
  mlctl queue set team --cpus 8 --per-user 2 --order strict
  mlctl queue set team --cpus none                 takes a limit away
  mlctl queue ls
  mlctl queue pause night                          nothing of it starts; what runs goes on
  mlctl queue drain night                          takes no more jobs; those that are there run
  mlctl queue resume night
  mlctl queue rm night                             once all its jobs have ended";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List queues with their limits, what they use of them, and their jobs
    #[command(after_help = EXAMPLES)]
    Ls,
    /// Make a queue, or change its limits and order
    #[command(after_help = EXAMPLES)]
    Set(Set),
    /// Start nothing of these queues until `resume`; jobs that run go on
    #[command(after_help = EXAMPLES)]
    Pause(Names),
    /// Open queues again that are paused or draining
    #[command(after_help = EXAMPLES)]
    Resume(Names),
    /// Take no more jobs into these queues; those that are there run
    #[command(after_help = EXAMPLES)]
    Drain(Names),
    /// Remove queues in which no job is that has not ended
    #[command(after_help = EXAMPLES)]
    Rm(Names),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true).args(["running", "cpus", "gpus", "per_user", "order"])))]
struct Set {
    /// The queue's name
    #[arg(value_parser = checked_name)]
    name: String,
    /// Jobs that run at once at most; `none` for as many as there is room for
    #[arg(long, value_name = "N|none", value_parser = limit)]
    running: Option<Limit>,
    /// Cores that they have at most
    #[arg(long, value_name = "N|none", value_parser = limit)]
    cpus: Option<Limit>,
    /// GPUs that they have at most
    #[arg(long, value_name = "N|none", value_parser = limit)]
    gpus: Option<Limit>,
    /// Jobs of one user that run at once at most
    #[arg(long, value_name = "N|none", value_parser = limit)]
    per_user: Option<Limit>,
    /// Whether a job without room may be passed by those behind it that do not delay it
    #[arg(long, value_enum)]
    order: Option<OrderName>,
}

#[derive(Debug, Args)]
struct Names {
    /// The queues' names
    #[arg(value_parser = checked_name, required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// A limit, or none.
#[derive(Debug, Clone, Copy)]
struct Limit(Option<u32>);

/// The names of [`Order`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OrderName {
    /// It may
    BestEffort,
    /// It may not
    Strict,
}

fn limit(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    text.parse().map(|limit| Limit(Some(limit))).map_err(|_| "a limit is a whole number, or `none`".into())
}

/// Refuses what the daemon would, and what would lead to another path.
fn checked_name(text: &str) -> Result<String, String> {
    match queue_name(text) {
        Some(problem) => Err(problem.hint.unwrap_or(problem.message)),
        None => Ok(text.to_owned()),
    }
}

fn path(name: &str) -> String {
    format!("/v1/queues/{}", segment(name))
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Ls => "list queues".into(),
            Verb::Set(set) => format!("set queue {}", set.name),
            Verb::Pause(Names { names }) => format!("pause {}", names.join(", ")),
            Verb::Resume(Names { names }) => format!("resume {}", names.join(", ")),
            Verb::Drain(Names { names }) => format!("drain {}", names.join(", ")),
            Verb::Rm(Names { names }) => format!("remove {}", names.join(", ")),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        match self.verb {
            Verb::Ls => {
                let list: QueueList = context.client.get("/v1/queues").await?;
                queues::list(&mut context.out, &list)?;
                Ok(Exit::Ok)
            }
            Verb::Set(set) => {
                let request = QueueRequest {
                    running: set.running.map(|limit| limit.0),
                    cpus: set.cpus.map(|limit| limit.0),
                    gpus: set.gpus.map(|limit| limit.0),
                    per_user: set.per_user.map(|limit| limit.0),
                    order: set.order.map(|order| match order {
                        OrderName::BestEffort => Order::BestEffort,
                        OrderName::Strict => Order::Strict,
                    }),
                    state: None,
                };
                let view: QueueView = context.client.post_body(&path(&set.name), &request, ANSWER_LIMIT).await?;
                queues::changed(&mut context.out, &view)?;
                Ok(Exit::Ok)
            }
            Verb::Pause(names) => flow(context, names, Flow::Paused).await,
            Verb::Resume(names) => flow(context, names, Flow::Open).await,
            Verb::Drain(names) => flow(context, names, Flow::Draining).await,
            Verb::Rm(Names { names }) => {
                let remove = async |client: &Client, name: &str| client.delete::<QueueView>(&path(name)).await;
                super::each(context, names, remove, queues::removed).await
            }
        }
    }
}

/// Stops or opens queues.
async fn flow(context: &mut Context<'_>, Names { names }: Names, flow: Flow) -> Done {
    let request = QueueRequest { state: Some(flow), ..QueueRequest::default() };
    let change = async |client: &Client, name: &str| client.post_body(&path(name), &request, ANSWER_LIMIT).await;
    super::each(context, names, change, queues::changed).await
}
