//! A custom resource as one of ours, checked alone.

use portcullis_cluster::{Custom, Namespace};
use portcullis_model::{
    API_VERSION, Name, Resource, Spec,
    spec::{Kubernetes, SecretSource, Source},
};
use serde_json::json;

/// Why a custom resource is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// In a word, as conditions have it.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self { reason: "Invalid", message: message.into() }
    }

    pub(super) fn not_allowed(message: impl Into<String>) -> Self {
        Self { reason: "NotAllowed", message: message.into() }
    }
}

/// The resource that a custom resource of this namespace means.
///
/// # Errors
/// Everything that is wrong with it, looked at alone.
pub(super) fn read(custom: &Custom, place: &Namespace) -> Result<Resource, Refusal> {
    let name: Name = custom.name.parse().map_err(|e| Refusal::invalid(format!("metadata.name: {e}")))?;
    let document = json!({
        "apiVersion": API_VERSION,
        "kind": custom.kind.as_str(),
        "metadata": {
            "name": name,
            "namespace": place.tenant(),
            "labels": custom.labels,
            "annotations": custom.annotations,
        },
        "spec": custom.spec,
    });
    let resource: Resource = serde_json::from_value(document).map_err(|e| Refusal::invalid(e.to_string()))?;
    let problems: Vec<String> = resource.problems().iter().map(ToString::to_string).collect();
    if !problems.is_empty() {
        return Err(Refusal::invalid(problems.join("; ")));
    }
    if !place.allow_local
        && let Some(what) = local(&resource.spec)
    {
        return Err(Refusal::not_allowed(format!(
            "{what} is on the gateway's own machine, which custom resources of the namespace {} may not name: an operator allows it by `allowLocal` in the server setting `kubernetes.resources`",
            place.namespace
        )));
    }
    if !place.allow_local
        && let Spec::McpServer(server) = &resource.spec
        && let Some(field) = server.kubernetes.as_ref().and_then(Kubernetes::of_operators)
    {
        return Err(Refusal::not_allowed(format!(
            "spec.kubernetes.{field} is an operator's to say, not that of custom resources of the namespace {}: an operator allows it by `allowLocal` in the server setting `kubernetes.resources`",
            place.namespace
        )));
    }
    Ok(resource)
}

/// What a resource names on the gateway's own machine. Whoever writes it would read, or run, as the gateway does.
fn local(spec: &Spec) -> Option<String> {
    for source in spec.secret_sources() {
        match source {
            SecretSource::Env(name) => return Some(format!("the variable {name}")),
            SecretSource::File(path) => return Some(format!("the file {path}")),
            SecretSource::Vault(_) | SecretSource::Kubernetes(_) => {}
        }
    }
    match spec {
        Spec::McpServer(server) => {
            let process = server.process.as_ref().map(|process| format!("the process {}", process.command));
            process.or_else(|| server.component.as_ref().and_then(|component| file(&component.source)))
        }
        Spec::Plugin(plugin) => plugin.sources().find_map(file),
        Spec::Connection(_)
        | Spec::Gateway(_)
        | Spec::Agent(_)
        | Spec::Team(_)
        | Spec::User(_)
        | Spec::Role(_)
        | Spec::IdentityProvider(_)
        | Spec::OAuthClient(_) => None,
    }
}

fn file(source: &Source) -> Option<String> {
    match source {
        Source::File { path, .. } => Some(format!("the file {path}")),
        Source::Oci(_) | Source::BuiltIn(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use portcullis_model::Kind;
    use serde_json::Value;

    use super::*;

    fn custom(kind: Kind, name: &str, spec: Value) -> Custom {
        let (labels, annotations) = (BTreeMap::new(), BTreeMap::new());
        let (name, namespace, uid) = (name.to_owned(), "team-a".parse().unwrap(), "u".to_owned());
        Custom {
            kind,
            namespace,
            name,
            uid,
            generation: 1,
            labels,
            annotations,
            manager: None,
            spec,
            status: Value::Null,
        }
    }

    fn refusal(custom: &Custom, allow_local: bool) -> Option<Refusal> {
        let place = Namespace { namespace: "team-a".parse().unwrap(), tenant: None, allow_local };
        read(custom, &place).err()
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let user = |name: &str, spec| refusal(&custom(Kind::User, name, spec), false);
        assert_eq!(user("alice", json!({})), None);
        assert_eq!(user("alice", Value::Null), None, "no spec is an empty one");
        assert!(user("a.b", json!({})).unwrap().message.starts_with("metadata.name: "));
        assert!(user("alice", json!({"nope": 1})).unwrap().message.contains("unknown field `nope`"));
        let server = refusal(&custom(Kind::McpServer, "s", json!({"remote": {"url": "http://mcp.example/"}})), false);
        assert!(server.unwrap().message.starts_with("spec.remote.url: must be https"));
    }

    #[test]
    fn what_is_on_the_gateways_machine_is_an_operators_to_give() {
        let secret = |source: Value| {
            let spec =
                json!({"server": "s", "owner": {"user": "alice"}, "secrets": {"token": source}, "ownerOnly": true});
            custom(Kind::Connection, "c", spec)
        };
        let plugin = json!({"source": {"file": {"path": "/x.wasm"}}});
        for (what, local) in [
            (secret(json!({"env": "PORTCULLIS_KEY"})), true),
            (secret(json!({"file": "/var/run/secrets/kubernetes.io/serviceaccount/token"})), true),
            (custom(Kind::McpServer, "s", json!({"process": {"command": "sh"}})), true),
            (custom(Kind::Plugin, "p", plugin.clone()), true),
            (custom(Kind::Plugin, "p", json!({"source": {"builtIn": "static"}, "candidate": plugin})), true),
            (secret(json!({"kubernetes": {"name": "jira", "key": "token"}})), false),
            (secret(json!({"vault": {"path": "a", "key": "token"}})), false),
            (custom(Kind::McpServer, "s", json!({"remote": {"url": "https://mcp.example/"}})), false),
            (custom(Kind::McpServer, "s", json!({"kubernetes": {"image": "a"}})), false),
            (
                custom(Kind::McpServer, "s", json!({"kubernetes": {"image": "a", "relax": {"writableRoot": true}}})),
                true,
            ),
            (custom(Kind::McpServer, "s", json!({"kubernetes": {"image": "a", "override": {"spec": {}}}})), true),
            (
                custom(
                    Kind::McpServer,
                    "s",
                    json!({"kubernetes": {"image": "a", "imagePullSecrets": [{"existing": "x"}]}}),
                ),
                true,
            ),
        ] {
            let refused = refusal(&what, false);
            assert_eq!(refused.as_ref().is_some_and(|r| r.reason == "NotAllowed"), local, "{what:?}: {refused:?}");
            assert_eq!(refusal(&what, true), None, "{what:?}");
        }
    }
}
