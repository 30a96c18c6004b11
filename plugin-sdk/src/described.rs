//! What clients read of a gateway before they have a token.

use crate::{Error, raw};

/// Optional, beside [`Provider`](crate::Provider): where a client gets the tokens that the provider accepts.
pub trait Described {
    /// Asked once, when the plugin is loaded.
    ///
    /// # Errors
    /// Any error refuses the plugin.
    fn describe(into: Metadata<'_>) -> Result<(), Error>;
}

/// Protected-resource metadata (RFC 9728), to be filled in.
#[derive(Clone, Copy)]
pub struct Metadata<'a>(pub(crate) &'a raw::Metadata);

impl Metadata<'_> {
    /// An authorization server, by its issuer, which must be among the granted `issuers`.
    pub fn authorization_server(self, issuer: &str) {
        self.0.authorization_server(issuer);
    }

    /// A scope that clients may want to ask for.
    pub fn scope(self, name: &str) {
        self.0.scope(name);
    }

    /// A page for developers.
    pub fn documentation(self, url: &str) {
        self.0.documentation(url);
    }
}
