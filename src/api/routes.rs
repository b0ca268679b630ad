//! Every route there is, in one table, from which the router is made: what is not in it is refused. Called when the API begins to serve, and by the tests, which
//! try each of them.

use std::{panic::AssertUnwindSafe, time::Duration};

use axum::{
    Router,
    extract::Request,
    handler::Handler,
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{self, MethodRouter},
};
use futures_util::FutureExt as _;
use tokio::time::timeout;
use tracing::error;

use super::{
    Context, aliases, apply, array_submit, arrays, backfill, checkpoints, control, daemon, datasets, db, devices,
    doctor, download, error::Failure, follow, gc, jobs, logs, models, notify, queues, removal, schedules, submit,
    types::ErrorCode,
};

/// How long an answer may take to begin.
const LIMIT: Duration = Duration::from_secs(30);

/// The same for what waits for a worker, or looks at the whole of something. Longer than the supervisor's limit for a checkpoint, which has the better message.
const LONG_LIMIT: Duration = Duration::from_secs(90);

/// For reading all of a job's checkpoints back: as long as a client waits.
const VERIFY_LIMIT: Duration = Duration::from_secs(3600);

struct Route {
    method: Method,
    path: &'static str,
    answer: MethodRouter<Context>,
    limit: Duration,
}

fn get<T: 'static>(path: &'static str, handler: impl Handler<T, Context>) -> Route {
    Route { method: Method::GET, path, answer: routing::get(handler), limit: LIMIT }
}

fn post<T: 'static>(path: &'static str, handler: impl Handler<T, Context>) -> Route {
    Route { method: Method::POST, path, answer: routing::post(handler), limit: LIMIT }
}

fn delete<T: 'static>(path: &'static str, handler: impl Handler<T, Context>) -> Route {
    Route { method: Method::DELETE, path, answer: routing::delete(handler), limit: LIMIT }
}

impl Route {
    fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }
}

fn all() -> Vec<Route> {
    let registry = [
        get("/v1/models", models::list),
        get("/v1/models/{model}", models::show),
        post("/v1/models/{model}", models::register).within(VERIFY_LIMIT),
        delete("/v1/models/{model}/versions/{version}", models::remove),
        get("/v1/models/{model}/versions/{version}/objects/{object}", download::version_object).within(LONG_LIMIT),
        post("/v1/models/{model}/aliases/{alias}", aliases::set),
        delete("/v1/models/{model}/aliases/{alias}", aliases::clear),
        post("/v1/models/{model}/rollback", aliases::roll_back),
        get("/v1/datasets", datasets::list),
        get("/v1/datasets/{dataset}", datasets::show),
        post("/v1/datasets/{dataset}", datasets::add).within(LONG_LIMIT),
        get("/v1/datasets/{dataset}/versions/{version}", datasets::detail).within(LONG_LIMIT),
        delete("/v1/datasets/{dataset}/versions/{version}", datasets::remove),
        post("/v1/gc", gc::collect),
        get("/v1/notify", notify::list),
        post("/v1/notify/{hook}/test", notify::test).within(VERIFY_LIMIT),
    ];
    others().into_iter().chain(registry).collect()
}

/// All but those about the registry and about notifications.
fn others() -> Vec<Route> {
    vec![
        get("/v1/jobs", jobs::list),
        post("/v1/jobs", submit::submit),
        get("/v1/jobs/{job}", jobs::show),
        delete("/v1/jobs/{job}", removal::job).within(LONG_LIMIT),
        get("/v1/jobs/{job}/spec", jobs::spec),
        get("/v1/jobs/{job}/attempts", jobs::attempts),
        get("/v1/jobs/{job}/events", jobs::events),
        get("/v1/jobs/{job}/metrics", jobs::metrics),
        get("/v1/jobs/{job}/follow", follow::follow),
        get("/v1/jobs/{job}/logs", logs::logs),
        get("/v1/jobs/{job}/why", jobs::why),
        get("/v1/jobs/{job}/checkpoints", checkpoints::list),
        get("/v1/jobs/{job}/checkpoints/{step}", checkpoints::show),
        delete("/v1/jobs/{job}/checkpoints/{step}", checkpoints::remove).within(LONG_LIMIT),
        get("/v1/jobs/{job}/checkpoints/{step}/objects/{object}", download::checkpoint_object).within(LONG_LIMIT),
        get("/v1/jobs/{job}/model", download::model).within(LONG_LIMIT),
        get("/v1/jobs/{job}/model/objects/{object}", download::model_object).within(LONG_LIMIT),
        post("/v1/jobs/{job}/checkpoints/verify", checkpoints::verify).within(VERIFY_LIMIT),
        post("/v1/jobs/{job}/checkpoint", checkpoints::take).within(LONG_LIMIT),
        post("/v1/jobs/{job}/cancel", control::cancel),
        post("/v1/jobs/{job}/stop", control::stop),
        post("/v1/jobs/{job}/pause", control::pause),
        post("/v1/jobs/{job}/hold", control::hold),
        post("/v1/jobs/{job}/release", control::release),
        post("/v1/jobs/{job}/edit", control::edit),
        post("/v1/jobs/{job}/retry", control::retry),
        post("/v1/arrays", array_submit::submit),
        get("/v1/arrays/{array}", arrays::show),
        delete("/v1/arrays/{array}", removal::array).within(VERIFY_LIMIT),
        get("/v1/arrays/{array}/follow", arrays::follow),
        post("/v1/arrays/{array}/cancel", arrays::cancel),
        post("/v1/arrays/{array}/stop", arrays::stop),
        post("/v1/arrays/{array}/edit", arrays::edit),
        post("/v1/arrays/{array}/hold", arrays::hold),
        post("/v1/arrays/{array}/pause", arrays::pause),
        post("/v1/arrays/{array}/release", arrays::release),
        post("/v1/arrays/{array}/retry", arrays::retry),
        get("/v1/schedules", schedules::list),
        post("/v1/apply", apply::apply).within(LONG_LIMIT),
        post("/v1/schedules", schedules::add),
        get("/v1/schedules/{schedule}", schedules::show),
        delete("/v1/schedules/{schedule}", schedules::remove),
        get("/v1/schedules/{schedule}/preview", schedules::preview),
        post("/v1/schedules/{schedule}/pause", schedules::pause),
        post("/v1/schedules/{schedule}/resume", schedules::resume),
        post("/v1/schedules/{schedule}/run", schedules::run),
        post("/v1/schedules/{schedule}/backfill", backfill::backfill).within(LONG_LIMIT),
        get("/v1/queues", queues::list),
        get("/v1/queues/{queue}", queues::show),
        post("/v1/queues/{queue}", queues::set),
        delete("/v1/queues/{queue}", queues::remove),
        get("/v1/devices", devices::list),
        post("/v1/devices/{device}", devices::assign),
        get("/v1/daemon", daemon::show),
        post("/v1/daemon/drain", daemon::drain),
        post("/v1/daemon/reload", daemon::reload),
        post("/v1/daemon/resume", daemon::resume),
        post("/v1/daemon/stop", daemon::stop),
        get("/v1/db/backups", db::backups).within(LONG_LIMIT),
        post("/v1/db/backup", db::backup).within(VERIFY_LIMIT),
        post("/v1/db/check", db::check).within(VERIFY_LIMIT),
        get("/v1/doctor", doctor::examine).within(LONG_LIMIT),
    ]
}

/// Method and path of every route.
#[must_use]
pub fn table() -> Vec<(Method, &'static str)> {
    all().into_iter().map(|route| (route.method, route.path)).collect()
}

/// The router: these routes, each bounded in time, and a refusal for everything else.
pub(super) fn router(api: Context) -> Router {
    let mut router = Router::new();
    for Route { path, answer, limit, .. } in all() {
        let bounded = middleware::from_fn(move |request, next| bounded(limit, request, next));
        router = router.route(path, answer.layer(bounded));
    }
    router.fallback(unknown_path).method_not_allowed_fallback(unknown_method).with_state(api)
}

/// An answer, or why there is none: a handler that takes too long is dropped, and one that panics ends nothing but itself.
async fn bounded(limit: Duration, request: Request, next: Next) -> Response {
    match timeout(limit, AssertUnwindSafe(next.run(request)).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            error!("a handler panicked: the panic's own message is above");
            let message = "the daemon met a bug in itself";
            Failure::new(ErrorCode::Internal, message, "its log has what led to it; nothing acknowledged is lost")
                .into_response()
        }
        Err(_) => {
            let message = format!("there was no answer within {} seconds", limit.as_secs());
            Failure::new(ErrorCode::Timeout, message, "try again; `mlctl doctor` looks for what is slow")
                .into_response()
        }
    }
}

async fn unknown_path(uri: Uri) -> Failure {
    let shown: String = uri.path().chars().take(200).collect();
    let hint = "mlctl and mld may be of different versions: compare `mlctl version` with `mlctl daemon status`";
    Failure::bad_request(format!("there is nothing at {shown}"), hint).with_status(StatusCode::NOT_FOUND)
}

async fn unknown_method(method: Method, uri: Uri) -> Failure {
    let shown: String = uri.path().chars().take(200).collect();
    let hint = "mlctl and mld may be of different versions: compare `mlctl version` with `mlctl daemon status`";
    let message = format!("{method} is not possible at {shown}");
    Failure::bad_request(message, hint).with_status(StatusCode::METHOD_NOT_ALLOWED)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    async fn answered<T: 'static>(handler: impl Handler<T, ()>, limit: Duration) -> StatusCode {
        let bounded = middleware::from_fn(move |request, next| bounded(limit, request, next));
        let router: Router = Router::new().route("/", routing::get(handler).layer(bounded));
        let answer = TowerToHyperService::new(router).call(Request::new(Body::empty())).await;
        answer.unwrap().status()
    }

    #[tokio::test]
    async fn a_handler_that_panics_or_never_ends_is_answered_for() {
        async fn fine() {}
        async fn bug() {
            panic!("a bug, on purpose");
        }
        let long = Duration::from_secs(60);
        assert_eq!(answered(fine, long).await, StatusCode::OK);
        assert_eq!(answered(bug, long).await, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answered(std::future::pending::<()>, Duration::from_millis(1)).await, StatusCode::GATEWAY_TIMEOUT);
    }
}
