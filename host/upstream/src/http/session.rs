//! Finding out which era a server speaks, and opening a legacy session.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use portcullis_protocol::{Era, Version};
use tokio::sync::watch;

use crate::{
    error::{Sent, UpstreamError},
    facts::{Proof, ServerFacts, read_discovery, read_initialized},
    http::{
        HttpPeer, SESSION_ID,
        answer::{HttpAnswer, Reply},
        sse::Credential,
        wire::{ASIDE, Cancel, Head, status_error},
    },
    link::{
        Link,
        handshake::{INITIALIZED, discover, initialize},
    },
    meter::{Kept, Opened},
    outgoing::{Body, Params, Wire},
};

/// A session with a legacy server: of one conversation, or shared by all calls under one account.
pub(crate) struct Session {
    /// `Mcp-Session-Id`; servers without state give none.
    pub(crate) id: Option<HeaderValue>,
    /// The revision agreed on.
    pub(crate) version: Version,
    /// The channel of a server that answers on a stream of its own (HTTP+SSE, 2024-11-05).
    pub(crate) link: Option<Arc<Link>>,
    /// The credential that goes with what the link posts.
    pub(crate) credential: Option<Credential>,
    /// Becomes true when the server has forgotten it.
    pub(crate) gone: watch::Sender<bool>,
    /// With which credential it was opened, to close it.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Counts it among those that are open.
    _kept: Kept,
}

impl HttpPeer {
    /// Finds out what the server speaks and opens a session if it needs one: `None` for the modern era.
    pub(crate) async fn open(
        self: &Arc<Self>,
        known: Option<Era>,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<Option<Arc<Session>>, UpstreamError> {
        if known == Some(Era::Legacy)
            && let Some(session) = self.standing()
        {
            return Ok(Some(session));
        }
        let late = |_| UpstreamError::Timeout { sent: Sent::No };
        // Whoever comes second waits here and finds the session made.
        let _turn = tokio::time::timeout_at(deadline.into(), self.opening.lock()).await.map_err(late)?;
        match self.server.era() {
            Some(Era::Modern) => return Ok(None),
            Some(Era::Legacy) => {
                if let Some(session) = self.standing() {
                    return Ok(Some(session));
                }
            }
            None => {
                if let Proof::Modern(facts) = self.discover(headers, deadline).await? {
                    self.server.learn(Era::Modern);
                    tracing::debug!(server = self.name, era = "modern", "probed");
                    self.facts.store(facts);
                    return Ok(None);
                }
            }
        }
        let session = self.begin(headers, deadline).await;
        self.server.meter.opened(if session.is_ok() { Opened::Session } else { Opened::SessionFailed });
        let session = Arc::new(session.map_err(unsent)?);
        self.server.learn(Era::Legacy);
        tracing::debug!(server = self.name, era = "legacy", version = %session.version, "opened a session");
        self.session.store(Some(session.clone()));
        Ok(Some(session))
    }

    /// The session, if it can be used.
    fn standing(&self) -> Option<Arc<Session>> {
        self.session.load_full().filter(|s| s.link.as_ref().is_none_or(|l| l.is_open()))
    }

    /// A new session: the way that worked before, else streamable HTTP, else HTTP+SSE (2025-11-25, "Backwards
    /// Compatibility").
    async fn begin(
        self: &Arc<Self>,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<Session, UpstreamError> {
        if let Some(asking) = &self.asking {
            // What the last session asked, nobody waits for any more.
            asking.clear();
        }
        if self.server.is_old() {
            let session = self.open_sse(headers, deadline).await;
            if let Err(UpstreamError::Status { .. } | UpstreamError::Protocol(_)) = &session {
                // Perhaps the server was exchanged: the next attempt begins at the beginning.
                self.server.learn_old(false);
                self.server.forget_era();
            }
            return session;
        }
        match self.handshake(headers, deadline).await {
            Err(UpstreamError::Status { code: 400 | 404 | 405, www_authenticate, retry_after }) => {
                let refused = UpstreamError::Status { code: 404, www_authenticate, retry_after };
                // What the newer transport said is closer to what is wrong, if the older one is not there either.
                let session = self.open_sse(headers, deadline).await.map_err(|error| match error {
                    UpstreamError::Status { code: 400..=406, .. } | UpstreamError::Protocol(_) => refused,
                    other => other,
                })?;
                self.server.learn_old(true);
                Ok(session)
            }
            other => other,
        }
    }

    /// A session as the server agreed to it.
    pub(crate) fn session(
        &self,
        id: Option<HeaderValue>,
        version: Version,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Session {
        let (gone, headers) = (watch::Sender::new(false), headers.to_vec());
        Session { id, version, link: None, credential: None, gone, headers, _kept: self.server.meter.keep() }
    }

    /// See [`crate::Peer::connect`].
    pub(crate) async fn connect(
        self: &Arc<Self>,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<Arc<ServerFacts>, UpstreamError> {
        self.server.check()?;
        let deadline = deadline.min(Instant::now() + self.timeout);
        let session = self.open(self.server.era(), headers, deadline).await?;
        if let Some(facts) = self.facts.load_full() {
            return Ok(facts);
        }
        let version = session.map_or(Version::LATEST, |s| s.version);
        if version.era() == Era::Legacy {
            return Ok(Arc::new(ServerFacts::unknown(version)));
        }
        // The era was found out under another account, which may be told other things.
        match self.discover(headers, deadline).await? {
            Proof::Modern(facts) => {
                let facts = facts.unwrap_or_else(|| Arc::new(ServerFacts::unknown(version)));
                self.facts.store(Some(facts.clone()));
                Ok(facts)
            }
            Proof::Legacy => {
                self.server.forget_era();
                Err(UpstreamError::Protocol("the server does not speak the era that it spoke before".to_owned()))
            }
        }
    }

    async fn discover(
        self: &Arc<Self>,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<Proof, UpstreamError> {
        let head =
            Head { method: "server/discover", name: None, version: Some(Version::LATEST), session: None, headers };
        let response = self.post(&head, discover(0), deadline).await.map_err(unsent)?;
        let ok = response.status().is_success();
        let mut answer = HttpAnswer::new(self.clone(), response, Some(0), deadline, Cancel::new(self, None, &[], 0));
        if ok {
            return Ok(match answer.answer().await {
                Ok(message) => read_discovery(&message),
                Err(error @ UpstreamError::Timeout { .. }) => return Err(unsent(error)),
                Err(_) => Proof::Legacy,
            });
        }
        match answer.refused().await {
            Reply::Rpc(message) => Ok(read_discovery(&message)),
            // These say nothing about the era, and `initialize` would be refused as well.
            Reply::Status(error @ UpstreamError::Status { code: 401 | 403 | 407 | 429 | 502..=504, .. }) => Err(error),
            Reply::Status(_) => Ok(Proof::Legacy),
        }
    }

    async fn handshake(
        self: &Arc<Self>,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<Session, UpstreamError> {
        let head = Head { method: "initialize", name: None, version: None, session: None, headers };
        let response = self.post(&head, initialize(0, self.capabilities()), deadline).await?;
        let id = response.headers().get(SESSION_ID).cloned();
        if id.as_ref().is_some_and(|v| v.len() > 1024 || v.to_str().is_err()) {
            return Err(UpstreamError::Protocol("a session id that is too long or not visible ASCII".to_owned()));
        }
        let ok = response.status().is_success();
        let mut answer = HttpAnswer::new(self.clone(), response, Some(0), deadline, Cancel::new(self, None, &[], 0));
        if !ok {
            return Err(match answer.refused().await {
                Reply::Rpc(message) => {
                    UpstreamError::Protocol(format!("initialize was refused with error {}", message.code.unwrap_or(0)))
                }
                Reply::Status(error) => error,
            });
        }
        let facts = read_initialized(&answer.answer().await?)?;
        drop(answer);
        let version = facts.version;
        self.facts.store(Some(facts));
        let session = self.session(id, version, headers);
        let head = Head {
            method: "notifications/initialized",
            name: None,
            version: Some(version),
            session: Some(&session),
            headers,
        };
        let response = self.post(&head, Bytes::from_static(INITIALIZED), deadline).await?;
        if response.status().is_success() { Ok(session) } else { Err(status_error(&response)) }
    }

    /// Whether the server refuses a ping in the session, by status: then it does not know the session.
    pub(crate) async fn is_gone(
        self: &Arc<Self>,
        session: &Session,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> bool {
        let body = Params { method: "ping", members: "" }.build(&Wire::own(0, session.version));
        let head = Head { method: "ping", name: None, version: Some(session.version), session: Some(session), headers };
        let status = self.post(&head, body, deadline).await.map(|response| response.status());
        matches!(status, Ok(StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND))
    }

    /// Forgets a session that the server does not know any more, unless somebody has opened another one already.
    pub(crate) fn forget(&self, gone: &Arc<Session>) {
        gone.gone.send_replace(true);
        let current = self.session.load();
        if current.as_ref().is_some_and(|s| Arc::ptr_eq(s, gone)) {
            self.session.compare_and_swap(&current, None);
        }
    }
}

/// The handshake failed, so the call itself was not sent.
fn unsent(error: UpstreamError) -> UpstreamError {
    match error {
        UpstreamError::Timeout { .. } => UpstreamError::Timeout { sent: Sent::No },
        UpstreamError::Closed { .. } => UpstreamError::Closed { sent: Sent::No },
        other => other,
    }
}

/// The last one out gives the session back (2025-03-26 and later: DELETE), so that the server doesn't keep it.
impl Drop for HttpPeer {
    fn drop(&mut self) {
        let Some(session) = self.session.swap(None) else {
            return;
        };
        if let Some(link) = &session.link {
            link.close_when_idle();
        }
        let (Some(id), Ok(runtime)) = (session.id.clone(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.method_mut() = Method::DELETE;
        *request.uri_mut() = self.uri.clone();
        for (name, value) in self.headers.iter().chain(&session.headers) {
            request.headers_mut().insert(name, value.clone());
        }
        request.headers_mut().insert(SESSION_ID, id);
        let client = self.client.clone();
        runtime.spawn(async move { tokio::time::timeout(ASIDE, client.request(request)).await });
    }
}
