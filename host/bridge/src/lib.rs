//! A stdio server's process behind streamable HTTP, for one or several clients.
//!
//! Two sorts of children ([decision 44](../../../docs/decisions/0044-the-bridges-children.md)). The *shared* one is started with the
//! bridge and kept: it serves every request of the stateless era, and every session of the older era whose client can't be
//! asked anything. A client that can be asked gets a child of its own, so that what a server asks can reach nobody else. Nothing is
//! translated between the eras: a client speaks what the server speaks.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod install;
pub mod key;
pub mod options;
pub mod serve;

mod body;
mod counters;
mod door;
mod handshake;
mod keeper;
mod legacy;
mod link;
mod log;
mod modern;
mod pipes;
mod post;
mod refuse;
mod session;
mod sessions;
mod stderr;
mod tokens;

pub use options::Options;
pub use serve::{BridgeError, run};
