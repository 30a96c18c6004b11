//! Who may come in.

use crate::{Caller, Decision, Error, raw};

/// Asked when a client comes in: at each `initialize`, and at a caller's first request otherwise. A verdict holds for a minute.
pub trait SessionOpen {
    /// Whether the client may come in. There is nothing to modify: [`Decision::Modify`] refuses.
    ///
    /// # Errors
    /// Any error refuses.
    fn open(caller: Caller<'_>, session: Session<'_>) -> Result<Decision, Error>;
}

/// When a session policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Occasion {
    /// A client of the 2024 and 2025 revisions opens a session.
    Initialize,
    /// A caller sends a request, and no verdict on them is at hand.
    Request,
    /// An occasion that this SDK does not know.
    Unknown,
}

/// A client that comes in. Lent for one hook.
#[derive(Clone, Copy)]
pub struct Session<'a>(pub(crate) &'a raw::Session);

impl Session<'_> {
    /// The gateway that the client spoke to.
    pub fn gateway(self) -> String {
        self.0.gateway()
    }

    /// Why it is asked now.
    pub fn occasion(self) -> Occasion {
        match self.0.occasion().as_str() {
            "initialize" => Occasion::Initialize,
            "request" => Occasion::Request,
            _ => Occasion::Unknown,
        }
    }

    /// The revision of the protocol that the client speaks, such as `2026-07-28`.
    pub fn protocol(self) -> String {
        self.0.protocol()
    }

    /// The client's own name, as it says itself: nobody has checked it.
    pub fn client_name(self) -> Option<String> {
        self.0.client_name()
    }

    /// The client's version, as it says itself.
    pub fn client_version(self) -> Option<String> {
        self.0.client_version()
    }

    /// What the client says that it can be asked: a JSON object.
    pub fn client_capabilities(self) -> String {
        self.0.client_capabilities()
    }

    /// Milliseconds until the deadline.
    pub fn deadline_ms(self) -> u64 {
        self.0.deadline_ms()
    }

    /// The request's id in logs, traces and errors.
    pub fn request_id(self) -> String {
        self.0.request_id()
    }
}
