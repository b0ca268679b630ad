//! `mlctl model alias`, `promote` and `rollback`: which version a name means.

use clap::Args;

use super::path;
use crate::{
    api::{
        query::{MoveQuery, address, segment},
        types::{AliasRequest, MovedView},
    },
    cli::{Context, Done, client::ANSWER_LIMIT, commands::job_name, exit::Exit, output::models},
    domain::alias::{self, CHAMPION, Pick, Reference},
};

/// On what terms an alias is moved.
#[derive(Debug, Args)]
pub struct Terms {
    /// Why; it is kept with the move
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// Only if the alias means this version now ("none": if there is no such alias), so that of two who decide at once the second is refused
    #[arg(long, value_name = "VERSION", value_parser = expected)]
    expect: Option<u32>,
    /// The job in whose name it is done; inside a job, that job
    #[arg(long, value_parser = job_name)]
    job: Option<String>,
}

impl Terms {
    fn query(self, context: &Context<'_>) -> MoveQuery {
        let Self { reason, expect, job } = self;
        MoveQuery { expect, reason, job: job.or_else(|| context.environment.job.clone()) }
    }
}

fn reason(text: &str) -> Result<String, String> {
    alias::reason_problem(text).map_or_else(|| Ok(text.to_owned()), |problem| Err(problem.message))
}

fn expected(text: &str) -> Result<u32, String> {
    match Pick::parse(text) {
        Ok(Pick::Number(number)) => Ok(number),
        _ if text == "none" => Ok(0),
        _ => Err("expected the number of a version, or none".into()),
    }
}

/// The name of an alias.
pub fn alias_name(text: &str) -> Result<String, String> {
    match alias::problem(text) {
        Some(problem) => Err(format!("{}; {}", problem.message, problem.hint.unwrap_or_default())),
        None => Ok(text.to_owned()),
    }
}

/// Has an alias mean a version.
pub async fn set(context: &mut Context<'_>, model: &str, (alias, pick): (&str, Pick), terms: Terms) -> Done {
    let version = match pick {
        Pick::Newest => None,
        Pick::Number(number) => Some(number.to_string()),
        Pick::Alias(alias) => Some(alias),
    };
    let MoveQuery { expect, reason, job } = terms.query(context);
    let request = AliasRequest { version, expect, reason, job };
    let at = format!("{}/aliases/{}", path(model), segment(alias));
    let moved: MovedView = context.client.post_body(&at, &request, ANSWER_LIMIT).await?;
    models::moved(&mut context.out, &moved)?;
    Ok(Exit::Ok)
}

/// Takes an alias away.
pub async fn clear(context: &mut Context<'_>, model: &str, alias: &str, terms: Terms) -> Done {
    let query = terms.query(context);
    let moved: MovedView =
        context.client.delete(&address(&format!("{}/aliases/{}", path(model), segment(alias)), &query)).await?;
    models::moved(&mut context.out, &moved)?;
    Ok(Exit::Ok)
}

/// Makes a version the champion.
pub async fn promote(context: &mut Context<'_>, Reference { model, pick }: Reference, terms: Terms) -> Done {
    set(context, &model, (CHAMPION, pick), terms).await
}

/// Makes the previous version the champion again.
pub async fn roll_back(context: &mut Context<'_>, model: &str, terms: Terms) -> Done {
    let query = terms.query(context);
    let moved: MovedView = context.client.post_body(&format!("{}/rollback", path(model)), &query, ANSWER_LIMIT).await?;
    models::moved(&mut context.out, &moved)?;
    Ok(Exit::Ok)
}
