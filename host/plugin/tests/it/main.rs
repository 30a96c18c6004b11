//! Hostile guests against the plugin host.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod guests;
mod hostile;
mod load_under_calls;
mod loading;
