//! The address that pages are reached at, as the operator's settings of the gateway's door say.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};
use portcullis_gateway::Settings;
use portcullis_model::Fault;

/// The door's settings, for pages.
pub struct Entrance(pub Settings);

impl portcullis_console::web::Entrance for Entrance {
    fn check_host(&self, authority: Option<&str>, headers: &HeaderMap) -> Result<(), Fault> {
        // Where a form comes from is the pages' own business: their origin is theirs, and `null` with their referrer policy.
        let hosts: HeaderMap =
            headers.get_all(header::HOST).iter().map(|value| (header::HOST, value.clone())).collect();
        self.0.check_origin(authority, &hosts)
    }

    fn client_address(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        self.0.client_address(peer, headers)
    }
}
