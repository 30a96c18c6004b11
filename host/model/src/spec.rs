//! The specs of the eight kinds, a file each.

pub mod connection;
pub mod field;
pub mod gateway;
pub mod headers;
pub mod mcp_server;
pub mod people;
pub mod plugin;
pub mod secret_source;

pub use connection::{Connection, Owner};
pub use field::{Field, FieldType};
pub use gateway::{CredentialMode, Disclosure, Gateway, PluginUse, ServerAssignment, Shown, ToolAssignment};
pub use mcp_server::{
    AuthorizationServer, CredentialNeed, Interaction, McpServer, OAuth, Placement, Process, Registration, Remote,
    Sharing, TokenHeader, Traffic, Transport,
};
pub use people::{Agent, ExternalGroup, Identity, Role, Team, User};
pub use plugin::{Failure, Grants, Isolation, Limits, Plugin, SecretGrant, Source};
pub use secret_source::{KubernetesSecret, SecretSource, VaultSecret};
