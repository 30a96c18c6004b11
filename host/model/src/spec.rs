//! The specs of the ten kinds, a file each.

pub mod connection;
pub mod exchange;
pub mod field;
pub mod gateway;
pub mod headers;
pub mod identity_provider;
pub mod mcp_server;
pub mod oauth_client;
pub mod people;
pub mod place;
pub mod plugin;
pub mod secret_source;

pub use connection::{Connection, Owner};
pub use field::{Field, FieldType};
pub use gateway::{
    CredentialMode, Disclosure, Gateway, GatewayOAuth, ScopeRule, ServerAssignment, Shown, ToolAssignment,
};
pub use identity_provider::{IdentityProvider, LoginToken, LoginTokens};
pub use mcp_server::{
    Amounts, AuthorizationServer, ComponentServer, CredentialNeed, Egress, Interaction, Kubernetes, MAX_REPLICAS,
    McpServer, OAuth, Placement, Probes, Process, PullLogin, PullSecret, RESERVED, Registration, Relaxed, Remote,
    Resources, Sharing, TokenHeader, Toleration, ToolLimits, Traffic, Transport, is_network,
};
pub use oauth_client::OAuthClient;
pub use people::{Agent, ExternalGroup, Identity, Role, Team, User};
pub use place::{Mode, PluginUse, When, Whom};
pub use plugin::{Candidate, Failure, Grants, Isolation, Limits, Login, Oci, Plugin, SecretGrant, Source};
pub use secret_source::{KubernetesSecret, SecretSource, VaultSecret};
