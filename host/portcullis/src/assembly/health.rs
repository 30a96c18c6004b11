//! `/healthz`, `/readyz` and `/metrics`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use portcullis_gateway::{Currency, Settings as DoorSettings};
use portcullis_telemetry::Metrics;

use super::{keeper::Keeper, status::missing};

/// What says whether it can serve.
#[derive(Clone)]
pub struct Watched {
    /// Whether gateways are compiled.
    pub keeper: Arc<Keeper>,
    /// Whether what is served is up to date.
    pub currency: Currency,
}

#[derive(Clone)]
struct Health {
    watched: Watched,
    metrics: Arc<Metrics>,
    /// What the operator says about the door: a rebound name or a foreign page reads nothing here either.
    door: DoorSettings,
}

/// Headers by which a proxy says that it speaks for somebody else.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// Health, and metrics where `with_metrics` says so (for loopback clients where the listener has others as well).
pub fn router(watched: Watched, metrics: Arc<Metrics>, door: DoorSettings, with_metrics: bool) -> Router {
    let router = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready));
    let router = if with_metrics { router.route("/metrics", get(numbers)) } else { router };
    router.with_state(Health { watched, metrics, door })
}

/// 200 once gateways have been compiled and while the store is not out of reach for too long, with the names of those that lack something: one team's broken plugin must not take
/// everybody else's gateway out of a load balancer. Details that a stranger should not learn are in `portcullis doctor`.
async fn ready(State(health): State<Health>, uri: Uri, headers: HeaderMap) -> Response {
    if health.is_foreign(&uri, &headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    // While calls go on without the store it stays ready: otherwise a load balancer would take away all gateways at once.
    let ready = health.watched.keeper.rounds() > 0 && !health.watched.currency.is_over();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": ready, "missing": missing(&health.watched) }))).into_response()
}

async fn numbers(
    State(health): State<Health>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if health.is_foreign(&uri, &headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    // What is served, how often and for which tenants is nobody's business but the operator's. A proxy on this machine is a
    // loopback peer too, and its clients are not.
    let forwarded = FORWARDED.iter().any(|name| headers.contains_key(*name));
    if forwarded || !peer.ip().to_canonical().is_loopback() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(Metrics::CONTENT_TYPE))];
    (kind, health.metrics.encode()).into_response()
}

impl Health {
    fn is_foreign(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        self.door.check_origin(uri.authority().map(|a| a.as_str()), headers).is_err()
    }
}
