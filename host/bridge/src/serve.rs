//! The bridge as a whole: listens, serves, ends in order.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Version, header};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use portcullis_child::Backoff;
use portcullis_model::Secret;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    counters::Counters,
    door,
    keeper::Keeper,
    key::{self, KeyError},
    legacy,
    options::Options,
    session::Session,
    sessions::Sessions,
    tokens::{Tokens, TokensError},
};

/// The most connections.
const MAX_CONNECTIONS: usize = 1024;
/// So many of the largest messages may be read at once; of smaller ones, as many as take no more room.
const MAX_BODIES: usize = 16;
/// How long a request's head may take to come.
const HEAD: Duration = Duration::from_secs(30);
/// How often sessions and tokens are looked after.
const ROUND: Duration = Duration::from_secs(5);
/// How long the last answers may take to be read.
const FLUSH: Duration = Duration::from_secs(1);
/// How much longer than their grace processes have when the bridge ends.
const LAST: Duration = Duration::from_secs(6);

/// Why the bridge did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// It would serve whoever comes.
    #[error("{0} can be reached from elsewhere: name a --token-file, or listen on 127.0.0.1")]
    Open(SocketAddr),
    /// The key can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The tokens can't be read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The address can't be listened on.
    #[error("can't listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The signals can't be waited for.
    #[error("can't wait for signals: {0}")]
    Signals(io::Error),
    /// The server can't be run.
    #[error("the server can't be run: {0}")]
    Server(String),
}

/// What all requests share.
pub(crate) struct Bridge {
    pub(crate) options: Arc<Options>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) tokens: Tokens,
    /// What a gateway that runs this bridge proves itself by.
    pub(crate) key: Option<Secret>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) sessions: Arc<Sessions>,
    /// Processes of sessions that may still be started.
    pub(crate) places: Arc<Semaphore>,
    /// KiB of requests' bodies that may still be read.
    pub(crate) room: Arc<Semaphore>,
    /// Whether it was told to end, and still takes requests for a while.
    pub(crate) leaving: AtomicBool,
    pub(crate) draining: watch::Sender<bool>,
    backoff: Mutex<Backoff>,
}

impl Bridge {
    /// Looks at, or changes, when a session's process may be started.
    pub(crate) fn backoff<T>(&self, with: impl FnOnce(&mut Backoff) -> T) -> T {
        with(&mut self.backoff.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends a session that was taken out of the table.
    pub(crate) fn end(self: &Arc<Self>, session: &Arc<Session>) {
        session.end();
        if session.is_shared() {
            let (bridge, session) = (self.clone(), session.clone());
            tokio::spawn(async move {
                if bridge.keeper.is_up()
                    && let Ok(up) = bridge.keeper.up().await
                {
                    legacy::shared::over(&bridge, &session, &up.link);
                }
            });
        }
    }
}

/// Serves until SIGTERM or SIGINT, then lets calls under way end. `announce` is told the address once it is listened on.
///
/// # Errors
/// [`BridgeError`].
pub async fn run(options: Options, announce: impl FnOnce(SocketAddr)) -> Result<(), BridgeError> {
    let key = key::take()?;
    if !options.listen.ip().is_loopback() && options.token_file.is_none() && key.is_none() {
        return Err(BridgeError::Open(options.listen));
    }
    let tokens = Tokens::open(options.token_file.clone(), key.is_some())?;
    let failed = |e| BridgeError::Listen(options.listen, e);
    let listener = listen(options.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let mut term = signal(SignalKind::terminate()).map_err(BridgeError::Signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(BridgeError::Signals)?;
    let room = (options.max_message >> 10).saturating_add(1).saturating_mul(MAX_BODIES).min(Semaphore::MAX_PERMITS);
    let options = Arc::new(options);
    let counters = Arc::new(Counters::default());
    let sessions = Sessions::new(options.clone());
    let keeper = Keeper::new(options.clone(), counters.clone(), sessions.clone());
    let bridge = Arc::new(Bridge {
        places: Arc::new(Semaphore::new(options.max_children.min(Semaphore::MAX_PERMITS))),
        options,
        counters,
        tokens,
        key,
        keeper,
        sessions,
        room: Arc::new(Semaphore::new(room)),
        leaving: AtomicBool::new(false),
        draining: watch::Sender::new(false),
        backoff: Mutex::default(),
    });
    let stop = watch::Sender::new(false);
    let kept = tokio::spawn(bridge.keeper.clone().run(stop.subscribe()));
    announce(address);
    // Also while it drains: what is under way may need an answer of its client.
    let accepting = tokio::spawn(accept(bridge.clone(), listener));
    let why = tokio::select! {
        () = look_after(&bridge) => None,
        why = bridge.keeper.over() => Some(why),
        _ = term.recv() => None,
        _ = int.recv() => None,
    };
    if let Some(why) = why {
        return Err(BridgeError::Server(why.to_string()));
    }
    if !bridge.options.linger.is_zero() {
        tracing::info!("told to end");
        bridge.leaving.store(true, Ordering::Release);
        tokio::select! {
            () = tokio::time::sleep(bridge.options.linger) => {}
            // Whoever says it twice does not want to wait.
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    }
    tracing::info!("draining");
    bridge.draining.send_replace(true);
    tokio::select! {
        () = quiet(&bridge, bridge.options.drain) => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    accepting.abort();
    stop.send_replace(true);
    bridge.sessions.take().iter().for_each(|s| s.end());
    let until = Instant::now() + LAST;
    let _ = timeout_at(until, kept).await;
    while bridge.counters.children.get() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Listens. Every address is that of IPv4 where there is nothing else.
async fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(at).await {
        Err(error) if at.is_ipv6() && at.ip().is_unspecified() && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await
        }
        bound => bound,
    }
}

/// Waits until no call is under way, for `most`, and a moment longer until what was answered is read.
async fn quiet(bridge: &Bridge, most: Duration) {
    let counters = &bridge.counters;
    let wait = async |until: Instant, under_way: &dyn Fn() -> i64| {
        while Instant::now() < until && under_way() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    wait(Instant::now() + most, &|| counters.in_flight.get()).await;
    wait(Instant::now() + FLUSH, &|| counters.connections.get()).await;
}

async fn look_after(bridge: &Arc<Bridge>) {
    loop {
        tokio::time::sleep(ROUND).await;
        bridge.tokens.refresh();
        for session in bridge.sessions.stale() {
            tracing::info!(session = &*session.name, "nobody uses the session, so it ends");
            bridge.end(&session);
        }
    }
}

async fn accept(bridge: Arc<Bridge>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Nobody is accepted for whom there is no place: they wait where the kernel bounds them.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let bridge = bridge.clone();
                tokio::spawn(async move {
                    bridge.counters.connections.add(1);
                    serve(&bridge, stream).await;
                    bridge.counters.connections.add(-1);
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(bridge: &Arc<Bridge>, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let proven = match &bridge.key {
        None => false,
        Some(key) => match timeout(HEAD, key::proven(&mut stream, key)).await {
            Ok(Ok(proven)) => proven,
            // Who says nothing, or half of it, is nobody to be answered.
            Ok(Err(_)) | Err(_) => return,
        },
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    let service = {
        let bridge = bridge.clone();
        service_fn(move |request| {
            let bridge = bridge.clone();
            async move {
                let version = request.version();
                let mut response = door::answer(bridge.clone(), request, proven).await;
                if bridge.leaving.load(Ordering::Acquire) && version < Version::HTTP_2 {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut draining = bridge.draining.subscribe();
    if *draining.borrow() {
        let _ = connection.await;
        return;
    }
    // How a connection ends is its client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = draining.wait_for(|d| *d) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
