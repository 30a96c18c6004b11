//! The pool: one [`Peer`] for each server and account, found by its key, dropped when it idles or its server changes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use portcullis_model::{Name, spec::Traffic};
use portcullis_protocol::Era;
use portcullis_telemetry::Metrics;
use tokio::sync::broadcast;

use crate::{
    error::UpstreamError,
    facts::ServerFacts,
    http::{HttpPeer, Parts},
    launch::Launcher,
    listen::{Change, Listen, hub::Hub},
    listing::{self, ListKind, Listing},
    message::{Held, Incoming, Listening, MessageStream, Source},
    meter::Meter,
    outgoing::Outgoing,
    server::Server,
    stdio::StdioPeer,
    target::{Endpoint, Target, TargetKey},
};

/// How the pool behaves.
#[derive(Clone)]
pub struct Options {
    /// Starts processes.
    pub launcher: Arc<dyn Launcher>,
    /// TLS for `https` servers; what the machine trusts where this is left out.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The most peers; a further one takes the place of whichever idles longest.
    pub max_peers: usize,
    /// How long a peer over HTTP may idle before its session is given back. Children are left to the launcher's owner.
    pub idle: Duration,
    /// What is counted, and where. Nobody reads it where this is left as it is.
    pub metrics: Arc<Metrics>,
}

impl Options {
    /// The usual figures.
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        Self { launcher, tls: None, max_peers: 10_000, idle: Duration::from_secs(600), metrics: Metrics::new() }
    }
}

/// A server and account of one tenant and generation: what the breaker and the limits go by.
type ServerKey = (Name, Name, u64, Option<Era>);

/// All servers that are talked to.
pub struct Upstreams {
    options: Options,
    tls: Arc<rustls::ClientConfig>,
    peers: RwLock<HashMap<TargetKey, Arc<Peer>>>,
    servers: Mutex<HashMap<ServerKey, Weak<Server>>>,
    changes: broadcast::Sender<Change>,
    born: Instant,
}

/// One server under one account: its session or child, pooled. Keep it for as long as a route lives; it opens again by
/// itself what the pool or the server closed.
pub struct Peer {
    key: TargetKey,
    traffic: Arc<Traffic>,
    server: Arc<Server>,
    transport: Transport,
    hub: Arc<Hub>,
    born: Instant,
    /// Milliseconds after `born` of the last call.
    used: AtomicU64,
}

/// How a peer reaches its server.
#[derive(Clone)]
pub(crate) enum Transport {
    Http(Arc<HttpPeer>),
    Stdio(Arc<StdioPeer>),
}

impl Upstreams {
    /// An empty pool. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn new(options: Options) -> Result<Arc<Self>, UpstreamError> {
        let tls = match &options.tls {
            Some(tls) => tls.clone(),
            None => Arc::new(portcullis_outbound::roots().map_err(|error| UpstreamError::Connect(error.to_string()))?),
        };
        let pool = Arc::new(Self {
            options,
            tls,
            peers: RwLock::default(),
            servers: Mutex::default(),
            changes: broadcast::channel(1024).0,
            born: Instant::now(),
        });
        tokio::spawn(sweep(Arc::downgrade(&pool)));
        Ok(pool)
    }

    /// The peer of a target, made at its first use. Connects to nothing yet.
    ///
    /// # Errors
    /// When the URL may not be reached.
    pub fn peer(&self, target: &Target) -> Result<Arc<Peer>, UpstreamError> {
        if let Some(peer) = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&target.key) {
            return Ok(peer.clone());
        }
        let server = self.server(target, target.key.era);
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&target.key) {
            return Ok(peer.clone());
        }
        let mut evicted = None;
        if peers.len() >= self.options.max_peers
            && let Some(oldest) = peers
                .iter()
                .min_by_key(|(_, p)| (!p.hub.is_empty(), p.used.load(Ordering::Relaxed)))
                .map(|(k, _)| k.clone())
        {
            evicted = peers.remove(&oldest);
        }
        let limit = target.traffic.max_response.as_usize();
        let hub = Hub::new(target.key.clone(), server.clone(), self.changes.clone(), limit);
        let transport = match &target.endpoint {
            Endpoint::Http(endpoint) | Endpoint::Hosted(endpoint, _) => {
                let shared = TargetKey { conversation: None, ..target.key.clone() };
                // A conversation has a session of its own, but its connections are those of its account.
                let client = match peers.get(&shared).map(|p| &p.transport) {
                    Some(Transport::Http(peer)) => Some(peer.client()),
                    _ => None,
                };
                let (traffic, hub) = (&target.traffic, hub.clone());
                let hosts = match &target.endpoint {
                    Endpoint::Hosted(_, hosts) => Some(hosts),
                    _ => None,
                };
                let (key, server, tls) = (&target.key, server.clone(), &self.tls);
                let parts = Parts { key, endpoint, hosts, traffic, server, tls, hub };
                Transport::Http(HttpPeer::new(parts, client)?)
            }
            Endpoint::Stdio(spec) => Transport::Stdio(StdioPeer::new(
                target.key.clone(),
                spec.clone(),
                target.traffic.clone(),
                server.clone(),
                self.options.launcher.clone(),
                hub.clone(),
            )),
        };
        let used = AtomicU64::new(millis(self.born.elapsed()));
        let (key, traffic) = (target.key.clone(), target.traffic.clone());
        let peer = Arc::new(Peer { key, traffic, server, transport, hub, born: self.born, used });
        peers.insert(target.key.clone(), peer.clone());
        drop(peers);
        // Dropped outside the lock. Whoever listens to it still may: it is only that nobody finds it any more.
        drop(evicted);
        Ok(peer)
    }

    fn server(&self, target: &Target, era: Option<Era>) -> Arc<Server> {
        let key = (target.key.tenant.clone(), target.key.server.clone(), target.key.generation, era);
        let base = era.map(|era| (era, self.server(target, None)));
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(&key).and_then(Weak::upgrade) {
            return server;
        }
        servers.retain(|_, s| s.strong_count() > 0);
        let meter = Meter::new(self.options.metrics.clone(), key.0.as_str(), key.1.as_str());
        let server = Arc::new(match base {
            Some((era, base)) => base.pinned(era, meter),
            None => Server::new(target.traffic.max_concurrent, meter),
        });
        servers.insert(key, Arc::downgrade(&server));
        server
    }

    /// Sends one request to a target; see [`Peer::send`].
    ///
    /// # Errors
    /// As [`Peer::send`].
    pub async fn send(&self, target: &Target, outgoing: Outgoing<'_>) -> Result<Incoming, UpstreamError> {
        self.peer(target)?.send(outgoing).await
    }

    /// Lists what a target offers; see [`Peer::list`].
    ///
    /// # Errors
    /// As [`Peer::list`].
    pub async fn list(
        &self,
        target: &Target,
        kind: ListKind,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Listing, UpstreamError> {
        self.peer(target)?.list(kind, headers).await
    }

    /// Which lists of which targets changed, as the servers tell. A reader that falls behind sees `Lagged` and had better
    /// list everything again. A process tells by itself; a server behind a URL is heard once something was listed under its
    /// account ([`Peer::list`]), where it says that it would tell.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Drops the peers that `keep` does not want: their sessions and children end when their last call does.
    pub fn retain(&self, keep: impl Fn(&TargetKey) -> bool) {
        let mut gone = Vec::new();
        self.peers.write().unwrap_or_else(PoisonError::into_inner).retain(|key, peer| {
            let kept = keep(key);
            if !kept {
                gone.push(peer.clone());
            }
            kept
        });
        // Dropped outside the lock: the last one closes its session.
        let_go(gone);
    }

    /// Drops one peer, such as that of a conversation that is over.
    pub fn release(&self, key: &TargetKey) {
        let gone = self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        let_go(gone);
    }

    /// How many peers there are.
    pub fn len(&self) -> usize {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn sweep(&self) {
        let now = millis(self.born.elapsed());
        let idle = millis(self.options.idle);
        let mut gone = Vec::new();
        self.peers.write().unwrap_or_else(PoisonError::into_inner).retain(|_, peer| {
            // A shared child is left to whoever owns it; one of a conversation is nobody's when nobody holds its peer.
            let ours = matches!(peer.transport, Transport::Http(_)) || peer.key.conversation.is_some();
            let stale = ours
                && Arc::strong_count(peer) == 1
                && peer.hub.is_empty()
                && now.saturating_sub(peer.used.load(Ordering::Relaxed)) > idle;
            if stale {
                gone.push(peer.clone());
            }
            !stale
        });
        let_go(gone);
    }
}

/// Whoever listens to these peers is told that they are gone.
fn let_go(gone: impl IntoIterator<Item = Arc<Peer>>) {
    for peer in gone {
        peer.hub.close();
    }
}

async fn sweep(pool: Weak<Upstreams>) {
    let mut tick = tokio::time::interval(Duration::from_secs(30));
    loop {
        tick.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep();
    }
}

impl Peer {
    /// Sends one request and waits for the first message that comes back: most often the answer itself. Dropping the
    /// future, or the stream before its end, cancels the call at the server.
    ///
    /// # Errors
    /// [`UpstreamError`]; [`UpstreamError::sent`] says whether the server may have seen the request.
    pub async fn send(&self, outgoing: Outgoing<'_>) -> Result<Incoming, UpstreamError> {
        self.touch();
        let in_flight = self.server.admit()?;
        match &self.transport {
            Transport::Http(peer) => peer.send(outgoing, in_flight).await,
            Transport::Stdio(peer) => peer.send(outgoing, in_flight).await,
        }
    }

    /// Lists all that the server offers of one kind, over all pages, within `traffic.timeout` and `traffic.maxResponse`. A
    /// server that does not know the method offers none.
    ///
    /// # Errors
    /// As [`Peer::send`]; [`UpstreamError::Protocol`] when the list is malformed or has no end.
    pub async fn list(&self, kind: ListKind, headers: &[(HeaderName, HeaderValue)]) -> Result<Listing, UpstreamError> {
        let patience = match &self.transport {
            Transport::Http(_) => Duration::ZERO,
            Transport::Stdio(peer) => peer.start_timeout(),
        };
        let listed =
            listing::list(self, kind, headers, Instant::now() + self.traffic.timeout.get().max(patience)).await?;
        self.keep_up(headers);
        Ok(listed)
    }

    /// Whoever lists wants to know when the list has changed. A process tells by itself; a server behind a URL that says it
    /// would tell is listened to for as long as the peer is in use.
    fn keep_up(&self, headers: &[(HeaderName, HeaderValue)]) {
        let Transport::Http(peer) = &self.transport else { return };
        let announced = peer.facts().map(|f| f.announces()).unwrap_or_default();
        if self.key.conversation.is_none() && announced.any_list() && self.hub.keep(announced, headers) {
            tokio::spawn(HttpPeer::attend(Arc::downgrade(peer), self.hub.clone()));
        }
    }

    /// Opens the session or starts the child if there is none, and says what the server says of itself. A server of the
    /// modern era is asked once; a legacy one says it whenever a session is opened.
    ///
    /// # Errors
    /// As [`Peer::send`].
    pub async fn connect(
        &self,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<Arc<ServerFacts>, UpstreamError> {
        self.touch();
        match &self.transport {
            Transport::Http(peer) => peer.connect(headers, deadline).await,
            Transport::Stdio(peer) => peer.connect(deadline).await,
        }
    }

    /// What the server last said of itself; nothing before the first connection.
    pub fn facts(&self) -> Option<Arc<ServerFacts>> {
        match &self.transport {
            Transport::Http(peer) => peer.facts(),
            Transport::Stdio(peer) => peer.facts(),
        }
    }

    /// Hands a legacy server what its client says to it outside any call: the answer to a request of the server, under the
    /// server's id, or a notification. `body` is the whole message. Opens no session and starts no child: whoever asked
    /// would be gone.
    ///
    /// # Errors
    /// [`UpstreamError::Closed`] when there is no session or child; else as [`Peer::send`].
    pub async fn reply(
        &self,
        body: Bytes,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<(), UpstreamError> {
        self.touch();
        match &self.transport {
            Transport::Http(peer) => peer.reply(body, headers, deadline).await,
            Transport::Stdio(peer) => peer.reply(body, deadline).await,
        }
    }

    /// Hears what the server says outside any call: changes of its lists and of the resources named, and on a peer of one
    /// conversation also its requests and everything else that belongs to no call.
    ///
    /// # Errors
    /// When the server can't be listened to.
    pub async fn listen(
        &self,
        listen: &Listen<'_>,
        headers: &[(HeaderName, HeaderValue)],
        deadline: Instant,
    ) -> Result<MessageStream, UpstreamError> {
        self.touch();
        let (listener, starts) = self.hub.join(listen, headers)?;
        if starts {
            let hub = self.hub.clone();
            match &self.transport {
                Transport::Http(peer) => drop(tokio::spawn(HttpPeer::attend(Arc::downgrade(peer), hub))),
                Transport::Stdio(peer) => drop(tokio::spawn(StdioPeer::attend(Arc::downgrade(peer), hub))),
            }
        }
        listener.served(deadline).await?;
        let listening = Listening { listener, transport: self.transport.clone() };
        let source = Source::Listener(Box::new(listening));
        Ok(MessageStream { first: None, source, done: false, held: Held::default() })
    }

    /// Notes that the peer is in use.
    fn touch(&self) {
        self.used.store(millis(self.born.elapsed()), Ordering::Relaxed);
    }

    /// Whose peer it is.
    pub fn key(&self) -> &TargetKey {
        &self.key
    }

    /// The server's limits.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The era that the server speaks, once that is known.
    pub fn era(&self) -> Option<Era> {
        self.server.era()
    }

    /// How many calls are in flight to the server, under all accounts.
    pub fn in_flight(&self) -> u32 {
        self.server.in_flight()
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
