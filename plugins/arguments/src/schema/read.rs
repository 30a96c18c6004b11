//! Schemas as they are written.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::{Part, Schema, Type};
use crate::format::Format;

/// The most parts of a schema, and how deep it may nest.
const MAX_PARTS: usize = 1_000;
const MAX_DEPTH: usize = 64;
/// The most bytes of a pattern, and of what it is compiled to.
const MAX_REGEX: usize = 1_000;
const MAX_COMPILED: usize = 128 << 10;

/// What says nothing about what fits.
const ANNOTATIONS: [&str; 11] = [
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$comment",
    "$schema",
    "$defs",
    "definitions",
];

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// Where it is wrong, as a JSON Pointer, and why.
    pub(crate) fn new(written: &Value) -> Result<Self, String> {
        let mut reader = Reader { whole: written, parts: Vec::new(), seen: BTreeMap::new() };
        reader.read(written, "", 0)?;
        Ok(Self { parts: reader.parts })
    }
}

struct Reader<'a> {
    whole: &'a Value,
    parts: Vec<Part>,
    /// What references point at, and its position: each is read once, so that a schema may speak of itself.
    seen: BTreeMap<String, usize>,
}

type Read<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn read(&mut self, written: &'a Value, at: &str, depth: usize) -> Read<usize> {
        if self.parts.len() >= MAX_PARTS || depth > MAX_DEPTH {
            return Err(format!(
                "{at}: the schema has more than {MAX_PARTS} parts, or nests more than {MAX_DEPTH} deep"
            ));
        }
        let position = self.parts.len();
        self.parts.push(Part::default());
        if at.is_empty() {
            self.seen.insert("#".to_owned(), position);
        }
        let part = match written {
            Value::Bool(anything) => Part { never: !anything, ..Part::default() },
            Value::Object(keywords) => self.part(keywords, at, depth)?,
            _ => return Err(format!("{at}: a schema is an object, true or false")),
        };
        self.parts[position] = part;
        Ok(position)
    }

    fn part(&mut self, keywords: &'a Map<String, Value>, at: &str, depth: usize) -> Read<Part> {
        let mut part = Part::default();
        let mut condition: (Option<usize>, Option<usize>, Option<usize>) = (None, None, None);
        for (keyword, value) in keywords {
            let here = format!("{at}/{keyword}");
            let wrong = |what: &str| format!("{here}: must be {what}");
            let number = || value.as_f64().ok_or_else(|| wrong("a number"));
            let count = || value.as_u64().ok_or_else(|| wrong("a whole number, 0 or more"));
            let deeper = depth + 1;
            match keyword.as_str() {
                "type" => part.types = Some(types(value).ok_or_else(|| wrong("a type's name, or a list of them"))?),
                "enum" => part.one_of_values = Some(value.as_array().ok_or_else(|| wrong("a list"))?.clone()),
                "const" => part.one_of_values = Some(vec![value.clone()]),
                "minimum" => part.numbers.minimum = Some(number()?),
                "maximum" => part.numbers.maximum = Some(number()?),
                "exclusiveMinimum" => part.numbers.above = Some(number()?),
                "exclusiveMaximum" => part.numbers.below = Some(number()?),
                "multipleOf" => {
                    part.numbers.multiple_of =
                        Some(number().ok().filter(|n| *n > 0.0).ok_or_else(|| wrong("above zero"))?);
                }
                "minLength" => part.texts.min = Some(count()?),
                "maxLength" => part.texts.max = Some(count()?),
                "pattern" => part.texts.pattern = Some(pattern(value.as_str(), &here)?),
                "format" => {
                    let format = value.as_str().and_then(Format::parse);
                    part.texts.format = Some(format.ok_or_else(|| wrong(&format!("one of {}", Format::names())))?);
                }
                "minItems" => part.items.min = Some(count()?),
                "maxItems" => part.items.max = Some(count()?),
                "uniqueItems" => part.items.unique = value.as_bool().ok_or_else(|| wrong("true or false"))?,
                "prefixItems" => part.items.first = self.list(value, &here, deeper)?,
                "items" => part.items.others = Some(self.read(value, &here, deeper)?),
                "contains" => part.items.contains = Some(self.read(value, &here, deeper)?),
                "minProperties" => part.members.min = Some(count()?),
                "maxProperties" => part.members.max = Some(count()?),
                "required" => part.members.required = names(value).ok_or_else(|| wrong("a list of names"))?,
                "properties" => {
                    for (name, schema) in value.as_object().ok_or_else(|| wrong("an object"))? {
                        let known = self.read(schema, &format!("{here}/{name}"), deeper)?;
                        part.members.known.insert(name.clone(), known);
                    }
                }
                "patternProperties" => {
                    for (name, schema) in value.as_object().ok_or_else(|| wrong("an object"))? {
                        let place = format!("{here}/{name}");
                        let regex = pattern(Some(name), &place)?;
                        part.members.patterns.push((regex, self.read(schema, &place, deeper)?));
                    }
                }
                "additionalProperties" => part.members.others = Some(self.read(value, &here, deeper)?),
                "propertyNames" => part.members.names = Some(self.read(value, &here, deeper)?),
                "dependentRequired" => {
                    for (name, needed) in value.as_object().ok_or_else(|| wrong("an object"))? {
                        let needed = names(needed).ok_or_else(|| wrong("lists of names"))?;
                        part.members.needs.insert(name.clone(), needed);
                    }
                }
                "$ref" => part.reference = Some(self.referred(value, &here, deeper)?),
                "allOf" => part.all_of = self.list(value, &here, deeper)?,
                "anyOf" => part.any_of = Some(self.list(value, &here, deeper)?),
                "oneOf" => part.one_of = Some(self.list(value, &here, deeper)?),
                "not" => part.not = Some(self.read(value, &here, deeper)?),
                "if" => condition.0 = Some(self.read(value, &here, deeper)?),
                "then" => condition.1 = Some(self.read(value, &here, deeper)?),
                "else" => condition.2 = Some(self.read(value, &here, deeper)?),
                annotation if ANNOTATIONS.contains(&annotation) => {}
                unknown => return Err(format!("{at}: \"{unknown}\" is not checked here, so it is not taken")),
            }
        }
        if keywords.contains_key("enum") && keywords.contains_key("const") {
            return Err(format!("{at}: says both enum and const"));
        }
        match condition {
            (Some(when), then, or) => part.condition = Some((when, then, or)),
            (None, None, None) => {}
            (None, ..) => return Err(format!("{at}: then and else go with if")),
        }
        Ok(part)
    }

    fn list(&mut self, value: &'a Value, at: &str, depth: usize) -> Read<Vec<usize>> {
        let list = value.as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| format!("{at}: must be a list of schemas"))?;
        list.iter().enumerate().map(|(nth, schema)| self.read(schema, &format!("{at}/{nth}"), depth)).collect()
    }

    /// What a reference points at: a place in this schema.
    fn referred(&mut self, value: &'a Value, at: &str, depth: usize) -> Read<usize> {
        let target = value.as_str().unwrap_or_default();
        if let Some(position) = self.seen.get(target) {
            return Ok(*position);
        }
        let whole: &'a Value = self.whole;
        let found = target.strip_prefix('#').and_then(|pointer| whole.pointer(pointer));
        let Some(found) = found else {
            return Err(format!("{at}: \"{target}\" is no place in this schema, such as #/$defs/name"));
        };
        // Known before it is read: it may point at itself.
        let position = self.parts.len();
        self.seen.insert(target.to_owned(), position);
        self.read(found, at, depth)
    }
}

fn pattern(text: Option<&str>, at: &str) -> Read<Regex> {
    let text = text.filter(|text| text.len() <= MAX_REGEX);
    let text = text.ok_or_else(|| format!("{at}: must be an expression of at most {MAX_REGEX} bytes"))?;
    let regex = RegexBuilder::new(text).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).nest_limit(32).build();
    regex.map_err(|error| format!("{at}: {error}"))
}

fn names(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
}

fn types(value: &Value) -> Option<Vec<Type>> {
    let one = |value: &Value| {
        Some(match value.as_str()? {
            "null" => Type::Null,
            "boolean" => Type::Boolean,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "string" => Type::String,
            "array" => Type::Array,
            "object" => Type::Object,
            _ => return None,
        })
    };
    match value {
        Value::Array(list) if !list.is_empty() => list.iter().map(one).collect(),
        single => one(single).map(|single| vec![single]),
    }
}
