//! Handlers about notifications: how the hooks stand, and a test of one. Called by the router, and by the doctor. What hooks there are, the settings say alone.

use axum::{Json, extract::State};

use super::{
    Context, Shared,
    error::Failure,
    extract::NamedHook,
    types::{ErrorCode, HookList, HookState, HookView, SCHEMA, TestedView},
};
use crate::{pipeline::notify::HookStatus, store::StoreError};

/// `GET /v1/notify`.
pub(super) async fn list(State(api): State<Context>) -> Result<Json<HookList>, Failure> {
    Ok(Json(HookList { schema: SCHEMA, hooks: views(&api).await? }))
}

/// `POST /v1/notify/{hook}/test`.
pub(super) async fn test(State(api): State<Context>, NamedHook(name): NamedHook) -> Result<Json<TestedView>, Failure> {
    let Some(outcome) = api.notifier.test(&name).await else {
        let shown: String = name.chars().take(60).collect();
        let message = format!("there is no hook {shown:?}");
        return Err(Failure::new(
            ErrorCode::NotFound,
            message,
            "`mlctl notify ls` lists all; [[notify]] in mld.toml makes one",
        ));
    };
    let error = outcome.why().map(str::to_owned);
    Ok(Json(TestedView { schema: SCHEMA, name, delivered: error.is_none(), error }))
}

/// All hooks.
pub(super) async fn views(api: &Shared) -> Result<Vec<HookView>, StoreError> {
    Ok(api.notifier.hooks().await?.into_iter().map(view).collect())
}

fn view(status: HookStatus) -> HookView {
    let HookStatus { hook, standing, fault } = status;
    let standing = standing.unwrap_or_default();
    let state = match (&fault, standing.failing_since) {
        (Some(_), _) => HookState::Broken,
        (None, Some(_)) => HookState::Failing,
        (None, None) => HookState::Ok,
    };
    HookView {
        on: hook.on.iter().map(|topic| topic.name().to_owned()).collect(),
        filter: hook.filter.as_ref().map(ToString::to_string),
        channel: hook.channel.name().to_owned(),
        target: hook.channel.target(),
        name: hook.name,
        state,
        delivered: standing.delivered,
        delivered_at: standing.delivered_at,
        failing_since: standing.failing_since,
        tries: standing.tries,
        next_try: standing.next_try,
        error: fault.or(standing.error),
        given_up: standing.given_up,
        missed: standing.missed,
        lost_at: standing.lost_at,
    }
}
