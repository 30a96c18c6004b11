//! The admin doors: the admin API on a Unix socket, its client, the watched files, and custom resources of a Kubernetes cluster; and
//! the web door, with pages for people.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod api;
pub mod client;
pub mod documents;
pub mod files;
mod install;
pub mod kubernetes;
mod recorded;
pub mod server;
pub mod web;
pub mod wishes;

pub use client::{Client, ClientError};
pub use server::{Admin, AdminSocket, View};
