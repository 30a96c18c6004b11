//! Requests over HTTP: POST for each message, GET for a stream, and messages that nobody waits for.

use std::{
    error::Error,
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use hyper::body::Incoming as HyperBody;
use portcullis_outbound::tls_reason;
use portcullis_protocol::{Version, headers};

use crate::{
    error::{Sent, UpstreamError},
    http::{HttpPeer, SESSION_ID, session::Session},
    message::cancelled,
};

/// How long a message that nobody waits for (a cancellation, a refusal) may take.
pub(crate) const ASIDE: Duration = Duration::from_secs(5);
/// How many refusals may be on their way to one peer. A server that asks and never reads gets no more of them.
const MAX_REFUSALS: u32 = 64;

/// What a request is sent as.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) name: Option<&'a str>,
    /// `None` for `initialize`, which negotiates it.
    pub(crate) version: Option<Version>,
    pub(crate) session: Option<&'a Session>,
    /// The caller's headers: the credential.
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
}

impl HttpPeer {
    /// One POST, up to the head of its answer.
    pub(crate) async fn post(
        &self,
        head: &Head<'_>,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Response<HyperBody>, UpstreamError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        self.write_head(&mut request, head);
        // After the others, so that none of them can change what the protocol says.
        let map = request.headers_mut();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        map.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        self.request(request, deadline).await
    }

    /// One GET of a stream of events, up to the head of its answer; after the event `last_id`, where there is one.
    pub(crate) async fn get(
        &self,
        session: Option<&Session>,
        headers: &[(HeaderName, HeaderValue)],
        last_id: Option<&str>,
        deadline: Instant,
    ) -> Result<Response<HyperBody>, UpstreamError> {
        let mut request = Request::new(Full::new(Bytes::new()));
        let head = Head { method: "", name: None, version: session.map(|s| s.version), session, headers };
        self.write_head(&mut request, &head);
        let map = request.headers_mut();
        map.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_id {
            let id = HeaderValue::from_str(id)
                .map_err(|_| UpstreamError::Protocol("an event id that no header can hold".to_owned()))?;
            map.insert(headers::LAST_EVENT_ID, id);
        }
        self.request(request, deadline).await
    }

    pub(crate) fn write_head(&self, request: &mut Request<Full<Bytes>>, head: &Head<'_>) {
        *request.uri_mut() = self.uri.clone();
        let map = request.headers_mut();
        map.reserve(8 + self.headers.len() + head.headers.len());
        for (name, value) in &self.headers {
            map.insert(name, value.clone());
        }
        // In place of what is fixed for everybody: a credential stands alone under its name.
        for (name, value) in head.headers {
            map.insert(name, value.clone());
        }
        map.insert(USER_AGENT, HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION"))));
        if let Some(version) = head.version {
            for (name, value) in headers::upstream_headers(head.method, head.name, version) {
                map.insert(name, value);
            }
        }
        if let Some(id) = head.session.and_then(|s| s.id.as_ref()) {
            map.insert(SESSION_ID, id.clone());
        }
    }

    pub(crate) async fn request(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Response<HyperBody>, UpstreamError> {
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
        let sent = Error::source(error)
            .and_then(|e| e.downcast_ref::<hyper::Error>())
            .filter(|e| e.is_canceled())
            .map_or(Sent::Maybe, |_| Sent::No);
        UpstreamError::Closed { sent }
    }

    /// Sends a message that nobody waits for.
    fn aside(
        self: &Arc<Self>,
        session: Arc<Session>,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Vec<u8>,
        done: impl FnOnce(&Self) + Send + 'static,
    ) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return done(self);
        };
        let peer = self.clone();
        runtime.spawn(async move {
            let head = Head {
                method: "",
                name: None,
                version: Some(session.version),
                session: Some(&session),
                headers: &headers,
            };
            if let Err(error) = peer.post(&head, body.into(), Instant::now() + ASIDE).await {
                tracing::debug!(server = peer.name, %error, "a message aside was not delivered");
            }
            done(&peer);
        });
    }

    /// Answers a server's request with a refusal, unless too many are on their way already.
    pub(crate) fn refuse(
        self: &Arc<Self>,
        session: &Arc<Session>,
        headers: &[(HeaderName, HeaderValue)],
        answer: Vec<u8>,
    ) {
        let less = |peer: &Self| {
            peer.refusals.fetch_sub(1, Ordering::Relaxed);
        };
        if self.refusals.fetch_add(1, Ordering::Relaxed) >= MAX_REFUSALS {
            less(self);
            tracing::debug!(server = self.name, "left out a refusal: too many are on their way");
            return;
        }
        self.aside(session.clone(), headers.to_vec(), answer, less);
    }
}

/// Tells a legacy server that nobody waits for a call any more. A modern one sees its stream close.
pub(crate) struct Cancel {
    armed: Option<Armed>,
    id: u64,
}

/// What it takes to tell the server: the peer, the session, the credential.
pub(crate) type Armed = (Arc<HttpPeer>, Arc<Session>, Vec<(HeaderName, HeaderValue)>);

impl Cancel {
    pub(crate) fn new(
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

    pub(crate) fn armed(&self) -> Option<&Armed> {
        self.armed.as_ref()
    }

    /// Answers a request of the server in the same session.
    pub(crate) fn refuse(&self, answer: Vec<u8>) {
        if let Some((peer, session, headers)) = &self.armed {
            peer.refuse(session, headers, answer);
        }
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        if let Some((peer, session, headers)) = self.armed.take() {
            peer.aside(session, headers, cancelled(self.id), |_| {});
        }
    }
}

/// What a refusal by status says besides its number.
pub(crate) fn status_error(response: &Response<HyperBody>) -> UpstreamError {
    let text = |name| response.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    UpstreamError::Status {
        code: response.status().as_u16(),
        www_authenticate: text(WWW_AUTHENTICATE).map(|v| v.chars().take(1024).collect()),
        retry_after: text(RETRY_AFTER).and_then(|v| v.parse().ok()).map(Duration::from_secs),
    }
}

/// The cause at the bottom, which says most: "connection refused" rather than "client error".
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut at = error;
    loop {
        // An I/O error that holds another error names that one's source as its own, so the other one is looked into.
        while let Some(inner) = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            at = inner;
        }
        if let Some(tls) = at.downcast_ref::<rustls::Error>() {
            return format!("TLS: {}", tls_reason(tls));
        }
        match at.source() {
            Some(source) => at = source,
            None => return at.to_string(),
        }
    }
}
