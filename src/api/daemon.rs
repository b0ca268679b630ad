//! Handlers about the daemon itself: what it is, and its stop. Called by the router.

use axum::{Json, extract::State};
use tracing::info;

use super::{
    Context, Shared,
    error::Failure,
    types::{DaemonView, SCHEMA, StopView},
};
use crate::store::StoreError;

/// `GET /v1/daemon`.
pub(super) async fn show(State(api): State<Context>) -> Result<Json<DaemonView>, Failure> {
    let config = &api.config;
    let instance = api.store.instance();
    Ok(Json(DaemonView {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").into(),
        worker: config.worker.display().to_string(),
        pid: std::process::id(),
        uid: api.owner.0,
        started_at: api.started_at,
        now: api.clock.now(),
        state_dir: config.state_dir.display().to_string(),
        socket: config.socket.display().to_string(),
        storage_url: config.storage_url.clone(),
        instance: instance.id.clone(),
        epoch: instance.epoch,
        machine: api.supervisor.machine(),
        used: api.supervisor.used(),
        jobs: api.store.counts().await?.into_iter().collect(),
    }))
}

/// `POST /v1/daemon/stop`. The answer is on its way before anything is closed.
pub(super) async fn stop(State(api): State<Context>) -> Result<Json<StopView>, Failure> {
    let running = count(&api, &["running"]).await?;
    info!("stopping: a client asked for it; workers go on");
    api.stop_daemon.cancel();
    Ok(Json(StopView { schema: SCHEMA, stopping: true, pid: std::process::id(), running }))
}

/// Jobs in some states.
pub(super) async fn count(api: &Shared, states: &[&str]) -> Result<u64, StoreError> {
    let counts = api.store.counts().await?;
    Ok(counts.iter().filter(|(name, _)| states.contains(&name.as_str())).map(|(_, jobs)| jobs).sum())
}
