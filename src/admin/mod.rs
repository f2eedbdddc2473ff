//! Shell: the admin interface. Every path in one table; readers get snapshots and never lock a shard.

mod exposition;
pub mod view;

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::alert::Event;
use crate::route::{Question, explain};
use crate::server::licensing;
use crate::server::watch::Watch;
use crate::server::{Handle, Published, names};
use crate::sinks;
use crate::vault::wall_now;
use exposition::Exposition;
use view::{CallsView, Peer, Problem, View};

/// Calls listed at most in one answer.
const CALLS_MAX: usize = 10_000;

struct Admin {
    handle: Handle,
    exposition: Mutex<Exposition>,
}

/// Runs the control side on the current thread until told to stop.
pub(crate) fn serve(
    handle: Handle,
    (to_be_told, questions): (mpsc::Receiver<Event>, mpsc::Receiver<Question>),
    socket: Option<TcpListener>,
    mut published: mpsc::Receiver<Published>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "no runtime for the admin interface"),
    };
    runtime.block_on(async {
        tokio::spawn(names::run(handle.clone(), questions));
        tokio::spawn(sinks::run(Arc::clone(handle.node()), to_be_told));
        tokio::spawn(licensing::keep(handle.licensing(), Arc::clone(handle.node())));
        let admin = Arc::new(Admin { handle, exposition: Mutex::new(Exposition::new()) });
        if let Some(socket) = socket {
            let app = routes(Arc::clone(&admin));
            match tokio::net::TcpListener::from_std(socket) {
                Ok(listener) => {
                    tokio::spawn(async move {
                        // axum survives accept errors; this returns only when the runtime ends.
                        if let Err(error) = axum::serve(listener, app).await {
                            tracing::error!(%error, "the admin interface ended");
                        }
                    });
                }
                Err(error) => tracing::error!(%error, "the admin interface cannot listen"),
            }
        }
        let mut watch = Watch::default();
        let collect = async {
            while let Some(copy) = published.recv().await {
                let node = admin.handle.node();
                watch.look(node.now(), wall_now(), &copy).iter().for_each(|event| node.raise(event));
                admin.exposition.lock().unwrap_or_else(PoisonError::into_inner).take(copy);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = collect => {}
            // The sender gone says the same.
            _ = stopped => {}
        }
    });
    runtime.shutdown_background();
}

fn routes(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/pools", get(pools))
        .route("/api/v1/targets", get(targets))
        .route("/api/v1/targets/{name}/drain", post(drain))
        .route("/api/v1/calls", get(calls))
        .route("/api/v1/calls/{slot}", get(story))
        .route("/api/v1/calls/{slot}/end", post(async |state, path| end(state, path, false)))
        .route("/api/v1/calls/{slot}/release", post(async |state, path| end(state, path, true)))
        .route("/api/v1/events", get(events))
        .route("/api/v1/explain", get(explained))
        .route("/api/v1/sinks/{name}/test", post(test_sink))
        .route("/api/v1/reload", post(reload))
        .with_state(admin)
}

async fn index() -> &'static str {
    "sipweir\n\n/metrics         Prometheus text\n/healthz         200 while the process lives\n/readyz          200 while it takes calls\n\
     /api/v1/pools    pools, services and trunks\n/api/v1/targets  addresses of targets, and which of them live\n\
     /api/v1/targets/NAME/drain  POST: no new calls to a URI of it (?uri= &on=true|false)\n/api/v1/calls    calls in progress (?pool= &service= &trunk= &limit=)\n\
     /api/v1/calls/SLOT          why a call is there and holds what it holds\n     /api/v1/calls/SLOT/end      POST: end a call\n     /api/v1/calls/SLOT/release  POST: give a call's channel back, the call goes on\n     /api/v1/events   the last events\n/api/v1/explain  what would happen to a call (?trunk= &number=)\n\
     /api/v1/sinks/NAME/test  POST: send a test to a sink\n\
     /api/v1/reload   POST: read the configuration again\n"
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    if admin.handle.node().is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    let text = admin.exposition.lock().unwrap_or_else(PoisonError::into_inner).render(admin.handle.node());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn pools(State(admin): State<Arc<Admin>>) -> Json<View> {
    Json(View::of(admin.handle.node()))
}

async fn targets(State(admin): State<Arc<Admin>>) -> Json<Vec<Peer>> {
    let exposition = admin.exposition.lock().unwrap_or_else(PoisonError::into_inner);
    Json(exposition.peers().iter().map(Peer::from).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainQuery {
    uri: String,
    on: bool,
}

async fn drain(State(admin): State<Arc<Admin>>, Path(name): Path<String>, Query(query): Query<DrainQuery>) -> Response {
    let config = admin.handle.node().config();
    let is_it = |target: &&crate::config::Target| *target.name == *name;
    let target = config.targets.iter().find(is_it);
    if !target.is_some_and(|target| target.uris.iter().any(|uri| *uri.text == *query.uri)) {
        return (StatusCode::NOT_FOUND, Json(Problem::no_uri(&config, &name, &query.uri))).into_response();
    }
    match admin.handle.drain(&name, &query.uri, query.on) {
        Ok(()) => Json(serde_json::json!({ "target": name, "uri": query.uri, "draining": query.on })).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallsQuery {
    pool: Option<String>,
    service: Option<String>,
    trunk: Option<String>,
    limit: Option<usize>,
}

async fn calls(State(admin): State<Arc<Admin>>, Query(query): Query<CallsQuery>) -> Json<CallsView> {
    let limit = query.limit.unwrap_or(100).min(CALLS_MAX);
    let wanted = |name: &Option<String>, value: Option<&str>| name.as_deref().is_none_or(|name| Some(name) == value);
    Json(CallsView::of(admin.handle.node(), limit, |trunk, service, pool| {
        wanted(&query.trunk, Some(trunk)) && wanted(&query.service, service) && wanted(&query.pool, pool)
    }))
}

fn end(State(admin): State<Arc<Admin>>, Path(slot): Path<u64>, keeps_call: bool) -> Response {
    if admin.handle.node().slots.get(slot).is_none() {
        return (StatusCode::NOT_FOUND, Json(Problem::no_call(slot))).into_response();
    }
    match admin.handle.end_call(slot, keeps_call) {
        Ok(()) => Json(serde_json::json!({ "slot": slot })).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn story(State(admin): State<Arc<Admin>>, Path(slot): Path<u64>) -> Response {
    match admin.handle.story(slot).await {
        Ok(Some(story)) => Json(story).into_response(),
        Ok(None) => (StatusCode::NOT_FOUND, Json(Problem::no_call(slot))).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
    }
}

async fn events(State(admin): State<Arc<Admin>>) -> Response {
    Json(admin.handle.node().events()).into_response()
}

#[derive(Deserialize)]
struct ExplainQuery {
    trunk: String,
    number: String,
}

async fn explained(State(admin): State<Arc<Admin>>, Query(query): Query<ExplainQuery>) -> Response {
    let node = admin.handle.node();
    let Some(router) = node.router() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let peers: Vec<Peer> = {
        let exposition = admin.exposition.lock().unwrap_or_else(PoisonError::into_inner);
        exposition.peers().iter().map(Peer::from).collect()
    };
    let closed = |target: &str, address: &str| {
        let is_it = |peer: &&Peer| peer.target == target && peer.address == address;
        peers.iter().find(is_it).map(|peer| peer.state.clone()).filter(|state| state != "up")
    };
    match explain(&router, &node.gate, (&query.trunk, &query.number), Some(&closed)) {
        Some(explanation) => Json(explanation).into_response(),
        None => (StatusCode::NOT_FOUND, Json(Problem::no_trunk(&router.config, &query.trunk))).into_response(),
    }
}

/// What the other side of a sink said.
#[derive(Serialize)]
struct Tested {
    delivered: bool,
    answer: String,
}

async fn test_sink(State(admin): State<Arc<Admin>>, Path(name): Path<String>) -> Response {
    let node = admin.handle.node();
    let config = node.config();
    let Some(sink) = config.sinks.iter().find(|sink| *sink.name == *name) else {
        return (StatusCode::NOT_FOUND, Json(Problem::no_sink(&config, &name))).into_response();
    };
    let (delivered, answer) = match sinks::test(sink, node).await {
        Ok(answer) => (true, answer),
        Err(error) => (false, error.to_string()),
    };
    Json(Tested { delivered, answer }).into_response()
}

/// What a reload says: no problems, or every one.
#[derive(Serialize)]
struct Reloaded {
    problems: Vec<String>,
}

async fn reload(State(admin): State<Arc<Admin>>) -> Response {
    match admin.handle.reload() {
        Ok(()) => (StatusCode::ACCEPTED, Json(Reloaded { problems: Vec::new() })).into_response(),
        Err(error) => {
            let problems = error.to_string().lines().map(str::to_owned).collect();
            (StatusCode::CONFLICT, Json(Reloaded { problems })).into_response()
        }
    }
}
