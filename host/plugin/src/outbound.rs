//! Requests of plugins, sent: to addresses that were checked after the name was resolved, without redirects, within bounds.
//!
//! Which origins a plugin may ask and which secret may go along is decided before, in `imports/http.rs`.

use std::{
    error::Error as StdError,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header::USER_AGENT};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client, Error as ClientError,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::{TokioExecutor, TokioTimer},
};
use portcullis_model::{Secret, address::is_public};
use tower::Service;
use url::{Host, Url};

use crate::services::{BoxFuture, Outbound, OutboundError, OutboundRequest, OutboundResponse};

/// How long a connection waits for its next request.
const IDLE: Duration = Duration::from_secs(30);
/// Connections per origin that wait for their next request.
const IDLE_PER_ORIGIN: usize = 8;
/// The longest that a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// What the requests say they come from.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));
/// In the words of the grant that lifts it.
const PRIVATE: &str = "the address is not of the public internet, and `httpPrivate` is not granted";

type Connector = HttpsConnector<HttpConnector<Resolver>>;

/// Sends plugins' requests with one pool of connections for plugins that may reach private addresses and another for those
/// that may not: a connection that one of the former opened never serves one of the latter.
#[derive(Debug)]
pub struct Http {
    public: Client<Connector, Full<Bytes>>,
    any: Client<Connector, Full<Bytes>>,
}

impl Http {
    /// A sender that trusts the machine's certificate authorities, or the browsers' where the machine has none.
    ///
    /// # Errors
    /// Where TLS can't be set up.
    // An object is all that anybody wants of it: what plugins may use is a trait, so that tests can script it.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Result<Arc<dyn Outbound>, OutboundError> {
        let tls = roots()?;
        Ok(Arc::new(Self {
            public: client(tls.clone(), Resolver::system(false)),
            any: client(tls, Resolver::system(true)),
        }))
    }
}

fn client(tls: rustls::ClientConfig, resolver: Resolver) -> Client<Connector, Full<Bytes>> {
    let mut http = HttpConnector::new_with_resolver(resolver);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    // HTTP/1.1 alone: plugins' requests are few, and there is less to go wrong.
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_ORIGIN)
        .pool_timer(TokioTimer::new())
        .http1_max_buf_size(64 << 10)
        .build(https)
}

fn roots() -> Result<rustls::ClientConfig, OutboundError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = || {
        rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| OutboundError::Tls(error.to_string()))
    };
    Ok(match builder()?.with_native_roots() {
        Ok(native) => native.with_no_client_auth(),
        Err(_) => builder()?.with_webpki_roots().with_no_client_auth(),
    })
}

impl Outbound for Http {
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>> {
        let client = if request.allow_private { &self.any } else { &self.public };
        let timeout = request.timeout;
        Box::pin(async move {
            tokio::time::timeout(timeout, exchange(client, request)).await.unwrap_or(Err(OutboundError::Timeout))
        })
    }
}

async fn exchange(
    client: &Client<Connector, Full<Bytes>>,
    outbound: OutboundRequest,
) -> Result<OutboundResponse, OutboundError> {
    let OutboundRequest { method, mut url, headers, body, max_body, allow_private, timeout: _ } = outbound;
    check_literal(&url, allow_private)?;
    url.set_fragment(None);
    let uri: Uri = url.as_str().parse().map_err(|_| OutboundError::Denied("the URL can't be requested".into()))?;
    let mut request = Request::new(Full::new(Bytes::from_owner(Wiped(body))));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for (name, value) in headers {
        request.headers_mut().append(name, value);
    }
    request.headers_mut().entry(USER_AGENT).or_insert(AGENT);
    let response = client.request(request).await.map_err(|error| reason(&error))?;
    let (parts, body) = response.into_parts();
    if body.size_hint().lower() > max_body as u64 {
        return Err(OutboundError::TooLarge);
    }
    let body = Limited::new(body, max_body).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            OutboundError::TooLarge
        } else {
            OutboundError::Other("the answer broke off".into())
        }
    })?;
    Ok(OutboundResponse { status: parts.status, headers: parts.headers, body: body.to_bytes() })
}

/// A body that may hold a secret: sent from where it lies, wiped when the last reference goes.
struct Wiped(Secret);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// Addresses in URLs never pass the resolver.
fn check_literal(url: &Url, allow_private: bool) -> Result<(), OutboundError> {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        Some(Host::Domain(_)) => return Ok(()),
        None => return Err(OutboundError::Denied("the URL has no host".into())),
    };
    if allow_private || is_public(address) { Ok(()) } else { Err(OutboundError::Denied(PRIVATE.into())) }
}

/// Why a name gives no address to connect to.
#[derive(Debug, thiserror::Error)]
enum Unresolved {
    #[error("{PRIVATE}")]
    Private,
    #[error("name not resolved")]
    Unknown,
}

/// What went wrong, from the innermost cause that says it.
fn reason(error: &ClientError) -> OutboundError {
    let mut at: Option<&(dyn StdError + 'static)> = Some(error);
    let mut last = String::new();
    while let Some(mut cause) = at {
        let mut timed_out = false;
        // An I/O error that holds another error names that one's source as its own, so the other one is looked into.
        while let Some(io) = cause.downcast_ref::<io::Error>() {
            timed_out |= io.kind() == io::ErrorKind::TimedOut;
            match io.get_ref() {
                Some(inner) => cause = inner,
                None => break,
            }
        }
        match cause.downcast_ref::<Unresolved>() {
            Some(Unresolved::Private) => return OutboundError::Denied(PRIVATE.into()),
            Some(Unresolved::Unknown) => return OutboundError::Dns,
            None => {}
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return OutboundError::Tls(tls.to_string());
        }
        if timed_out {
            return OutboundError::Timeout;
        }
        last = cause.to_string();
        at = cause.source();
    }
    if error.is_connect() { OutboundError::Connect(last) } else { OutboundError::Other(last) }
}

/// What a name leads to, in whichever way names are looked up.
type Lookup = Arc<dyn Fn(Name) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Resolves names and leaves out addresses that the request may not go to. The connection is made to what was checked here:
/// a name that changes its mind in between gains nothing.
#[derive(Clone)]
struct Resolver {
    lookup: Lookup,
    allow_private: bool,
}

impl Resolver {
    fn system(allow_private: bool) -> Self {
        let lookup: Lookup = Arc::new(|name| {
            let found = GaiResolver::new().call(name);
            Box::pin(async move { Ok(found.await?.collect()) })
        });
        Self { lookup, allow_private }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = BoxFuture<'static, Result<Self::Response, Unresolved>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let found = (self.lookup)(name);
        let allow_private = self.allow_private;
        Box::pin(async move {
            let all = found.await.map_err(|_| Unresolved::Unknown)?;
            let none = if all.is_empty() { Unresolved::Unknown } else { Unresolved::Private };
            let allowed: Vec<_> = all.into_iter().filter(|a| allow_private || is_public(a.ip())).collect();
            if allowed.is_empty() { Err(none) } else { Ok(allowed.into_iter()) }
        })
    }
}

#[cfg(test)]
mod tests;
