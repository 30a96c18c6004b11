//! The types of WIT as JSON schemas (2020-12). How a value looks as JSON is said here and done in `values`.
//!
//! | WIT | JSON |
//! |---|---|
//! | numbers, `bool`, `string`, `char` | themselves; integers within their bounds |
//! | `list<u8>` | a text in base64 |
//! | `list<t>`, `tuple<..>` | an array |
//! | `record` | an object; members of type `option` may be left out |
//! | `option<t>` | the value, or null |
//! | `enum` | a text |
//! | `flags` | an array of texts, each once |
//! | `variant` | the case's name as a text; with a payload an object whose one member it is |
//! | `result<t, e>` | an object with one member, `ok` or `err` |
//!
//! Resources, streams and futures have no JSON: a function that takes or gives one is no tool.

use serde_json::{Map, Value, json};
use wasmtime::component::Type;

/// How deep types may lie in each other.
const MAX_DEPTH: u32 = 32;
/// How many bytes one schema may take, roughly. A type that is named in several places is written out in each, so a few lines of WIT
/// could become gigabytes.
const MAX_SCHEMA: usize = 64 << 10;
/// What a type takes beside its names.
const OF_A_TYPE: usize = 24;

/// How many bytes a schema has, roughly.
struct Written(usize);

impl Written {
    fn more(&mut self, bytes: usize) -> Result<(), String> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 > MAX_SCHEMA { Err(format!("types whose schema is longer than {MAX_SCHEMA} bytes")) } else { Ok(()) }
    }

    fn names<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>, String> {
        names.map(|name| self.more(name.len() + 3).map(|()| name)).collect()
    }
}

/// The schema of a function's parameters: an object.
///
/// # Errors
/// Which type has no JSON.
pub(crate) fn parameters<'a>(params: impl Iterator<Item = (&'a str, Type)>) -> Result<Value, String> {
    object(params.map(|(name, ty)| (name.to_owned(), ty)), 0, &mut Written(0))
}

/// The schema of a type.
///
/// # Errors
/// Which type has no JSON.
pub(crate) fn of(ty: &Type) -> Result<Value, String> {
    schema(ty, 0, &mut Written(0))
}

fn schema(ty: &Type, depth: u32, written: &mut Written) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("types nested more than {MAX_DEPTH} deep"));
    }
    written.more(OF_A_TYPE)?;
    let integer = |min: i64, max: i64| json!({"type": "integer", "minimum": min, "maximum": max});
    Ok(match ty {
        Type::Bool => json!({"type": "boolean"}),
        Type::S8 => integer(i8::MIN.into(), i8::MAX.into()),
        Type::U8 => integer(0, u8::MAX.into()),
        Type::S16 => integer(i16::MIN.into(), i16::MAX.into()),
        Type::U16 => integer(0, u16::MAX.into()),
        Type::S32 => integer(i32::MIN.into(), i32::MAX.into()),
        Type::U32 => integer(0, u32::MAX.into()),
        Type::S64 => json!({"type": "integer"}),
        Type::U64 => json!({"type": "integer", "minimum": 0}),
        Type::Float32 | Type::Float64 => json!({"type": "number"}),
        Type::Char => json!({"type": "string", "minLength": 1, "maxLength": 1}),
        Type::String => json!({"type": "string"}),
        Type::List(list) if matches!(list.ty(), Type::U8) => json!({"type": "string", "contentEncoding": "base64"}),
        Type::List(list) => json!({"type": "array", "items": schema(&list.ty(), depth + 1, written)?}),
        Type::FixedLengthList(list) => {
            json!({"type": "array", "items": schema(&list.ty(), depth + 1, written)?, "minItems": list.len(), "maxItems": list.len()})
        }
        Type::Record(record) => {
            object(record.fields().map(|field| (field.name.to_owned(), field.ty.clone())), depth, written)?
        }
        Type::Tuple(tuple) => {
            let types: Vec<Value> =
                tuple.types().map(|ty| schema(&ty, depth + 1, written)).collect::<Result<_, _>>()?;
            json!({"type": "array", "prefixItems": types, "items": false, "minItems": types.len()})
        }
        Type::Enum(names) => json!({"type": "string", "enum": written.names(names.names())?}),
        Type::Flags(names) => {
            json!({"type": "array", "items": {"type": "string", "enum": written.names(names.names())?}, "uniqueItems": true})
        }
        Type::Option(option) if matches!(option.ty(), Type::Option(_)) => {
            return Err("an option of an option, which has no JSON of its own".to_owned());
        }
        Type::Option(option) => json!({"anyOf": [schema(&option.ty(), depth + 1, written)?, {"type": "null"}]}),
        Type::Variant(variant) => {
            let mut case = |name: &str, ty: Option<Type>| {
                written.more(2 * name.len())?;
                Ok(match ty {
                    None => json!({"const": name}),
                    Some(ty) => one_member(name, schema(&ty, depth + 1, written)?),
                })
            };
            let cases: Result<Vec<Value>, String> = variant.cases().map(|one| case(one.name, one.ty)).collect();
            json!({"oneOf": cases?})
        }
        Type::Result(result) => {
            let mut side = |name: &str, ty: Option<Type>| {
                let schema = ty.map_or(Ok(json!({"type": "null"})), |ty| schema(&ty, depth + 1, written))?;
                Ok::<_, String>(one_member(name, schema))
            };
            json!({"oneOf": [side("ok", result.ok())?, side("err", result.err())?]})
        }
        Type::Map(_) => return Err("a map".to_owned()),
        Type::Own(_) | Type::Borrow(_) => return Err("a resource".to_owned()),
        Type::Future(_) | Type::Stream(_) | Type::ErrorContext => {
            return Err("a stream, a future or an error context".to_owned());
        }
    })
}

fn one_member(name: &str, schema: Value) -> Value {
    json!({"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": false})
}

fn object(fields: impl Iterator<Item = (String, Type)>, depth: u32, written: &mut Written) -> Result<Value, String> {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, ty) in fields {
        written.more(2 * name.len())?;
        properties.insert(name.clone(), schema(&ty, depth + 1, written)?);
        if !matches!(ty, Type::Option(_)) {
            required.push(name);
        }
    }
    Ok(json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false}))
}
