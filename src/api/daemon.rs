//! Handlers about the daemon itself: what it is, its settings read again, its drain and its stop. Called by the router.

use std::time::Duration;

use axum::{Extension, Json, extract::State};
use tracing::info;

use super::{
    Context, Reloaded, Shared,
    error::Failure,
    extract::Sent,
    permit::Peer,
    types::{DaemonView, DispatchView, DrainRequest, ErrorCode, ReloadView, ResumeView, SCHEMA, StopView},
    view,
};
use crate::scheduler::dispatch::DAMAGED_HINT;

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
        dispatch: api.dispatch_view(),
    }))
}

/// `POST /v1/daemon/drain`. Returns when no job is being started any more. Another drain takes the place of an earlier one.
pub(super) async fn drain(
    State(api): State<Context>,
    Extension(peer): Extension<Peer>,
    Sent(request): Sent<DrainRequest>,
) -> Json<DispatchView> {
    let DrainRequest { patience_seconds, stop } = request;
    api.dispatch.drain(peer.uid, patience_seconds.map(Duration::from_secs), stop).await;
    Json(api.dispatch_view())
}

/// `POST /v1/daemon/reload`. A mistake changes nothing.
pub(super) async fn reload(State(api): State<Context>) -> Result<Json<ReloadView>, Failure> {
    let reload = api.reload.clone();
    let read = tokio::task::spawn_blocking(move || reload()).await;
    let read = read.map_err(|error| Failure::internal("the settings cannot be read", &error))?;
    let Reloaded { applied, pending } = read.map_err(|why| {
        let hint = "correct them and reload again; until then the settings that were in force stay so";
        Failure::new(ErrorCode::SettingsInvalid, why, hint)
    })?;
    Ok(Json(ReloadView { schema: SCHEMA, applied, pending }))
}

/// `POST /v1/daemon/resume`.
pub(super) async fn resume(State(api): State<Context>, Extension(peer): Extension<Peer>) -> Json<ResumeView> {
    Json(ResumeView { schema: SCHEMA, resumed: api.dispatch.resume(peer.uid) })
}

/// `POST /v1/daemon/stop`. The answer is on its way before anything is closed.
pub(super) async fn stop(State(api): State<Context>) -> Result<Json<StopView>, Failure> {
    let counts = api.store.counts().await?;
    let running = counts.into_iter().find(|(state, _)| state == "running").map_or(0, |(_, jobs)| jobs);
    info!("stopping: a client asked for it; workers go on");
    api.stop_daemon.cancel();
    Ok(Json(StopView { schema: SCHEMA, stopping: true, pid: std::process::id(), running }))
}

impl Shared {
    fn dispatch_view(&self) -> DispatchView {
        view::dispatch::view(self.dispatch.standing(), self.supervisor.attempts(), &self.scene())
    }

    /// Refuses what is new while the database is known to be damaged: it would be lost with it.
    pub(super) fn check_sound(&self) -> Result<(), Failure> {
        if self.dispatch.standing().frozen.is_none() {
            return Ok(());
        }
        let message = "the database is damaged, and nothing new is taken: it could be lost with it";
        Err(Failure::new(ErrorCode::Damaged, message, DAMAGED_HINT))
    }
}
