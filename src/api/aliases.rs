//! Handlers about aliases of versions of models: set, clear, roll back. Called by the router. Which aliases a change moves is `domain::alias`'; that it is one transaction is the store's.

use axum::{Extension, Json, extract::State};

use super::{
    Context, Shared,
    error::Failure,
    extract::{Asked, NamedAlias, NamedModel, Sent},
    permit::Peer,
    query::MoveQuery,
    types::{AliasMoveView, AliasRequest, MovedView, SCHEMA},
    view::Scene,
};
use crate::{
    domain::{
        alias::{self, Change, Pick},
        rules::Problem,
    },
    store::{AliasMove, NewMove},
};

/// `POST /v1/models/{model}/aliases/{alias}`.
pub(super) async fn set(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedAlias { model, alias }: NamedAlias,
    Sent(AliasRequest { version, expect, reason, job }): Sent<AliasRequest>,
) -> Result<Json<MovedView>, Failure> {
    if let Some(Problem { message, hint, .. }) = alias::problem(&alias) {
        return Err(Failure::bad_request(message, hint.unwrap_or_default()));
    }
    let pick = version.as_deref().map_or(Ok(Pick::Newest), Pick::parse);
    let pick = pick.map_err(|why| Failure::bad_request(why, "name a version by its number or by an alias"))?;
    let version = api.store.model_version(&model, &pick).await?.version;
    change(&api, peer, (model, Change::Set { alias, version }), MoveQuery { expect, reason, job }).await
}

/// `DELETE /v1/models/{model}/aliases/{alias}`.
pub(super) async fn clear(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedAlias { model, alias }: NamedAlias,
    Asked(terms): Asked<MoveQuery>,
) -> Result<Json<MovedView>, Failure> {
    change(&api, peer, (model, Change::Clear { alias }), terms).await
}

/// `POST /v1/models/{model}/rollback`.
pub(super) async fn roll_back(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    NamedModel(model): NamedModel,
    Sent(terms): Sent<MoveQuery>,
) -> Result<Json<MovedView>, Failure> {
    change(&api, peer, (model, Change::RollBack), terms).await
}

async fn change(
    api: &Shared,
    peer: Peer,
    (model, change): (String, Change),
    MoveQuery { expect, reason, job }: MoveQuery,
) -> Result<Json<MovedView>, Failure> {
    api.check_sound()?;
    if let Some(Problem { message, hint, .. }) = reason.as_deref().and_then(alias::reason_problem) {
        return Err(Failure::bad_request(message, hint.unwrap_or_default()));
    }
    let job = match job {
        Some(job) => Some(api.store.find(&job).await?),
        None => None,
    };
    let alias = change.alias().to_owned();
    let asked = match change {
        Change::Set { version, .. } => Some(version),
        Change::Clear { .. } | Change::RollBack => None,
    };
    let new = NewMove { model: model.clone(), change, expect, by: peer.uid, job, reason };
    let moves = api.store.move_alias(new).await?;
    let version = moves.first().map_or(asked, |first| first.version);
    let scene = api.scene();
    let moves = moves.into_iter().map(|moved| view(moved, &scene)).collect();
    Ok(Json(MovedView { schema: SCHEMA, model, alias, version, moves }))
}

/// A move as it is shown.
pub(super) fn view(moved: AliasMove, scene: &Scene) -> AliasMoveView {
    let AliasMove { alias, before, version, reason, job, by, at } = moved;
    AliasMoveView { alias, before, version, reason, job, moved_by: scene.name(by), moved_at: at }
}
