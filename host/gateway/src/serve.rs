//! Phases 1 to 3 and dispatch: from an HTTP request to a method of a known caller.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::response::Response;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri,
    header::{self, Entry},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use portcullis_identity::Presented;
use portcullis_model::{DEFAULT_TENANT, Fault, Side};
use portcullis_plugin::{Attributes, ClientCertificate};
use portcullis_protocol::{Era, Kind, Message, ParseLimits, headers, parse, rpc};
use portcullis_telemetry::{Metrics, RequestId};
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    accept, answer,
    asked::{Asked, Client, Received},
    call::{self, Caller},
    catalogue::Kind as Offered,
    conversation::drive,
    forward,
    gateways::Gateways,
    in_flight::Underway,
    legacy, list, offer, scopes,
    session::{get, old, wishes},
    subscriptions::listen,
    visits,
};

/// The most bytes of a refused request that are let come.
const DISCARDED: usize = 64 << 10;
/// How long they may take.
const PATIENCE_FOR_STRANGERS: Duration = Duration::from_secs(1);
/// How long a request's body may take.
const READ: Duration = Duration::from_secs(30);

/// Where a token of ours may come beside `Authorization`, as the auth providers see it.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Which way in a request has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The gateway's URL: streamable HTTP, and the stream of 2024-11-05 by GET.
    Main,
    /// The stream of 2024-11-05 alone.
    Stream,
    /// Where clients of 2024-11-05 POST to.
    Messages,
}

/// The tenant and gateway that a path names, if any, and the door. Names need no percent-encoding, so none is undone.
pub fn place(path: &str) -> Option<(&str, &str, Door)> {
    let (tenant, rest) = match path.strip_prefix("/t/") {
        None => (DEFAULT_TENANT, path),
        Some(rest) => rest.split_at_checked(rest.find('/')?)?,
    };
    let rest = rest.strip_prefix("/mcp/")?;
    let (gateway, door) = match rest.split_once('/') {
        None => (rest, Door::Main),
        Some((gateway, "sse")) => (gateway, Door::Stream),
        Some((gateway, "messages")) => (gateway, Door::Messages),
        Some(_) => return None,
    };
    (!tenant.is_empty() && !gateway.is_empty()).then_some((tenant, gateway, door))
}

/// Answers a request to a gateway.
pub async fn endpoint<B>(gateways: &Arc<Gateways>, peer: SocketAddr, request: Request<B>) -> Response
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let request_id: Arc<str> = Arc::from(RequestId::next().as_str());
    let _counted = Counted::new(&gateways.metrics);
    let (mut parts, body) = request.into_parts();
    let uri = std::mem::take(&mut parts.uri);
    let mut response = match serve(gateways, peer, &uri, parts, body, &request_id).await {
        Ok(response) => response,
        Err(refusal) => {
            let fault = &refusal.fault;
            gateways.metrics.refused(fault);
            if fault.side == Side::Gateway {
                tracing::warn!(
                    request = &*request_id,
                    path = uri.path(),
                    code = fault.code,
                    message = &*fault.message,
                    "refused"
                );
            }
            refusal.respond(&request_id)
        }
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(answer::REQUEST_ID, value);
    }
    response
}

/// Takes what stands in the gateway's own header for keys for what stands in the usual one, which is nobody's here. So it is a
/// credential from here on: no plugin reads it, no server gets it, and a verdict is remembered for it.
fn take_key(headers: &mut HeaderMap, name: &HeaderName) {
    headers.remove(&API_KEY);
    if let Entry::Occupied(found) = headers.entry(name) {
        let (_, values) = found.remove_entry_mult();
        for mut value in values.collect::<Vec<_>>() {
            value.set_sensitive(true);
            headers.append(API_KEY, value);
        }
    }
}

/// A request that is being answered; given back however it ends, also when its client goes away.
struct Counted<'a>(&'a Metrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

/// A request that no method ever saw.
struct Refusal {
    fault: Fault,
    /// What the answer is, where it is not the fault's own.
    response: Option<Response>,
    /// `WWW-Authenticate`.
    challenge: Option<HeaderValue>,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { fault, response: None, challenge: None }
    }
}

impl Refusal {
    /// A fault in the answer to this message.
    fn of(message: &Message<'_>, fault: Fault, request_id: &str) -> Self {
        let response = answer::http_fault(message.id.map(|id| id.raw), &fault, request_id);
        Self { fault, response: Some(response), challenge: None }
    }

    fn respond(self, request_id: &str) -> Response {
        let mut response = self.response.unwrap_or_else(|| answer::http_fault(None, &self.fault, request_id));
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

async fn serve<B>(
    gateways: &Arc<Gateways>,
    peer: SocketAddr,
    uri: &Uri,
    mut parts: http::request::Parts,
    body: B,
    request_id: &Arc<str>,
) -> Result<Response, Refusal>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let started = Instant::now();
    // 1 accept
    gateways.settings.check_origin(uri.authority().map(|a| a.as_str()), &parts.headers)?;
    let (tenant, gateway, door) = place(uri.path()).ok_or_else(unknown_gateway)?;
    let view = gateways.snapshot.load().get(tenant, gateway).cloned().ok_or_else(unknown_gateway)?;
    let in_session = parts.headers.contains_key(&headers::SESSION_ID);
    let begins = parts.method == Method::GET && door != Door::Messages && !in_session && old::wants(&parts.headers);
    match (door, &parts.method) {
        (Door::Main | Door::Messages, &Method::POST) => {}
        (Door::Main, &Method::DELETE | &Method::GET) if in_session => {}
        _ if begins => {}
        _ => return Err(method_not_allowed(door)),
    }
    let address = gateways.settings.client_address(peer, &parts.headers);

    if let Some(name) = &view.api_key {
        take_key(&mut parts.headers, name);
    }

    // What was revoked elsewhere has to be known before anybody is let in.
    gateways.currency.check().await?;

    // 3 authenticate. Before the body is read: it says nothing about the caller, and strangers get no memory of ours.
    let presented = Presented {
        tenant: &view.tenant,
        gateway: &view.name,
        method: parts.method.as_str(),
        path: uri.path(),
        address,
        headers: &parts.headers,
        certificate: parts.extensions.get::<Arc<ClientCertificate>>(),
        request: request_id,
    };
    let authenticated = gateways.authenticator.authenticate(&view.providers, view.anonymous, &presented).await;
    let principal = match authenticated {
        Ok(principal) => principal,
        Err(refusal) => {
            discard(body).await;
            let response = answer::json(refusal.status, rpc::fault(None, &refusal.fault, request_id));
            let challenge = refusal.challenge.map(|said| scopes::challenge(gateways, &view, &parts.headers, &said));
            return Err(Refusal { challenge, fault: refusal.fault, response: Some(response) });
        }
    };
    if principal.tenant != view.tenant {
        // Another tenant's caller learns nothing, not even that the gateway is there.
        return Err(unknown_gateway().into());
    }
    if let Some(broken) = &view.broken {
        return Err(broken.clone().into());
    }

    if begins {
        let base = uri.path();
        return Ok(old::open(gateways, &view, &principal, base.strip_suffix("/sse").unwrap_or(base))?);
    }

    let mut _room = None;
    let body = if parts.method == Method::POST {
        _room = Some(room(gateways, &parts.headers)?);
        read(gateways, &parts.headers, body).await?
    } else {
        Bytes::new()
    };

    // 2 read
    let limits = ParseLimits { max_bytes: gateways.settings.max_body, ..ParseLimits::default() };
    let message = if parts.method == Method::POST {
        Some(parse(&body, &limits).map_err(|problem| Refusal {
            response: Some(answer::json(
                if problem.to_fault().code == "message-too-large" {
                    StatusCode::PAYLOAD_TOO_LARGE
                } else {
                    StatusCode::BAD_REQUEST
                },
                rpc::parse_fault(&problem, request_id),
            )),
            fault: problem.to_fault(),
            challenge: None,
        })?)
    } else {
        None
    };
    let spoken = match &message {
        None => None,
        Some(message) => Some(headers::check(&parts.headers, message).map_err(|problem| Refusal {
            response: Some(answer::header_fault(message.id.map(|i| i.raw), &problem, request_id)),
            fault: problem.to_fault(),
            challenge: None,
        })?),
    };

    let sent = Arc::new(parts.headers);
    let (Some(message), Some(spoken)) = (message, spoken) else {
        let client = legacy::client(gateways, &view, &principal, &sent)?;
        if parts.method == Method::GET {
            let response = get::get(gateways, &client, (&view.tenant, &view.name), &principal, &sent)?;
            return Ok(response);
        }
        return Ok(legacy::end(gateways, &client));
    };
    if door == Door::Messages {
        let fault = |fault| Refusal::of(&message, fault, request_id);
        if spoken.era == Era::Modern {
            return Err(fault(foreign_era()));
        }
        let (client, live) = old::client(gateways, &view, &principal, uri.query()).map_err(fault)?;
        let (body, request_id) = (body.clone(), Arc::clone(request_id));
        let received = Received {
            view,
            principal,
            client,
            body,
            headers: sent,
            request_id,
            started,
            returns: false,
            attributes: Attributes::default(),
        };
        if message.kind != Kind::Request {
            // Never kept waiting by what is under way: it may be what cancels that, or what that waits for.
            return Ok(dispatch(gateways, &received, &message).await);
        }
        let gateways = Arc::clone(gateways);
        // In a box of its own: it is too large to be moved about.
        let work = async move { Box::pin(old_answer(&gateways, &received, _room)).await };
        return old::accept(&live, work).map_err(fault);
    }
    let client = match spoken.era {
        Era::Modern => Client::modern(),
        Era::Legacy if message.method() == "initialize" => Client::newcomer(),
        Era::Legacy => legacy::client(gateways, &view, &principal, &sent)
            .map_err(|fault| Refusal::of(&message, fault, request_id))?,
    };
    let received = Received {
        view,
        principal,
        client,
        body: body.clone(),
        headers: sent,
        request_id: Arc::clone(request_id),
        started,
        returns: false,
        attributes: Attributes::default(),
    };
    let response = dispatch(gateways, &received, &message).await;
    if get::prefers_events(&received.headers) && answer::is_whole(&response) {
        return Ok(match received.client.session {
            Some(_) => drive::resumable(gateways, &received.asked(&message), response).await,
            None => answer::as_events(response).await,
        });
    }
    Ok(response)
}

/// What a client of 2024-11-05 asked for, to go out on its stream.
async fn old_answer(gateways: &Arc<Gateways>, received: &Received, room: Option<OwnedSemaphorePermit>) -> Response {
    let limits = ParseLimits { max_bytes: gateways.settings.max_body, ..ParseLimits::default() };
    let response = match parse(&received.body, &limits) {
        Ok(message) => dispatch(gateways, received, &message).await,
        Err(problem) => answer::json(StatusCode::BAD_REQUEST, rpc::parse_fault(&problem, &received.request_id)),
    };
    drop(room);
    response
}

async fn dispatch(gateways: &Arc<Gateways>, received: &Received, message: &Message<'_>) -> Response {
    let asked = &received.asked(message);
    if let Err(fault) = visits::admit(gateways, asked).await {
        gateways.metrics.refused(&fault);
        return answer::http_fault(Some(asked.id()), &fault, asked.request_id);
    }
    match (asked.message.kind, asked.message.method(), asked.client.era) {
        (Kind::Notification, _, Era::Legacy) => legacy::notified(gateways, asked),
        (Kind::Response, _, Era::Legacy) => legacy::answered(gateways, asked),
        (Kind::Notification | Kind::Response, _, _) => answer::empty(StatusCode::ACCEPTED),
        (Kind::Request, "tools/call" | "prompts/get" | "resources/read", Era::Modern) => {
            drive::modern(gateways, received, asked).await
        }
        (Kind::Request, "tools/call", Era::Legacy) => drive::legacy(gateways, received, asked).await,
        (Kind::Request, "logging/setLevel", Era::Legacy) => wishes::set_level(gateways, asked),
        (Kind::Request, "resources/subscribe", Era::Legacy) => wishes::subscribe(gateways, asked).await,
        (Kind::Request, "resources/unsubscribe", Era::Legacy) => wishes::unsubscribe(gateways, asked),
        (Kind::Request, "subscriptions/listen", Era::Modern) => listen::listen(gateways, asked).await,
        (Kind::Request, "tools/list", _) => list::list(gateways, asked, Offered::Tools).await,
        (Kind::Request, "prompts/list", _) => list::list(gateways, asked, Offered::Prompts).await,
        (Kind::Request, "resources/list", _) => list::list(gateways, asked, Offered::Resources).await,
        (Kind::Request, "resources/templates/list", _) => list::list(gateways, asked, Offered::Templates).await,
        (Kind::Request, "initialize", Era::Legacy) => legacy::initialize(gateways, asked).await,
        (Kind::Request, "ping", Era::Legacy) => answer::json(StatusCode::OK, rpc::empty(asked.id(), asked.client.era)),
        (Kind::Request, "server/discover", Era::Modern) => {
            let offer = offer::offer(gateways, asked).await;
            let instructions = offer.instructions.as_deref();
            let body = rpc::discover(asked.id(), &offer.capabilities, &offer.info, instructions, offer.ttl_ms);
            answer::json(StatusCode::OK, body)
        }
        (Kind::Request, _, Era::Modern) => forward::forward(gateways, asked, None).await,
        (Kind::Request, _, Era::Legacy) => drive::legacy(gateways, received, asked).await,
    }
}

/// A request that goes to one server, whoever runs it.
pub async fn relayed(gateways: &Gateways, asked: &Asked<'_>, underway: Option<Underway>) -> Response {
    match asked.message.method() {
        "tools/call" => call::call(gateways, asked, underway, Caller::Direct).await,
        _ => forward::forward(gateways, asked, underway).await,
    }
}

/// Takes room for a body among all those that are held at once.
fn room(gateways: &Gateways, sent: &http::HeaderMap) -> Result<OwnedSemaphorePermit, Fault> {
    let most = gateways.settings.max_body;
    let said = sent.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    let wanted = u32::try_from(said.unwrap_or(most).min(most).div_ceil(1024).max(1)).unwrap_or(u32::MAX);
    Arc::clone(&gateways.bodies).try_acquire_many_owned(wanted).map_err(|_| {
        Fault::new(Side::Gateway, "overloaded", "too many requests are being read at once")
            .next("Try again in a second")
            .retry_after_ms(1000)
    })
}

/// Lets the body of a refused request come, and keeps nothing of it. A connection that is answered before all has come is closed
/// by HTTP/1.1, and a client that does not see that in time sends its next request, which has its token, into nothing.
async fn discard<B: http_body::Body<Data = Bytes>>(body: B) {
    let mut body = std::pin::pin!(body);
    let all = async {
        let mut left = DISCARDED;
        while let Some(Ok(frame)) = body.as_mut().frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE_FOR_STRANGERS, all).await;
}

/// Reads the body, bounded.
async fn read<B>(gateways: &Gateways, sent: &http::HeaderMap, body: B) -> Result<Bytes, Fault>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    accept::check_content(sent)?;
    let limit = gateways.settings.max_body;
    let Ok(read) = tokio::time::timeout(READ, Limited::new(body, limit).collect()).await else {
        return Err(Fault::new(Side::Caller, "truncated", "the body did not come in time"));
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Fault::new(Side::Caller, "message-too-large", format!("the body has more than {limit} bytes"))
                .next("Send less"))
        }
        Err(_) => Err(Fault::new(Side::Caller, "truncated", "the body ended early")),
    }
}

fn unknown_gateway() -> Fault {
    Fault::new(Side::Caller, "unknown-gateway", "there is no such gateway")
        .next("Check the URL: /mcp/GATEWAY, or /t/TENANT/mcp/GATEWAY")
}

fn foreign_era() -> Fault {
    Fault::new(Side::Caller, "unsupported-version", "this address is for clients of 2024-11-05")
        .next("Send it to the gateway's own URL")
}

fn method_not_allowed(door: Door) -> Refusal {
    let (what, allowed) = match door {
        Door::Main => ("only POST is served here, and GET and DELETE of a session", "POST, GET, DELETE"),
        Door::Stream => ("only GET of an event stream is served here", "GET"),
        Door::Messages => ("only POST is served here", "POST"),
    };
    let fault = Fault::new(Side::Caller, "method-not-allowed", what);
    let mut response = answer::empty(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    Refusal { fault, response: Some(response), challenge: None }
}
