//! Fakes of requests that a plugin sends, and of their answers.

use super::Secret;
use crate::http::{Body, HeaderValue, HttpError, Request};

/// An answer; give it to [`Host::answer`](super::Host::answer).
#[derive(Clone, Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Response {
    /// An answer with a status and a body.
    pub fn new(status: u16, body: impl ToString) -> Self {
        Self { status, headers: Vec::new(), body: body.to_string() }
    }

    /// With a header (lower-case name).
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.body).ok()
    }

    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        self.body.clone().into_bytes()
    }

    pub(crate) fn take_secret(&self, pointer: &str) -> Option<Secret> {
        Some(Secret::new(self.json()?.pointer(pointer)?.as_str()?))
    }

    pub(crate) fn number(&self, pointer: &str) -> Option<f64> {
        self.json()?.pointer(pointer)?.as_f64()
    }
}

/// A request that the plugin sent, secrets included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// The headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Sent {
    /// A header by the name that the plugin gave it.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl From<Request<'_>> for Sent {
    fn from(request: Request<'_>) -> Self {
        let value = |value: &HeaderValue<'_>| match value {
            HeaderValue::Text(text) => text.clone(),
            HeaderValue::Secret(secret) => secret.0.text().to_owned(),
            HeaderValue::Joined(secret) => secret.0.text().to_owned(),
        };
        Self {
            method: request.method.to_owned(),
            headers: request.headers.iter().map(|(name, text)| (name.clone(), value(text))).collect(),
            body: match request.body {
                Body::Empty => Vec::new(),
                Body::Bytes => request.bytes,
                Body::Secret(secret) => secret.0.text().as_bytes().to_vec(),
            },
            url: request.url,
        }
    }
}

pub(crate) type Answers = Vec<(String, String, Result<Response, HttpError>)>;
