//! `mlctl completion`: what a shell needs to complete command lines.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::{Context, Done, args, exit::Exit};

const EXAMPLES: &str = "\
Examples:
  mlctl completion bash > ~/.local/share/bash-completion/completions/mlctl
  mlctl completion zsh > ~/.zfunc/_mlctl
  mlctl completion fish > ~/.config/fish/completions/mlctl.fish";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

impl Arguments {
    pub fn goal(&self) -> String {
        format!("print the completion for {}", self.shell)
    }

    #[expect(clippy::unused_async, reason = "verbs are called alike")]
    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut args::Arguments::command(), "mlctl", &mut script);
        context.out.bytes(&script)?;
        Ok(Exit::Ok)
    }
}
