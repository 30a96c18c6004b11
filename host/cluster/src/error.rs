//! Why the cluster did not do what was asked, in words for operators.

use kube::error::Status;
use portcullis_model::text::shown;

/// The most bytes of what the API server says that are passed on.
const MAX_WORDS: usize = 600;

/// Why the cluster did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The settings name no cluster that can be used.
    #[error("{0}")]
    Settings(String),
    /// Our account has no right to it.
    #[error(
        "the gateway's account may not {verb} {resource} in the namespace {namespace}: give it that right in RBAC ({said})"
    )]
    Forbidden {
        /// Such as `get`.
        verb: &'static str,
        /// Such as `secrets` or `gateways.portcullis.dev/status`.
        resource: String,
        /// Where.
        namespace: String,
        /// What the API server said.
        said: String,
    },
    /// The cluster does not know us.
    #[error("the cluster does not know the gateway's account (401): its token may have expired")]
    Unauthorized,
    /// There is no such thing.
    #[error("the cluster has no {0}")]
    Missing(String),
    /// It was changed, or made anew, meanwhile.
    #[error("it was changed meanwhile")]
    Conflict,
    /// Too much at once, or the server is not well; it may work later.
    #[error("the cluster's API is busy or not well ({0})")]
    Busy(String),
    /// The cluster refused it for another reason.
    #[error("the cluster refused it ({0})")]
    Refused(String),
    /// No answer.
    #[error("the cluster's API can't be reached ({0})")]
    Unreachable(String),
}

/// What was asked of the cluster, for the words of its refusal.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) verb: &'static str,
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
}

impl Asked<'_> {
    /// The error in our words.
    pub(crate) fn refused(&self, error: &kube::Error) -> ClusterError {
        match error {
            kube::Error::Api(status) => self.answered(status),
            other => ClusterError::Unreachable(shown(&causes(other), MAX_WORDS)),
        }
    }

    pub(crate) fn answered(&self, status: &Status) -> ClusterError {
        let said = shown(&status.message, MAX_WORDS);
        match status.code {
            401 => ClusterError::Unauthorized,
            403 => ClusterError::Forbidden {
                verb: self.verb,
                resource: self.resource.to_owned(),
                namespace: self.namespace.to_owned(),
                said,
            },
            404 => ClusterError::Missing(format!("{} in the namespace {}", self.resource, self.namespace)),
            409 => ClusterError::Conflict,
            429 | 500..=599 => ClusterError::Busy(format!("{}: {said}", status.code)),
            code => ClusterError::Refused(format!("{code}: {said}")),
        }
    }

    /// It did not answer in time.
    pub(crate) fn slow(&self) -> ClusterError {
        ClusterError::Unreachable(format!("no answer in time to {} {}", self.verb, self.resource))
    }
}

/// An error with everything behind it: its own words alone often say little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        cause = next.source();
    }
    words
}
