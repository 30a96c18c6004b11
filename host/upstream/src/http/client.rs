//! Connections to one server under one account, by lane: a call uses a connection that its own thread opened, so that no other
//! thread has to be woken for it.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri, uri::Scheme};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use portcullis_model::spec::Traffic;

use crate::{
    hosts::Hosts,
    http::{connect::Counting, prove::Proving, resolve::Resolver},
    lane,
    server::Server,
};

/// How long a connection may be silent before the other end is asked whether it is still there; how soon it is asked again, and
/// how often.
const ALIVE: Duration = Duration::from_secs(60);
const ALIVE_AGAIN: Duration = Duration::from_secs(15);
const ALIVE_TRIES: u32 = 4;
/// How long a connection that nobody uses is kept: less than servers keep it. A request that meets a server hanging up has no answer,
/// and can't be sent again, since nobody knows whether it ran. Node and uvicorn, which most servers run on, hang up after five seconds.
const IDLE_PLAIN: Duration = Duration::from_secs(4);
/// The same with TLS, where a new connection costs more, and a proxy that waits for a minute or longer stands before most servers.
const IDLE_TLS: Duration = Duration::from_secs(50);

type Connector = Counting<HttpsConnector<Proving>>;
type Pool = Client<Connector, Full<Bytes>>;

/// Connections to one server under one account.
#[derive(Clone)]
pub(crate) struct HttpClient(Arc<Lanes>);

struct Lanes {
    connector: Connector,
    idle: Duration,
    pools: Box<[OnceLock<Box<Pool>>]>,
}

impl HttpClient {
    /// Connects to nothing yet. `hosts` says what is to be proven on a connection, where it is whom the resolver asks.
    pub(crate) fn new(
        (resolver, hosts): (Resolver, Option<&Arc<dyn Hosts>>),
        uri: &Uri,
        traffic: &Traffic,
        server: &Arc<Server>,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Self {
        let mut http = HttpConnector::new_with_resolver(resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(traffic.connect_timeout.get()));
        // A stream may be silent for hours: only this tells a server that is silent from one that is gone.
        http.set_keepalive(Some(ALIVE));
        http.set_keepalive_interval(Some(ALIVE_AGAIN));
        http.set_keepalive_retries(Some(ALIVE_TRIES));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls.as_ref().clone())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Proving::new(http, hosts.cloned(), traffic.connect_timeout.get()));
        let idle = if uri.scheme() == Some(&Scheme::HTTPS) { IDLE_TLS } else { IDLE_PLAIN };
        let pools = (0..lane::count()).map(|_| OnceLock::new()).collect();
        Self(Arc::new(Lanes { connector: Counting::new(https, server.clone()), idle, pools }))
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        self.pool().request(request).await
    }

    /// The pool of this lane. A lane that began after the client was made shares that of everything else: right, if slower.
    fn pool(&self) -> &Pool {
        let Lanes { connector, idle, pools } = &*self.0;
        let pool = pools.get(lane::here()).unwrap_or(&pools[0]);
        pool.get_or_init(|| {
            let pool = Client::builder(TokioExecutor::new())
                .pool_idle_timeout(*idle)
                .pool_max_idle_per_host(256)
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .http2_keep_alive_interval(ALIVE)
                .http2_keep_alive_timeout(ALIVE_AGAIN)
                .build(connector.clone());
            Box::new(pool)
        })
    }
}
