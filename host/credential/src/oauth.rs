//! OAuth 2.1 towards servers: a connection holds tokens of the authorization server that its server names.
//!
//! [`UpstreamOAuth`] connects an account: it finds the authorization server, becomes its client, sends the person there,
//! takes the code, and saves what the person confirmed. [`Grants`] holds what was granted and renews it: once for all who
//! wait, durable before it is used.

mod account;
mod challenge;
mod client;
mod discover;
mod error;
mod flow;
mod grant;
mod grants;
mod key;
mod pending;
mod record;
mod refresh;
mod revoke;
#[cfg(test)]
mod tests;
mod token;
mod web;

pub use account::Account;
pub use challenge::{Challenge, insufficient_scope};
pub use client::{CALLBACK_PATH, METADATA_PATH};
pub use error::OAuthError;
pub use flow::{Begin, Begun, Callback, Connected, Saved, UpstreamOAuth};
pub(crate) use grant::{Due, Grant, Lent, Renewal};
pub use grants::{GrantState, GrantStatus, Grants};
