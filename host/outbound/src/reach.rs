//! Which addresses a name may lead to: the guard against requests that are lured into the own network.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use portcullis_model::address::{is_loopback, is_own_network, is_public};
use tower::Service;
use url::{Host, Url};

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Which addresses a request may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Only addresses of the public internet.
    Public,
    /// Only this machine.
    Loopback,
    /// The public internet and the own network: not this machine, nor where clouds hand out credentials.
    Private,
    /// All.
    Any,
}

/// A request that may not go where its URL leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The URL names no host.
    #[error("the URL has no host")]
    NoHost,
    /// The address is out of reach.
    #[error("the address is not of the public internet")]
    Private,
}

impl Reach {
    /// What a URL may reach whose operator wrote it down: this machine where it says so itself, the public internet, or
    /// everything where `allow_private` says so.
    ///
    /// # Errors
    /// [`Refused`], where the URL holds an address that is out of reach. Such an address never passes a resolver.
    pub fn of(url: &Url, allow_private: bool) -> Result<Self, Refused> {
        let reach = match (allow_private, is_loopback(url)) {
            (true, _) => Self::Any,
            (false, true) => Self::Loopback,
            (false, false) => Self::Public,
        };
        reach.check(url)?;
        Ok(reach)
    }

    /// Checks an address in a URL, which never passes the resolver.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(self, url: &Url) -> Result<(), Refused> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(Refused::NoHost),
        };
        if self.allows(address) { Ok(()) } else { Err(Refused::Private) }
    }

    /// Whether a request may go to an address.
    pub fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Loopback => address.to_canonical().is_loopback(),
            Self::Private => is_public(address) || is_own_network(address),
            Self::Public => is_public(address),
        }
    }
}

/// Why a name gives no address to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// It leads to addresses that are out of reach.
    #[error("the name leads to addresses that are not of the public internet")]
    Private,
    /// It leads nowhere.
    #[error("name not resolved")]
    Unknown,
}

/// What a name leads to, in whichever way names are looked up.
pub(crate) type Lookup = Arc<dyn Fn(Name) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Resolves names and leaves out addresses that the request may not go to. The connection is made to what was checked here:
/// a name that changes its mind in between gains nothing.
#[derive(Clone)]
pub struct GuardedResolver {
    lookup: Lookup,
    reach: Reach,
}

impl GuardedResolver {
    /// The system's resolver, guarded.
    pub fn new(reach: Reach) -> Self {
        let lookup: Lookup = Arc::new(|name| {
            let found = GaiResolver::new().call(name);
            Box::pin(async move { Ok(found.await?.collect()) })
        });
        Self { lookup, reach }
    }

    #[cfg(test)]
    pub(crate) fn with(lookup: Lookup, reach: Reach) -> Self {
        Self { lookup, reach }
    }
}

impl fmt::Debug for GuardedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedResolver").field("reach", &self.reach).finish_non_exhaustive()
    }
}

impl Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = BoxFuture<'static, Result<Self::Response, Unresolved>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        // Whatever a resolver says of it, this name is this machine (RFC 6761 section 6.3).
        let local = name.as_str().eq_ignore_ascii_case("localhost");
        let found = (self.lookup)(name);
        let reach = self.reach;
        Box::pin(async move {
            let all = found.await.map_err(|_| Unresolved::Unknown)?;
            let none = if all.is_empty() { Unresolved::Unknown } else { Unresolved::Private };
            let allowed: Vec<_> =
                all.into_iter().filter(|a| reach.allows(a.ip()) && (!local || a.ip().is_loopback())).collect();
            if allowed.is_empty() { Err(none) } else { Ok(allowed.into_iter()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_what_it_may_reach() {
        let of = |url: &str, private| Reach::of(&url.parse().unwrap(), private);
        assert_eq!(of("http://127.0.0.1:1/", false), Ok(Reach::Loopback));
        assert_eq!(of("http://[::1]:1/", false), Ok(Reach::Loopback));
        assert_eq!(of("http://localhost:1/", false), Ok(Reach::Loopback));
        assert_eq!(of("https://example.com/", false), Ok(Reach::Public));
        assert_eq!(of("https://10.0.0.1/", true), Ok(Reach::Any));
        assert_eq!(of("https://10.0.0.1/", false), Err(Refused::Private));
        assert_eq!(of("http://169.254.169.254/", false), Err(Refused::Private));
        assert_eq!(of("data:,x", false), Err(Refused::NoHost));
    }
}
