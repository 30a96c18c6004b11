//! Requests to hosts that the operator granted (`grants.http`).
//!
//! The host resolves names, checks the addresses again, follows no redirect and caps bodies at 1 MiB. A request may carry
//! secrets that the plugin itself can't read.
//!
//! ```
//! use portcullis_sdk::{Error, Part, http, secret};
//!
//! fn score(user: &str) -> Result<f64, Error> {
//!     let key = secret("risk-api")?;
//!     let answer = http::Request::post("https://risk.example/score")
//!         .header("authorization", &[Part::Text("Bearer "), Part::Secret(&key)])
//!         .header("content-type", &[Part::Text("application/json")])
//!         .body(format!(r#"{{"user": "{user}"}}"#))
//!         .timeout_ms(500)
//!         .send()?;
//!     answer.number("/score").ok_or_else(|| "the risk API answered without a score".into())
//! }
//!
//! use portcullis_sdk::fake;
//! let host = fake::Host::new()
//!     .secret("risk-api", "k3y")
//!     .answer("POST", "https://risk.example/score", fake::Response::new(200, r#"{"score": 0.5}"#))
//!     .install();
//! assert_eq!(score("ann"), Ok(0.5));
//! assert_eq!(host.requests()[0].header("authorization"), Some("Bearer k3y"));
//! ```

use std::fmt;

use crate::{Error, Part, Secret, raw};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpError {
    /// The operator did not grant this; the text says what.
    Denied(String),
    /// The name does not resolve.
    Dns,
    /// The connection failed.
    Connect(String),
    /// TLS failed.
    Tls(String),
    /// No answer in time.
    Timeout,
    /// The body is larger than 1 MiB.
    TooLarge,
    /// Anything else.
    Other(String),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(what) => write!(f, "not granted: {what}"),
            Self::Dns => f.write_str("the name does not resolve"),
            Self::Connect(why) => write!(f, "connection failed: {why}"),
            Self::Tls(why) => write!(f, "TLS failed: {why}"),
            Self::Timeout => f.write_str("timed out"),
            Self::TooLarge => f.write_str("the answer is larger than 1 MiB"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for HttpError {}

impl From<HttpError> for Error {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Timeout => Self::Timeout,
            HttpError::Denied(_) | HttpError::TooLarge | HttpError::Other(_) => Self::Other(error.to_string()),
            HttpError::Dns | HttpError::Connect(_) | HttpError::Tls(_) => Self::Unavailable(error.to_string()),
        }
    }
}

/// A body.
#[derive(Clone, Copy, Default)]
pub(crate) enum Body<'a> {
    #[default]
    Empty,
    Bytes,
    Secret(&'a Secret),
}

/// A value of a header.
pub(crate) enum HeaderValue<'a> {
    Text(String),
    Secret(&'a Secret),
    /// Texts and secrets, put together by the host.
    Joined(Secret),
}

/// A request, to be sent once.
pub struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, HeaderValue<'a>)>,
    pub(crate) body: Body<'a>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) timeout_ms: Option<u32>,
}

impl<'a> Request<'a> {
    /// A request with any method.
    pub fn new(method: &'static str, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), body: Body::Empty, bytes: Vec::new(), timeout_ms: None }
    }

    /// A GET.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A POST.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// Adds a header, made of texts and secrets.
    #[must_use]
    pub fn header(mut self, name: &str, parts: &[Part<'a>]) -> Self {
        let value = match parts {
            [Part::Text(text)] => HeaderValue::Text((*text).to_owned()),
            [Part::Secret(secret)] => HeaderValue::Secret(secret),
            _ => HeaderValue::Joined(Secret::concat(parts)),
        };
        self.headers.push((name.to_owned(), value));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Bytes;
        self.bytes = bytes.into();
        self
    }

    /// With a body that holds secrets, such as a form made by [`Secret::concat`].
    #[must_use]
    pub fn secret_body(mut self, secret: &'a Secret) -> Self {
        self.body = Body::Secret(secret);
        self
    }

    /// With a limit on the time until the answer is there, in milliseconds.
    #[must_use]
    pub fn timeout_ms(mut self, millis: u32) -> Self {
        self.timeout_ms = Some(millis);
        self
    }

    /// Sends it. The call is suspended while the host waits.
    ///
    /// # Errors
    /// Where there is no answer; an answer of any status is one.
    pub fn send(self) -> Result<Response, HttpError> {
        raw::send(self).map(Response)
    }
}

/// An answer.
pub struct Response(raw::Response);

impl Response {
    /// The status.
    pub fn status(&self) -> u16 {
        self.0.status()
    }

    /// A header by lower-case name.
    pub fn header(&self, name: &str) -> Option<String> {
        self.0.header(name)
    }

    /// The body. Empty, where the request carried a secret and the plugin lacks the grant `reveal`.
    pub fn body(&self) -> Vec<u8> {
        self.0.body()
    }

    /// Takes a string out of a JSON body by JSON Pointer as a secret, without reading it.
    pub fn take_secret(&self, pointer: &str) -> Option<Secret> {
        self.0.take_secret(pointer).map(Secret)
    }

    /// A number of a JSON body by JSON Pointer, such as `expires_in`.
    pub fn number(&self, pointer: &str) -> Option<f64> {
        self.0.number(pointer)
    }
}
