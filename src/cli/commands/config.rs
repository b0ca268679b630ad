//! `mlctl config`: what this program goes by, and who said so.

use clap::{Args, Subcommand};

use crate::cli::{
    Context, Done,
    exit::Exit,
    output::daemon::{self, ConfigView},
};

const EXAMPLES: &str = "\
Flags win over the environment, that over the settings file ($MLCTL_CONFIG, else ~/.config/mlctl/config.toml), that over the defaults.

Examples:
  mlctl config show
  MLCTL_SOCKET=/run/mld/mld.sock mlctl config show -o json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The sockets that are tried, the form of the output, the settings file
    #[command(after_help = EXAMPLES)]
    Show,
}

impl Arguments {
    pub fn goal(&self) -> String {
        "show the settings".into()
    }

    #[expect(clippy::unused_async, reason = "verbs are called alike")]
    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let Verb::Show = self.verb;
        let view = ConfigView {
            schema: crate::api::types::SCHEMA,
            sockets: context.client.sockets().iter().map(|socket| socket.display().to_string()).collect(),
            sockets_from: context.origin.name(),
            output: context.out.form,
            file: context.environment.client_file().map(|file| file.display().to_string()),
        };
        daemon::config(&mut context.out, &view)?;
        Ok(Exit::Ok)
    }
}
