//! `/healthz`, `/readyz` and `/metrics`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

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
    /// Whether the process was asked to end.
    pub leaving: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Health {
    watched: Watched,
    metrics: Arc<Metrics>,
    /// What the operator says about the door: a rebound name or a foreign page reads nothing here either.
    door: DoorSettings,
    readers: Readers,
}

/// Headers by which a proxy says that it speaks for somebody else.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// Who may read metrics at a listener.
#[derive(Clone, Debug)]
pub enum Readers {
    /// Nobody: they are elsewhere.
    None,
    /// Clients of this machine, and those of these networks.
    LoopbackAnd(Vec<ipnet::IpNet>),
}

impl Readers {
    fn has(&self, peer: IpAddr) -> bool {
        match self {
            Self::None => false,
            Self::LoopbackAnd(networks) => peer.is_loopback() || networks.iter().any(|network| network.contains(&peer)),
        }
    }
}

/// Health, and metrics for those who may read them.
pub fn router(watched: Watched, metrics: Arc<Metrics>, door: DoorSettings, readers: Readers) -> Router {
    let router = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready));
    let router = if matches!(readers, Readers::None) { router } else { router.route("/metrics", get(numbers)) };
    router.with_state(Health { watched, metrics, door, readers })
}

/// 200 once gateways have been compiled and while the store is not out of reach for too long, with the names of those that lack something: one team's broken plugin must not take
/// everybody else's gateway out of a load balancer. Details that a stranger should not learn are in `portcullis doctor`.
async fn ready(State(health): State<Health>, uri: Uri, headers: HeaderMap) -> Response {
    if health.is_foreign(&uri, &headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    // While calls go on without the store it stays ready: otherwise a load balancer would take away all gateways at once.
    let leaving = health.watched.leaving.load(Ordering::Relaxed);
    let ready = !leaving && health.watched.keeper.rounds() > 0 && !health.watched.currency.is_over();
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
    if forwarded || !health.readers.has(peer.ip().to_canonical()) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_for_this_machine_and_the_networks_that_are_named() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let local = Readers::LoopbackAnd(Vec::new());
        assert!(local.has(address("127.0.0.1")) && local.has(address("::1")) && !local.has(address("10.1.2.3")));
        let named = Readers::LoopbackAnd(vec!["10.1.0.0/16".parse().unwrap()]);
        assert!(named.has(address("10.1.2.3")) && named.has(address("127.0.0.1")));
        assert!(!named.has(address("10.2.0.1")) && !named.has(address("fd00::1")));
        assert!(!Readers::None.has(address("127.0.0.1")));
    }
}
