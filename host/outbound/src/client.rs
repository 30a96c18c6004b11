//! The client: one pool of connections for each reach.

use std::{error::Error as StdError, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Uri, header::USER_AGENT};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Hyper, Error as ClientError, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use portcullis_model::Secret;

use crate::{Error, GuardedResolver, Reach, Refused, Request, Response, Unresolved, roots, tls_reason};

/// How long a connection waits for its next request.
const IDLE: Duration = Duration::from_secs(30);
/// Connections per origin that wait for their next request.
const IDLE_PER_ORIGIN: usize = 8;
/// The longest that a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// What the requests say they come from.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));

type Pool = Hyper<HttpsConnector<HttpConnector<GuardedResolver>>, Full<Bytes>>;

/// Sends requests, with one pool of connections for each [`Reach`]: a connection that somebody opened who may reach private
/// addresses never serves somebody who may not.
#[derive(Debug)]
pub struct Client {
    public: Pool,
    loopback: Pool,
    private: Pool,
    any: Pool,
}

impl Client {
    /// A client that trusts the machine's certificate authorities, or the browsers' where the machine has none.
    ///
    /// # Errors
    /// [`Error::Tls`], where TLS can't be set up.
    pub fn new() -> Result<Arc<Self>, Error> {
        Ok(Self::with(roots()?))
    }

    /// A client that trusts as `tls` says.
    pub fn with(tls: rustls::ClientConfig) -> Arc<Self> {
        Arc::new(Self::resolving(&tls, GuardedResolver::new))
    }

    pub(crate) fn resolving(tls: &rustls::ClientConfig, resolver: impl Fn(Reach) -> GuardedResolver) -> Self {
        let pool = |reach| pool(tls.clone(), resolver(reach));
        Self {
            public: pool(Reach::Public),
            loopback: pool(Reach::Loopback),
            private: pool(Reach::Private),
            any: pool(Reach::Any),
        }
    }

    /// Sends a request and reads the whole answer. Redirects are answers like others.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let pool = match request.reach {
            Reach::Public => &self.public,
            Reach::Loopback => &self.loopback,
            Reach::Private => &self.private,
            Reach::Any => &self.any,
        };
        tokio::time::timeout(request.timeout, exchange(pool, request)).await.unwrap_or(Err(Error::Timeout))
    }
}

fn pool(tls: rustls::ClientConfig, resolver: GuardedResolver) -> Pool {
    let mut http = HttpConnector::new_with_resolver(resolver);
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    // HTTP/1.1 alone: these requests are few, and there is less to go wrong.
    let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
    Hyper::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_ORIGIN)
        .pool_timer(TokioTimer::new())
        .http1_max_buf_size(64 << 10)
        .build(https)
}

async fn exchange(pool: &Pool, request: Request) -> Result<Response, Error> {
    let Request { method, mut url, headers, body, max_body, reach, timeout: _ } = request;
    reach.check(&url).map_err(|refused| Error::Denied(refused.to_string()))?;
    url.set_fragment(None);
    let uri: Uri = url.as_str().parse().map_err(|_| Error::Denied("the URL can't be requested".into()))?;
    let mut request = http::Request::new(Full::new(Bytes::from_owner(Wiped(body))));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for (name, value) in headers {
        request.headers_mut().append(name, value);
    }
    request.headers_mut().entry(USER_AGENT).or_insert(AGENT);
    let response = pool.request(request).await.map_err(|error| reason(&error))?;
    let (parts, body) = response.into_parts();
    if body.size_hint().lower() > max_body as u64 {
        return Err(Error::TooLarge);
    }
    let body = Limited::new(body, max_body).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() { Error::TooLarge } else { Error::Other("the answer broke off".into()) }
    })?;
    Ok(Response { status: parts.status, headers: parts.headers, body: body.to_bytes() })
}

/// A body that may hold a secret: sent from where it lies, wiped when the last reference goes.
struct Wiped(Secret);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// What went wrong, from the innermost cause that says it.
fn reason(error: &ClientError) -> Error {
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
            Some(Unresolved::Private) => return Error::Denied(Refused::Private.to_string()),
            Some(Unresolved::Unknown) => return Error::Dns,
            None => {}
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Error::Tls(tls_reason(tls));
        }
        if timed_out {
            return Error::Timeout;
        }
        last = cause.to_string();
        at = cause.source();
    }
    if error.is_connect() { Error::Connect(last) } else { Error::Other(last) }
}
