//! What plugins may call: one file per package of `wit/`, and the inert part of WASI.

pub(crate) mod auth;
pub(crate) mod caller_token;
pub(crate) mod context;
pub(crate) mod credential;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod metadata;
pub(crate) mod metrics;
pub(crate) mod patch;
pub(crate) mod session;
pub(crate) mod signing;
pub(crate) mod state;
pub(crate) mod token_request;
pub(crate) mod wasi;
