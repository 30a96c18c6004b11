//! One child process: its supervisor, when it is started again, and the lines that it writes.
//!
//! Whoever runs MCP servers as processes stands on this: the gateway's process runtime, and the bridge, which has no gateway.
//! Each server runs under a small supervisor, a mode of whatever binary starts it ([`supervise_main`]), which ends the whole
//! tree when that binary wants it to or is gone (security decision 24).
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod lines;

mod backoff;
mod confine;
mod start;
mod supervise;

pub use backoff::Backoff;
pub use confine::{Confinement, Protection};
pub use start::{Plan, Started, how_it_ended, protections, start};
pub use supervise::{descends, supervise_main};
