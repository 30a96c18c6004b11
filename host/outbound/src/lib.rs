//! Requests that Portcullis itself makes, beside those of calls: for plugins, for keys and metadata of identity providers, for
//! tokens. They go to addresses that were checked after the name was resolved, follow no redirect, and are bounded in time and
//! bytes.
//!
//! Who may ask whom, and which secret may go along, is decided by whoever makes a [`Request`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod client;
mod reach;
#[cfg(test)]
mod tests;
mod trust;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use portcullis_model::Secret;
use url::Url;

pub use client::Client;
pub use reach::{GuardedResolver, Reach, Refused, Unresolved};
pub use trust::{roots, roots_and, tls_reason, trusting};

/// A request.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// An absolute http or https URL.
    pub url: Url,
    /// Headers; those that carry a secret are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body. Wiped when it was sent.
    pub body: Secret,
    /// When to give up.
    pub timeout: Duration,
    /// The most bytes of the answer's body.
    pub max_body: usize,
    /// Which addresses it may go to.
    pub reach: Reach,
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer. Never quotes what was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not allowed to go there.
    #[error("denied: {0}")]
    Denied(String),
    /// The name has no address.
    #[error("name not resolved")]
    Dns,
    /// No connection.
    #[error("can't connect: {0}")]
    Connect(String),
    /// No TLS.
    #[error("tls: {0}")]
    Tls(String),
    /// Too late.
    #[error("timeout")]
    Timeout,
    /// The body is too large.
    #[error("answer too large")]
    TooLarge,
    /// Something else.
    #[error("{0}")]
    Other(String),
}
