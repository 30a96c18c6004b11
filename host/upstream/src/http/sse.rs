//! HTTP+SSE, the transport of 2024-11-05: a GET opens a stream, whose first event says where to post, and every message of
//! the server comes on that stream.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Uri,
    header::{ACCEPT, CONTENT_TYPE},
};
use http_body_util::Full;
use portcullis_protocol::Era;
use tokio::{sync::mpsc, task::AbortHandle};
use url::Url;

use crate::{
    error::{Sent, UpstreamError},
    http::{
        HttpPeer,
        answer::is_events,
        events::Events,
        session::Session,
        wire::{Head, status_error},
    },
    launch,
    link::{Link, feed, handshake},
    listen::hub::Headers,
};

/// How long a server may take to say where to post.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one POST may take: its answer comes on the stream, so that there is little to wait for.
const POST: Duration = Duration::from_secs(30);
/// The longest address to post to.
const MAX_ADDRESS: usize = 4 << 10;

/// The two ends of the channel.
pub(crate) struct Old {
    tasks: [AbortHandle; 2],
}

impl launch::Child for Old {
    fn ready(&self) {}
    fn degraded(&self, _: &str) {}
}

impl Drop for Old {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl HttpPeer {
    /// Opens the stream, and the session on it.
    pub(crate) async fn open_sse(
        self: &Arc<Self>,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<Session, UpstreamError> {
        let response = self.get(None, headers, None, deadline).await?;
        if !response.status().is_success() {
            return Err(status_error(&response));
        }
        if !is_events(&response) {
            return Err(UpstreamError::Protocol("the server speaks neither of the HTTP transports".to_owned()));
        }
        let mut events = Events::new(response, self.limit, None);
        let until = deadline.min(Instant::now() + PATIENCE);
        let address = tokio::time::timeout_at(until.into(), self.address(&mut events))
            .await
            .map_err(|_| UpstreamError::Timeout { sent: Sent::No })??;

        let credential: Credential = Arc::new(ArcSwap::from_pointee(headers.into()));
        let (start, started) = tokio::sync::oneshot::channel::<(Weak<Link>, mpsc::Receiver<Bytes>)>();
        let (begin, begun) = tokio::sync::oneshot::channel::<Weak<Link>>();
        let peer = Arc::downgrade(self);
        let writer = tokio::spawn({
            let credential = credential.clone();
            async move {
                if let Ok((link, inbox)) = started.await {
                    write_all(peer, link, inbox, address, credential).await;
                }
            }
        });
        let reader = tokio::spawn(async move {
            if let Ok(link) = begun.await {
                read_all(link, events).await;
            }
        });
        let handle = Old { tasks: [writer.abort_handle(), reader.abort_handle()] };
        let (link, inbox) = Link::new(self.key.clone(), self.hub.clone(), self.asking.clone(), Box::new(handle));
        // Neither fails: both tasks wait for this.
        let _ = start.send((Arc::downgrade(&link), inbox));
        let _ = begin.send(Arc::downgrade(&link));

        let patience = deadline.saturating_duration_since(Instant::now());
        if let Err(error) = handshake::shake(&link, Some(Era::Legacy), self.capabilities(), patience).await {
            link.close();
            return Err(error);
        }
        tokio::spawn(feed::feed(Arc::downgrade(&link), self.hub.clone()));
        self.facts.store(link.facts());
        tracing::debug!(server = self.name, "opened a session over HTTP+SSE");
        let mut session = self.session(None, link.version(), headers);
        session.link = Some(link);
        session.credential = Some(credential);
        Ok(session)
    }

    /// Where to post, as the first event says. Only to the same origin: the credential goes there.
    async fn address(&self, events: &mut Events) -> Result<Uri, UpstreamError> {
        let odd = |what: &str| UpstreamError::Protocol(format!("the address to post to {what}"));
        while let Some(event) = events.next().await? {
            if event.event.as_deref() != Some("endpoint") {
                continue;
            }
            let text = std::str::from_utf8(&event.data).map_err(|_| odd("is not text"))?;
            if text.len() > MAX_ADDRESS {
                return Err(odd("is too long"));
            }
            let base: Url = self.uri.to_string().parse().map_err(|_| odd("has no base"))?;
            let url = base.join(text.trim()).map_err(|_| odd("is malformed"))?;
            if url.origin() != base.origin() {
                return Err(odd("is on another origin"));
            }
            return url.as_str().parse().map_err(|_| odd("is malformed"));
        }
        Err(UpstreamError::Closed { sent: Sent::No })
    }
}

/// The headers of whoever called last: the same account's, perhaps renewed.
pub(crate) type Credential = Arc<ArcSwap<Headers>>;

/// Posts each message, one after the other. A server that takes one no more has forgotten the session.
async fn write_all(
    peer: Weak<HttpPeer>,
    link: Weak<Link>,
    mut inbox: mpsc::Receiver<Bytes>,
    address: Uri,
    credential: Credential,
) {
    while let Some(body) = inbox.recv().await {
        let Some(peer) = peer.upgrade() else { break };
        let headers = credential.load_full();
        let head = Head { method: "", name: None, version: None, session: None, headers: &headers };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        peer.write_head(&mut request, &head);
        *request.uri_mut() = address.clone();
        let map = request.headers_mut();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        map.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        match peer.request(request, Instant::now() + POST).await {
            Ok(response) if response.status().is_success() => {}
            refused => {
                let status = refused.map(|r| r.status().as_u16()).unwrap_or_default();
                tracing::debug!(server = peer.name, status, "a message was not taken");
                break;
            }
        }
    }
    if let Some(link) = link.upgrade() {
        link.lost("it took a message no more");
    }
}

/// Reads what the server says, until the stream ends.
async fn read_all(link: Weak<Link>, mut events: Events) {
    while let Ok(Some(data)) = events.next_message().await {
        let Some(link) = link.upgrade() else { return };
        if !link.take(data) {
            tracing::debug!(target = %link.key(), "left out an event that is no JSON-RPC message");
        }
    }
    if let Some(link) = link.upgrade() {
        link.lost("its stream ended");
    }
}
