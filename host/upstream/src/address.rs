//! Which addresses a server's name may resolve to: the guard against requests that are lured into the own network.

use std::{
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use portcullis_model::address::is_public;
use tower::Service;
use url::Url;

use crate::BoxFuture;

/// Which addresses are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Only addresses of the public internet.
    Public,
    /// Only this machine: the URL says so itself.
    Loopback,
    /// All, because the registry entry says `allowPrivate`.
    Any,
}

impl Reach {
    /// What a URL may reach. Literal addresses are refused here, since they never pass the resolver.
    pub(crate) fn of(url: &Url, allow_private: bool) -> Result<Self, String> {
        let reach = match url.host() {
            _ if allow_private => Self::Any,
            Some(url::Host::Domain(name)) if name.eq_ignore_ascii_case("localhost") => Self::Loopback,
            Some(url::Host::Ipv4(ip)) if ip.is_loopback() => Self::Loopback,
            Some(url::Host::Ipv6(ip)) if ip.is_loopback() => Self::Loopback,
            _ => Self::Public,
        };
        let literal = match url.host() {
            Some(url::Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(url::Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(url::Host::Domain(_)) => None,
            None => return Err("the URL has no host".to_owned()),
        };
        match literal {
            Some(ip) if !reach.allows(ip) => Err(refusal()),
            _ => Ok(reach),
        }
    }

    fn allows(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Loopback => ip.is_loopback(),
            Self::Public => is_public(ip),
        }
    }
}

fn refusal() -> String {
    "the server's name resolves to a private address, which its registry entry does not allow (allowPrivate)".to_owned()
}

/// The system's resolver, with what is not allowed left out.
#[derive(Clone)]
pub(crate) struct GuardedResolver {
    inner: GaiResolver,
    reach: Reach,
}

impl GuardedResolver {
    pub(crate) fn new(reach: Reach) -> Self {
        Self { inner: GaiResolver::new(), reach }
    }
}

impl Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let found = self.inner.call(name);
        let reach = self.reach;
        Box::pin(async move {
            let all: Vec<SocketAddr> = found.await?.collect();
            let allowed: Vec<SocketAddr> = all.iter().copied().filter(|a| reach.allows(a.ip())).collect();
            if allowed.is_empty() && !all.is_empty() {
                return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, refusal()));
            }
            Ok(allowed.into_iter())
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
        assert_eq!(of("http://localhost:1/", false), Ok(Reach::Loopback));
        assert_eq!(of("https://example.com/", false), Ok(Reach::Public));
        assert_eq!(of("https://10.0.0.1/", true), Ok(Reach::Any));
        assert!(of("https://10.0.0.1/", false).is_err());
        assert!(of("http://169.254.169.254/", false).is_err());
    }
}
