//! The JSON schema of resources, generated from the types.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};

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
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Document>()
}
