//! The Kubernetes client: the one place that talks to a cluster's API, for secrets kept there, for resources written there, and for
//! servers that run there.
//!
//! Everybody else sees our own words: [`Secret`](portcullis_model::Secret)s, [`Custom`] objects, and [`ClusterError`]s that
//! name what is missing. Whatever is asked is asked as the gateway's own account, and nothing here decides who may see it.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access;
mod custom;
mod error;
mod objects;
mod options;
mod right;
mod secrets;

pub use access::Cluster;
pub use custom::{Custom, Event, MAX_OBJECTS};
pub use error::ClusterError;
pub use objects::{Live, Sight};
pub use options::{Callers, Namespace, Options, RegistryReach, Servers};
