//! The vault, connections, and the resolver strategies' host side.
//!
//! A [`Vault`] seals what people give at install time; [`Secrets`] keeps it sealed in the store; the [`ConnectionBook`] knows
//! which connection may serve whom (security.md 20); the [`Resolver`] asks the credential plugin which of them a call runs
//! under and makes of it what the call [`Carried`]. Nobody's credential is ever used for somebody else: whatever a plugin
//! answers, only a connection that the book holds eligible for this caller is taken.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod book;
mod cache;
mod carried;
mod eligible;
pub mod explain;
mod fields;
mod follow;
pub mod link;
mod missing;
mod oauth;
mod plan;
mod resolver;
mod secrets;
mod sources;
mod uses;
mod vault;

pub use book::{ConnectionBook, ConnectionStatus, Orphaned};
pub use carried::Carried;
pub use fields::{Given, misfits};
pub use follow::{PassedAudit, SignIns};
pub use link::ConnectLink;
pub use oauth::{
    Account, Begin, Begun, CALLBACK_PATH, Callback, Challenge, Connected, GrantState, GrantStatus, Grants,
    METADATA_PATH, OAuthError, Saved, UpstreamOAuth, insufficient_scope,
};
pub use plan::{CredentialPlan, PlanParts, Resolve};
pub use resolver::{CACHE_ENTRIES, Rejection, Resolver};
pub use secrets::{MAX_FIELD_BYTES, MAX_FIELDS, Resealed, Secrets, SecretsError};
pub use sources::{
    Freshness, SecretSources, ServiceError, ServiceSettingsError, Services as SecretServices, SourceError, VaultAuth,
    VaultOptions, VaultReadError,
};
pub use uses::{MAX_USES, Use};
pub use vault::{KEY_VARIABLE, KeySource, Vault, VaultError};
