//! What the trial guests share: each is an example of this crate, built as a component by the tests of `host/plugin`.

use portcullis_sdk::Decision;

/// A denial whose message is what the test wants to see.
pub fn report(text: impl Into<String>) -> Decision {
    Decision::deny("report", text)
}
