//! A JSON Schema as Kubernetes wants it: structural (apiextensions.k8s.io/v1, "Specifying a structural schema").
//!
//! No references, a type at every place, nothing of types within `oneOf` and `anyOf`. What JSON Schema says by those, and a
//! structural schema can't, is checked once more when a resource is read.

use serde_json::{Map, Value, json};

/// How deep a schema may be: the types are no deeper, and one that holds itself would never end.
const MAX_DEPTH: usize = 32;
/// What is taken over as it stands.
const SAME: [&str; 9] =
    ["description", "required", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems"];

/// The schema in structural form; `definitions` holds what it refers to.
pub(super) fn of(schema: &Value, definitions: &Value) -> Value {
    convert(schema, definitions, 0)
}

fn convert(schema: &Value, definitions: &Value, depth: usize) -> Value {
    let mut made = shape(schema, definitions, depth);
    for word in SAME {
        if let Some(value) = schema.get(word) {
            made.insert(word.to_owned(), value.clone());
        }
    }
    Value::Object(made)
}

/// All but the words of [`SAME`].
fn shape(schema: &Value, definitions: &Value, depth: usize) -> Map<String, Value> {
    if depth > MAX_DEPTH {
        return anything();
    }
    let deeper = |schema: &Value| convert(schema, definitions, depth + 1);
    if let Some(at) = schema["$ref"].as_str() {
        let name = at.rsplit('/').next().unwrap_or(at);
        return object(deeper(&definitions[name]));
    }
    // Something or nothing.
    if let Some(either) = schema["anyOf"].as_array() {
        let mut some = either.iter().filter(|s| s["type"] != "null");
        let (Some(one), None) = (some.next(), some.next()) else { return anything() };
        let mut made = object(deeper(one));
        made.insert("nullable".to_owned(), json!(true));
        return made;
    }
    if let Some(ways) = schema["oneOf"].as_array() {
        return one_of(ways, &deeper);
    }
    let (kind, nullable) = match &schema["type"] {
        Value::String(kind) => (kind.as_str(), false),
        Value::Array(kinds) => {
            (kinds.iter().filter_map(Value::as_str).find(|k| *k != "null").unwrap_or("object"), true)
        }
        _ => return anything(),
    };
    let mut made = Map::new();
    made.insert("type".to_owned(), json!(kind));
    if nullable {
        made.insert("nullable".to_owned(), json!(true));
    }
    match kind {
        "object" => fields(schema, &deeper, &mut made),
        "array" => {
            made.insert("items".to_owned(), schema.get("items").map_or_else(|| Value::Object(anything()), deeper));
        }
        "integer" => {
            made.insert("format".to_owned(), json!("int64"));
        }
        _ => {}
    }
    made
}

fn fields(schema: &Value, deeper: &dyn Fn(&Value) -> Value, made: &mut Map<String, Value>) {
    if let Some(properties) = schema["properties"].as_object() {
        let properties = properties.iter().map(|(name, part)| (name.clone(), deeper(part)));
        made.insert("properties".to_owned(), Value::Object(properties.collect()));
        return;
    }
    match &schema["additionalProperties"] {
        Value::Object(_) => {
            made.insert("additionalProperties".to_owned(), deeper(&schema["additionalProperties"]));
        }
        Value::Bool(false) => {}
        _ => made.extend(anything()),
    }
}

/// Words of which one is said, or members of which one is there.
fn one_of(ways: &[Value], deeper: &dyn Fn(&Value) -> Value) -> Map<String, Value> {
    let words: Vec<&Value> = ways.iter().filter_map(|way| way.get("const")).collect();
    if words.len() == ways.len() {
        return object(json!({"type": "string", "enum": words}));
    }
    let mut members = Map::new();
    for way in ways {
        let Some(properties) = way["properties"].as_object() else { return anything() };
        for (name, part) in properties {
            let mut part = deeper(part);
            if let (Some(what), Value::Object(part)) = (way.get("description"), &mut part) {
                part.insert("description".to_owned(), what.clone());
            }
            members.insert(name.clone(), part);
        }
    }
    object(json!({"type": "object", "properties": members, "minProperties": 1, "maxProperties": 1}))
}

/// A place where anything may stand.
fn anything() -> Map<String, Value> {
    object(json!({"x-kubernetes-preserve-unknown-fields": true}))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schema: Value, wanted: Value) {
        let definitions = json!({"Name": {"description": "A name.", "type": "string", "maxLength": 63}});
        assert_eq!(of(&schema, &definitions), wanted);
    }

    #[test]
    fn each_form_has_its_structural_one() {
        check(
            json!({"$ref": "#/$defs/Name", "description": "Whose.", "default": "x"}),
            json!({"type": "string", "maxLength": 63, "description": "Whose."}),
        );
        check(
            json!({"anyOf": [{"$ref": "#/$defs/Name"}, {"type": "null"}]}),
            json!({"type": "string", "maxLength": 63, "nullable": true, "description": "A name."}),
        );
        check(json!({"type": ["integer", "null"], "format": "uint32", "minimum": 0}), {
            json!({"type": "integer", "format": "int64", "minimum": 0, "nullable": true})
        });
        check(
            json!({"oneOf": [{"const": "a", "type": "string"}, {"const": "b", "type": "string"}]}),
            json!({"type": "string", "enum": ["a", "b"]}),
        );
        check(
            json!({"oneOf": [
                {"type": "object", "description": "One.", "properties": {"a": {"type": "string"}}, "required": ["a"]},
                {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
            ]}),
            json!({
                "type": "object", "minProperties": 1, "maxProperties": 1,
                "properties": {"a": {"type": "string", "description": "One."}, "b": {"type": "boolean"}},
            }),
        );
        check(
            json!({"type": "object", "properties": {"x": {"type": "array", "items": {"type": "string"}}}, "additionalProperties": false, "required": ["x"]}),
            json!({"type": "object", "properties": {"x": {"type": "array", "items": {"type": "string"}}}, "required": ["x"]}),
        );
        check(
            json!({"type": "object", "additionalProperties": true}),
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        );
        check(
            json!({"description": "Any."}),
            json!({"x-kubernetes-preserve-unknown-fields": true, "description": "Any."}),
        );
    }

    #[test]
    fn one_that_holds_itself_ends() {
        let schema = json!({"type": "object", "properties": {"me": {"$ref": "#/$defs/Me"}}});
        let definitions = json!({"Me": schema.clone()});
        assert!(of(&schema, &definitions).to_string().contains("preserve-unknown-fields"));
    }
}
