//! `mlctl spec`: job specs without a daemon.

use clap::{Args, Subcommand, ValueEnum};

use crate::{
    api::types::SCHEMA,
    cli::{
        Context, Done, Failure,
        exit::Exit,
        output::jobs::{self, CheckedSpec},
        spec::{self, Source},
    },
};

const EXAMPLES: &str = "\
Examples:
  mlctl spec init train > job.toml        a commented spec to begin with, which is valid
  mlctl spec validate job.toml            every mistake at once; exit code 6 when there is one
  mlctl spec schema > job.schema.json     for editors";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a commented spec to begin with
    #[command(after_help = EXAMPLES)]
    Init {
        /// What the job does
        kind: Kind,
    },
    /// Check a spec without submitting it: its form, its rules, and whether the files it names are there
    #[command(after_help = EXAMPLES)]
    Validate {
        /// The spec, a TOML file; - for standard input
        file: String,
        /// Lay a value over the spec, as for submit; may be repeated
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Print the JSON Schema of job specs
    #[command(after_help = EXAMPLES)]
    Schema,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Trains a model
    Train,
    /// Predicts a dataset
    Infer,
    /// Compares models on the same rows
    Evaluate,
    /// Trains a challenger, compares it with the champion, promotes it if it is better
    Retrain,
    /// Runs a program of your own
    Command,
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Init { .. } => "print a spec".into(),
            Verb::Validate { file, .. } if file == spec::STANDARD_INPUT => "use the spec from standard input".into(),
            Verb::Validate { file, .. } => format!("use {file}"),
            Verb::Schema => "print the schema".into(),
        }
    }

    #[expect(clippy::unused_async, reason = "verbs are called alike")]
    pub async fn run(self, context: &mut Context<'_>) -> Done {
        let Context { out, environment, .. } = context;
        match self.verb {
            Verb::Init { kind } => out.bytes(template(kind).as_bytes())?,
            Verb::Validate { file, set } => {
                let overlay = spec::Overlay { set: &set, ..spec::Overlay::default() };
                let spec = spec::load(Source::File(&file), &overlay, environment)?;
                jobs::checked(out, &file, &CheckedSpec { schema: SCHEMA, valid: true, spec })?;
            }
            Verb::Schema => {
                let schema = serde_json::to_string_pretty(mlctl_protocol::spec::schema().as_value());
                out.line(schema.map_err(|error| Failure::caused("write the schema", &error))?)?;
            }
        }
        Ok(Exit::Ok)
    }
}

const fn template(kind: Kind) -> &'static str {
    match kind {
        Kind::Train => include_str!("../templates/train.toml"),
        Kind::Infer => include_str!("../templates/infer.toml"),
        Kind::Evaluate => include_str!("../templates/evaluate.toml"),
        Kind::Retrain => include_str!("../templates/retrain.toml"),
        Kind::Command => include_str!("../templates/command.toml"),
    }
}

#[cfg(test)]
mod tests {
    use mlctl_protocol::spec::Work;

    use super::*;
    use crate::{config::document::Document, domain::rules};

    #[test]
    fn templates_are_valid() {
        for kind in Kind::value_variants() {
            let document = Document::parse("template", template(*kind)).unwrap();
            let read = document.read::<mlctl_protocol::JobSpec>(&mlctl_protocol::spec::schema());
            let mut spec = read.unwrap_or_else(|report| panic!("{report}"));
            if let Work::Command(command) = &mut spec.work {
                // As the CLI says it, which knows where the spec is.
                command.cwd = Some("/".into());
            }
            assert_eq!(rules::problems(&spec), [], "{kind:?}");
            assert_eq!(spec.work.kind(), format!("{kind:?}").to_lowercase());
        }
    }
}
