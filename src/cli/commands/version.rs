//! `mlctl version`: what this program is.

use clap::Args;

use crate::{
    api::types::SCHEMA,
    cli::{
        Context, Done,
        exit::Exit,
        output::daemon::{self, VersionView},
    },
};

const EXAMPLES: &str = "\
Examples:
  mlctl version
  mlctl version -o json | jq -r .version
  mlctl daemon status             the daemon's";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {}

impl Arguments {
    pub fn goal(&self) -> String {
        "show the version".into()
    }

    #[expect(clippy::unused_async, reason = "verbs are called alike")]
    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let (version, spec_version) = (env!("CARGO_PKG_VERSION"), mlctl_protocol::spec::SPEC_VERSION);
        daemon::version(&mut context.out, &VersionView { schema: SCHEMA, version, spec_version })?;
        Ok(Exit::Ok)
    }
}
