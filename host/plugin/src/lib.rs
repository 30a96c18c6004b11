//! The WebAssembly host: load, link, limit, pool, swap, meter.
//!
//! The only crate that knows wasmtime. A [`Host`] compiles a [`Component`], loads it as a [`Plugin`] with its
//! configuration and grants, and a plugin answers hooks. Whatever a guest does, the worst outcome is a [`PluginFailure`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod answer;
#[allow(unreachable_pub, missing_debug_implementations)]
mod bindings;
mod cache;
mod calls;
mod closed;
mod compile;
mod compiling;
mod component;
mod distribution;
mod error;
mod facts;
mod granted;
mod health;
mod host;
mod imports;
mod instances;
mod json_patch;
mod load;
pub mod manager;
mod meter;
mod needs;
mod passthrough;
mod plugin;
mod prepare;
mod rollout;
mod run;
mod secrets;
mod services;
mod sessions;
mod shadow;
mod spaces;
mod state;
mod survey;
mod ticker;
mod token_request;
mod tools;

pub use answer::{
    Asserted, AssertedPrincipal, Decision, Description, Hooks, Outcome, Read, Rejection, Resolution, Verdict,
    VerifiedToken,
};
pub use calls::Earlier;
pub use compile::{COMPILE, CompileLimits, Compiler, compile_main};
pub use component::{Component, schema_of};
pub use distribution::signature_of;
pub use error::{LoadError, PluginError, PluginFailure};
pub use facts::{
    Attributes, AuthRequest, CallFacts, ClientCertificate, Item, ListKind, MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES,
    PromptFacts, PromptPurpose, QuestionFacts, ReadFacts, ReadPurpose, RequestFacts, ResultFacts, SessionFacts,
    TargetFacts, carries_credential,
};
pub use granted::is_granted;
pub use health::Quarantine;
pub use host::{Host, HostOptions};
pub use load::{GrantedSecret, LoadPlan};
pub use passthrough::Passed;
pub use plugin::Plugin;
// What a component says of itself is read where it is compiled.
pub use portcullis_manifest::{Complaint, Manifest, Schema, Want};
pub use rollout::{Candidate, Difference, Placed};
pub use secrets::{Allowed, Guarded, MAX_SECRET_BYTES, OriginPattern};
pub use services::{
    Assertion, Assertions, BoxFuture, ConnectionFacts, Connections, Jwt, JwtError, JwtRules, Outbound, OutboundError,
    OutboundRequest, OutboundResponse, RevealAudit, SecretReader, Services, Signed, Still, TokenFacts,
    TokenLookupError, Tokens, VerifiedJwt,
};
pub use tools::{Tool, ToolAnswer, ToolError, Toolbox, Toolshed};
