//! Connections: accepted, bounded in number and time, ended. Called by [`Api::run`](super::Api::run). What is said on them is the router's.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    Context,
    permit::{self, Peer},
    routes,
};
use crate::domain::Uid;

/// Connections at a time; who comes later waits in the socket's backlog. More than streams, so that followers never keep others out.
const MAX_CONNECTIONS: usize = 256;

/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// What is kept of a client's bytes before they are looked at, at most.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// How long the socket is left alone when it fails: descriptors are used up.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// When connections end.
#[derive(Clone)]
struct Ends {
    /// After the request under way.
    soft: CancellationToken,
    /// At once.
    hard: CancellationToken,
}

pub(super) async fn run(api: Context, listener: UnixListener) {
    let ends = Ends { soft: api.stop.clone(), hard: CancellationToken::new() };
    let connections = TaskTracker::new();
    let routes = TowerToHyperService::new(routes::router(api.clone()));
    let accepting = accept(&listener, |stream, slot| {
        connections.spawn(serve(api.clone(), routes.clone(), stream, slot, ends.clone()));
    });
    ends.soft.run_until_cancelled(accepting).await;
    drop(listener);
    connections.close();
    api.tasks.close();
    if timeout(api.config.patience.drain, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "some clients were cut off");
        ends.hard.cancel();
        connections.wait().await;
    }
    // Streams end with the stop, whatever their clients do.
    api.tasks.wait().await;
}

async fn accept(listener: &UnixListener, mut serve: impl FnMut(UnixStream, OwnedSemaphorePermit)) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // It is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => serve(stream, slot),
            Err(error) => {
                warn!(%error, "no connection can be accepted for the moment");
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// A connection, from its first byte to its last.
async fn serve(
    api: Context,
    routes: TowerToHyperService<axum::Router>,
    stream: UnixStream,
    _slot: OwnedSemaphorePermit,
    ends: Ends,
) {
    let peer = match stream.peer_cred() {
        Ok(peer) => Peer { uid: Uid(peer.uid()) },
        Err(error) => return warn!(%error, "a client that the kernel does not know is not served"),
    };
    let permitted = permit::check(peer, api.owner, api.config.group_access);
    let answer = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (routes, permitted) = (routes.clone(), permitted.clone());
        async move {
            match permitted {
                Ok(()) => routes.call(request).await,
                Err(failure) => Ok::<Response<Body>, Infallible>(failure.into_response()),
            }
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(api.config.patience.head)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_BUFFER_BYTES);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = ends.soft.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = ends.hard.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended early");
    }
}
