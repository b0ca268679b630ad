//! `mlctl model compare`: two versions of models side by side, by what is on record of them: how they were trained, on what data, and how well they did.

use serde::Serialize;
use serde_json::Value;

use super::{path, picked};
use crate::{
    api::types::{SCHEMA, SpecView, VersionList, VersionView},
    cli::{Context, Done, Failure, commands::job_path, exit::Exit, output::comparison},
    domain::{
        alias::Reference,
        difference::{Difference, Pair, differences, pairs},
    },
};

/// Two versions and what differs between them.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The version of this form.
    pub schema: u32,
    /// The one that was named first.
    pub a: VersionView,
    /// The other.
    pub b: VersionView,
    /// Whether their tensors are the same to the bit; unknown of checkpoints.
    pub same_tensors: Option<bool>,
    /// Whether they were trained on the same data; unknown where that is not on record.
    pub same_data: Option<bool>,
    /// The keys of their jobs' specs that differ; none where a job was removed and its spec with it.
    pub spec: Option<Vec<Difference>>,
    /// Every metric that one of them has.
    pub metrics: Vec<Pair>,
}

/// Compares two versions and prints what comes of it.
pub async fn run(context: &mut Context<'_>, (a, b): (&Reference, &Reference)) -> Done {
    let (a, b) = (version(context, a).await?, version(context, b).await?);
    let spec = if a.spec_digest == b.spec_digest {
        Some(Vec::new())
    } else {
        let both = (spec_of(context, &a).await?, spec_of(context, &b).await?);
        if let (Some(a), Some(b)) = both { Some(differences(&a, &b)) } else { None }
    };
    let same = |of: fn(&VersionView) -> Option<&String>| Some(of(&a)? == of(&b)?);
    let compared = Comparison {
        schema: SCHEMA,
        same_tensors: same(|one| one.digest.as_ref()),
        same_data: same(|one| one.dataset_digest.as_ref()),
        spec,
        metrics: pairs(&a.metrics, &b.metrics),
        a,
        b,
    };
    comparison::show(&mut context.out, &compared)?;
    Ok(Exit::Ok)
}

pub(super) async fn version(context: &Context<'_>, which: &Reference) -> Result<VersionView, Failure> {
    let list: VersionList = context.client.get(&path(&which.model)).await?;
    picked(&list, which).cloned()
}

/// The spec of a version's job, if that is there still.
pub(super) async fn spec_of(context: &Context<'_>, version: &VersionView) -> Result<Option<Value>, Failure> {
    let found = context.client.get::<SpecView>(&job_path(&version.job.to_string(), "spec")).await;
    match found {
        Ok(view) => Ok(serde_json::to_value(view.spec).ok()),
        Err(failure) if failure.exit == Exit::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}
