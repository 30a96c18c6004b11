//! MCP on the wire: envelope, eras, headers, SSE, sealed state. No I/O.
//!
//! The call path never rebuilds a message. [`envelope`] finds, in one pass over borrowed bytes, the few members that a
//! gateway has to read and where they are; [`splice`] replaces those and copies every other byte.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod canonical;
pub mod envelope;
pub mod era;
pub mod headers;
pub mod links;
pub mod mirror;
pub mod proof;
pub mod rpc;
mod scan;
pub mod seal;
pub mod session;
pub mod splice;
pub mod sse;
pub mod strict;
pub mod tool;

pub use envelope::{Kind, Message, Meta, Params, ParseError, ParseLimits, Piece, Text, parse};
pub use era::{Era, Version};
