//! Where requests for keys may go: public addresses, unless the operator says otherwise.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use portcullis_model::address::is_public;
use tower::Service;
use url::{Host, Url};

/// Whether a URL is `http` at this machine, by what it says.
pub(super) fn is_loopback_http(url: &Url) -> bool {
    url.scheme() == "http"
        && match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
}

/// Whether a request may go to this URL, before its name is resolved. `loopback` allows `http` at this machine.
pub(super) fn check(url: &Url, loopback: bool, allow_private: bool) -> Result<(), &'static str> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL holds a user name or a password");
    }
    if is_loopback_http(url) {
        return if loopback || allow_private {
            Ok(())
        } else {
            Err("it is at a loopback address, and its issuer is not")
        };
    }
    if url.scheme() != "https" {
        return Err("only https is allowed, and http at a loopback address");
    }
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(_)) => None,
        None => return Err("the URL has no host"),
    };
    if literal.is_some_and(|address| !is_public(address)) && !allow_private {
        return Err("its address is not of the public internet");
    }
    Ok(())
}

/// Resolves names and leaves out addresses that requests may not go to. The connection is made to what was checked here,
/// so that a name that changes its mind in between gains nothing.
#[derive(Clone)]
pub(super) struct GuardedResolver {
    inner: GaiResolver,
    allow_private: bool,
}

impl GuardedResolver {
    pub(super) fn new(allow_private: bool) -> Self {
        Self { inner: GaiResolver::new(), allow_private }
    }
}

impl Service<Name> for GuardedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let local = name.as_str() == "localhost";
        let allow_private = self.allow_private;
        let resolved = self.inner.call(name);
        Box::pin(async move {
            let allowed = |address: &SocketAddr| match (local, address.ip().is_loopback()) {
                (true, loopback) => loopback,
                (false, _) => allow_private || is_public(address.ip()),
            };
            let addresses: Vec<SocketAddr> = resolved.await?.filter(allowed).collect();
            if addresses.is_empty() {
                let why = "the name leads to addresses that are not of the public internet";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_own_loopback() {
        let check = |url: &str, loopback: bool, private: bool| check(&url.parse().unwrap(), loopback, private).is_ok();
        assert!(check("https://idp.example.com/keys", false, false));
        assert!(!check("http://idp.example.com/keys", true, true));
        assert!(!check("ftp://idp.example.com/keys", true, true));
        assert!(check("http://127.0.0.1:9/keys", true, false));
        assert!(check("http://localhost/keys", true, false));
        assert!(!check("http://127.0.0.1/keys", false, false));
        assert!(!check("http://localhost.evil.example/", true, false));
        assert!(!check("https://169.254.169.254/latest", true, false));
        assert!(!check("https://0x7f.1/", true, false), "the URL parser knows that this is 127.0.0.1");
        assert!(!check("https://[::1]/", false, false));
        assert!(check("https://10.0.0.1/", false, true));
        assert!(!check("https://user:pass@idp.example.com/", false, true));
    }
}
