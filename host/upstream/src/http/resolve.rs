//! Where a connection goes: to what a name server says, guarded, or to where whoever runs the server says it is.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::dns::Name;
use portcullis_outbound::{GuardedResolver, Reach};
use tower::Service;

use crate::{BoxFuture, hosts::Hosts};

/// Finds a server's addresses.
#[derive(Clone)]
pub(crate) enum Resolver {
    /// By its name, within reach.
    Name(GuardedResolver),
    /// By whoever runs it. No other name is looked up there.
    Hosts(Arc<dyn Hosts>),
}

impl Resolver {
    pub(crate) fn new(reach: Reach, hosts: Option<&Arc<dyn Hosts>>) -> Self {
        match hosts {
            Some(hosts) => Self::Hosts(Arc::clone(hosts)),
            None => Self::Name(GuardedResolver::new(reach)),
        }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        match self {
            Self::Name(guarded) => {
                let found = guarded.call(name);
                Box::pin(async move { found.await.map_err(io::Error::other) })
            }
            Self::Hosts(hosts) => {
                let found = hosts.find(name.as_str());
                Box::pin(async move {
                    let found = found.await.map_err(io::Error::other)?;
                    // The port is that of the URL.
                    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
                })
            }
        }
    }
}
