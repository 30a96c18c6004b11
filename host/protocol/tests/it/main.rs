//! The crate from outside: properties first, then the cases that have names.
#![allow(clippy::unwrap_used)]

mod canonical;
mod envelope;
mod headers;
mod json;
mod rpc;
mod sealed;
mod splice;
mod sse;
