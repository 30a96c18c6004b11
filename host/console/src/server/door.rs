//! The admin API over TCP: the same routes as on the socket, for whoever brings a token that was made for it.
//!
//! A route is served here only where [`OPEN`] names it: one that is added for the socket stays the socket's until somebody has
//! thought about who may use it.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderValue, header},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use portcullis_identity::{AdminDoor, AdminRefusal};
use portcullis_model::{Principal, Side};

use super::{Admin, Who, reply};
use crate::api::ApiError;

/// Routes whose handlers ask what the caller may do.
const OPEN: [(&str, &str); 16] = [
    ("GET", "/v1/status"),
    ("GET", "/v1/doctor"),
    ("POST", "/v1/explain"),
    ("POST", "/v1/apply"),
    ("GET", "/v1/resources"),
    ("GET", "/v1/resources/{kind}/{name}"),
    ("DELETE", "/v1/resources/{kind}/{name}"),
    ("GET", "/v1/resources/{kind}/{name}/describe"),
    ("GET", "/v1/tokens"),
    ("POST", "/v1/tokens"),
    ("DELETE", "/v1/tokens"),
    ("DELETE", "/v1/tokens/{id}"),
    ("POST", "/v1/connections"),
    ("POST", "/v1/signin"),
    ("GET", "/v1/servers/{name}/logs"),
    ("POST", "/v1/servers/{name}/restart"),
];

#[derive(Clone)]
struct Entrance {
    admin: Admin,
    door: Arc<AdminDoor>,
}

/// The API's routes for callers with tokens. Connections have to say the client's address ([`ConnectInfo`]).
pub fn http_router(admin: Admin, door: Arc<AdminDoor>) -> Router {
    let entrance = Entrance { admin: admin.clone(), door };
    super::router(admin).layer(from_fn_with_state(entrance, enter))
}

async fn enter(State(entrance): State<Entrance>, mut request: Request, next: Next) -> Response {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    let Some(address) = address else {
        return reply::error(ApiError::new(Side::Gateway, "internal", "nobody knows who asks"));
    };
    // Before anything is read: strangers learn not even which paths there are.
    let principal = match entrance.door.enter(request.headers(), address) {
        Ok(principal) => principal,
        Err(refusal) => return turned_away(refusal),
    };
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let asked = (request.method().as_str(), path.as_str());
    if !OPEN.contains(&asked) {
        return reply::error(ApiError::new(Side::Caller, "unknown-path", "the admin API has no such path here"));
    }
    let what = format!("{} {}", request.method(), request.uri().path().chars().take(200).collect::<String>());
    request.extensions_mut().insert(Arc::clone(&principal));
    // What the socket would say of its peers, nobody says here.
    request.extensions_mut().remove::<ConnectInfo<super::Peer>>();
    let response = next.run(request).await;
    if response.status() == axum::http::StatusCode::FORBIDDEN
        && let Err(error) = denied(&entrance.admin, principal, &what).await
    {
        return reply::error(error);
    }
    response
}

/// A denial is on record before it is answered (security decision 26).
async fn denied(admin: &Admin, principal: Arc<Principal>, what: &str) -> Result<(), ApiError> {
    let tenant = principal.tenant.clone();
    admin.record(&Who::Caller(principal), "admin", &tenant, what, "denied").await
}

fn turned_away(refusal: AdminRefusal) -> Response {
    let (code, next) = match refusal {
        AdminRefusal::Unknown => (
            "unauthenticated",
            "Send `Authorization: Bearer TOKEN`; `portcullis token create --owner user:NAME --admin-api` makes one.",
        ),
        AdminRefusal::Limited(_) => ("too-many-failures", "Wait, and check the token that you send."),
    };
    let mut response = reply::error(ApiError::new(Side::Caller, code, refusal.to_string()).next(next));
    match refusal {
        AdminRefusal::Unknown => {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        AdminRefusal::Limited(wait) => {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
    }
    response
}
