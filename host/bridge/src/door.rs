//! Who may come in, and where to: hosts, origins, tokens, paths.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use portcullis_model::{Fault, Side};
use portcullis_protocol::headers;

use crate::{
    body::{self, Body},
    legacy, post, refuse,
    serve::Bridge,
};

/// Answers a request. `proven` says that its connection is one of who holds the key.
pub(crate) async fn answer(bridge: Arc<Bridge>, request: Request<Incoming>, proven: bool) -> Response<Body> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    // Probes come without a token, from whoever looks after the container, and learn nothing but that.
    match (path, head.method == Method::GET) {
        ("/healthz", true) => return body::whole(StatusCode::OK, "text/plain", "ok\n"),
        ("/readyz", true) => return ready(&bridge),
        _ => {}
    }
    let refused = |fault: &Fault| {
        bridge.counters.refused.inc();
        refuse::http(None, fault)
    };
    if let Err(fault) = known_host(&bridge, head.uri.authority().map(|a| a.as_str()), &head.headers) {
        return refused(&fault);
    }
    if !proven && !bridge.tokens.admit(&head.headers) {
        let fault = Fault::new(Side::Caller, "unauthenticated", "the request has no token that the bridge knows");
        return refused(&fault.next(match bridge.key {
            None => "Send Authorization: Bearer with a line of the bridge's token file.",
            Some(_) => "Only the gateway that runs this server may call it.",
        }));
    }
    match (path, head.method.clone()) {
        ("/metrics", Method::GET) => body::whole(StatusCode::OK, "text/plain; version=0.0.4", bridge.counters.encode()),
        ("/mcp", Method::POST) => post::post(&bridge, &head, body).await,
        ("/mcp", Method::GET) if has_session(&head.headers) => legacy::get(&bridge, &head.headers),
        ("/mcp", Method::DELETE) if has_session(&head.headers) => legacy::delete(&bridge, &head.headers),
        ("/mcp", _) => {
            // The stateless era has neither GET nor DELETE.
            let mut response = body::empty(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            response
        }
        _ => refused(&Fault::new(Side::Caller, "not-found", "there is nothing at this path").next("MCP is at /mcp.")),
    }
}

fn has_session(headers: &HeaderMap) -> bool {
    headers.contains_key(headers::SESSION_ID)
}

fn ready(bridge: &Bridge) -> Response<Body> {
    let going = *bridge.draining.borrow() || bridge.leaving.load(Ordering::Acquire);
    let (status, text) = match (going, bridge.keeper.is_up()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "the server does not answer\n"),
        (false, true) => (StatusCode::OK, "ready\n"),
    };
    body::whole(status, "text/plain", text)
}

/// Refuses what a foreign name or a foreign web page sent (DNS rebinding; 2025-11-25 basic/transports, "Security Warning"). A host
/// that is an address can't be a rebound name.
fn known_host(bridge: &Bridge, authority: Option<&str>, headers: &HeaderMap) -> Result<(), Fault> {
    let text = |name| headers.get(name).map(|v| v.to_str().unwrap_or("\u{fffd}"));
    let host = authority.or(text(header::HOST)).unwrap_or_default();
    let twice = headers.get_all(header::HOST).iter().nth(1).is_some();
    let differs = authority.zip(text(header::HOST)).is_some_and(|(a, h)| !a.eq_ignore_ascii_case(h));
    let name = name_of(host);
    let options = &bridge.options;
    let known = is_local(name)
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
        || options.allow_host.iter().any(|h| h.eq_ignore_ascii_case(name))
        // Beyond loopback a token is asked for, which no web page has, and names are the cluster's to give.
        || !options.listen.ip().is_loopback() && options.allow_host.is_empty();
    if twice || differs || !known {
        return Err(Fault::new(Side::Caller, "foreign-host", "the Host header names another server")
            .next("Start the bridge with --allow-host for this name."));
    }
    let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
    let from = origin.split_once("://").map(|(_, rest)| name_of(rest)).unwrap_or_default();
    if options.allow_origin.iter().any(|o| o == origin) || is_local(from) && is_local(name) {
        return Ok(());
    }
    Err(Fault::new(Side::Caller, "foreign-origin", "web pages of this origin may not send requests here")
        .next("Start the bridge with --allow-origin for it."))
}

/// The name in `name:port` or `[v6]:port`.
fn name_of(authority: &str) -> &str {
    match authority.starts_with('[') {
        true => authority.split_inclusive(']').next().unwrap_or(authority),
        false => authority.split(':').next().unwrap_or(authority),
    }
}

fn is_local(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
