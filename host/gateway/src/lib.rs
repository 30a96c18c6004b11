//! The life of a call, phases 1 to 11, and nothing else. ARCHITECTURE.md has the picture.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admit;
mod catalogue;
mod naming;
