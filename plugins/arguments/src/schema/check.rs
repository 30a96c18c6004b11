//! Whether a value fits a schema.

use std::fmt;

use serde_json::{Map, Value};

use super::{Items, Members, Numbers, Part, Schema, Texts, Type};

/// How deep schemas are followed: a schema may speak of itself.
const MAX_DEPTH: usize = 100;
/// The most parts that are asked about one value: alternatives in alternatives multiply.
const MAX_STEPS: usize = 100_000;

/// The first thing that does not fit.
#[derive(Debug)]
pub(crate) struct Misfit {
    place: String,
    what: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() { "they" } else { &self.place };
        write!(f, "{place} {}", self.what)
    }
}

impl Schema {
    /// Whether the value fits.
    ///
    /// # Errors
    /// Where it does not, and how.
    pub(crate) fn check(&self, value: &Value) -> Result<(), Misfit> {
        let mut check = Check { schema: self, steps: 0, gave_up: false };
        let fits = check.fits(0, value, &Place::Top, 0);
        // Where `not` or `if` was told so, it may have been taken for an answer.
        if check.gave_up {
            Place::Top.misfit("can't be checked: they nest too deeply, or too much is asked about them")
        } else {
            fits
        }
    }
}

/// Where a value lies, made a text only where something does not fit.
#[derive(Clone, Copy)]
enum Place<'p> {
    Top,
    Member(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Member(of, name) => write!(f, "{of}/{}", name.replace('~', "~0").replace('/', "~1")),
            Self::Item(of, at) => write!(f, "{of}/{at}"),
        }
    }
}

impl Place<'_> {
    fn misfit<T>(&self, what: impl Into<String>) -> Result<T, Misfit> {
        Err(Misfit { place: self.to_string(), what: what.into() })
    }
}

struct Check<'s> {
    schema: &'s Schema,
    steps: usize,
    gave_up: bool,
}

type Fits = Result<(), Misfit>;

impl<'s> Check<'s> {
    fn fits(&mut self, part: usize, value: &Value, place: &Place<'_>, depth: usize) -> Fits {
        self.steps += 1;
        if depth > MAX_DEPTH || self.steps > MAX_STEPS {
            self.gave_up = true;
            return place.misfit("can't be checked");
        }
        let part: &'s Part = &self.schema.parts[part];
        if part.never {
            return place.misfit("may not be there");
        }
        if let Some(types) = &part.types
            && !types.iter().any(|one| is(value, *one))
        {
            return place.misfit(format!("must be {}", named(types)));
        }
        if let Some(values) = &part.one_of_values
            && !values.iter().any(|one| same(one, value))
        {
            return place.misfit("is none of the values that are allowed");
        }
        match value {
            Value::Number(number) => numbers(&part.numbers, number.as_f64().unwrap_or(f64::NAN), place)?,
            Value::String(text) => texts(&part.texts, text, place)?,
            Value::Array(items) => self.items(&part.items, items, place, depth)?,
            Value::Object(members) => self.members(&part.members, members, place, depth)?,
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(part, value, place, depth + 1)
    }

    fn combined(&mut self, part: &'s Part, value: &Value, place: &Place<'_>, depth: usize) -> Fits {
        for also in part.reference.iter().chain(&part.all_of) {
            self.fits(*also, value, place, depth)?;
        }
        if let Some(any) = &part.any_of {
            let mut first = None;
            let mut fitting = false;
            for one in any {
                match self.fits(*one, value, place, depth) {
                    Ok(()) => {
                        fitting = true;
                        break;
                    }
                    Err(misfit) => first = first.or(Some(misfit)),
                }
            }
            if !fitting {
                return match (any.len(), first) {
                    (1, Some(misfit)) => Err(misfit),
                    _ => place.misfit("fits none of the alternatives"),
                };
            }
        }
        if let Some(one) = &part.one_of {
            let fitting = one.iter().filter(|one| self.fits(**one, value, place, depth).is_ok()).count();
            if fitting != 1 {
                return place.misfit(format!("must fit one of the alternatives, and fits {fitting}"));
            }
        }
        if let Some(not) = part.not
            && self.fits(not, value, place, depth).is_ok()
        {
            return place.misfit("is what it may not be");
        }
        if let Some((when, then, or)) = part.condition {
            let next = if self.fits(when, value, place, depth).is_ok() { then } else { or };
            if let Some(next) = next {
                self.fits(next, value, place, depth)?;
            }
        }
        Ok(())
    }

    fn items(&mut self, rules: &'s Items, items: &[Value], place: &Place<'_>, depth: usize) -> Fits {
        counted(rules.min, rules.max, items.len(), "items", place)?;
        for (at, item) in items.iter().enumerate() {
            if let Some(part) = rules.first.get(at).or(rules.others.as_ref()) {
                self.fits(*part, item, &Place::Item(place, at), depth + 1)?;
            }
            // Quadratic, so it is on the count of steps as well.
            if rules.unique {
                self.steps += at;
                self.gave_up |= self.steps > MAX_STEPS;
                if self.gave_up || items[..at].iter().any(|earlier| same(earlier, item)) {
                    return place.misfit("has equal items");
                }
            }
        }
        if let Some(part) = rules.contains
            && !items
                .iter()
                .enumerate()
                .any(|(at, item)| self.fits(part, item, &Place::Item(place, at), depth + 1).is_ok())
        {
            return place.misfit("lacks an item that has to be there");
        }
        Ok(())
    }

    fn members(&mut self, rules: &'s Members, members: &Map<String, Value>, place: &Place<'_>, depth: usize) -> Fits {
        counted(rules.min, rules.max, members.len(), "members", place)?;
        if let Some(missing) = rules.required.iter().find(|name| !members.contains_key(*name)) {
            return place.misfit(format!("lacks {missing}"));
        }
        for (name, needed) in &rules.needs {
            if members.contains_key(name)
                && let Some(missing) = needed.iter().find(|needed| !members.contains_key(*needed))
            {
                return place.misfit(format!("lacks {missing}, which goes with {name}"));
            }
        }
        for (name, value) in members {
            let here = Place::Member(place, name);
            if let Some(part) = rules.names {
                self.fits(part, &Value::from(name.as_str()), &here, depth + 1)?;
            }
            let mut known = false;
            if let Some(part) = rules.known.get(name) {
                known = true;
                self.fits(*part, value, &here, depth + 1)?;
            }
            for (pattern, part) in &rules.patterns {
                if pattern.is_match(name) {
                    known = true;
                    self.fits(*part, value, &here, depth + 1)?;
                }
            }
            if let Some(part) = rules.others.filter(|_| !known) {
                self.fits(part, value, &here, depth + 1)?;
            }
        }
        Ok(())
    }
}

fn counted(min: Option<u64>, max: Option<u64>, count: usize, what: &str, place: &Place<'_>) -> Fits {
    let count = count as u64;
    match (min, max) {
        (Some(min), _) if count < min => place.misfit(format!("has {count} {what}, and {min} are the least")),
        (_, Some(max)) if count > max => place.misfit(format!("has {count} {what}, and {max} are the most")),
        _ => Ok(()),
    }
}

fn numbers(rules: &Numbers, number: f64, place: &Place<'_>) -> Fits {
    let fits = |limit: Option<f64>, holds: fn(f64, f64) -> bool| limit.is_none_or(|limit| holds(number, limit));
    if !fits(rules.minimum, |n, limit| n >= limit) {
        return place.misfit(format!("must be at least {}", rules.minimum.unwrap_or_default()));
    }
    if !fits(rules.maximum, |n, limit| n <= limit) {
        return place.misfit(format!("must be at most {}", rules.maximum.unwrap_or_default()));
    }
    if !fits(rules.above, |n, limit| n > limit) {
        return place.misfit(format!("must be above {}", rules.above.unwrap_or_default()));
    }
    if !fits(rules.below, |n, limit| n < limit) {
        return place.misfit(format!("must be below {}", rules.below.unwrap_or_default()));
    }
    // 0.3 is a multiple of 0.1, whatever binary fractions make of it.
    if !fits(rules.multiple_of, |n, unit| ((n / unit) - (n / unit).round()).abs() <= 1e-9 * (n / unit).abs().max(1.0)) {
        return place.misfit(format!("must be a multiple of {}", rules.multiple_of.unwrap_or_default()));
    }
    Ok(())
}

fn texts(rules: &Texts, text: &str, place: &Place<'_>) -> Fits {
    if rules.min.is_some() || rules.max.is_some() {
        counted(rules.min, rules.max, text.chars().count(), "characters", place)?;
    }
    if rules.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(text)) {
        return place.misfit("does not have the form that it must have");
    }
    match rules.format {
        Some(format) if !format.is(text) => place.misfit(format!("must be {}", format.name())),
        _ => Ok(()),
    }
}

fn is(value: &Value, one: Type) -> bool {
    match one {
        Type::Null => value.is_null(),
        Type::Boolean => value.is_boolean(),
        Type::Number => value.is_number(),
        // 1.0 is one (2020-12 core section 4.2.3).
        Type::Integer => {
            value.as_i64().is_some() || value.as_u64().is_some() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        Type::String => value.is_string(),
        Type::Array => value.is_array(),
        Type::Object => value.is_object(),
    }
}

fn named(types: &[Type]) -> String {
    let name = |one: &Type| match one {
        Type::Null => "null",
        Type::Boolean => "true or false",
        Type::Integer => "a whole number",
        Type::Number => "a number",
        Type::String => "a text",
        Type::Array => "a list",
        Type::Object => "an object",
    };
    types.iter().map(name).collect::<Vec<_>>().join(" or ")
}

/// Equality of JSON values, in which 1 and 1.0 are one number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(name, one)| other.get(name).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}
