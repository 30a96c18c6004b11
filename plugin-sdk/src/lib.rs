//! Write a Portcullis plugin.
//!
//! A plugin is a type, a trait per hook and one macro. Built for `wasm32-wasip2` it is a component that any gateway loads;
//! built natively it is an ordinary crate, whose tests run against [`fake`]s.
//!
//! ```
//! use portcullis_sdk::{Call, Caller, Decision, Error, ToolCall, config, export};
//!
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     limit: u64,
//! }
//!
//! /// Refuses calls with large arguments.
//! struct SizeLimit;
//!
//! impl ToolCall for SizeLimit {
//!     fn decide(_caller: Caller<'_>, call: Call<'_>) -> Result<Decision, Error> {
//!         let Config { limit } = config()?;
//!         if call.arguments_size() > limit {
//!             return Ok(Decision::deny("too-large", format!("arguments of {} are limited to {limit} bytes", call.tool())));
//!         }
//!         Ok(Decision::Allow)
//!     }
//! }
//!
//! export!(SizeLimit: ToolCall);
//!
//! // In a test of the plugin:
//! use portcullis_sdk::fake;
//!
//! let _host = fake::Host::new().config(r#"{"limit": 10}"#).install();
//! let alice = fake::Caller::new("user:alice");
//! let small = fake::Call::new("files", "write").with_arguments(r#"{"a":1}"#);
//! let large = fake::Call::new("files", "write").with_arguments(r#"{"text":"a long one"}"#);
//! assert_eq!(SizeLimit::decide(alice.lend(), small.lend()), Ok(Decision::Allow));
//! assert!(matches!(SizeLimit::decide(alice.lend(), large.lend()), Ok(Decision::Deny(_))));
//! ```
//!
//! The crate of a plugin is a `cdylib` (and an `rlib`, for its tests), built by
//! `cargo build --release --target wasm32-wasip2`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

// The readme's example compiles too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

// The bindings and derives name the crate from inside as a plugin does from outside.
#[allow(unused_extern_crates, reason = "natively only derives in tests do")]
extern crate self as portcullis_sdk;

mod auth;
mod context;
mod credential;
mod described;
mod error;
mod export;
mod host;
pub mod http;
mod json;
mod list;
pub mod metrics;
mod patch;
mod policy;
mod request;
mod schema;
mod session;
mod signing;
mod state;
mod token_request;

#[cfg(target_arch = "wasm32")]
mod bindings;
#[cfg(target_arch = "wasm32")]
mod glue;
#[cfg(target_arch = "wasm32")]
mod raw;

#[cfg(not(target_arch = "wasm32"))]
pub mod fake;
#[cfg(not(target_arch = "wasm32"))]
use fake::raw;

pub use auth::{
    Certificate, Identity, JwtError, LookupError, Outcome, Provider, Request, Rules, Token, Verified, lookup,
    unverified_issuer,
};
pub use context::{Call, Caller, Kind, Value};
pub use credential::{
    CallerToken, Connection, Earlier, Listing, NextStep, OnRejected, Owner, Refresher, Resolution, Resolver, Target,
    TokenKind, caller_token, connections,
};
pub use described::{Described, Metadata};
pub use error::{Denial, Error};
pub use host::{ConfigCell, Level, Part, Secret, Setup, config, log, reveal, secret};
pub use list::{Entries, Entry, List, ListFilter, ListKind};
pub use patch::Patch;
pub use policy::{Decision, PromptGet, ResourceRead, ServerRequest, ToolCall, ToolOutcome, ToolResult};
pub use portcullis_sdk_macros::Schema;
pub use request::{Prompt, PromptPurpose, Question, Read, ReadPurpose};
pub use schema::{Schema, schema_of};
pub use session::{Occasion, Session, SessionOpen};
pub use signing::{Jwt, SigningError, hmac_sha256};
pub use state::{State, StateEntry, StateError, SwapError};
pub use token_request::{TokenAnswer, TokenError, TokenRequest};

/// The version of the contract (`wit/`) that this SDK speaks.
pub const WIT_VERSION: &str = "0.1.0";

/// What [`export!`] and the derive of [`Schema`] expand to. Not for plugins.
#[doc(hidden)]
pub mod __json {
    pub use crate::json::{Piece, SDK, grant, length, render};
}

/// What [`export!`] expands to. Not for plugins.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod __private {
    pub use wit_bindgen::rt;

    pub use crate::{
        bindings::{
            described, list_filter, on_rejected, prompt_get, provider, refresher, resolver, resource_read,
            server_request, session, setup, tool_call, tool_result,
        },
        glue::Adapter,
    };
}
