//! How a caller is turned away: with a status, a challenge, and the next step.

use std::{borrow::Cow, time::Duration};

use http::{HeaderValue, StatusCode};
use portcullis_model::{Fault, Side};

use crate::clock::millis;

/// Why nobody was authenticated.
#[derive(Clone, Debug)]
pub struct AuthRefusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// `WWW-Authenticate` (RFC 9110 section 11.6.1), with 401.
    pub challenge: Option<HeaderValue>,
    /// For the caller and the log.
    pub fault: Fault,
}

const HOW: &str = "A client that knows OAuth signs you in by itself, in a browser (`WWW-Authenticate` says where). Any other sends the \
    header `Authorization: Bearer TOKEN`; you make a token on the gateway's own page `/tokens`, or an operator does with \
    `portcullis token create --owner user:NAME`. Where the operator trusts an authority of client certificates, a program may come \
     with one instead";

impl AuthRefusal {
    /// No credential was sent. RFC 6750 section 3.1: then the challenge names no error.
    pub(super) fn nobody() -> Self {
        let fault = Fault::new(Side::Caller, "unauthenticated", "this gateway has to know who is calling").next(HOW);
        Self { status: StatusCode::UNAUTHORIZED, challenge: Some(challenge("")), fault }
    }

    /// A credential was sent, and nobody knows it.
    pub(super) fn unknown() -> Self {
        let message = "the credential is not known at this gateway";
        Self::invalid(message, "error=\"invalid_token\", error_description=\"not known at this gateway\"")
    }

    /// The credential was good once.
    pub(super) fn ended(message: &'static str) -> Self {
        Self::invalid(message, "error=\"invalid_token\"")
    }

    /// A provider refused it.
    pub(super) fn invalid(message: impl Into<Cow<'static, str>>, parameters: &str) -> Self {
        let fault = Fault::new(Side::Caller, "invalid-credential", message).next(HOW);
        Self { status: StatusCode::UNAUTHORIZED, challenge: Some(challenge(parameters)), fault }
    }

    /// A provider refused in its own words, and no other credential would help.
    pub(super) fn denied(message: String) -> Self {
        let fault = Fault::new(Side::Policy, "access-denied", message);
        Self { status: StatusCode::FORBIDDEN, challenge: None, fault }
    }

    /// Somebody has to go somewhere first.
    pub(super) fn consent(message: &str, url: &str) -> Self {
        let fault = Fault::new(Side::Caller, "consent-needed", message.to_owned()).next(format!("Open {url}"));
        Self { status: StatusCode::FORBIDDEN, challenge: None, fault }
    }

    /// A provider has no answer, so nobody gets in.
    pub(super) fn unavailable(retry: bool) -> Self {
        let message = "who is calling can't be checked now, so the request is refused";
        let next = "Try again; if it stays, tell your operator the request id";
        let mut fault = Fault::new(Side::Gateway, "auth-unavailable", message).next(next);
        if retry {
            fault = fault.retry_after_ms(1000);
        }
        Self { status: StatusCode::SERVICE_UNAVAILABLE, challenge: None, fault }
    }

    /// Too many failures from one address.
    pub(super) fn limited(wait: Duration) -> Self {
        let fault = Fault::new(Side::Caller, "too-many-failures", "too many failed authentications from this address")
            .next("Wait, and check the credential that your client sends")
            .retry_after_ms(millis(wait).max(1));
        Self { status: StatusCode::TOO_MANY_REQUESTS, challenge: None, fault }
    }
}

/// `Bearer`, with what a provider says behind it. What can't be a header value is left out.
fn challenge(parameters: &str) -> HeaderValue {
    let plain = HeaderValue::from_static("Bearer");
    if parameters.is_empty() {
        return plain;
    }
    HeaderValue::try_from(format!("Bearer {parameters}")).unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_header_values_whatever_a_plugin_says() {
        assert_eq!(challenge(""), "Bearer");
        assert_eq!(challenge("error=\"invalid_token\""), "Bearer error=\"invalid_token\"");
        assert_eq!(challenge("x\r\nSet-Cookie: a=b"), "Bearer");
    }
}
