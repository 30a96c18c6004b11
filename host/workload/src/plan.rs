//! The objects of a workload, in the order in which they have to be there.

use std::collections::BTreeMap;

use portcullis_model::{
    Name, Secret,
    spec::{Kubernetes, McpServer, Toleration},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{BridgeImage, Identity, Installation, deployment, network, overrides, secrets};

/// The kinds of objects that a workload is made of, and its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// The root: the others belong to it, and go when it goes. It has no rights, and no pod gets its token.
    ServiceAccount,
    /// Before any pod is.
    NetworkPolicy,
    /// The values of a connection, or logins at registries.
    Secret,
    /// Where it is reached.
    Service,
    /// What keeps its pods.
    Deployment,
    /// What the cluster makes of the Deployment. Never applied.
    Pod,
}

impl ObjectKind {
    /// All of them, in the order in which they are applied.
    pub const ALL: [Self; 6] =
        [Self::ServiceAccount, Self::NetworkPolicy, Self::Secret, Self::Service, Self::Deployment, Self::Pod];

    /// Its group and version, as `apiVersion` has them.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::ServiceAccount | Self::Secret | Self::Service | Self::Pod => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::Deployment => "apps/v1",
        }
    }

    /// As `kind` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::Deployment => "Deployment",
            Self::Pod => "Pod",
        }
    }

    /// As paths of the API have it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccounts",
            Self::NetworkPolicy => "networkpolicies",
            Self::Secret => "secrets",
            Self::Service => "services",
            Self::Deployment => "deployments",
            Self::Pod => "pods",
        }
    }
}

/// Where workloads run, and what is the same for all of them.
#[derive(Clone, Debug)]
pub struct Place {
    /// Whose they are.
    pub installation: Installation,
    /// The namespace.
    pub namespace: Name,
    /// Who may call them: peers of a NetworkPolicy (networking.k8s.io/v1 `NetworkPolicyPeer`).
    pub callers: Vec<Value>,
    /// What pods inherit.
    pub inherited: Inherited,
    /// What is put before servers on standard input and output; none of them can be run where there is none.
    pub bridge: Option<BridgeImage>,
}

/// What pods inherit from the gateway's own pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Inherited {
    /// Labels of nodes.
    pub node_selector: BTreeMap<String, String>,
    /// Tolerated taints.
    pub tolerations: Vec<Toleration>,
}

/// What of a connection, and of the server's own logins, reaches the pods. Empty for a deployment that all share.
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// For `${field.NAME}` in arguments and variables. Not secret.
    pub values: BTreeMap<String, String>,
    /// Variables.
    pub env: Vec<(String, Secret)>,
    /// Arguments, after those of the definition.
    pub arguments: Vec<Secret>,
    /// Files: the variable that gets the path, and the content.
    pub files: Vec<(String, Secret)>,
    /// Passwords of the definition's logins at registries, in their order.
    pub passwords: Vec<Secret>,
    /// What the image starts, where the definition does not say and somebody has to know.
    pub startup: Option<Startup>,
}

/// What an image starts, by its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// What is always started.
    pub entrypoint: Vec<String>,
    /// What follows it, where no arguments are given.
    pub command: Vec<String>,
}

/// Whether what the image of a definition starts has to be known, so that it can be started behind a bridge.
pub fn needs_startup(spec: &Kubernetes) -> bool {
    !spec.transport.is_http() && spec.command.is_empty()
}

/// An object to be applied. A Secret's values are not in its body.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
    /// The object, without `ownerReferences` and without a Secret's `data`.
    pub body: Value,
    /// A Secret's values.
    pub data: BTreeMap<String, Secret>,
}

/// A workload.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Whose it is.
    pub identity: Identity,
    /// The name of all its objects but for the pull secret.
    pub name: String,
    /// Its objects, the root first.
    pub objects: Vec<Object>,
    /// How many pods it should have where nobody scaled it.
    pub replicas: u32,
    /// The port and the path of its MCP endpoint.
    pub endpoint: (u16, String),
    /// Whether a bridge is before it, which shares a key with the gateways.
    pub bridged: bool,
    /// What of the hardening is given up, by the names of the fields.
    pub relaxed: Vec<&'static str>,
}

/// Why a definition can't be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The override names what it may not, or makes no sense.
    #[error("override: {}", .0.join("; "))]
    Override(Vec<String>),
    /// A definition that says nothing about a cluster.
    #[error("it does not run in a cluster")]
    NotThis,
    /// It speaks on standard input and output, and there is no bridge.
    #[error("transport: stdio needs a bridge: say `kubernetes.servers.bridge.image` in the server settings")]
    NoBridge,
    /// It speaks on standard input and output, and nobody knows what to start.
    #[error("the image starts nothing by itself: write `kubernetes.command`")]
    NoCommand,
    /// A value that can't be handed to a pod.
    #[error("{0}")]
    Value(String),
}

/// The objects of a server, or of one connection of it.
///
/// # Errors
/// [`PlanError`], in words for operators.
pub fn plan(place: &Place, identity: Identity, server: &McpServer, values: &Values) -> Result<Planned, PlanError> {
    let spec = server.kubernetes.as_ref().ok_or(PlanError::NotThis)?;
    check(values)?;
    let name = identity.name(&place.installation);
    let mut deployment = deployment::of(place, &identity, &name, spec, values)?;
    overrides::apply(&mut deployment, &spec.overrides, spec.relax).map_err(PlanError::Override)?;
    let object = |kind: ObjectKind, parts: Map<String, Value>| {
        let mut body = head(place, &identity, kind, &name);
        if let Some(body) = body.as_object_mut() {
            body.extend(parts);
        }
        Object { kind, name: name.clone(), body, data: BTreeMap::new() }
    };
    let mut objects = vec![
        object(ObjectKind::ServiceAccount, Map::from_iter([("automountServiceAccountToken".to_owned(), json!(false))])),
        object(ObjectKind::NetworkPolicy, network::policy(place, &name, spec)),
    ];
    objects.extend(secrets::of(place, &identity, &name, spec, values));
    objects.push(object(ObjectKind::Service, network::service(&name, spec)));
    objects.push(Object { kind: ObjectKind::Deployment, name: name.clone(), body: deployment, data: BTreeMap::new() });
    Ok(Planned {
        replicas: spec.replicas,
        endpoint: (spec.port, spec.path.clone()),
        bridged: !spec.transport.is_http(),
        relaxed: spec.relax.names(),
        identity,
        name,
        objects,
    })
}

/// The URL by which a workload is called. It follows from whose it is and nothing else; who leads there is asked at each connection.
pub fn url(place: &Place, identity: &Identity, spec: &Kubernetes) -> String {
    format!("http://{}{}", host(place, identity, spec), spec.path)
}

/// Host and port of [`url`].
fn host(place: &Place, identity: &Identity, spec: &Kubernetes) -> String {
    format!("{}.{}.svc:{}", identity.name(&place.installation), place.namespace, spec.port)
}

/// What every object begins with.
pub(crate) fn head(place: &Place, identity: &Identity, kind: ObjectKind, name: &str) -> Value {
    json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": {"name": name, "namespace": place.namespace, "labels": identity.labels(&place.installation)},
    })
}

fn check(values: &Values) -> Result<(), PlanError> {
    for (name, value) in values.env.iter().chain(&values.files) {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(PlanError::Value(format!("\"{}\" is no name of a variable", name.escape_default())));
        }
        if value.len() > secrets::MAX_VALUE {
            return Err(PlanError::Value(format!("the value for {name} is too long for a Secret")));
        }
    }
    Ok(())
}
