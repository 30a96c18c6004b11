//! The kinds as Kubernetes custom resource definitions (apiextensions.k8s.io/v1), generated from the types.

mod structural;

use serde_json::{Value, json};

use crate::{API_VERSION, Kind, schema::resource_schema};

/// The condition of a custom resource that says whether it was taken.
pub const ACCEPTED: &str = "Accepted";
/// The most bytes of a condition's message.
pub const MAX_MESSAGE: usize = 4096;

/// A definition for each kind, in the order in which they depend on each other.
pub fn definitions() -> Vec<Value> {
    let schema = resource_schema().to_value();
    Kind::ALL.into_iter().map(|kind| definition(kind, &schema)).collect()
}

fn definition(kind: Kind, schema: &Value) -> Value {
    let (group, version) = API_VERSION.split_once('/').unwrap_or((API_VERSION, ""));
    let definitions = &schema["$defs"];
    let spec = structural::of(&definitions[kind.as_str()], definitions);
    // Where nothing has to stand in it, it may be left out.
    let required = spec.get("required").is_some();
    let mut body = json!({
        "type": "object",
        "description": spec["description"],
        "properties": {"metadata": metadata(definitions), "spec": spec, "status": status()},
    });
    if required {
        body["required"] = json!(["spec"]);
    }
    let version = json!({
        "name": version,
        "served": true,
        "storage": true,
        "additionalPrinterColumns": columns(kind),
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": body},
    });
    let mut names = json!({
        "kind": kind.as_str(),
        "listKind": format!("{}List", kind.as_str()),
        "plural": kind.plural(),
        "singular": kind.as_str().to_ascii_lowercase(),
        "categories": ["portcullis"],
    });
    if kind == Kind::McpServer {
        names["shortNames"] = json!(["mcp"]);
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{group}", kind.plural())},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [version]},
    })
}

/// Names that the cluster allows and we don't are refused at once.
fn metadata(definitions: &Value) -> Value {
    let mut name = structural::of(&definitions["Name"], definitions);
    if let Some(name) = name.as_object_mut() {
        name.remove("description");
    }
    json!({"type": "object", "properties": {"name": name}})
}

/// What the gateway writes back, as the conventions of Kubernetes' API have it.
fn status() -> Value {
    let text = |most: usize, what: &str| json!({"type": "string", "maxLength": most, "description": what});
    json!({
        "type": "object",
        "description": "Written by Portcullis.",
        "properties": {
            "observedGeneration": {
                "type": "integer", "format": "int64",
                "description": "The generation of the spec that the conditions are about.",
            },
            "conditions": {
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                    "properties": {
                        "type": text(316, "What is said something about."),
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it is so."},
                        "reason": text(1024, "Why, in a word."),
                        "message": text(MAX_MESSAGE, "Why, for people."),
                        "observedGeneration": {
                            "type": "integer", "format": "int64", "description": "The generation that it is about.",
                        },
                        "lastTransitionTime": {
                            "type": "string", "format": "date-time", "description": "Since when it has been so.",
                        },
                    },
                },
            },
        },
    })
}

/// What `kubectl get` shows.
fn columns(kind: Kind) -> Value {
    let own: &[(&str, &str)] = match kind {
        Kind::McpServer => &[("Title", ".spec.title"), ("URL", ".spec.remote.url")],
        Kind::Connection => &[("Server", ".spec.server")],
        Kind::Gateway => &[("Servers", ".spec.servers[*].server")],
        Kind::Agent => &[("Team", ".spec.team")],
        Kind::Plugin => &[("Built-in", ".spec.source.builtIn")],
        Kind::User => &[("Name shown", ".spec.displayName")],
        Kind::Team => &[("Members", ".spec.members")],
        Kind::IdentityProvider => &[("Issuer", ".spec.issuer")],
        Kind::OAuthClient => &[("Title", ".spec.title")],
        Kind::Role => &[],
    };
    let condition = |part: &str| format!(".status.conditions[?(@.type==\"{ACCEPTED}\")].{part}");
    let text = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    let mut columns: Vec<Value> = own.iter().map(|(name, path)| text(name, path)).collect();
    columns.push(text(ACCEPTED, &condition("status")));
    let mut message = text("Message", &condition("message"));
    // Shown with `-o wide`.
    message["priority"] = json!(1);
    columns.push(message);
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    Value::Array(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_definition_with_a_type_at_every_place() {
        fn typed(place: &str, schema: &Value) {
            let free = schema["x-kubernetes-preserve-unknown-fields"] == true;
            assert!(free || schema["type"].is_string(), "{place} has no type: {schema}");
            for part in ["$ref", "oneOf", "anyOf", "allOf", "const", "default", "title"] {
                assert!(schema.get(part).is_none(), "{place} has {part}");
            }
            assert!(schema["additionalProperties"] != false, "{place}: the cluster takes no such word");
            for (name, part) in schema["properties"].as_object().into_iter().flatten() {
                typed(&format!("{place}.{name}"), part);
            }
            for part in ["items", "additionalProperties"] {
                if let Some(part) = schema.get(part) {
                    typed(&format!("{place}[]"), part);
                }
            }
        }
        let all = definitions();
        assert_eq!(all.len(), Kind::ALL.len());
        for definition in &all {
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            typed(&definition["metadata"]["name"].to_string(), schema);
        }
        let find = |kind: Kind| &all[Kind::ALL.iter().position(|k| *k == kind).unwrap()];
        let spec = |kind: Kind| &find(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        let secrets = &spec(Kind::Connection)["secrets"]["additionalProperties"];
        assert_eq!((&secrets["minProperties"], &secrets["maxProperties"]), (&json!(1), &json!(1)));
        assert!(secrets["properties"]["kubernetes"]["properties"]["key"].is_object(), "{secrets}");
        let token = &spec(Kind::IdentityProvider)["loginTokens"]["properties"]["token"];
        assert_eq!(token["enum"], json!(["id-token", "access-token"]));
        assert_eq!(spec(Kind::McpServer)["title"]["nullable"], true);
        assert_eq!(spec(Kind::Connection)["owner"]["properties"]["user"]["maxLength"], 63);
    }
}
