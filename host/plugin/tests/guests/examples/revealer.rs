//! Reads the bytes of a secret, for which it needs a grant.

use portcullis_sdk::{Call, Caller, Decision, Error, ToolCall, export, reveal, secret};
use portcullis_trial_guests::report;

/// The guest.
pub struct Revealer;

impl ToolCall for Revealer {
    fn decide(_: Caller<'_>, _: Call<'_>) -> Result<Decision, Error> {
        let bytes = reveal(&secret("key")?.base64())?;
        Ok(report(String::from_utf8_lossy(&bytes)))
    }
}

export!(Revealer: ToolCall);
