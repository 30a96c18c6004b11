//! Servers as Kubernetes objects: what a definition and a connection's values become, and what a cluster's objects say of it.
//!
//! Pure functions over JSON: no cluster is asked, no clock read. [`plan()`] makes the objects of one server, or of one
//! connection of it; [`observe()`] tells their state in words; [`drift`] tells what somebody else changed. Whoever applies them
//! is `portcullis_orchestrator`.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bridge;
pub mod deployment;
pub mod drift;
pub mod name;
pub mod observe;
pub mod overrides;
pub mod plan;

mod network;
mod secrets;

pub use bridge::BridgeImage;
pub use name::{Identity, Installation};
pub use observe::{Observed, Phase, Trouble, observe};
pub use plan::{Inherited, Object, ObjectKind, Place, PlanError, Planned, Startup, Values, plan};
