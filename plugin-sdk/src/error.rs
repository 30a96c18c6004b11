//! Why a plugin has no answer.

use std::fmt;

/// A refusal, in words that the caller may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// A short stable word for programs, such as `not-allowed`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

/// Why a plugin has no answer. Everything but [`Denied`](Self::Denied), [`NotFound`](Self::NotFound) and
/// [`NeedsConsent`](Self::NeedsConsent) counts as a fault of the plugin or of what it depends on; each of them refuses the call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The plugin's `config` is wrong; the text says where and what would be right.
    InvalidConfig(String),
    /// The call may not happen.
    Denied(Denial),
    /// What the plugin looked for does not exist.
    NotFound,
    /// What the plugin holds is no longer valid.
    Expired,
    /// A person has to visit `url` before the call can work.
    NeedsConsent {
        /// Where to go.
        url: String,
        /// What for.
        message: String,
    },
    /// Another service refused.
    Upstream {
        /// Its HTTP status, if it answered.
        status: Option<u16>,
        /// What it said, without secrets.
        message: String,
    },
    /// Another service did not answer in time.
    Timeout,
    /// Another service could not be reached.
    Unavailable(String),
    /// Anything else.
    Other(String),
}

impl Error {
    /// A refusal with a code for programs and a sentence for people.
    pub fn denied(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Denied(Denial { code: code.into(), message: message.into() })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidConfig(what) => write!(f, "invalid config: {what}"),
            Self::Denied(denial) => write!(f, "{} ({})", denial.message, denial.code),
            Self::NotFound => f.write_str("not found"),
            Self::Expired => f.write_str("expired"),
            Self::NeedsConsent { url, message } => write!(f, "{message}: {url}"),
            Self::Upstream { status: Some(status), message } => write!(f, "upstream answered {status}: {message}"),
            Self::Upstream { status: None, message } => write!(f, "upstream failed: {message}"),
            Self::Timeout => f.write_str("timed out"),
            Self::Unavailable(what) => write!(f, "unavailable: {what}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<String> for Error {
    fn from(what: String) -> Self {
        Self::Other(what)
    }
}

impl From<&str> for Error {
    fn from(what: &str) -> Self {
        Self::Other(what.to_owned())
    }
}
