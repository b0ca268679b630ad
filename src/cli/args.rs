//! The command line: the verbs, and the flags that all of them take. A verb's own flags are with the verb.

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use tokio::runtime::Builder;

use super::{Context, Done, Failure, commands};
use crate::config::OutputForm;

const EXAMPLES: &str = "\
Examples:
  mlctl submit job.toml --follow          run a job and watch it
  mlctl submit job.toml --set train.seed=7 --name seed-7
  mlctl ls                                what waits, runs and ended last
  mlctl show @last                        everything about the newest job
  mlctl logs digits -f                    what its worker says
  mlctl why digits                        why it does not run, or why it failed
  mlctl spec init train > job.toml        a job to begin with
  mlctl schedule add job.toml --cron '30 2 * * *' --zone Europe/Berlin

A JOB is an id, a name that one unfinished job bears (or the newest that bore it), or @last.
Exit codes: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 not found, 5 wrong state or conflict, 6 spec invalid,
7 not permitted, 8 --timeout ran out; of a job that is waited for: 20 failed or quarantined, 21 cancelled, 22 its time limit or deadline.";

/// Runs machine-learning jobs: talks to the daemon mld.
#[derive(Debug, Parser)]
#[command(name = "mlctl", version, after_help = EXAMPLES, disable_help_subcommand = false, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// The flags of all verbs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Flags of all verbs")]
pub struct Global {
    /// The form of the output [default: $MLCTL_OUTPUT, the settings file, else table]
    #[arg(short, long, global = true, value_name = "FORM", value_parser = form_parser())]
    pub output: Option<OutputForm>,
    /// The daemon's socket [default: $MLCTL_SOCKET, the settings file, else the user's or the service's]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The daemon that keeps everything under this folder: short for --socket DIR/mld.sock
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "socket")]
    pub state_dir: Option<PathBuf>,
}

fn form_parser() -> impl TypedValueParser<Value = OutputForm> {
    let names = OutputForm::ALL.map(|(name, _)| name);
    PossibleValuesParser::new(names).map(|name| {
        let found = OutputForm::ALL.into_iter().find(|(form, _)| *form == name);
        found.map_or_else(OutputForm::default, |(_, form)| form)
    })
}

macro_rules! verbs {
    ($($(#[$meta:meta])* $name:ident => $room:ident,)+) => {
        /// What is to be done.
        #[derive(Debug, Subcommand)]
        pub enum Verb {
            $($(#[$meta])* $name(Box<commands::$room::Arguments>),)+
        }

        impl Verb {
            /// What is to be done, in words that follow "cannot".
            pub fn goal(&self) -> String {
                match self {
                    $(Self::$name(arguments) => arguments.goal(),)+
                }
            }

            /// Does it.
            pub fn run(self, context: &mut Context<'_>) -> Done {
                let runtime = self.runtime().enable_all().build();
                let runtime = runtime.map_err(|error| Failure::caused("start", &error))?;
                runtime.block_on(async {
                    match self {
                        $(Self::$name(arguments) => arguments.run(context).await,)+
                    }
                })
            }
        }
    };
}

/// Threads of a verb that moves bytes.
const MOVERS: usize = 2;

impl Verb {
    fn runtime(&self) -> Builder {
        match self {
            Self::Storage(_) | Self::Dataset(_) => {
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(MOVERS).max_blocking_threads(32);
                builder
            }
            // One thread: there is one connection to wait for, and threads take longer to start than most verbs to finish.
            _ => Builder::new_current_thread(),
        }
    }
}

verbs! {
    /// Submit a job
    Submit => submit,
    /// List jobs: the unfinished ones and those that ended last
    #[command(alias = "ps")]
    Ls => ls,
    /// Show everything about a job
    Show => show,
    /// Follow a job to its end
    Follow => follow,
    /// Show what a job's worker prints
    Logs => logs,
    /// Say why a job is where it is
    Why => why,
    /// Wait until jobs have ended
    Wait => wait,
    /// Have jobs save their work and end
    Stop => stop,
    /// Cancel jobs
    Cancel => cancel,
    /// Have jobs save their work and give their devices up for a while
    Pause => pause,
    /// Let paused jobs go on
    Resume => resume,
    /// Keep jobs from starting
    Hold => hold,
    /// Let held jobs wait for their turn again
    Release => release,
    /// Change the priority and labels of jobs
    Edit => edit,
    /// Queue jobs again that failed or were cancelled
    Retry => retry,
    /// Remove finished jobs for good
    Rm => rm,
    /// Say in what two jobs differ
    Diff => diff,
    /// Train again what a job has trained, and see whether the same comes of it
    Repro => repro,
    /// Draw a job's learning curve and confusion matrix
    Plot => plot,
    /// List, show, take, verify and pull checkpoints, and collect what nothing needs
    Checkpoint => checkpoint,
    /// Move files to and from object storage: put, get, ls, abort
    Storage => storage,
    /// List, show, make and remove versions of models
    Model => model,
    /// List, show, make, verify and remove versions of datasets
    Dataset => dataset,
    /// Run a job again and again: add, list, show, preview and remove schedules
    Schedule => schedule,
    /// Say how much of the machine a queue's jobs may have: list, set, pause, resume, drain and remove queues
    Queue => queue,
    /// Say who may have which GPU: list, drain, reserve and open GPUs
    Device => device,
    /// Say who is told of what happens, and try it
    Notify => notify,
    /// Write and check job specs
    Spec => spec,
    /// Ask for the daemon, or stop it
    Daemon => daemon,
    /// Check, back up and restore the database
    Db => db,
    /// Check that everything is as it should be
    Doctor => doctor,
    /// Show what this program goes by
    Config => config,
    /// Print the completion of a shell
    Completion => completion,
    /// Show the version
    Version => version,
}
