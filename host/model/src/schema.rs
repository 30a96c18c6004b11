//! The JSON schema of resources, generated from the types.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::Value;

use crate::{API_VERSION, Metadata, Spec};

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Resource")]
#[allow(dead_code, reason = "only its schema is used")]
struct Document {
    /// Group and version.
    #[schemars(extend("const" = API_VERSION))]
    api_version: String,
    metadata: Metadata,
    #[serde(flatten)]
    spec: Spec,
}

/// JSON Schema 2020-12 of a resource document, whatever its kind.
pub fn resource_schema() -> Schema {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Document>();
    let definitions = schema.get("$defs").cloned().unwrap_or_default();
    let kinds = schema.get_mut("oneOf").and_then(Value::as_array_mut);
    for kind in kinds.into_iter().flatten() {
        let named = kind["properties"]["spec"]["$ref"].as_str().and_then(|at| at.rsplit('/').next());
        let all_optional = named.is_some_and(|name| definitions[name].get("required").is_none());
        // Where nothing has to stand in it, it may be left out.
        if all_optional && let Some(required) = kind["required"].as_array_mut() {
            required.retain(|field| field != "spec");
        }
    }
    schema
}
