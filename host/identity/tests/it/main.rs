//! Identity as a whole: tokens on a real store, JWTs of a real issuer on loopback, providers that are real plugins.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod authenticator;
mod house;
mod issuer;
mod jwt;
mod plugins;
mod signin;
mod tokens;
