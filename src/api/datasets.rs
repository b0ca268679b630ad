//! Handlers about datasets and their versions: list, show, add, remove; and the version that a spec means. Called by the router and before a job is kept. No data is read here: a worker has done so, and
//! another will compare.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use mlctl_protocol::{
    JobSpec,
    spec::{DataSource, dataset_parts},
};

use super::{
    Context, Shared,
    error::Failure,
    extract::{NamedDataset, NamedDatasetVersion, Whole},
    permit::Peer,
    types::{DatasetDetail, DatasetList, DatasetVersionList, DatasetVersionView, DatasetView, SCHEMA},
    view::Scene,
};
use crate::{
    domain::rules::{self, Problem},
    store::{DatasetVersion, StoreError},
};

/// `GET /v1/datasets`.
pub(super) async fn list(State(api): State<Context>) -> Result<Json<DatasetList>, Failure> {
    let scene = api.scene();
    let datasets = api.store.datasets().await?.into_iter().map(|row| DatasetView {
        name: row.name,
        versions: row.versions,
        newest: row.newest.map(|newest| view(newest, &scene)),
        created_at: row.created_at,
    });
    Ok(Json(DatasetList { schema: SCHEMA, datasets: datasets.collect() }))
}

/// `GET /v1/datasets/{dataset}`.
pub(super) async fn show(
    State(api): State<Context>,
    NamedDataset(name): NamedDataset,
) -> Result<Json<DatasetVersionList>, Failure> {
    let scene = api.scene();
    let versions = api.store.dataset_versions(&name).await?.into_iter().map(|version| view(version, &scene));
    let versions = versions.collect();
    Ok(Json(DatasetVersionList { schema: SCHEMA, name, versions }))
}

/// `GET /v1/datasets/{dataset}/versions/{version}`.
pub(super) async fn detail(
    State(api): State<Context>,
    NamedDatasetVersion { dataset, version }: NamedDatasetVersion,
) -> Result<Json<DatasetDetail>, Failure> {
    let found = api.store.dataset_version(&dataset, Some(version)).await?;
    let manifest = api.registry.manifest(&found).await?;
    Ok(Json(DatasetDetail { version: view(found, &api.scene()), manifest }))
}

/// `POST /v1/datasets/{dataset}`.
pub(super) async fn add(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedDataset(name): NamedDataset,
    Whole(manifest): Whole,
) -> Result<Response, Failure> {
    api.check_sound()?;
    if let Some(problem) = rules::dataset_name(&name) {
        return Err(Failure::bad_request(problem.message, problem.hint.unwrap_or_default()));
    }
    let (version, existed) = api.registry.add_dataset(&api.config.storage_url, &name, manifest, peer.uid).await?;
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(view(version, &api.scene()))).into_response())
}

/// `DELETE /v1/datasets/{dataset}/versions/{version}`.
pub(super) async fn remove(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedDatasetVersion { dataset, version }: NamedDatasetVersion,
) -> Result<Json<DatasetVersionView>, Failure> {
    api.check_sound()?;
    let removed = api.store.remove_dataset(&dataset, version, peer.uid).await?;
    Ok(Json(view(removed, &api.scene())))
}

/// Forgets what a client says of the version that a spec reads: it is looked up.
pub(super) fn unpin(spec: &mut JobSpec) {
    for (_, data) in spec.work.sources_mut().data {
        if let DataSource::Dataset { pinned, .. } = data {
            *pinned = None;
        }
    }
}

/// Pins data to the version of the dataset that it names: the newest where it names none. `path` is the data's.
pub(super) async fn pin(api: &Shared, path: &str, data: &mut DataSource) -> Result<Option<Problem>, StoreError> {
    let DataSource::Dataset { dataset, pinned, .. } = data else { return Ok(None) };
    *pinned = None;
    let Some((name, number)) = dataset_parts(dataset) else { return Ok(None) };
    let version = match api.store.dataset_version(name, number).await {
        Ok(version) => version,
        Err(error @ (StoreError::NoDataset(_) | StoreError::NoDatasetVersion { .. })) => {
            let hint = match error {
                StoreError::NoDataset(_) => {
                    "`mlctl dataset ls` lists every dataset; `mlctl dataset add` makes one".into()
                }
                _ => format!("`mlctl dataset show {name}` lists its versions"),
            };
            let path = format!("{path}.dataset");
            return Ok(Some(Problem { path, message: error.to_string(), hint: Some(hint) }));
        }
        Err(error) => return Err(error),
    };
    version.pin(data);
    Ok(None)
}

fn view(version: DatasetVersion, scene: &Scene) -> DatasetVersionView {
    let DatasetVersion { dataset, version, content, created_by, created_at, .. } = version;
    DatasetVersionView {
        schema: SCHEMA,
        dataset,
        version,
        format: content.format.name().to_owned(),
        uri: content.uri,
        targets_uri: content.targets_uri,
        rows: content.rows,
        columns: content.columns,
        objects: content.objects,
        size_bytes: content.size_bytes,
        manifest_uri: content.manifest,
        digest: content.digest,
        created_by: scene.name(created_by),
        created_at,
    }
}
