//! `portcullis:auth/resource-metadata`: where clients get the tokens that a provider accepts.

use url::{Host, Url};
use wasmtime::{Error, Result, component::Resource};

use crate::{
    answer::Description,
    bindings::portcullis::auth::resource_metadata::{self, Metadata},
    state::{Lent, State},
};

/// The most authorization servers.
const MAX_SERVERS: usize = 8;
/// The most scopes.
const MAX_SCOPES: usize = 64;

impl State {
    fn description(&mut self) -> Result<&mut Description> {
        match &mut self.lent {
            Lent::Describe(description) => Ok(description),
            _ => Err(Error::msg("no metadata is lent")),
        }
    }
}

/// Whether clients may be sent there.
fn is_safe(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    plain && text.len() <= 2048 && (url.scheme() == "https" || (url.scheme() == "http" && loopback))
}

impl resource_metadata::Host for State {}

impl resource_metadata::HostMetadata for State {
    fn authorization_server(&mut self, _: Resource<Metadata>, issuer: String) -> Result<()> {
        if !self.fixed.grants.issuers.contains(&issuer) {
            self.denied("issuer");
            return self.forbid("an authorization server whose issuer is not granted");
        }
        if !is_safe(&issuer) {
            return self.forbid("an authorization server that is no https URL");
        }
        let servers = &mut self.description()?.authorization_servers;
        if servers.len() >= MAX_SERVERS {
            return self.forbid("more than 8 authorization servers");
        }
        servers.push(issuer);
        Ok(())
    }
    fn scope(&mut self, _: Resource<Metadata>, name: String) -> Result<()> {
        // RFC 6749 section 3.3.
        let token = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        let scopes = &mut self.description()?.scopes;
        if name.is_empty() || name.len() > 256 || !name.bytes().all(token) || scopes.len() >= MAX_SCOPES {
            return self.forbid("more than 64 scopes, or what is no scope");
        }
        scopes.push(name);
        Ok(())
    }
    fn documentation(&mut self, _: Resource<Metadata>, url: String) -> Result<()> {
        if !is_safe(&url) {
            return self.forbid("documentation at what is no https URL");
        }
        self.description()?.documentation = Some(url);
        Ok(())
    }
    fn drop(&mut self, _: Resource<Metadata>) -> Result<()> {
        Ok(())
    }
}
