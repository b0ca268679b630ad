//! `mlctl notify`: who is told of what happens, and whether it arrives.

use clap::{Args, Subcommand};

use crate::{
    api::{
        query::segment,
        types::{HookList, TestedView},
    },
    cli::{Context, Done, client::READ_LIMIT, exit::Exit, output},
};

const EXAMPLES: &str = "\
Hooks stand in [[notify]] blocks of mld.toml: a webhook that is signed, a command, or a mail. What nobody takes is tried again for a day, under the same id; then it is given up, which
`mlctl doctor` says, too.

Examples:
  mlctl notify ls                        who is told of what, and since when nothing arrives
  mlctl notify ls -o json | jq '.hooks[] | select(.state != \"ok\") | .error'
  mlctl notify test team                 send a test message now, and say what came of it
  mlctl daemon reload                    after a change of mld.toml";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List hooks with how they fare
    #[command(after_help = EXAMPLES)]
    Ls,
    /// Send a test message by a hook, once; the exit code is 1 when it does not arrive
    #[command(after_help = EXAMPLES)]
    Test {
        /// The hook
        #[arg(value_name = "NAME")]
        name: String,
    },
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Ls => "list hooks".into(),
            Verb::Test { name } => format!("test hook {name}"),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        match self.verb {
            Verb::Ls => {
                let list: HookList = context.client.get("/v1/notify").await?;
                output::notify::list(&mut context.out, &list)?;
                Ok(Exit::Ok)
            }
            Verb::Test { name } => {
                let path = format!("/v1/notify/{}/test", segment(&name));
                let tested: TestedView = context.client.post_body(&path, &(), READ_LIMIT).await?;
                output::notify::tested(&mut context.out, &tested)?;
                Ok(if tested.delivered { Exit::Ok } else { Exit::Failed })
            }
        }
    }
}
