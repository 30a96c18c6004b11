//! Streamable HTTP: one POST for each call, in both eras.
//!
//! A peer owns its connections, so that no two accounts share one. The modern era needs nothing else; the legacy era
//! has one session for all callers under an account, or one for each conversation, opened by whoever comes first and opened
//! again when the server has forgotten it.

pub(crate) mod answer;
mod client;
mod connect;
mod events;
mod feed;
mod prove;
mod resolve;
mod session;
mod sse;
mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use portcullis_model::spec::Traffic;
use portcullis_outbound::Reach;
use portcullis_protocol::{Era, Version};

use crate::{
    asking::Asking,
    error::{Sent, UpstreamError},
    facts::ServerFacts,
    hosts::Hosts,
    http::{
        answer::{HttpAnswer, Reply},
        client::HttpClient,
        resolve::Resolver,
        session::Session,
        wire::{ASIDE, Cancel, Head, status_error},
    },
    link::{Call, Kind},
    listen::hub::Hub,
    message::{Incoming, Message, MessageKind, Source},
    outgoing::{NO_CAPABILITIES, Outgoing},
    server::{InFlight, Server},
    target::{HttpEndpoint, TargetKey},
};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// One server over HTTP under one account.
pub(crate) struct HttpPeer {
    key: TargetKey,
    /// The key in words.
    name: String,
    client: HttpClient,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
    limit: u64,
    server: Arc<Server>,
    session: ArcSwapOption<Session>,
    /// What the server last said of itself.
    facts: ArcSwapOption<ServerFacts>,
    /// What may be asked in the conversation; nothing on a shared peer.
    asking: Option<Arc<Asking>>,
    /// Who listens.
    hub: Arc<Hub>,
    /// Refusals on their way.
    refusals: AtomicU32,
    /// Held while a session is opened, which only happens when there is none.
    opening: tokio::sync::Mutex<()>,
    ids: AtomicU64,
}

/// What a peer is made of.
pub(crate) struct Parts<'a> {
    pub(crate) key: &'a TargetKey,
    pub(crate) endpoint: &'a HttpEndpoint,
    /// Who knows where the host is; name servers where left out.
    pub(crate) hosts: Option<&'a Arc<dyn Hosts>>,
    pub(crate) traffic: &'a Traffic,
    pub(crate) server: Arc<Server>,
    pub(crate) tls: &'a Arc<rustls::ClientConfig>,
    pub(crate) hub: Arc<Hub>,
}

/// What the messages of a call come from.
enum Way {
    Http(HttpAnswer),
    Link(Call),
}

impl From<Way> for Source {
    fn from(way: Way) -> Self {
        match way {
            Way::Http(answer) => Self::Http(Box::new(answer)),
            Way::Link(call) => Self::Link(Box::new(call)),
        }
    }
}

impl HttpPeer {
    /// A peer. `client` holds the connections of its account, where there are some already.
    pub(crate) fn new(parts: Parts<'_>, client: Option<HttpClient>) -> Result<Arc<Self>, UpstreamError> {
        let Parts { key, endpoint, hosts, traffic, server, tls, hub } = parts;
        let reach = Reach::of(&endpoint.url, endpoint.allow_private).map_err(|why| {
            UpstreamError::Connect(format!("{why}, and its registry entry does not allow others (allowPrivate)"))
        })?;
        let mut url = endpoint.url.clone();
        url.set_fragment(None);
        let uri: Uri = url.as_str().parse().map_err(|_| UpstreamError::Connect("the URL is malformed".to_owned()))?;
        let client = client
            .unwrap_or_else(|| HttpClient::new((Resolver::new(reach, hosts), hosts), &uri, traffic, &server, tls));
        Ok(Arc::new(Self {
            key: key.clone(),
            name: key.to_string(),
            client,
            uri,
            headers: endpoint.headers.clone(),
            timeout: traffic.timeout.get(),
            limit: traffic.max_response.get(),
            server,
            session: ArcSwapOption::empty(),
            facts: ArcSwapOption::empty(),
            asking: key.conversation.as_deref().map(|c| Arc::new(Asking::new(c))),
            hub,
            refusals: AtomicU32::new(0),
            opening: tokio::sync::Mutex::new(()),
            ids: AtomicU64::new(1),
        }))
    }

    /// When a call ends at the latest. That of a conversation may wait for a person, whose time is not the server's: only
    /// its caller can tell the two apart.
    fn until(&self, deadline: Instant) -> Instant {
        match self.asking {
            Some(_) => deadline,
            None => deadline.min(Instant::now() + self.timeout),
        }
    }

    /// The connections of the account.
    pub(crate) fn client(&self) -> HttpClient {
        self.client.clone()
    }

    /// What a legacy server is told in `initialize`.
    fn capabilities(&self) -> &str {
        self.key.conversation.as_ref().map_or(NO_CAPABILITIES, |c| &c.capabilities)
    }

    /// What the server last said of itself.
    pub(crate) fn facts(&self) -> Option<Arc<ServerFacts>> {
        self.facts.load_full()
    }

    /// Hands the server an answer or a notification of the client; an answer only to a question that is open.
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
        if let Some(link) = &session.link {
            return link.reply(body, deadline).await;
        }
        if !self.asking.as_ref().is_some_and(|asking| asking.closes(&body)) {
            return Ok(());
        }
        let head = Head { method: "", name: None, version: Some(session.version), session: Some(&session), headers };
        let response = self.post(&head, body, deadline.min(Instant::now() + ASIDE)).await?;
        if response.status().is_success() { Ok(()) } else { Err(status_error(&response)) }
    }

    /// See [`crate::Peer::send`].
    pub(crate) async fn send(
        self: &Arc<Self>,
        outgoing: Outgoing<'_>,
        in_flight: InFlight,
    ) -> Result<Incoming, UpstreamError> {
        let exchanged = self.exchange(&outgoing).await;
        Incoming::of(exchanged, in_flight, None)
    }

    /// Sends the call, a second time where the first was provably not executed, and waits for the first message.
    async fn exchange(self: &Arc<Self>, outgoing: &Outgoing<'_>) -> Result<(Message, Way, Version), UpstreamError> {
        let deadline = self.until(outgoing.deadline);
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
            if let Some((link, credential)) = session.as_ref().and_then(|s| s.link.as_ref().zip(s.credential.as_ref()))
            {
                credential.store(Arc::new(outgoing.headers.into()));
                let id = link.next_id();
                let kind = Kind::Caller { progress: outgoing.progress, logs: outgoing.log_level.is_some() };
                let mut call =
                    match link.call(id, outgoing.body.build(&outgoing.wire(id, version)), kind, deadline).await {
                        // The stream ended between two calls, and this one never reached the server.
                        Err(UpstreamError::Closed { sent: Sent::No }) if again => {
                            again = false;
                            continue;
                        }
                        other => other?,
                    };
                let first = call.next().await?;
                return Ok((first, Way::Link(call), version));
            }
            match self.call(outgoing, version, session.as_ref(), deadline).await {
                Err(Refusal::SessionGone) if again => {
                    // The server does not know the session: it has not looked at the request.
                    if let Some(gone) = &session {
                        self.forget(gone);
                    }
                    again = false;
                }
                Err(Refusal::OtherEra(..)) if again => {
                    self.server.forget_era();
                    self.facts.store(None);
                    again = false;
                }
                Err(Refusal::SessionGone) => {
                    return Err(UpstreamError::Status { code: 404, www_authenticate: None, retry_after: None });
                }
                // It said so a moment ago, too: that is its answer to the request, then.
                Err(Refusal::OtherEra(answer, Reply::Rpc(message))) => {
                    return Ok((message, Way::Http(*answer), version));
                }
                Err(Refusal::OtherEra(_, Reply::Status(error)) | Refusal::Error(error)) => return Err(error),
                Ok((first, mut answer)) => {
                    if first.is_answer() {
                        answer.finish();
                    }
                    return Ok((first, Way::Http(answer), version));
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
        answer.watched(outgoing.watcher.clone());
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
                if version.era() == Era::Modern && message.kind == MessageKind::Error && message.code == Some(-32022) {
                    return Err(Refusal::OtherEra(Box::new(answer), Reply::Rpc(message)));
                }
                Ok((message, answer))
            }
            Reply::Status(error @ UpstreamError::Status { code: 400 | 404 | 405 | 406, .. })
                if version.era() == Era::Modern =>
            {
                Err(Refusal::OtherEra(Box::new(answer), Reply::Status(error)))
            }
            Reply::Status(error) => Err(error.into()),
        }
    }
}

/// Why a call did not get its first message.
enum Refusal {
    /// The server does not know the session.
    SessionGone,
    /// The server does not speak the era that it spoke before, or so it says.
    OtherEra(Box<HttpAnswer>, Reply),
    /// Anything else.
    Error(UpstreamError),
}

impl From<UpstreamError> for Refusal {
    fn from(error: UpstreamError) -> Self {
        Self::Error(error)
    }
}
