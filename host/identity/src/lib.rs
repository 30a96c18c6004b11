//! Callers: who there is, which tokens they hold, and the host's side of the auth plugins.
//!
//! [`Directories`] knows users, teams, roles and agents; [`TokenService`] issues, revokes and looks up tokens of ours;
//! [`JwtService`] verifies tokens of others; [`Authenticator`] asks a gateway's auth providers who is calling and remembers
//! what they said; [`OAuth`] is the authorization server; [`SignIn`] knows who has signed in to the pages; [`may`] says who may do what. Nothing here reads the store
//! while a call waits.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod assertion;
pub mod authenticator;
pub mod certificate;
mod clock;
pub mod directory;
pub mod jwt;
pub mod oauth;
pub mod permission;
mod remembered;
pub mod shelf;
pub mod signin;
pub mod token;

pub use assertion::ClientAssertions;
pub use authenticator::{
    AuthOptions, AuthRefusal, Authenticator, Failures, LimitOptions, Presented, Provider, ProviderAnswer, ProviderHook,
};
pub use directory::{Ambiguous, Directories, Directory};
pub use jwt::{JwtOptions, JwtService};
pub use oauth::OAuth;
pub use permission::{Action, Whose, may};
pub use remembered::{Remembered, remembered};
pub use signin::{SignIn, kept::KeptTokens};
pub use token::{
    AdminDoor, AdminRefusal, Created, Lifetime, NewToken, OnBehalf, TokenError, TokenOptions, TokenRecord,
    TokenService, TokenStatus,
};
