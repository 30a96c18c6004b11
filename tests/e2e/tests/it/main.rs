//! The end-to-end tests, one module an area, so that a filter picks one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;
mod deploy;
mod fixtures;
mod identity;
mod plugins;
mod protocol;
mod replicas;
mod spine;
