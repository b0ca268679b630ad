//! Handlers about the daemon itself: what it is, and its stop. Called by the router.

use axum::{Json, extract::State};
use tracing::info;

use super::{
    Context,
    error::Failure,
    types::{DaemonView, SCHEMA, StopView},
};

/// `GET /v1/daemon`.
pub(super) async fn show(State(api): State<Context>) -> Result<Json<DaemonView>, Failure> {
    let config = &api.config;
    let instance = api.store.instance();
    Ok(Json(DaemonView {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").into(),
        worker: config.programs.worker.display().to_string(),
        pid: std::process::id(),
        uid: api.owner.0,
        started_at: api.started_at,
        now: api.clock.now(),
        state_dir: config.state_dir.display().to_string(),
        socket: config.socket.display().to_string(),
        storage_url: config.storage_url.clone(),
        instance: instance.id.clone(),
        epoch: instance.epoch,
        machine: api.supervisor.machine().totals(),
        used: api.supervisor.machine().used(&api.supervisor.free()),
        jobs: api.store.counts().await?.into_iter().collect(),
    }))
}

/// `POST /v1/daemon/stop`. The answer is on its way before anything is closed.
pub(super) async fn stop(State(api): State<Context>) -> Result<Json<StopView>, Failure> {
    let counts = api.store.counts().await?;
    let running = counts.into_iter().find(|(state, _)| state == "running").map_or(0, |(_, jobs)| jobs);
    info!("stopping: a client asked for it; workers go on");
    api.stop_daemon.cancel();
    Ok(Json(StopView { schema: SCHEMA, stopping: true, pid: std::process::id(), running }))
}
