//! Real processes that misbehave, through the pool that talks to them.
#![allow(clippy::unwrap_used)]

mod calls;
mod confined;
mod conversing;
mod kit;
mod life;
mod servers;
