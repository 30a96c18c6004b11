//! Streamable HTTP: one POST for each call, in both eras.
//!
//! A peer owns its connections, so that no two accounts share one. The modern era needs nothing else; the legacy era
//! shares one session, opened by whoever comes first and opened again when the server has forgotten it.

pub(crate) mod answer;
mod connect;
pub(crate) mod session;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use hyper::body::Incoming as HyperBody;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use portcullis_model::spec::Traffic;
use portcullis_protocol::{Era, Version, headers};

use crate::{
    address::{GuardedResolver, Reach},
    error::{Sent, UpstreamError},
    facts::ServerFacts,
    http::{
        answer::{HttpAnswer, Reply},
        connect::Counting,
        session::Session,
    },
    message::{Held, Incoming, Message, MessageKind, MessageStream, Source, cancelled},
    outgoing::{NO_CAPABILITIES, Outgoing},
    server::{InFlight, Server},
    target::{Conversation, HttpEndpoint, TargetKey},
};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// How long a connection that nobody uses is kept.
const IDLE_CONNECTION: Duration = Duration::from_secs(60);
/// How long a message that nobody waits for (a cancellation, a refusal) may take.
const ASIDE: Duration = Duration::from_secs(5);

type Connector = Counting<HttpsConnector<HttpConnector<GuardedResolver>>>;

/// One server over HTTP under one account.
pub(crate) struct HttpPeer {
    name: String,
    client: Client<Connector, Full<Bytes>>,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
    limit: u64,
    server: Arc<Server>,
    session: ArcSwapOption<Session>,
    /// What the server last said of itself.
    facts: ArcSwapOption<ServerFacts>,
    /// Whose conversation it is; nobody's in particular for a shared peer.
    conversation: Option<Arc<Conversation>>,
    /// Held while a session is opened, which only happens when there is none.
    opening: tokio::sync::Mutex<()>,
    ids: AtomicU64,
}

/// TLS as a client with the Mozilla roots.
pub(crate) fn default_tls() -> Result<Arc<rustls::ClientConfig>, UpstreamError> {
    use hyper_rustls::ConfigBuilderExt;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| UpstreamError::Connect(format!("TLS can't be set up: {e}")))?
        .with_webpki_roots()
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What a request is sent as.
#[derive(Clone, Copy)]
struct Head<'a> {
    method: &'a str,
    name: Option<&'a str>,
    /// `None` for `initialize`, which negotiates it.
    version: Option<Version>,
    session: Option<&'a Session>,
    /// The caller's headers: the credential.
    headers: &'a [(HeaderName, HeaderValue)],
}

impl HttpPeer {
    pub(crate) fn new(
        key: &TargetKey,
        endpoint: &HttpEndpoint,
        traffic: &Traffic,
        server: Arc<Server>,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Arc<Self>, UpstreamError> {
        let reach = Reach::of(&endpoint.url, endpoint.allow_private).map_err(UpstreamError::Connect)?;
        let mut url = endpoint.url.clone();
        url.set_fragment(None);
        let uri = url.as_str().parse().map_err(|_| UpstreamError::Connect("the URL is malformed".to_owned()))?;
        let mut http = HttpConnector::new_with_resolver(GuardedResolver::new(reach));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(traffic.connect_timeout.get()));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls.as_ref().clone())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(256)
            .pool_timer(TokioTimer::new())
            .build(Counting::new(https, server.clone()));
        Ok(Arc::new(Self {
            name: key.to_string(),
            client,
            uri,
            headers: endpoint.headers.clone(),
            timeout: traffic.timeout.get(),
            limit: traffic.max_response.get(),
            server,
            session: ArcSwapOption::empty(),
            facts: ArcSwapOption::empty(),
            conversation: key.conversation.clone(),
            opening: tokio::sync::Mutex::new(()),
            ids: AtomicU64::new(1),
        }))
    }

    /// What a legacy server is told in `initialize`.
    fn capabilities(&self) -> &str {
        self.conversation.as_ref().map_or(NO_CAPABILITIES, |c| &c.capabilities)
    }

    /// What the server last said of itself.
    pub(crate) fn facts(&self) -> Option<Arc<ServerFacts>> {
        self.facts.load_full()
    }

    /// Hands the server an answer or a notification of the client.
    pub(crate) async fn reply(
        self: &Arc<Self>,
        body: Bytes,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<(), UpstreamError> {
        let Some(session) = self.session.load_full() else {
            // Whoever asked is gone with its session. The modern era has no messages of this sort.
            return Err(UpstreamError::Closed { sent: Sent::No });
        };
        let head = Head { method: "", name: None, version: Some(session.version), session: Some(&session), headers };
        let response = self.post(&head, body, deadline.min(Instant::now() + ASIDE)).await?;
        if response.status().is_success() { Ok(()) } else { Err(status_error(&response)) }
    }

    /// See [`crate::Peer::send`].
    pub(crate) async fn send(
        self: &Arc<Self>,
        outgoing: Outgoing<'_>,
        mut in_flight: InFlight,
    ) -> Result<Incoming, UpstreamError> {
        let exchanged = self.exchange(&outgoing).await;
        match exchanged {
            Ok((message, _, version)) if message.is_answer() => {
                in_flight.ended(None);
                Ok(Incoming::Json { message, version })
            }
            Ok((first, answer, version)) => {
                let held = Held { server: Some(in_flight), child: None };
                let source = Source::Http(Box::new(answer));
                Ok(Incoming::Stream {
                    stream: MessageStream { first: Some(first), source, done: false, held },
                    version,
                })
            }
            Err(error) => {
                in_flight.ended(Some(&error));
                Err(error)
            }
        }
    }

    /// Sends the call, a second time where the first was provably not executed, and waits for the first message.
    async fn exchange(
        self: &Arc<Self>,
        outgoing: &Outgoing<'_>,
    ) -> Result<(Message, HttpAnswer, Version), UpstreamError> {
        let deadline = outgoing.deadline.min(Instant::now() + self.timeout);
        self.server.check()?;
        let mut again = true;
        loop {
            let (version, session) = match self.server.era() {
                Some(Era::Modern) => (Version::LATEST, None),
                known => match self.open(known, outgoing.headers, deadline).await? {
                    None => (Version::LATEST, None),
                    Some(session) => (session.version, Some(session)),
                },
            };
            match self.call(outgoing, version, session.as_ref(), deadline).await {
                Err(Refusal::SessionGone) if again => {
                    // The server does not know the session: it has not looked at the request.
                    if let Some(gone) = &session {
                        self.forget(gone);
                    }
                    again = false;
                }
                Err(Refusal::OtherEra) if again => {
                    self.server.forget_era();
                    again = false;
                }
                Err(Refusal::SessionGone | Refusal::OtherEra) => {
                    return Err(UpstreamError::Status { code: 404, www_authenticate: None, retry_after: None });
                }
                Err(Refusal::Error(error)) => return Err(error),
                Ok((first, mut answer)) => {
                    if first.is_answer() {
                        answer.finish();
                    }
                    return Ok((first, answer, version));
                }
            }
        }
    }

    /// Sends the call and waits for the first message of its answer.
    async fn call(
        self: &Arc<Self>,
        outgoing: &Outgoing<'_>,
        version: Version,
        session: Option<&Arc<Session>>,
        deadline: Instant,
    ) -> Result<(Message, HttpAnswer), Refusal> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let body = outgoing.body.build(&outgoing.wire(id, version));
        let head = Head {
            method: outgoing.method,
            name: outgoing.name,
            version: Some(version),
            session: session.map(AsRef::as_ref),
            headers: outgoing.headers,
        };
        // From here on the server may have the request, so going away has to tell it.
        let cancel = Cancel::new(self, session, outgoing.headers, id);
        let response = match self.post(&head, body, deadline).await {
            Ok(response) => response,
            Err(error) => {
                if error.sent() == Sent::No {
                    cancel.disarm();
                }
                return Err(error.into());
            }
        };
        let status = response.status();
        if status == StatusCode::NOT_FOUND && session.is_some_and(|s| s.id.is_some()) {
            cancel.disarm();
            return Err(Refusal::SessionGone);
        }
        let mut answer = HttpAnswer::new(self.clone(), response, Some(id), deadline, cancel);
        if status.is_success() {
            return Ok((answer.next().await?, answer));
        }
        let refused = answer.refused().await;
        answer.finish();
        // Servers built on the older SDKs answer 400 to a session that they don't know, in their own words. A ping tells
        // it from a request that they don't like: who has no session to ping in has executed nothing in it.
        if status == StatusCode::BAD_REQUEST
            && let Some(session) = session.filter(|s| s.id.is_some())
            && self.is_gone(session, outgoing.headers, deadline).await
        {
            return Err(Refusal::SessionGone);
        }
        match refused {
            Reply::Rpc(message) => {
                // 2026-07-28: this revision is not spoken any more. It was not executed.
                if version.era() == Era::Modern && message.kind == MessageKind::Error && rpc_code(&message) == -32022 {
                    return Err(Refusal::OtherEra);
                }
                Ok((message, answer))
            }
            Reply::Status(UpstreamError::Status { code: 400 | 404 | 405 | 406, .. })
                if version.era() == Era::Modern =>
            {
                Err(Refusal::OtherEra)
            }
            Reply::Status(error) => Err(error.into()),
        }
    }

    /// One POST, up to the head of its answer.
    async fn post(
        &self,
        head: &Head<'_>,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Response<HyperBody>, UpstreamError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let map = request.headers_mut();
        map.reserve(8 + self.headers.len() + head.headers.len());
        for (name, value) in &self.headers {
            map.insert(name, value.clone());
        }
        for (name, value) in head.headers {
            map.append(name, value.clone());
        }
        // After the others, so that none of them can change what the protocol says.
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        map.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        map.insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
        if let Some(version) = head.version {
            for (name, value) in headers::upstream_headers(head.method, head.name, version) {
                map.insert(name, value);
            }
        }
        if let Some(id) = head.session.and_then(|s| s.id.as_ref()) {
            map.insert(SESSION_ID, id.clone());
        }
        match tokio::time::timeout_at(deadline.into(), self.client.request(request)).await {
            Ok(Ok(response)) => {
                self.server.connect_worked();
                Ok(response)
            }
            Ok(Err(error)) => Err(self.transport_error(&error)),
            Err(_) => Err(UpstreamError::Timeout { sent: Sent::Maybe }),
        }
    }

    fn transport_error(&self, error: &hyper_util::client::legacy::Error) -> UpstreamError {
        if error.is_connect() {
            let reason = innermost(error);
            self.server.connect_failed(&reason);
            return UpstreamError::Connect(reason);
        }
        let sent = std::error::Error::source(error)
            .and_then(|e| e.downcast_ref::<hyper::Error>())
            .filter(|e| e.is_canceled())
            .map_or(Sent::Maybe, |_| Sent::No);
        UpstreamError::Closed { sent }
    }

    /// Sends a message that nobody waits for.
    fn aside(self: &Arc<Self>, session: Option<Arc<Session>>, headers: Vec<(HeaderName, HeaderValue)>, body: Vec<u8>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let peer = self.clone();
        runtime.spawn(async move {
            let version = session.as_ref().map(|s| s.version);
            let head = Head { method: "", name: None, version, session: session.as_deref(), headers: &headers };
            if let Err(error) = peer.post(&head, body.into(), Instant::now() + ASIDE).await {
                tracing::debug!(server = peer.name, %error, "a message aside was not delivered");
            }
        });
    }
}

/// Why a call did not get its first message.
enum Refusal {
    /// The server does not know the session.
    SessionGone,
    /// The server does not speak the era that it spoke before.
    OtherEra,
    /// Anything else.
    Error(UpstreamError),
}

impl From<UpstreamError> for Refusal {
    fn from(error: UpstreamError) -> Self {
        Self::Error(error)
    }
}

/// Tells a legacy server that nobody waits for a call any more. A modern one sees its stream close.
pub(crate) struct Cancel {
    armed: Option<Armed>,
    id: u64,
}

/// What it takes to tell the server: the peer, the session, the credential.
type Armed = (Arc<HttpPeer>, Arc<Session>, Vec<(HeaderName, HeaderValue)>);

impl Cancel {
    fn new(
        peer: &Arc<HttpPeer>,
        session: Option<&Arc<Session>>,
        headers: &[(HeaderName, HeaderValue)],
        id: u64,
    ) -> Self {
        Self { armed: session.map(|s| (peer.clone(), s.clone(), headers.to_vec())), id }
    }

    pub(crate) fn disarm(mut self) {
        self.armed = None;
    }

    /// What a message aside to the same session needs.
    pub(crate) fn aside(&self, body: Vec<u8>) {
        if let Some((peer, session, headers)) = &self.armed {
            peer.aside(Some(session.clone()), headers.clone(), body);
        }
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some((peer, session, headers)) = self.armed.take() {
            peer.aside(Some(session), headers, cancelled(self.id));
        }
    }
}

/// The code of a JSON-RPC error; 0 where there is none.
pub(crate) fn rpc_code(message: &Message) -> i64 {
    message.code.unwrap_or(0)
}

/// What a refusal by status says besides its number.
fn status_error(response: &Response<HyperBody>) -> UpstreamError {
    let text = |name| response.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    UpstreamError::Status {
        code: response.status().as_u16(),
        www_authenticate: text(WWW_AUTHENTICATE).map(|v| v.chars().take(1024).collect()),
        retry_after: text(RETRY_AFTER).and_then(|v| v.parse().ok()).map(Duration::from_secs),
    }
}

/// The cause at the bottom, which says most: "connection refused" rather than "client error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
