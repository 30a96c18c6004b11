//! The schema of a plugin's configuration (JSON Schema 2020-12), checked before the plugin is loaded so that an operator is told
//! which path is wrong.
//!
//! A part of JSON Schema, enough for what types of programming languages become. Keywords outside of it are not checked here,
//! and [`Schema::unchecked`] names them; the plugin reads its configuration itself in any case. Takes a bounded number of steps.

use std::{cell::Cell, collections::BTreeSet};

use serde_json::{Map, Value};

/// The most steps of one check: schemas that refer to themselves end here.
const MAX_STEPS: u32 = 200_000;
const MAX_DEPTH: u32 = 64;
/// The most complaints that are told.
const MAX_COMPLAINTS: usize = 20;

/// Keywords that are checked.
const CHECKED: [&str; 25] = [
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "not",
    "oneOf",
    "properties",
    "required",
    "type",
    // Of these only the schemas within are looked at, where something refers to them.
    "$defs",
    "definitions",
    "$schema",
];
/// Keywords that say something and ask for nothing.
const ANNOTATIONS: [&str; 10] =
    ["$comment", "$id", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly", "format"];

/// A schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema(Value);

/// What is wrong with a value, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The path within the value, such as `rules[0].effect`; empty for the whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.path {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

impl Schema {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if !value.is_object() && !value.is_boolean() {
            return Err("a schema is an object, true or false".to_owned());
        }
        Ok(Self(value))
    }

    /// The schema itself.
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// What is wrong with a value; nothing where it fits.
    pub fn check(&self, value: &Value) -> Vec<Complaint> {
        let check = Check { root: &self.0, steps: Cell::new(0) };
        let mut complaints = Vec::new();
        check.value(&self.0, value, "", 0, &mut complaints);
        if check.steps.get() > MAX_STEPS {
            return vec![Complaint { path: String::new(), message: "it is too large to be checked".to_owned() }];
        }
        complaints.truncate(MAX_COMPLAINTS);
        complaints
    }

    /// Keywords of the schema that are not checked here.
    pub fn unchecked(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        unchecked(&self.0, 0, &mut found);
        found
    }
}

fn unchecked(schema: &Value, depth: u32, found: &mut BTreeSet<String>) {
    let Value::Object(schema) = schema else { return };
    if depth > MAX_DEPTH {
        return;
    }
    for (keyword, inner) in schema {
        let within: Vec<&Value> = match (keyword.as_str(), inner) {
            ("properties" | "$defs" | "definitions", Value::Object(named)) => named.values().collect(),
            ("allOf" | "anyOf" | "oneOf", Value::Array(many)) => many.iter().collect(),
            ("additionalProperties" | "items" | "not", one) => vec![one],
            (known, _) if CHECKED.contains(&known) || ANNOTATIONS.contains(&known) => continue,
            (unknown, _) => {
                found.insert(unknown.to_owned());
                continue;
            }
        };
        within.into_iter().for_each(|one| unchecked(one, depth + 1, found));
    }
}

struct Check<'a> {
    root: &'a Value,
    steps: Cell<u32>,
}

impl<'a> Check<'a> {
    fn value(&self, schema: &'a Value, value: &Value, path: &str, depth: u32, into: &mut Vec<Complaint>) {
        let steps = self.steps.get();
        self.steps.set(steps.saturating_add(1));
        if steps > MAX_STEPS || depth > MAX_DEPTH {
            self.steps.set(MAX_STEPS + 1);
            return;
        }
        let mut complain = |message: String| {
            if into.len() < MAX_COMPLAINTS {
                into.push(Complaint { path: path.to_owned(), message });
            }
        };
        let schema = match schema {
            Value::Object(schema) => schema,
            Value::Bool(false) => return complain("is not allowed here".to_owned()),
            _ => return,
        };
        if let Some(kinds) = schema.get("type") {
            let fits = |kind: &Value| kind.as_str().is_none_or(|kind| is(value, kind));
            let fits = kinds.as_array().map_or_else(|| fits(kinds), |many| many.iter().any(fits));
            if !fits {
                // What else is wrong follows from this.
                return complain(format!("must be {}, not {}", kinds_in_words(kinds), kind(value)));
            }
        }
        if let Some(wanted) = schema.get("const")
            && !same(value, wanted)
        {
            complain(format!("must be {wanted}"));
        }
        if let Some(Value::Array(many)) = schema.get("enum")
            && !many.iter().any(|one| same(value, one))
        {
            let all: Vec<String> = many.iter().take(20).map(ToString::to_string).collect();
            complain(format!("must be one of {}", all.join(", ")));
        }
        match value {
            Value::Number(number) => numbers(schema, number.as_f64().unwrap_or_default(), &mut complain),
            Value::String(text) => sizes(schema, "Length", "characters", text.chars().count(), &mut complain),
            Value::Array(items) => sizes(schema, "Items", "entries", items.len(), &mut complain),
            Value::Object(fields) => sizes(schema, "Properties", "fields", fields.len(), &mut complain),
            Value::Null | Value::Bool(_) => {}
        }
        match value {
            Value::Array(items) => {
                if let Some(each) = schema.get("items") {
                    for (at, item) in items.iter().enumerate() {
                        self.value(each, item, &format!("{path}[{at}]"), depth + 1, into);
                    }
                }
            }
            Value::Object(fields) => self.object(schema, fields, path, depth, into),
            _ => {}
        }
        self.combined(schema, value, path, depth, into);
    }

    fn object(
        &self,
        schema: &'a Map<String, Value>,
        fields: &Map<String, Value>,
        path: &str,
        depth: u32,
        into: &mut Vec<Complaint>,
    ) {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let known = schema.get("properties").and_then(Value::as_object);
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) && into.len() < MAX_COMPLAINTS {
                into.push(Complaint { path: below(name), message: "is missing".to_owned() });
            }
        }
        for (name, field) in fields {
            if let Some(own) = known.and_then(|known| known.get(name)) {
                self.value(own, field, &below(name), depth + 1, into);
            } else if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
                let mut names: Vec<&str> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
                names.sort_unstable();
                let there = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
                if into.len() < MAX_COMPLAINTS {
                    into.push(Complaint { path: below(name), message: format!("is unknown; there is {there}") });
                }
            } else if let Some(other) = schema.get("additionalProperties") {
                self.value(other, field, &below(name), depth + 1, into);
            }
        }
    }

    fn combined(
        &self,
        schema: &'a Map<String, Value>,
        value: &Value,
        path: &str,
        depth: u32,
        into: &mut Vec<Complaint>,
    ) {
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let found = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            if let Some(found) = found {
                self.value(found, value, path, depth + 1, into);
            }
        }
        for all in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.value(all, value, path, depth + 1, into);
        }
        let tried = |one: &'a Value| {
            let mut complaints = Vec::new();
            self.value(one, value, path, depth + 1, &mut complaints);
            complaints
        };
        let said = |message: &str| Complaint { path: path.to_owned(), message: message.to_owned() };
        if schema.get("not").is_some_and(|not| tried(not).is_empty()) {
            into.push(said("is what it must not be"));
        }
        for (keyword, at_most) in [("anyOf", usize::MAX), ("oneOf", 1)] {
            let Some(Value::Array(forms)) = schema.get(keyword) else { continue };
            let tries: Vec<Vec<Complaint>> = forms.iter().map(tried).collect();
            let fitting = tries.iter().filter(|complaints| complaints.is_empty()).count();
            if fitting > at_most {
                into.push(said("could be read in several ways"));
            }
            if fitting == 0 {
                into.extend(closest(tries, path));
            }
        }
    }
}

/// What to say where a value fits no form: what is wrong with the one that it is closest to, if one can be told.
fn closest(tries: Vec<Vec<Complaint>>, path: &str) -> Vec<Complaint> {
    // Complaints about something within are of the form that was meant; those about the value as such are of the others.
    let mut within: Vec<_> = tries.iter().filter(|complaints| complaints.iter().all(|c| c.path != path)).collect();
    within.sort_by_key(|complaints| complaints.len());
    if let Some(best) = within.first() {
        return (*best).clone();
    }
    if let [one] = &tries[..] {
        return one.clone();
    }
    let mut said: Vec<String> = Vec::new();
    for complaint in tries.iter().filter_map(|complaints| complaints.iter().find(|c| c.path == path)) {
        if !said.contains(&complaint.message) && said.len() < 4 {
            said.push(complaint.message.clone());
        }
    }
    vec![Complaint { path: path.to_owned(), message: said.join(", or ") }]
}

fn numbers(schema: &Map<String, Value>, number: f64, complain: &mut impl FnMut(String)) {
    let limit = |keyword: &str| schema.get(keyword).and_then(Value::as_f64);
    let shown = |keyword: &str| schema.get(keyword).map(ToString::to_string).unwrap_or_default();
    if limit("minimum").is_some_and(|least| number < least) {
        complain(format!("must be at least {}", shown("minimum")));
    }
    if limit("maximum").is_some_and(|most| number > most) {
        complain(format!("must be at most {}", shown("maximum")));
    }
    if limit("exclusiveMinimum").is_some_and(|least| number <= least) {
        complain(format!("must be more than {}", shown("exclusiveMinimum")));
    }
    if limit("exclusiveMaximum").is_some_and(|most| number >= most) {
        complain(format!("must be less than {}", shown("exclusiveMaximum")));
    }
}

fn sizes(schema: &Map<String, Value>, of: &str, what: &str, size: usize, complain: &mut impl FnMut(String)) {
    let limit = |word: &str| schema.get(&format!("{word}{of}")).and_then(Value::as_u64);
    if let Some(least) = limit("min").filter(|least| (size as u64) < *least) {
        complain(format!("must have at least {least} {what}"));
    }
    if let Some(most) = limit("max").filter(|most| size as u64 > *most) {
        complain(format!("must have at most {most} {what}"));
    }
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => true,
    }
}

/// Equality as JSON Schema has it: 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn kinds_in_words(kinds: &Value) -> String {
    let one = |kind: &Value| match kind.as_str().unwrap_or_default() {
        "object" => "an object",
        "array" => "a list",
        "string" => "a text",
        "number" => "a number",
        "integer" => "a whole number",
        "boolean" => "true or false",
        "null" => "null",
        _ => "something else",
    };
    match kinds {
        Value::Array(many) => many.iter().map(one).collect::<Vec<_>>().join(" or "),
        kind => one(kind).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(schema: &Value, value: Value, complaints: &[&str]) {
        let schema = Schema::parse(schema.to_string().as_bytes()).unwrap();
        let mut found: Vec<String> = schema.check(&value).iter().map(ToString::to_string).collect();
        // Whether objects keep the order of their fields is a feature of serde_json.
        found.sort();
        assert_eq!(found, complaints, "{value}");
    }

    fn rules() -> Value {
        json!({
            "type": "object",
            "properties": {
                "rules": {"type": "array", "items": {"$ref": "#/$defs/rule"}, "maxItems": 3},
                "limit": {"type": "integer", "minimum": 1, "maximum": 9},
                "name": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}]}
            },
            "required": ["rules"],
            "additionalProperties": false,
            "$defs": {"rule": {"type": "object", "properties": {"effect": {"enum": ["allow", "deny"]}}, "required": ["effect"]}}
        })
    }

    #[test]
    fn paths_say_where() {
        let rules = rules();
        check(&rules, json!({"rules": [{"effect": "allow"}], "limit": 3.0, "name": null}), &[]);
        check(
            &rules,
            json!({"rules": [{"effect": "allow"}, {"effect": "alow"}]}),
            &[r#"rules[1].effect: must be one of "allow", "deny""#],
        );
        check(
            &rules,
            json!({"rules": [{}], "limit": 0}),
            &["limit: must be at least 1", "rules[0].effect: is missing"],
        );
        check(&rules, json!({"rule": []}), &["rule: is unknown; there is limit, name, rules", "rules: is missing"]);
        check(&rules, json!([]), &["must be an object, not a list"]);
        check(&rules, json!({"rules": [], "limit": 1.5}), &["limit: must be a whole number, not a number"]);
        check(
            &rules,
            json!({"rules": [], "name": 7}),
            &["name: must be a text, not a number, or must be null, not a number"],
        );
        check(
            &rules,
            json!({"rules": [], "name": ""}),
            &["name: must have at least 1 characters, or must be null, not a text"],
        );
        check(
            &rules,
            json!({"rules": [1, 2, 3, 4]}),
            &[
                "rules: must have at most 3 entries",
                "rules[0]: must be an object, not a number",
                "rules[1]: must be an object, not a number",
                "rules[2]: must be an object, not a number",
                "rules[3]: must be an object, not a number",
            ],
        );
    }

    #[test]
    fn of_several_forms_the_meant_one_is_told() {
        let forms = json!({"oneOf": [
            {"type": "object", "properties": {"file": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}, "required": ["file"], "additionalProperties": false},
            {"type": "string"},
        ]});
        check(&forms, json!("x"), &[]);
        check(&forms, json!({"file": {"path": 1}}), &["file.path: must be a text, not a number"]);
        check(&forms, json!(3), &["must be an object, not a number, or must be a text, not a number"]);
        check(&json!({"oneOf": [true, true]}), json!(1), &["could be read in several ways"]);
        check(&json!({"not": {"type": "string"}}), json!("x"), &["is what it must not be"]);
        check(
            &json!({"additionalProperties": {"type": "number"}}),
            json!({"a": 1, "b": "x"}),
            &["b: must be a number, not a text"],
        );
        check(&json!(false), json!(1), &["is not allowed here"]);
    }

    #[test]
    fn a_schema_without_end_has_one_all_the_same() {
        check(&json!({"$ref": "#"}), json!(1), &["it is too large to be checked"]);
        let wide =
            json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"});
        check(&wide, json!(1), &["it is too large to be checked"]);
    }

    #[test]
    fn what_is_not_checked_is_named() {
        let schema = json!({"properties": {"a": {"pattern": "^x", "type": "string"}}, "if": true, "title": "t"});
        let schema = Schema::parse(schema.to_string().as_bytes()).unwrap();
        assert_eq!(schema.unchecked().into_iter().collect::<Vec<_>>(), ["if", "pattern"]);
        assert!(Schema::parse(b"7").is_err() && Schema::parse(b"{").is_err());
    }
}
