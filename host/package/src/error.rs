//! Why there is no component.

use std::time::Duration;

use portcullis_model::oci::{Digest, InvalidReference};

/// Why a component is not handed on. Never quotes a password or token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackageError {
    /// What names it makes no sense.
    #[error("{0}")]
    Reference(#[from] InvalidReference),
    /// Only the digest says which.
    #[error("{0} names no digest")]
    NoDigest(String),
    /// The registry is not to be asked that way.
    #[error("{0}")]
    Forbidden(String),
    /// The registry can't be reached.
    #[error("the registry {host} gives no answer: {why}")]
    Unreachable {
        /// The registry.
        host: String,
        /// Why.
        why: String,
    },
    /// It is not there.
    #[error("{0} is not in the registry")]
    NotFound(String),
    /// The registry wants another login.
    #[error("the registry {host} refuses: {why}")]
    Refused {
        /// The registry.
        host: String,
        /// Its status, and whether we had a login.
        why: String,
    },
    /// The registry answers what registries don't.
    #[error("the registry {host} answers what it should not: {why}")]
    Answer {
        /// The registry.
        host: String,
        /// What.
        why: String,
    },
    /// The bytes are others than were asked for.
    #[error("{what} was altered: its SHA-256 is {found}, not {wanted}")]
    Altered {
        /// What.
        what: &'static str,
        /// Which were asked for.
        wanted: Digest,
        /// Which came.
        found: Digest,
    },
    /// It is no component.
    #[error("{0}")]
    Layout(String),
    /// It is too large.
    #[error("{what} has more than {max} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The most.
        max: usize,
    },
    /// Nobody signed it.
    #[error("{0} is not signed; sign it with `portcullis plugin sign`, by a key that `plugins.keys` trusts")]
    Unsigned(String),
    /// No trusted key signed it.
    #[error("{what} is signed by no key that may sign it; here may: {keys}")]
    WrongKey {
        /// What.
        what: String,
        /// The names of the keys that may.
        keys: String,
    },
    /// A trusted key signed something else.
    #[error("the signature of {0} is of something else, or it was altered since")]
    SignedOther(String),
    /// The signature can't be read.
    #[error("the signature of {what} can't be read: {why}")]
    Signature {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// It is on its way.
    #[error("it is still being fetched, since {0:?}")]
    Pending(Duration),
    /// Too many are.
    #[error("too many components are being fetched")]
    Busy,
}

impl PackageError {
    /// The word of `portcullis_plugin_signatures_total`, where a signature is the reason.
    pub(crate) fn signature(&self) -> Option<&'static str> {
        match self {
            Self::Unsigned(_) => Some("unsigned"),
            Self::WrongKey { .. } | Self::Signature { .. } => Some("wrong-key"),
            Self::SignedOther(_) | Self::Altered { .. } => Some("altered"),
            _ => None,
        }
    }
}
