//! What the words mean: resources, names, principals, secrets and faults. No I/O.
//!
//! Everything an operator writes is a [`Resource`]: one schema for YAML files, the CLI, the REST API and Kubernetes.

pub mod address;
pub mod custom;
pub mod explain;
pub mod name;
pub mod oci;
pub mod principal;
pub mod quantity;
pub mod resource;
pub mod schema;
pub mod secret;
pub mod spec;
pub mod text;

pub mod fault;
pub mod problem;

pub use fault::{Fault, Side};
pub use name::{Name, ResourceKey};
pub use principal::{CallerToken, Principal, PrincipalKind, Subject, TokenOrigin};
pub use problem::Problem;
pub use quantity::{Bytes, Span};
pub use resource::{Door, Kind, Metadata, Resource, Spec};
pub use secret::Secret;

/// The group and version that every resource carries in `apiVersion`.
pub const API_VERSION: &str = "portcullis.dev/v1alpha1";
/// The tenant of whoever names none.
pub const DEFAULT_TENANT: &str = "default";
