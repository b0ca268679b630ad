//! Handlers about the database as a whole: looked through and backed up beside the work that goes on. Both are for those alone who could read its file: the daemon's own user and root. Called by
//! the router.

use axum::{Extension, Json, extract::State};

use super::{
    Context,
    error::Failure,
    extract::Sent,
    permit::{self, Peer},
    types::{BackupList, BackupRequest, BackupView, DbCheckView, ErrorCode},
};
use crate::{
    domain::causes,
    store::offline::Examined,
    vault::{Source, VaultError},
};

/// `POST /v1/db/check`.
pub(super) async fn check(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<DbCheckView>, Failure> {
    permit::check_keeper(peer, api.owner)?;
    let found = api.store.check().await;
    api.dispatch.examined(&found).await;
    let problems = found?;
    let summary = api.vault.summary().await.ok();
    Ok(Json(DbCheckView::of(api.vault.database().display().to_string(), Examined { summary, problems })))
}

/// `POST /v1/db/backup`. Who stops waiting does not stop it.
pub(super) async fn backup(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Sent(request): Sent<BackupRequest>,
) -> Result<Json<BackupView>, Failure> {
    permit::check_keeper(peer, api.owner)?;
    let (store, vault) = (api.store.clone(), api.vault.clone());
    let made = api.tasks.spawn(async move { vault.backup(Source::Live(&store), request.to.as_deref()).await }).await;
    let made = made.map_err(|error| Failure::internal("a backup was not brought to its end", &error))?;
    Ok(Json(made?.into()))
}

/// `GET /v1/db/backups`.
pub(super) async fn backups(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<BackupList>, Failure> {
    permit::check_keeper(peer, api.owner)?;
    Ok(Json(api.vault.list(None).await?.into()))
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let (message, hint) = (causes(&error), error.hint());
        match error {
            VaultError::Store(error) => error.into(),
            VaultError::Storage(error) => error.into(),
            VaultError::Missing(_) => Self::new(ErrorCode::NotFound, message, hint),
            VaultError::Several { .. } => Self::new(ErrorCode::Ambiguous, message, hint),
            VaultError::Busy => Self::new(ErrorCode::Busy, message, hint),
            VaultError::Io { .. } | VaultError::Corrupt { .. } => Self::new(ErrorCode::Storage, message, hint),
            VaultError::Unsound { .. } => {
                let hint = "stop the daemon, keep a copy of the file, and restore a backup: `mlctl db restore latest`";
                Self::new(ErrorCode::Storage, message, hint)
            }
        }
    }
}
