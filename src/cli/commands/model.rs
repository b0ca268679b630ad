//! `mlctl model`: models and their versions.

use clap::{Args, Subcommand};

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
    domain::rules,
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
  mlctl model rm digits/3                   its number is not used again";

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
        /// The model and, after a slash, a version
        #[arg(value_name = "MODEL[/VERSION]", value_parser = Which::parse)]
        which: Which,
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
    /// Remove versions
    #[command(after_help = EXAMPLES)]
    Rm {
        /// Which
        #[arg(value_name = "MODEL/VERSION", value_parser = version_name, required = true)]
        versions: Vec<String>,
    },
}

/// A model, or one version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Which {
    model: String,
    version: Option<u32>,
}

impl Which {
    fn parse(text: &str) -> Result<Self, String> {
        let (model, version) = match text.split_once('/') {
            None => (text, None),
            Some((model, version)) => {
                let number = version.parse().ok().filter(|number: &u32| number.to_string() == version && *number > 0);
                (model, Some(number.ok_or("a version is a number from 1 on, as in digits/3")?))
            }
        };
        Ok(Self { model: model_name(model)?, version })
    }
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
    let Which { version, .. } = Which::parse(text)?;
    version.map(|_| text.to_owned()).ok_or_else(|| "name a version, as in digits/3".into())
}

fn path(model: &str) -> String {
    format!("/v1/models/{}", segment(model))
}

impl Arguments {
    pub fn goal(&self) -> String {
        match &self.verb {
            Verb::Ls => "list models".into(),
            Verb::Show { which } => format!("show model {}", which.model),
            Verb::Add { model, from } => format!("make a version of {model} of job {}", from.job),
            Verb::Rm { versions } => format!("remove {}", versions.join(", ")),
        }
    }

    pub async fn run(self, context: &mut Context<'_>) -> Done {
        match self.verb {
            Verb::Ls => {
                let list: ModelList = context.client.get("/v1/models").await?;
                models::list(&mut context.out, &list)?;
            }
            Verb::Show { which: Which { model, version } } => {
                let list: VersionList = context.client.get(&path(&model)).await?;
                match version {
                    None => models::versions(&mut context.out, &list)?,
                    Some(number) => {
                        let found = list.versions.iter().find(|one| one.version == number).ok_or_else(|| {
                            Failure::new(Exit::NotFound, format!("model {model} has no version {number}"))
                                .hint(format!("`mlctl model show {model}` lists them"))
                        })?;
                        models::show(&mut context.out, found)?;
                    }
                }
            }
            Verb::Add { model, from: Source { job, step } } => {
                let request = RegisterRequest { job, step };
                let made: VersionView = context.client.post_body(&path(&model), &request, READ_LIMIT).await?;
                models::registered(&mut context.out, &made)?;
            }
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
