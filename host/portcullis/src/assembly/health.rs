//! `/healthz`, `/readyz` and `/metrics`.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use portcullis_gateway::Settings as DoorSettings;
use portcullis_telemetry::Metrics;

use super::{keeper::Keeper, status::missing};

#[derive(Clone)]
struct Health {
    keeper: Arc<Keeper>,
    metrics: Arc<Metrics>,
    /// What the operator says about the door: a rebound name or a foreign page reads nothing here either.
    door: DoorSettings,
}

/// Headers by which a proxy says that it speaks for somebody else.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// Health, and metrics where `with_metrics` says so (for loopback clients where the listener has others as well).
pub fn router(keeper: Arc<Keeper>, metrics: Arc<Metrics>, door: DoorSettings, with_metrics: bool) -> Router {
    let router = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready));
    let router = if with_metrics { router.route("/metrics", get(numbers)) } else { router };
    router.with_state(Health { keeper, metrics, door })
}

/// 200 once gateways have been compiled, with the names of those that lack something: one team's broken plugin must not take
/// everybody else's gateway out of a load balancer. Details that a stranger should not learn are in `portcullis doctor`.
async fn ready(State(health): State<Health>, uri: Uri, headers: HeaderMap) -> Response {
    if health.is_foreign(&uri, &headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let ready = health.keeper.rounds() > 0;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": ready, "missing": missing(&health.keeper) }))).into_response()
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
