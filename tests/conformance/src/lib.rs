//! The official conformance suite and our own comparison of payloads, direct and through the gateway: whatever a server
//! says by itself, it says through Portcullis.
//!
//! `cargo xtask conformance` runs it and writes the figures; a test of `cargo xtask test` runs the same.
#![allow(clippy::print_stdout, reason = "it reports to a terminal")]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod authorization;
pub mod client;
pub mod compare;
pub mod fixture;
pub mod known;
pub mod ordered;
pub mod parts;
pub mod payload;
pub mod run;
pub mod settings;
pub mod suite;
pub mod talk;
