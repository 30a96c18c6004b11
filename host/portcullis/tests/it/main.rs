//! The built binary, used as people use it.
#![allow(clippy::unwrap_used, missing_docs)]

mod authors;
mod compile;
mod crowd;
mod gateway;
mod help;
mod plugins;
mod refusals;
mod support;
mod tls;
