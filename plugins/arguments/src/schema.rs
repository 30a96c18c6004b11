//! JSON Schema (2020-12) as far as it can be checked with bounded effort and without fetching anything. A keyword that is not known
//! here is refused when the configuration is read: what is not checked must not look as if it were.

mod check;
mod read;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use crate::format::Format;

/// A schema, its parts side by side: references point at parts by position.
#[derive(Debug)]
pub(crate) struct Schema {
    parts: Vec<Part>,
}

/// One part. The whole is the first.
#[derive(Debug, Default)]
struct Part {
    /// The schema `false`: nothing fits.
    never: bool,
    types: Option<Vec<Type>>,
    one_of_values: Option<Vec<Value>>,
    numbers: Numbers,
    texts: Texts,
    items: Items,
    members: Members,
    /// `$ref`, and what it points at.
    reference: Option<usize>,
    all_of: Vec<usize>,
    any_of: Option<Vec<usize>>,
    one_of: Option<Vec<usize>>,
    not: Option<usize>,
    condition: Option<(usize, Option<usize>, Option<usize>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

#[derive(Debug, Default)]
struct Numbers {
    minimum: Option<f64>,
    maximum: Option<f64>,
    above: Option<f64>,
    below: Option<f64>,
    multiple_of: Option<f64>,
}

#[derive(Debug, Default)]
struct Texts {
    min: Option<u64>,
    max: Option<u64>,
    pattern: Option<Regex>,
    format: Option<Format>,
}

#[derive(Debug, Default)]
struct Items {
    min: Option<u64>,
    max: Option<u64>,
    unique: bool,
    first: Vec<usize>,
    others: Option<usize>,
    contains: Option<usize>,
}

#[derive(Debug, Default)]
struct Members {
    min: Option<u64>,
    max: Option<u64>,
    required: Vec<String>,
    known: BTreeMap<String, usize>,
    patterns: Vec<(Regex, usize)>,
    others: Option<usize>,
    names: Option<usize>,
    needs: BTreeMap<String, Vec<String>>,
}
