//! Accepting connections: TCP or TLS, HTTP/1.1 and 2, bounded in all and for each address, drained at the end.

mod crowd;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use portcullis_telemetry::Metrics;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use crate::{opening::Opening, settings::Tls};
use crowd::{Crowd, Seat};

/// A client has so long to send a request's head, and to shake hands.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How often the certificate's files are looked at.
const LOOK: Duration = Duration::from_secs(5);

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

/// A bound address and what is served there.
pub struct Listener {
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<Certificate>>,
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

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// When it is taken, or the certificate can't be used.
    pub async fn bind(
        address: SocketAddr,
        tls: Option<&Tls>,
        router: Router,
        room: Room,
        metrics: Arc<Metrics>,
    ) -> Result<Self> {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}: is it taken?"))?;
        let tls = tls.map(|tls| Certificate::read(tls.clone()).map(Arc::new)).transpose()?;
        let crowd = Crowd::new(room.most_of_one, room.trusted);
        Ok(Self { listener, router, tls, connections: Arc::new(Semaphore::new(room.most)), crowd, metrics })
    }

    /// The address really bound.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until `stop` ends; then takes no more connections and waits for requests under way, for `drain` at most.
    pub async fn serve(self, stop: impl Future<Output = ()>, drain: Duration) {
        let graceful = GracefulShutdown::new();
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(true);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(256)
            .keep_alive_interval(Duration::from_secs(30));
        let builder = Arc::new(builder);
        tokio::pin!(stop);
        loop {
            let permit = tokio::select! {
                () = &mut stop => break,
                // Never closed, so there is always a permit to come.
                permit = Arc::clone(&self.connections).acquire_owned() => permit,
            };
            let (stream, peer) = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, most likely: wait for some to be given back instead of spinning.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let Some(seat) = self.crowd.seat(peer.ip()) else {
                self.metrics.connections_refused.inc();
                tracing::debug!(%peer, "refused a connection: its address has too many");
                if self.tls.is_none() {
                    // What does not fit into an empty socket's buffer is not worth waiting for.
                    let _ = stream.try_write(CROWDED);
                }
                continue;
            };
            self.metrics.connections.inc();
            let place = Place { _permit: permit.ok(), _seat: seat, metrics: Arc::clone(&self.metrics) };
            let _ = stream.set_nodelay(true);
            let (router, builder, tls) = (self.router.clone(), Arc::clone(&builder), self.tls.clone());
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                let _place = place;
                let service = service_fn(move |request| answer(router.clone(), peer, request));
                let served = match tls {
                    None => {
                        let io = TokioIo::new(Opening::new(stream));
                        watcher.watch(builder.serve_connection(io, service).into_owned()).await
                    }
                    Some(certificate) => {
                        let Some(stream) = shake_hands(&certificate, stream).await else { return };
                        let io = TokioIo::new(Opening::new(stream));
                        watcher.watch(builder.serve_connection(io, service).into_owned()).await
                    }
                };
                if let Err(error) = served {
                    tracing::trace!(%peer, error, "a connection ended early");
                }
            });
        }
        drop(self.listener);
        if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were still under way when the time to drain was over");
        }
    }
}

async fn answer(
    mut router: Router,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    router.call(request).await
}

async fn shake_hands(
    certificate: &Certificate,
    stream: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    tokio::time::timeout(PATIENCE, certificate.acceptor().accept(stream)).await.ok()?.ok()
}

/// A certificate that is read again when its files change; a bad one leaves the one before in use.
struct Certificate {
    files: Tls,
    current: Mutex<Current>,
}

struct Current {
    acceptor: TlsAcceptor,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl Certificate {
    fn read(files: Tls) -> Result<Self> {
        let acceptor = load(&files)?;
        let current = Current { acceptor, changed: changed(&files), looked: Instant::now() };
        Ok(Self { files, current: Mutex::new(current) })
    }

    fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() > LOOK {
            current.looked = Instant::now();
            let now = changed(&self.files);
            if now != current.changed {
                match load(&self.files) {
                    Ok(acceptor) => {
                        tracing::info!("the certificate was read again");
                        current.acceptor = acceptor;
                        current.changed = now;
                    }
                    Err(error) => tracing::error!(%error, "the new certificate can't be used; the one before stays"),
                }
            }
        }
        current.acceptor.clone()
    }
}

fn changed(files: &Tls) -> Option<SystemTime> {
    let time = |path: &PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    time(&files.certificate).max(time(&files.key))
}

fn load(files: &Tls) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .with_context(|| format!("can't read the certificate {}", files.certificate.display()))?
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{} holds no certificate", files.certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("{} holds no private key", files.key.display()))?;
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .context("certificate and key do not belong together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
