//! `mlctl model`: models and their versions.

mod aliases;
mod compare;
mod export;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::aliases::Terms;
pub use self::{compare::Comparison, export::Exported};
use super::job_name;
use crate::{
    api::{
        query::segment,
        types::{ModelList, RegisterRequest, VersionList, VersionView},
    },
    cli::{
        Context, Done, Failure,
        client::{Client, READ_LIMIT},
        exit::Exit,
        output::models,
    },
    domain::{
        alias::{Pick, Reference},
        rules,
    },
};

const EXAMPLES: &str = "\
A version is what a training has left: its objects with their digests, and where they come from. It never changes, and what it holds stays in storage until it is removed. `register = \"digits\"`
under [train] in a job's spec makes a version of each of its models.

Examples:
  mlctl model ls
  mlctl model show digits                   its versions, newest first
  mlctl model show digits/3                 what one holds
  mlctl model add digits @last              the final model of a job becomes a version
  mlctl model add digits 17/500             its checkpoint of step 500 does
  mlctl model compare digits@champion digits
                                            the champion and the newest side by side
  mlctl model export digits@champion ./champion
                                            its objects in a folder, with README.md and version.json
  mlctl model promote digits/3 --reason \"better on night 7\"
                                            version 3 becomes the champion, and what was it the previous
  mlctl model promote digits@challenger --expect 2
                                            only if version 2 is the champion still
  mlctl model rollback digits --reason \"complaints\"
                                            the previous version is the champion again
  mlctl model alias digits eu 3             a name of one's own; with --rm it is taken away
  mlctl model show digits@champion          what an alias means
  mlctl model rm digits/3                   its number is not used again; refused while an alias means it

An alias means one version of a model at a time: champion, previous, challenger or any word. In a job's spec, `from = \"model:digits@champion\"` (or \"model:digits/3\") under [infer.model] or
[train.init] is the version that it means at the submit, which the job keeps; a schedule looks it up at each tick. Every move is kept with who, when and why.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List models with their newest versions
    #[command(after_help = EXAMPLES)]
    Ls,
    /// Show the versions of a model, or what one holds
    #[command(after_help = EXAMPLES)]
    Show {
        /// The model and, where one is meant, a version or an alias
        #[arg(value_name = "MODEL[/VERSION|@ALIAS]", value_parser = Reference::parse)]
        which: Reference,
    },
    /// Make a job's model, or a checkpoint of it, a version
    #[command(after_help = EXAMPLES)]
    Add {
        /// The model; it is made where there is none
        #[arg(value_parser = model_name)]
        model: String,
        /// The job (an id, a name or @last) and, after a slash, the step of a checkpoint
        #[arg(value_name = "JOB[/STEP]", value_parser = Source::parse)]
        from: Source,
    },
    /// Show two versions side by side: metrics, data, and the keys of their specs that differ
    #[command(after_help = EXAMPLES)]
    Compare {
        /// One version; the newest when only a model is named
        #[arg(value_name = "A", value_parser = Reference::parse)]
        a: Reference,
        /// The other, of the same model or of another
        #[arg(value_name = "B", value_parser = Reference::parse)]
        b: Reference,
    },
    /// Bring a version to a folder here, every byte verified, with a card that says where it comes from
    #[command(after_help = EXAMPLES)]
    Export {
        /// The model and the version, or an alias that means it; the newest when only the model is named
        #[arg(value_name = "MODEL[/VERSION|@ALIAS]", value_parser = Reference::parse)]
        which: Reference,
        /// The folder; it must not be there yet, or be empty
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Have an alias mean a version, or take it away
    #[command(after_help = EXAMPLES)]
    Alias {
        /// The model
        #[arg(value_parser = model_name)]
        model: String,
        /// The alias: champion, challenger, previous or any word; the champion is moved as by promote
        #[arg(value_parser = aliases::alias_name)]
        name: String,
        /// The version that it is to mean: a number, or an alias that means it
        #[arg(value_parser = Pick::parse, required_unless_present = "rm", conflicts_with = "rm")]
        version: Option<Pick>,
        /// Take the alias away
        #[arg(long)]
        rm: bool,
        #[command(flatten)]
        terms: Terms,
    },
    /// Make a version the champion, and what was it the previous
    #[command(after_help = EXAMPLES)]
    Promote {
        /// The model and the version, or an alias that means it; the newest when only the model is named
        #[arg(value_name = "MODEL[/VERSION|@ALIAS]", value_parser = Reference::parse)]
        which: Reference,
        #[command(flatten)]
        terms: Terms,
    },
    /// Make the previous version the champion again
    #[command(after_help = EXAMPLES)]
    Rollback {
        /// The model
        #[arg(value_parser = model_name)]
        model: String,
        #[command(flatten)]
        terms: Terms,
    },
    /// Remove versions
    #[command(after_help = EXAMPLES)]
    Rm {
        /// Which
        #[arg(value_name = "MODEL/VERSION", value_parser = version_name, required = true)]
        versions: Vec<String>,
    },
}

/// A job's model, or its checkpoint of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    job: String,
    step: Option<u64>,
}

impl Source {
    fn parse(text: &str) -> Result<Self, String> {
        let (job, step) = match text.split_once('/') {
            None => (text, None),
            Some((job, step)) => {
                let number = step.parse().ok().filter(|number: &u64| number.to_string() == step);
                (job, Some(number.ok_or("a step is a number, as in digits/500")?))
            }
        };
        Ok(Self { job: job_name(job)?, step })
    }
}

fn model_name(text: &str) -> Result<String, String> {
    match rules::model_name(text) {
        Some(problem) => Err(format!("{}; {}", problem.message, problem.hint.unwrap_or_default())),
        None => Ok(text.to_owned()),
    }
}

fn version_name(text: &str) -> Result<String, String> {
    let named = Reference::parse(text)?;
    match named.pick {
        Pick::Number(_) => Ok(named.to_string()),
        Pick::Newest | Pick::Alias(_) => Err("name a version by its number, as in digits/3".into()),
    }
}

fn path(model: &str) -> String {
    format!("/v1/models/{}", segment(model))
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Ls => "list models".into(),
            Verb::Show { which } => format!("show model {which}"),
            Verb::Add { model, from } => format!("make a version of {model} of job {}", from.job),
            Verb::Compare { a, b } => format!("compare {a} with {b}"),
            Verb::Export { which, .. } => format!("export {which}"),
            Verb::Alias { model, name, rm: true, .. } => format!("take alias {name} of model {model} away"),
            Verb::Alias { model, name, .. } => format!("move alias {name} of model {model}"),
            Verb::Promote { which, .. } => format!("promote {which}"),
            Verb::Rollback { model, .. } => format!("roll model {model} back"),
            Verb::Rm { versions } => format!("remove {}", versions.join(", ")),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        match self.verb {
            Verb::Ls => {
                let list: ModelList = context.client.get("/v1/models").await?;
                models::list(&mut context.out, &list)?;
            }
            Verb::Show { which } => show(context, &which).await?,
            Verb::Add { model, from: Source { job, step } } => {
                let request = RegisterRequest { job, step };
                let made: VersionView = context.client.post_body(&path(&model), &request, READ_LIMIT).await?;
                models::registered(&mut context.out, &made)?;
            }
            Verb::Compare { a, b } => return compare::run(context, (&a, &b)).await,
            Verb::Export { which, dir } => return export::run(context, &which, &dir).await,
            Verb::Alias { model, name, version, terms, .. } => {
                return match version {
                    Some(pick) => aliases::set(context, &model, (&name, pick), terms).await,
                    None => aliases::clear(context, &model, &name, terms).await,
                };
            }
            Verb::Promote { which, terms } => return aliases::promote(context, which, terms).await,
            Verb::Rollback { model, terms } => return aliases::roll_back(context, &model, terms).await,
            Verb::Rm { versions } => {
                let remove = async |client: &Client, name: &str| {
                    let (model, version) = name.split_once('/').unwrap_or((name, ""));
                    client.delete::<VersionView>(&format!("{}/versions/{version}", path(model))).await
                };
                return super::each(context, versions, remove, models::removed).await;
            }
        }
        Ok(Exit::Ok)
    }
}

async fn show(context: &mut Context<'_>, which: &Reference) -> Result<(), Failure> {
    let list: VersionList = context.client.get(&path(&which.model)).await?;
    if which.pick == Pick::Newest {
        return models::versions(&mut context.out, &list, context.clock.now());
    }
    models::show(&mut context.out, picked(&list, which)?)
}

/// The version that is meant, among those of its model.
fn picked<'a>(list: &'a VersionList, which: &Reference) -> Result<&'a VersionView, Failure> {
    let Reference { model, pick } = which;
    let (number, missing) = match pick {
        Pick::Newest => (list.versions.first().map(|one| one.version), format!("model {model} has no version")),
        Pick::Number(number) => (Some(*number), format!("model {model} has no version {number}")),
        Pick::Alias(alias) => (list.aliases.get(alias).copied(), format!("model {model} has no alias {alias}")),
    };
    let found = list.versions.iter().find(|one| Some(one.version) == number);
    found.ok_or_else(|| {
        Failure::new(Exit::NotFound, missing).hint(format!("`mlctl model show {model}` lists its versions and aliases"))
    })
}
