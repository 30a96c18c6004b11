//! The envelope of every resource, and its kinds.

use std::{collections::BTreeMap, fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    API_VERSION, Name, Problem, ResourceKey,
    spec::{
        Agent, Connection, Gateway, IdentityProvider, Kubernetes, McpServer, OAuthClient, Plugin, PullSecret, Role,
        SecretSource, Source, Team, User,
    },
    text::shown,
};

/// What sort of thing a resource describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// A registry entry: what a server is and what it needs.
    McpServer,
    /// An installed server: an owner, values and a secret.
    Connection,
    /// What clients connect to.
    Gateway,
    /// A caller that is no person.
    Agent,
    /// A WebAssembly component and what it may do.
    Plugin,
    /// People who share connections and rules.
    Team,
    /// A person.
    User,
    /// A named set of principals that rules can speak of.
    Role,
    /// Who else says who somebody is.
    IdentityProvider,
    /// A program that an operator registered.
    OAuthClient,
}

impl Kind {
    /// Every kind, in the order in which they depend on each other.
    pub const ALL: [Self; 10] = [
        Self::User,
        Self::Team,
        Self::Role,
        Self::Agent,
        Self::IdentityProvider,
        Self::OAuthClient,
        Self::Plugin,
        Self::McpServer,
        Self::Connection,
        Self::Gateway,
    ];

    /// The name written in `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::McpServer => "McpServer",
            Self::Connection => "Connection",
            Self::Gateway => "Gateway",
            Self::Agent => "Agent",
            Self::Plugin => "Plugin",
            Self::Team => "Team",
            Self::User => "User",
            Self::Role => "Role",
            Self::IdentityProvider => "IdentityProvider",
            Self::OAuthClient => "OAuthClient",
        }
    }

    /// The plural used in URLs and on the command line.
    pub fn plural(self) -> &'static str {
        match self {
            Self::McpServer => "mcpservers",
            Self::Connection => "connections",
            Self::Gateway => "gateways",
            Self::Agent => "agents",
            Self::Plugin => "plugins",
            Self::Team => "teams",
            Self::User => "users",
            Self::Role => "roles",
            Self::IdentityProvider => "identityproviders",
            Self::OAuthClient => "oauthclients",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no kind of resource: use one of mcpservers, connections, gateways, agents, plugins, teams, users, roles, \
     identityproviders, oauthclients"
)]
pub struct InvalidKind(String);

impl FromStr for Kind {
    type Err = InvalidKind;

    /// Takes the kind's name, its plural or its singular, in any case; `server` and `servers` are short for `McpServer`.
    fn from_str(text: &str) -> Result<Self, InvalidKind> {
        let word = text.to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|k| word == k.plural() || word == k.as_str().to_ascii_lowercase())
            .or_else(|| matches!(&*word, "server" | "servers").then_some(Self::McpServer))
            .ok_or_else(|| InvalidKind(shown(text, 40)))
    }
}

/// Which door a resource came in by. Another door's edit is refused, saying where to edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Door {
    /// A watched YAML file; the path as the operator configured it.
    File(String),
    /// `portcullis apply` and the other verbs of the CLI, by way of the admin API.
    Api,
    /// A Kubernetes custom resource, as `NAMESPACE/PLURAL/NAME`.
    Kubernetes(String),
    /// Portcullis itself, such as `quickstart`.
    BuiltIn,
}

impl Door {
    /// Whether what came by it is written down elsewhere and read from there again and again, so that an edit here would be lost.
    pub fn reads_again(&self) -> bool {
        matches!(self, Self::File(_) | Self::Kubernetes(_))
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the file {path}"),
            Self::Api => f.write_str("`portcullis apply` or a page"),
            Self::Kubernetes(path) => write!(f, "the custom resource {path}"),
            Self::BuiltIn => f.write_str("Portcullis itself"),
        }
    }
}

/// What every resource carries beside its spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The name, unique for its kind and tenant.
    pub name: Name,
    /// The tenant.
    #[serde(default = "Name::default_tenant")]
    pub namespace: Name,
    /// Free labels to select by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free notes that nothing selects by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Set by the store: the revision of the last write. Sent back unchanged, it makes a write conditional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Set by the store: when the resource was made, in milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<u64>,
    /// Set by the store: the door it came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door: Option<Door>,
}

impl Metadata {
    /// Metadata with a name and a tenant and nothing else.
    pub fn new(namespace: Name, name: Name) -> Self {
        Self {
            name,
            namespace,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            revision: None,
            created_ms: None,
            door: None,
        }
    }
}

/// The spec of a resource, by its kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "spec")]
#[allow(clippy::large_enum_variant, reason = "resources are few and held behind Arc")]
pub enum Spec {
    /// See [`McpServer`].
    McpServer(McpServer),
    /// See [`Connection`].
    Connection(Connection),
    /// See [`Gateway`].
    Gateway(Gateway),
    /// See [`Agent`].
    Agent(Agent),
    /// See [`Plugin`].
    Plugin(Plugin),
    /// See [`Team`].
    Team(Team),
    /// See [`User`].
    User(User),
    /// See [`Role`].
    Role(Role),
    /// See [`IdentityProvider`].
    IdentityProvider(IdentityProvider),
    /// See [`OAuthClient`].
    OAuthClient(OAuthClient),
}

impl Spec {
    /// The kind that this is the spec of.
    pub fn kind(&self) -> Kind {
        match self {
            Self::McpServer(_) => Kind::McpServer,
            Self::Connection(_) => Kind::Connection,
            Self::Gateway(_) => Kind::Gateway,
            Self::Agent(_) => Kind::Agent,
            Self::Plugin(_) => Kind::Plugin,
            Self::Team(_) => Kind::Team,
            Self::User(_) => Kind::User,
            Self::Role(_) => Kind::Role,
            Self::IdentityProvider(_) => Kind::IdentityProvider,
            Self::OAuthClient(_) => Kind::OAuthClient,
        }
    }

    /// Where the secrets that it names are read from. Whatever has secrets in it is listed here: what is not is neither
    /// watched nor fetched.
    pub fn secret_sources(&self) -> Vec<&SecretSource> {
        match self {
            Self::Connection(connection) => connection.secrets.values().collect(),
            Self::Plugin(plugin) => {
                let logins = plugin.sources().filter_map(|source| match source {
                    Source::Oci(oci) => oci.login.as_ref().map(|login| &login.password),
                    Source::File { .. } | Source::BuiltIn(_) => None,
                });
                plugin.grants.secrets.values().map(|granted| &granted.from).chain(logins).collect()
            }
            Self::IdentityProvider(provider) => provider.client_secret.iter().collect(),
            Self::OAuthClient(client) => client.secret.iter().collect(),
            Self::McpServer(server) => {
                let component = server.component.iter().flat_map(|component| {
                    let login = match &component.source {
                        Source::Oci(oci) => oci.login.as_ref().map(|login| &login.password),
                        Source::File { .. } | Source::BuiltIn(_) => None,
                    };
                    component.grants.secrets.values().map(|granted| &granted.from).chain(login)
                });
                let client = server.oauth().and_then(|o| o.client_secret.as_ref());
                let pods = server.kubernetes.iter().flat_map(Kubernetes::passwords);
                client.into_iter().chain(component).chain(pods).collect()
            }
            Self::Gateway(_) | Self::Agent(_) | Self::Team(_) | Self::User(_) | Self::Role(_) => Vec::new(),
        }
    }

    /// Leaves out where secrets lie, for readers whom that does not concern.
    pub fn hide_secret_sources(&mut self) {
        match self {
            Self::Connection(connection) => connection.secrets.clear(),
            Self::Plugin(plugin) => {
                plugin.grants.secrets.clear();
                for source in plugin.sources_mut() {
                    if let Source::Oci(oci) = source {
                        oci.login = None;
                    }
                }
            }
            Self::IdentityProvider(provider) => provider.client_secret = None,
            Self::OAuthClient(client) => client.secret = None,
            Self::McpServer(server) => {
                if let Some(oauth) = server.credential.as_mut().and_then(|need| need.oauth.as_mut()) {
                    oauth.client_secret = None;
                }
                if let Some(kubernetes) = &mut server.kubernetes {
                    kubernetes.image_pull_secrets.retain(|secret| matches!(secret, PullSecret::Existing(_)));
                }
            }
            Self::Gateway(_) | Self::Agent(_) | Self::Team(_) | Self::User(_) | Self::Role(_) => {}
        }
    }

    /// [`Spec::secret_sources`], to make their paths absolute.
    pub fn secret_sources_mut(&mut self) -> Vec<&mut SecretSource> {
        match self {
            Self::Connection(connection) => connection.secrets.values_mut().collect(),
            Self::Plugin(plugin) => {
                let tried = plugin.candidate.iter_mut().map(|candidate| &mut candidate.source);
                let logins = std::iter::once(&mut plugin.source).chain(tried).filter_map(|source| match source {
                    Source::Oci(oci) => oci.login.as_mut().map(|login| &mut login.password),
                    Source::File { .. } | Source::BuiltIn(_) => None,
                });
                plugin.grants.secrets.values_mut().map(|granted| &mut granted.from).chain(logins).collect()
            }
            Self::IdentityProvider(provider) => provider.client_secret.iter_mut().collect(),
            Self::OAuthClient(client) => client.secret.iter_mut().collect(),
            Self::McpServer(server) => {
                let need = server.credential.as_mut().and_then(|need| need.oauth.as_mut());
                let component = server.component.iter_mut().flat_map(|component| {
                    let login = match &mut component.source {
                        Source::Oci(oci) => oci.login.as_mut().map(|login| &mut login.password),
                        Source::File { .. } | Source::BuiltIn(_) => None,
                    };
                    component.grants.secrets.values_mut().map(|granted| &mut granted.from).chain(login)
                });
                let client = need.and_then(|o| o.client_secret.as_mut());
                let pods = server.kubernetes.iter_mut().flat_map(Kubernetes::passwords_mut);
                client.into_iter().chain(component).chain(pods).collect()
            }
            Self::Gateway(_) | Self::Agent(_) | Self::Team(_) | Self::User(_) | Self::Role(_) => Vec::new(),
        }
    }
}

/// One resource, as in a YAML document.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Always [`API_VERSION`].
    pub api_version: String,
    /// `kind` and `spec`.
    #[serde(flatten)]
    pub spec: Spec,
    /// Name, tenant and what the store adds.
    pub metadata: Metadata,
}

impl Resource {
    /// A resource with the current version.
    pub fn new(metadata: Metadata, spec: Spec) -> Self {
        Self { api_version: API_VERSION.to_owned(), spec, metadata }
    }

    /// Where it is kept.
    pub fn key(&self) -> ResourceKey {
        ResourceKey {
            tenant: self.metadata.namespace.clone(),
            kind: self.spec.kind(),
            name: self.metadata.name.clone(),
        }
    }

    /// What is wrong with it, looked at alone. References to other resources are checked where all are known.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.api_version != API_VERSION {
            problems.push(Problem::new("apiVersion", format!("must be \"{API_VERSION}\"")));
        }
        match &self.spec {
            Spec::McpServer(s) => s.check(&mut problems),
            Spec::Connection(s) => s.check(&mut problems),
            Spec::Gateway(s) => s.check(&mut problems),
            Spec::Plugin(s) => s.check(&mut problems),
            Spec::IdentityProvider(s) => s.check(&mut problems),
            Spec::OAuthClient(s) => s.check(&mut problems),
            Spec::Agent(_) | Spec::Team(_) | Spec::User(_) | Spec::Role(_) => {}
        }
        problems
    }
}

/// Written by hand because a derived `flatten` can neither refuse unknown fields nor keep a parser's positions.
impl<'de> Deserialize<'de> for Resource {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;

        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Raw {
            api_version: String,
            kind: String,
            metadata: Metadata,
            /// Left out, it is empty: of a user that is enough.
            #[serde(default)]
            spec: serde_json::Value,
            #[serde(default)]
            #[allow(dead_code, reason = "accepted so that what `get -o yaml` prints can be applied")]
            status: Option<serde::de::IgnoredAny>,
        }
        let raw = Raw::deserialize(deserializer)?;
        if raw.api_version != API_VERSION {
            return Err(D::Error::custom(format!(
                "apiVersion must be \"{API_VERSION}\", not \"{}\"",
                shown(&raw.api_version, 80)
            )));
        }
        let kind = Kind::ALL
            .into_iter()
            .find(|k| k.as_str() == raw.kind)
            .ok_or_else(|| D::Error::custom(format!("unknown kind \"{}\"", shown(&raw.kind, 80))))?;
        fn read<T: serde::de::DeserializeOwned, E: Error>(spec: serde_json::Value) -> Result<T, E> {
            let spec = if spec.is_null() { serde_json::json!({}) } else { spec };
            serde_json::from_value(spec).map_err(|e| E::custom(format!("spec: {e}")))
        }
        let spec = match kind {
            Kind::McpServer => Spec::McpServer(read(raw.spec)?),
            Kind::Connection => Spec::Connection(read(raw.spec)?),
            Kind::Gateway => Spec::Gateway(read(raw.spec)?),
            Kind::Agent => Spec::Agent(read(raw.spec)?),
            Kind::Plugin => Spec::Plugin(read(raw.spec)?),
            Kind::Team => Spec::Team(read(raw.spec)?),
            Kind::User => Spec::User(read(raw.spec)?),
            Kind::Role => Spec::Role(read(raw.spec)?),
            Kind::IdentityProvider => Spec::IdentityProvider(read(raw.spec)?),
            Kind::OAuthClient => Spec::OAuthClient(read(raw.spec)?),
        };
        Ok(Self { api_version: raw.api_version, spec, metadata: raw.metadata })
    }
}
