//! Accepting connections: TCP or TLS, HTTP/1.1 and 2, bounded in all and for each address, drained at the end.

mod crowd;
mod tls;

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{
    Request, Response, Version,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use portcullis_gateway::Gateways;
use portcullis_telemetry::Metrics;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tower::Service;

use crate::{drain::Drain, lanes::Lanes, opening::Opening, settings::Tls};
use crowd::{Crowd, Seat};
use tls::{Known, TlsDoor};

/// A client has so long to send a request's head, and to shake hands.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What whoever has too many connections is told, where no handshake is needed to tell it.
const CROWDED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nretry-after: 5\r\nconnection: close\r\n\
content-length: 71\r\n\r\nthis address has too many connections to this gateway; close some first";

/// How many connections there may be.
#[derive(Clone, Debug)]
pub struct Room {
    /// In all; more wait in the system's queue.
    pub most: usize,
    /// From one address, or one IPv6 /64; more are refused.
    pub most_of_one: usize,
    /// Proxies that speak for many, which may have any number.
    pub trusted: Vec<ipnet::IpNet>,
}

/// What is served at an address.
#[derive(Clone)]
pub struct Served {
    /// MCP, asked first: no router stands before a call.
    pub gateways: Option<Arc<Gateways>>,
    /// Everything else.
    pub router: Router,
    /// Whether the end was asked for. Each answer ends its connection then, so that clients make their next one elsewhere while
    /// none of their requests is under way on it.
    pub leaving: Arc<AtomicBool>,
}

/// A bound address, of which others may be told before anything is served there.
pub struct Bound {
    listener: TcpListener,
    tls: Option<Arc<TlsDoor>>,
    connections: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    metrics: Arc<Metrics>,
}

/// A bound address and what is served there.
pub struct Listener {
    listener: TcpListener,
    served: Arc<Served>,
    tls: Option<Arc<TlsDoor>>,
    connections: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    metrics: Arc<Metrics>,
}

/// A connection's place, counted while it lasts.
struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    _seat: Seat,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// A listener's certificates, for whoever looks after them.
pub struct Certificates(Arc<TlsDoor>);

impl Certificates {
    /// Why the files that changed last can't be used; none where they are in use.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble()
    }
}

impl Bound {
    /// The address really bound.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Its certificates, where it has some.
    pub fn certificates(&self) -> Option<Certificates> {
        self.tls.clone().map(Certificates)
    }

    /// With what is served here.
    pub fn serving(self, served: Served) -> Listener {
        let Self { listener, tls, connections, crowd, metrics } = self;
        Listener { listener, served: Arc::new(served), tls, connections, crowd, metrics }
    }
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// When it is taken, or the certificate can't be used.
    pub async fn bind(address: SocketAddr, tls: Option<&Tls>, room: Room, metrics: Arc<Metrics>) -> Result<Bound> {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}: is it taken?"))?;
        let tls = tls.map(|tls| TlsDoor::open(tls.clone()).map(Arc::new)).transpose()?;
        let crowd = Crowd::new(room.most_of_one, room.trusted);
        let connections = Arc::new(Semaphore::new(room.most));
        Ok(Bound { listener, tls, connections, crowd, metrics })
    }

    /// Serves on `lanes` until `stop` ends; then takes no more connections and waits for requests under way, for `drain` at most.
    pub async fn serve(self, lanes: Arc<Lanes>, stop: impl Future<Output = ()>, drain: Duration) {
        let draining = Arc::new(Drain::default());
        let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
        let builder = Arc::new(builder());
        tokio::pin!(stop);
        loop {
            let permit = tokio::select! {
                () = &mut stop => break,
                // Never closed, so there is always a permit to come.
                permit = Arc::clone(&self.connections).acquire_owned() => permit,
            };
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to be given back instead of spinning.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some(seat) = self.crowd.seat(peer.ip()) else {
                self.metrics.connections_refused.inc();
                tracing::debug!(%peer, "refused a connection: its address has too many");
                if self.tls.is_none() {
                    // What does not fit into an empty socket's buffer is not worth waiting for.
                    let _ = std::io::Write::write(&mut &stream, CROWDED);
                }
                continue;
            };
            self.metrics.connections.inc();
            let place = Place { _permit: permit.ok(), _seat: seat, metrics: Arc::clone(&self.metrics) };
            let connection = Connection {
                builder: Arc::clone(&builder),
                served: Arc::clone(&self.served),
                draining: Arc::clone(&draining),
                peer,
            };
            let (tls, held) = (self.tls.clone(), (place, open.clone()));
            lanes.run(move || async move {
                connection.serve(stream, tls).await;
                drop(held);
            });
        }
        drop(self.listener);
        draining.begin();
        // No request comes any more, and streams that clients keep open would hold the end up.
        if let Some(gateways) = &self.served.gateways {
            gateways.drain();
        }
        drop(open);
        if tokio::time::timeout(drain, all_closed.recv()).await.is_err() {
            tracing::warn!("requests were still under way when the time to drain was over");
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(true);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).keep_alive_interval(Duration::from_secs(30));
    builder
}

/// One connection on its lane.
struct Connection {
    builder: Arc<Builder<TokioExecutor>>,
    served: Arc<Served>,
    draining: Arc<Drain>,
    peer: SocketAddr,
}

impl Connection {
    async fn serve(self, stream: std::net::TcpStream, tls: Option<Arc<TlsDoor>>) {
        let _ = stream.set_nodelay(true);
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        match tls {
            None => self.talk(stream, None).await,
            Some(door) => {
                if let Ok(Some((stream, client))) = tokio::time::timeout(PATIENCE, door.shake_hands(stream)).await {
                    self.talk(stream, client.map(Arc::new)).await;
                }
            }
        }
    }

    async fn talk(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, client: Option<Arc<Known>>) {
        // A count of its own for each connection, so that lanes do not share the memory that it is in.
        let (served, peer) = (Arc::new(Served::clone(&self.served)), self.peer);
        let service = service_fn(move |request| answer(Arc::clone(&served), peer, client.clone(), request));
        let connection = pin!(self.builder.serve_connection(TokioIo::new(Opening::new(stream)), service));
        if let Err(error) = self.draining.watch(connection, |connection| connection.graceful_shutdown()).await {
            tracing::trace!(peer = %self.peer, error, "a connection ended early");
        }
    }
}

async fn answer(
    served: Arc<Served>,
    peer: SocketAddr,
    client: Option<Arc<Known>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    // Over HTTP/2 clients are told by GOAWAY, when draining begins.
    let lasting = request.version() > Version::HTTP_11;
    let mut answer = route(&served, peer, client, request).await?;
    if !lasting && served.leaving.load(Ordering::Relaxed) {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}

async fn route(
    served: &Served,
    peer: SocketAddr,
    client: Option<Arc<Known>>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if let Some(certificate) = client.and_then(|client| client.certificate()) {
        request.extensions_mut().insert(certificate);
    }
    if let Some(gateways) = &served.gateways
        && Gateways::is_for(request.uri().path())
    {
        return Ok(Box::pin(gateways.answer(peer, request)).await);
    }
    request.extensions_mut().insert(ConnectInfo(peer));
    served.router.clone().call(request).await
}
