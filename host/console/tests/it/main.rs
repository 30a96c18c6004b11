//! The admin doors against a real store, real files and a real socket.
#![allow(clippy::unwrap_used, missing_docs)]

mod admin;
mod files;
mod support;
