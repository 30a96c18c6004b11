//! Servers that Portcullis runs behind addresses that change: who knows them.

use std::{fmt, net::IpAddr, sync::Arc};

use portcullis_model::{Name, Secret, spec::Kubernetes};

use crate::{BoxFuture, HttpEndpoint};

/// Whoever runs servers that are reached over HTTP.
pub trait Hosts: fmt::Debug + Send + Sync {
    /// The endpoint of a server, or of one connection of it. It follows from these and nothing else; its host is a name that only
    /// [`Hosts::find`] knows.
    ///
    /// # Errors
    /// A sentence, where it can't be run here.
    fn endpoint(
        &self,
        tenant: &Name,
        server: &Name,
        connection: Option<&Name>,
        spec: &Kubernetes,
    ) -> Result<Arc<HttpEndpoint>, String>;

    /// Where a host is now, the best address first. Waits while it comes up, for as long as it may take.
    ///
    /// # Errors
    /// A sentence for callers, where it does not come up.
    fn find(&self, host: &str) -> BoxFuture<'static, Result<Vec<IpAddr>, String>>;

    /// The keys of which whoever serves this host at this address has to hold one, and we the same; none where nothing is to be proven
    /// there. An empty list is held by nobody.
    fn keys(&self, host: &str, at: IpAddr) -> Option<Vec<Secret>>;
}
