//! Handlers about models and their versions: list, show, register, remove. Called by the router. What a version is made of is the registry's.

use axum::{Extension, Json, extract::State};

use super::{
    Context,
    error::Failure,
    extract::{NamedModel, NamedVersion, Sent},
    permit::Peer,
    types::{ErrorCode, ModelList, ModelView, ObjectView, RegisterRequest, SCHEMA, VersionList, VersionView},
    view::Scene,
};
use crate::{
    domain::{alias::Aliases, rules},
    registry::RegistryError,
    store::ModelVersion,
};

/// Moves of aliases that the answer about one model shows.
const SHOWN_MOVES: u32 = 20;

/// `GET /v1/models`.
pub(super) async fn list(State(api): State<Context>) -> Result<Json<ModelList>, Failure> {
    let scene = api.scene();
    let models = api.store.models().await?.into_iter().map(|row| ModelView {
        name: row.name,
        versions: row.versions,
        newest: row.newest.map(|newest| view(newest, &row.aliases, &scene)),
        aliases: row.aliases,
        created_at: row.created_at,
    });
    Ok(Json(ModelList { schema: SCHEMA, models: models.collect() }))
}

/// `GET /v1/models/{model}`.
pub(super) async fn show(
    State(api): State<Context>,
    NamedModel(name): NamedModel,
) -> Result<Json<VersionList>, Failure> {
    let scene = api.scene();
    // Aliases before versions: one that a moment ago was given to a version just registered means one that is shown.
    let aliases = api.store.aliases(&name).await?;
    let moves = api.store.alias_moves(&name, SHOWN_MOVES).await?;
    let versions = api.store.model_versions(&name).await?;
    let moves = moves.into_iter().map(|moved| super::aliases::view(moved, &scene)).collect();
    let versions = versions.into_iter().map(|version| view(version, &aliases, &scene)).collect();
    Ok(Json(VersionList { schema: SCHEMA, name, versions, aliases, moves }))
}

/// `POST /v1/models/{model}`.
pub(super) async fn register(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedModel(name): NamedModel,
    Sent(RegisterRequest { job, step }): Sent<RegisterRequest>,
) -> Result<Json<VersionView>, Failure> {
    api.check_sound()?;
    if let Some(problem) = rules::model_name(&name) {
        return Err(Failure::bad_request(problem.message, problem.hint.unwrap_or_default()));
    }
    let job = api.store.find(&job).await?;
    let (version, _) = api.registry.register(&name, job, step, peer.uid).await?;
    let aliases = api.store.aliases(&name).await?;
    Ok(Json(view(version, &aliases, &api.scene())))
}

/// `DELETE /v1/models/{model}/versions/{version}`.
pub(super) async fn remove(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedVersion { model, version }: NamedVersion,
) -> Result<Json<VersionView>, Failure> {
    api.check_sound()?;
    let removed = api.store.remove_version(&model, version, peer.uid).await?;
    Ok(Json(view(removed, &Aliases::new(), &api.scene())))
}

fn view(version: ModelVersion, aliases: &Aliases, scene: &Scene) -> VersionView {
    let ModelVersion { model, version, content, created_by, created_at, .. } = version;
    let size_bytes = content.size_bytes();
    let named = aliases.iter().filter(|(_, meant)| **meant == version).map(|(alias, _)| alias);
    let objects = content.objects.into_iter().map(|object| ObjectView {
        name: object.name,
        role: String::new(),
        size_bytes: object.size_bytes,
        blake3: object.blake3,
    });
    VersionView {
        schema: SCHEMA,
        model,
        version,
        aliases: named.cloned().collect(),
        job: content.job,
        attempt: content.attempt,
        step: content.step,
        uri: content.uri,
        size_bytes,
        digest: content.digest,
        spec_digest: content.spec_digest,
        dataset_digest: content.dataset_digest,
        metrics: content.metrics,
        objects: objects.collect(),
        created_by: scene.name(created_by),
        created_at,
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::Store(error) => error.into(),
            RegistryError::Artifact(error) => error.into(),
            RegistryError::NoModel(job) => {
                Self::new(ErrorCode::NotFound, message, format!("`mlctl show {job}` shows where it stands"))
            }
            RegistryError::BadManifest(_) => {
                Self::bad_request(message, "`mlctl dataset add` makes manifests that can be kept")
            }
            RegistryError::Damaged { job, .. } => {
                Self::new(ErrorCode::Storage, message, format!("`mlctl checkpoint verify {job}` finds what is whole"))
            }
        }
    }
}
