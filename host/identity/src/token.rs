//! Tokens that Portcullis issues: made, listed, revoked, looked up.
//!
//! A token's text is shown once and never kept: the store and the memory hold its SHA-256, which is as good as the token
//! has 256 random bits. Every live token is in memory, so that a look-up reads no store and a revocation holds at once.

mod admin;
mod live;
mod record;
mod service;
mod text;
mod usage;

pub use admin::{AdminDoor, AdminRefusal};
pub(crate) use live::{Live, Validity};
pub use record::{OnBehalf, TokenRecord, TokenStatus};
pub use service::{Created, Lifetime, NewToken, TokenError, TokenOptions, TokenService};
pub use text::{NotAToken, PREFIX, TEXT_LEN, TokenDigest};
