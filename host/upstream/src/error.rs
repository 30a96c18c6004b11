//! What can go wrong on the way to a server and back, whose fault it is, and whether the server saw the request.

use std::time::Duration;

use portcullis_model::{Fault, Side};

use crate::launch::LaunchError;

/// Whether the server may have seen the request: decides whether sending it again is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It provably was not executed; sending it again is safe.
    No,
    /// It may have been executed; sending it again may do it twice.
    Maybe,
}

/// Why there is no answer. Messages never quote what the server printed beyond a status, so they hold no secrets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UpstreamError {
    /// No connection could be made, or the address is not allowed.
    #[error("can't connect: {0}")]
    Connect(String),
    /// The breaker is open: the last attempt to connect failed a moment ago.
    #[error("can't connect: {reason} (tried a moment ago)")]
    Open {
        /// What the last attempt said.
        reason: String,
        /// When the next attempt is made.
        retry_after: Duration,
    },
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout {
        /// Whether the request had left.
        sent: Sent,
    },
    /// The server answered with an HTTP status that carries no JSON-RPC answer.
    #[error("the server answered with HTTP status {code}")]
    Status {
        /// The status.
        code: u16,
        /// `WWW-Authenticate`, for whoever renews the credential. At most 1 KiB.
        www_authenticate: Option<String>,
        /// `Retry-After` in seconds, where the server gave one.
        retry_after: Option<Duration>,
    },
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// The answer is bigger than `traffic.maxResponse`.
    #[error("the answer is bigger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The connection or the child ended before the answer came.
    #[error("the server closed before it answered")]
    Closed {
        /// Whether the request had left.
        sent: Sent,
    },
    /// The process could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Too many calls are in flight to the server.
    #[error("too many calls in flight")]
    Busy {
        /// When it may be worth another try.
        retry_after: Duration,
    },
    /// The server refused with a JSON-RPC error what was asked of it on behalf of several callers, such as a subscription.
    #[error("the server refused with error {code}")]
    Refused {
        /// The JSON-RPC code.
        code: i64,
    },
    /// The server says more than its reader takes: its stream was cut.
    #[error("the server says more than can be taken: its stream was cut")]
    Flooded,
    /// The pool is closing.
    #[error("shutting down")]
    ShuttingDown,
}

impl UpstreamError {
    /// Whether the server may have seen the request.
    pub fn sent(&self) -> Sent {
        match self {
            Self::Connect(_) | Self::Open { .. } | Self::Launch(_) | Self::Busy { .. } | Self::ShuttingDown => Sent::No,
            Self::Timeout { sent } | Self::Closed { sent } => *sent,
            // An authorization or rate refusal is a refusal of the whole request.
            Self::Status { code: 401 | 403 | 404 | 429, .. } => Sent::No,
            Self::Refused { .. } => Sent::No,
            Self::Status { .. } | Self::Protocol(_) | Self::TooLarge { .. } | Self::Flooded => Sent::Maybe,
        }
    }

    /// Whose fault it is.
    pub fn side(&self) -> Side {
        match self {
            Self::Busy { .. } | Self::ShuttingDown => Side::Gateway,
            Self::Launch(error) => error.side(),
            _ => Side::Server,
        }
    }

    /// A short stable word, for faults, logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::Open { .. } => "server-unreachable",
            Self::Timeout { .. } => "server-timeout",
            Self::Status { code: 401 | 403, .. } => "server-refused-credential",
            Self::Status { .. } => "server-status",
            Self::Protocol(_) => "server-protocol",
            Self::TooLarge { .. } => "server-too-large",
            Self::Closed { .. } => "server-closed",
            Self::Launch(_) => "server-start",
            Self::Busy { .. } => "server-busy",
            Self::Refused { .. } => "server-refused",
            Self::Flooded => "server-flooded",
            Self::ShuttingDown => "shutting-down",
        }
    }

    /// The fault that a caller is told.
    pub fn to_fault(&self, server: &str, tool: Option<&str>) -> Fault {
        let mut fault = Fault::new(self.side(), self.code(), format!("server \"{server}\": {self}")).server(server);
        if let Some(tool) = tool {
            fault = fault.tool(tool);
        }
        match self {
            Self::Open { retry_after, .. } | Self::Busy { retry_after } => {
                fault = fault.retry_after_ms(millis(*retry_after)).next("Try again in a moment");
            }
            Self::Status { retry_after: Some(after), .. } => fault = fault.retry_after_ms(millis(*after)),
            Self::Status { code: 401 | 403, .. } => {
                fault = fault.next(
                    "Renew or replace what its connection holds, or correct what is asked for in its mode (audience, resource, scope)",
                );
            }
            Self::Timeout { sent: Sent::Maybe } | Self::Closed { sent: Sent::Maybe } => {
                fault = fault.next("The call may have been carried out: check before you send it again");
            }
            Self::TooLarge { .. } => {
                fault = fault.next("Ask for less, or raise spec.traffic.maxResponse of the server");
            }
            Self::Launch(LaunchError::Backoff { retry_after, .. }) => {
                fault = fault.retry_after_ms(millis(*retry_after)).next(format!("See `portcullis logs {server}`"));
            }
            Self::Launch(_) | Self::Closed { .. } => fault = fault.next(format!("See `portcullis logs {server}`")),
            _ => {}
        }
        fault
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
