//! JSON as values of WIT, and back: see `schema` for how each looks.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use wasmtime::component::{Type, Val};

/// The parameters of a function, from an object.
///
/// # Errors
/// What does not fit, and where, in words for whoever sent it.
pub(crate) fn parameters<'a>(
    params: impl Iterator<Item = (&'a str, Type)>,
    arguments: &Map<String, Value>,
) -> Result<Vec<Val>, String> {
    let fields = params.map(|(name, ty)| (name.to_owned(), ty)).collect::<Vec<_>>();
    Ok(members(&fields, arguments, "")?.into_iter().map(|(_, value)| value).collect())
}

fn members(fields: &[(String, Type)], object: &Map<String, Value>, at: &str) -> Result<Vec<(String, Val)>, String> {
    if let Some(unknown) = object.keys().find(|name| !fields.iter().any(|(field, _)| field == *name)) {
        return Err(format!("{at}/{unknown}: there is no such parameter"));
    }
    let member = |(name, ty): &(String, Type)| {
        let here = format!("{at}/{name}");
        let value = match (object.get(name), ty) {
            (Some(value), ty) => lower(ty, value, &here)?,
            (None, Type::Option(_)) => Val::Option(None),
            (None, _) => return Err(format!("{here}: is missing")),
        };
        Ok((name.clone(), value))
    };
    fields.iter().map(member).collect()
}

fn lower(ty: &Type, value: &Value, at: &str) -> Result<Val, String> {
    let wrong = |what: &str| format!("{at}: must be {what}");
    // 5.0 is a whole number too.
    let integer = || {
        let whole = value.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0);
        #[allow(clippy::cast_possible_truncation, reason = "whole and small")]
        let whole = whole.map(|n| n as i64);
        value.as_i64().or(whole).ok_or_else(|| wrong("a whole number"))
    };
    macro_rules! within {
        ($val:ident, $int:ty) => {
            Val::$val(
                <$int>::try_from(integer()?)
                    .map_err(|_| wrong(&format!("between {} and {}", <$int>::MIN, <$int>::MAX)))?,
            )
        };
    }
    let text = || value.as_str().ok_or_else(|| wrong("a text"));
    let array = || value.as_array().ok_or_else(|| wrong("an array"));
    Ok(match ty {
        Type::Bool => Val::Bool(value.as_bool().ok_or_else(|| wrong("true or false"))?),
        Type::S8 => within!(S8, i8),
        Type::U8 => within!(U8, u8),
        Type::S16 => within!(S16, i16),
        Type::U16 => within!(U16, u16),
        Type::S32 => within!(S32, i32),
        Type::U32 => within!(U32, u32),
        Type::S64 => Val::S64(integer()?),
        Type::U64 => match value.as_u64() {
            Some(number) => Val::U64(number),
            None => within!(U64, u64),
        },
        Type::Float32 => {
            #[allow(clippy::cast_possible_truncation, reason = "that is what the type says")]
            let number = value.as_f64().ok_or_else(|| wrong("a number"))? as f32;
            Val::Float32(number)
        }
        Type::Float64 => Val::Float64(value.as_f64().ok_or_else(|| wrong("a number"))?),
        Type::Char => {
            let mut characters = text()?.chars();
            match (characters.next(), characters.next()) {
                (Some(one), None) => Val::Char(one),
                _ => return Err(wrong("one character")),
            }
        }
        Type::String => Val::String(text()?.to_owned()),
        Type::List(list) if matches!(list.ty(), Type::U8) => {
            let bytes = STANDARD.decode(text()?).map_err(|_| wrong("base64"))?;
            Val::List(bytes.into_iter().map(Val::U8).collect())
        }
        Type::List(list) => Val::List(items(array()?, std::iter::repeat(list.ty()), at)?),
        Type::FixedLengthList(list) => {
            let length = list.len() as usize;
            if array()?.len() != length {
                return Err(wrong(&format!("an array of {length}")));
            }
            Val::FixedLengthList(items(array()?, std::iter::repeat(list.ty()), at)?)
        }
        Type::Tuple(tuple) => {
            let types: Vec<Type> = tuple.types().collect();
            if array()?.len() != types.len() {
                return Err(wrong(&format!("an array of {}", types.len())));
            }
            Val::Tuple(items(array()?, types.into_iter(), at)?)
        }
        Type::Record(record) => {
            let fields: Vec<(String, Type)> =
                record.fields().map(|field| (field.name.to_owned(), field.ty.clone())).collect();
            Val::Record(members(&fields, value.as_object().ok_or_else(|| wrong("an object"))?, at)?)
        }
        Type::Enum(names) => {
            let name = text()?;
            if !names.names().any(|known| known == name) {
                return Err(wrong(&format!("one of {}", names.names().collect::<Vec<_>>().join(", "))));
            }
            Val::Enum(name.to_owned())
        }
        Type::Flags(names) => {
            let known: Vec<&str> = names.names().collect();
            let mut set: Vec<String> = Vec::new();
            for flag in array()? {
                match flag.as_str().filter(|flag| known.contains(flag)) {
                    Some(flag) if !set.iter().any(|other| other == flag) => set.push(flag.to_owned()),
                    _ => return Err(wrong(&format!("an array of {}, each once", known.join(", ")))),
                }
            }
            Val::Flags(set)
        }
        Type::Option(_) if value.is_null() => Val::Option(None),
        Type::Option(option) => Val::Option(Some(Box::new(lower(&option.ty(), value, at)?))),
        Type::Variant(variant) => {
            let named = match value {
                Value::String(name) => Some((name, None)),
                Value::Object(one) if one.len() == 1 => one.iter().next().map(|(name, value)| (name, Some(value))),
                _ => None,
            };
            let found = named.and_then(|(name, payload)| {
                variant.cases().find(|case| case.name == name).map(|case| (name, case.ty, payload))
            });
            match found {
                Some((name, None, None)) => Val::Variant(name.clone(), None),
                Some((name, Some(ty), Some(payload))) => {
                    let payload = lower(&ty, payload, &format!("{at}/{name}"))?;
                    Val::Variant(name.clone(), Some(Box::new(payload)))
                }
                _ => {
                    let cases: Vec<&str> = variant.cases().map(|case| case.name).collect();
                    return Err(wrong(&format!("one of {}, with what goes with it", cases.join(", "))));
                }
            }
        }
        Type::Result(result) => {
            let side = |ty: Option<Type>, payload: &Value, name: &str| match ty {
                None if payload.is_null() => Ok(None),
                None => Err(format!("{at}/{name}: must be null")),
                Some(ty) => Ok(Some(Box::new(lower(&ty, payload, &format!("{at}/{name}"))?))),
            };
            let object = value.as_object().filter(|object| object.len() == 1);
            match object.and_then(|object| object.iter().next()).map(|(name, payload)| (name.as_str(), payload)) {
                Some(("ok", payload)) => Val::Result(Ok(side(result.ok(), payload, "ok")?)),
                Some(("err", payload)) => Val::Result(Err(side(result.err(), payload, "err")?)),
                _ => return Err(wrong("an object with one member, ok or err")),
            }
        }
        Type::Map(_) | Type::Own(_) | Type::Borrow(_) | Type::Future(_) | Type::Stream(_) | Type::ErrorContext => {
            return Err(wrong("something that has no JSON"));
        }
    })
}

fn items(array: &[Value], types: impl Iterator<Item = Type>, at: &str) -> Result<Vec<Val>, String> {
    array.iter().zip(types).enumerate().map(|(nth, (item, ty))| lower(&ty, item, &format!("{at}/{nth}"))).collect()
}

/// A value of this type as JSON. What has none, which no tool gives, becomes null.
pub(crate) fn json(ty: &Type, value: &Val) -> Value {
    let inner = |ty: Option<Type>, value: &Option<Box<Val>>| match (ty, value) {
        (Some(ty), Some(value)) => json(&ty, value),
        _ => Value::Null,
    };
    match (ty, value) {
        (_, Val::Bool(truth)) => json!(truth),
        (_, Val::S8(number)) => json!(number),
        (_, Val::U8(number)) => json!(number),
        (_, Val::S16(number)) => json!(number),
        (_, Val::U16(number)) => json!(number),
        (_, Val::S32(number)) => json!(number),
        (_, Val::U32(number)) => json!(number),
        (_, Val::S64(number)) => json!(number),
        (_, Val::U64(number)) => json!(number),
        (_, Val::Float32(number)) => json!(number),
        (_, Val::Float64(number)) => json!(number),
        (_, Val::Char(character)) => json!(character),
        (_, Val::String(text) | Val::Enum(text)) => json!(text),
        (_, Val::Flags(names)) => json!(names),
        (Type::List(list), Val::List(bytes)) if matches!(list.ty(), Type::U8) => {
            let bytes = bytes.iter().map(|byte| if let Val::U8(byte) = byte { *byte } else { 0 });
            json!(STANDARD.encode(bytes.collect::<Vec<u8>>()))
        }
        (Type::List(list), Val::List(values)) => values.iter().map(|value| json(&list.ty(), value)).collect(),
        (Type::FixedLengthList(list), Val::FixedLengthList(values)) => {
            values.iter().map(|value| json(&list.ty(), value)).collect()
        }
        (Type::Tuple(tuple), Val::Tuple(values)) => {
            tuple.types().zip(values).map(|(ty, value)| json(&ty, value)).collect()
        }
        (Type::Record(record), Val::Record(fields)) => {
            let members =
                record.fields().zip(fields).map(|(field, (name, value))| (name.clone(), json(&field.ty, value)));
            Value::Object(members.collect())
        }
        (Type::Variant(variant), Val::Variant(name, payload)) => {
            match variant.cases().find(|case| case.name == name).and_then(|case| case.ty) {
                None => json!(name),
                ty => json!({name: inner(ty, payload)}),
            }
        }
        (Type::Option(option), Val::Option(value)) => inner(Some(option.ty()), value),
        (Type::Result(result), Val::Result(Ok(value))) => json!({"ok": inner(result.ok(), value)}),
        (Type::Result(result), Val::Result(Err(value))) => json!({"err": inner(result.err(), value)}),
        _ => Value::Null,
    }
}
