//! What the end-to-end tests stand on: the built binary, real servers, real clients, and a server that tells what it saw.
//!
//! Nothing here knows the product from within: it is started, configured and asked as a user would.
#![allow(clippy::print_stderr, reason = "a failed test tells what it saw")]

pub mod asked;
pub mod asker;
pub mod authority;
pub mod browser;
pub mod chromium;
pub mod cluster;
pub mod containers;
pub mod driver;
pub mod echo;
pub mod events;
pub mod granting;
pub mod guests;
pub mod helm;
pub mod http;
pub mod images;
pub mod nginx;
pub mod oauth;
pub mod oidc;
pub mod parts;
pub mod process;
pub mod product;
pub mod registry;
pub mod servers;
pub mod shelf;
pub mod swap;
pub mod vault;
pub mod wire;

use std::{future::Future, time::Duration};

/// How long anything may take that has to happen soon.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until there is an answer. Panics with `what` where there is none in time.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < until, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
