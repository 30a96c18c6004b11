//! The conformance runs as a test, so that the test command holds the gateway to them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod protocol;
