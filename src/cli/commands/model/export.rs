//! `mlctl model export`: a version of a model as a folder here, with a card of what is on record of it. It is pulled as a checkpoint is.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{compare, path};
use crate::{
    api::types::{SCHEMA, VersionView},
    cli::{
        Context, Done, Failure,
        commands::pull::{self, Object, Parcel},
        exit::Exit,
        output::{card, models},
    },
    domain::alias::Reference,
};

/// What is written beside the objects of a version.
const CARD: &str = "README.md";
const RECORD: &str = "version.json";

/// What was exported.
#[derive(Debug, Serialize)]
pub struct Exported {
    /// The version of this form.
    pub schema: u32,
    /// The version of the model.
    pub version: VersionView,
    /// The folder.
    pub dir: PathBuf,
    /// The size of its objects.
    pub size_bytes: u64,
}

/// Exports a version into `dir`, which must not be there yet, or be empty.
pub async fn run(context: &mut Context<'_>, which: &Reference, dir: &Path) -> Done {
    let dir = context.environment.absolute(dir);
    let version = compare::version(context, which).await?;
    let spec = compare::spec_of(context, &version).await?;
    let base = format!("{}/versions/{}/objects", path(&version.model), version.version);
    let objects = version.objects.iter().map(|object| Object {
        name: object.name.clone(),
        path: format!("{base}/{}", object.name),
        size_bytes: Some(object.size_bytes),
        blake3: Some(object.blake3.clone()),
    });
    let record = serde_json::to_string_pretty(&version).map_err(|error| Failure::caused("write a record", &error))?;
    let parcel = Parcel {
        objects: objects.collect(),
        mark: format!("{}{}{}", version.model, version.version, version.spec_digest),
        digest: version.digest.clone(),
        written: vec![(CARD, card::of(&version, spec.as_ref())), (RECORD, record + "\n")],
    };
    let size_bytes = pull::bring(context, &parcel, &dir).await?;
    models::exported(&mut context.out, &Exported { schema: SCHEMA, version, dir, size_bytes })?;
    Ok(Exit::Ok)
}
