//! Talking to MCP servers: transports, eras, pools, health.
//!
//! [`Upstreams`] is the pool. A [`Target`] says which server, at which endpoint, under which account; [`Upstreams::send`]
//! carries one request there and hands the answer back as bytes, either at once or as a stream of messages. Nothing here
//! knows gateways, callers or plugins. Processes are started by whoever implements [`Launcher`].
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod error;
pub mod facts;
pub mod hosts;
pub mod lane;
pub mod launch;
pub mod listen;
pub mod listing;
pub mod message;
pub mod outgoing;
pub mod target;
pub mod upstreams;

mod asking;
mod http;
mod link;
mod meter;
mod pause;
mod server;
mod stdio;

pub use error::{Sent, UpstreamError};
pub use facts::ServerFacts;
pub use hosts::Hosts;
pub use launch::{LaunchError, LaunchKey, LaunchSpec, Launcher, Pipes, SecretFile};
pub use listen::{Change, Changed, Listen};
pub use listing::{Item, ListKind, Listing};
pub use message::{Incoming, Message, MessageKind, MessageStream};
pub use outgoing::{Body, LetGo, NO_CAPABILITIES, Outgoing, Params, Spliced, Wire};
pub use portcullis_protocol::{Era, Version};
pub use target::{Account, Conversation, Endpoint, HttpEndpoint, Target, TargetKey};
pub use upstreams::{Options, Peer, Upstreams};

/// A future in a box, so that traits that return one can be objects.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
