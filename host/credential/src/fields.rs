//! Whether what is given is what a server asks for: one rule for pages, command line and admin API, with a sign-in or without.

use std::collections::BTreeMap;

use portcullis_model::spec::{Field, McpServer};

/// What somebody gives when they connect a server.
pub struct Given<'a> {
    /// Values of fields that are not sensitive.
    pub values: &'a BTreeMap<String, String>,
    /// Values of sensitive fields.
    pub secrets: BTreeMap<&'a str, &'a str>,
    /// Fields whose values the connection has from elsewhere (a file, a variable, another service), so that none is given.
    pub elsewhere: Vec<&'a str>,
}

/// What is wrong with what was given, by field, in the order in which the server asks: every field that is asked for and no
/// other, each in its place, of its type, and fit for where the server wants it. Quotes no value; empty where all is right.
pub fn misfits(server: &McpServer, given: &Given<'_>) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let names = given.values.keys().map(String::as_str).chain(given.secrets.keys().copied());
    for name in names.filter(|name| server.field(name).is_none()) {
        let known: Vec<&str> = server.fields.iter().map(|f| f.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        problems.push((name.to_owned(), format!("the server asks for no such field; it asks for: {known}")));
    }
    for field in &server.fields {
        let value = given.values.get(&field.name).map(String::as_str);
        let secret = given.secrets.get(field.name.as_str()).copied();
        let why = match (value, secret) {
            (Some(_), _) if field.sensitive => {
                Some("is a secret: give it at the prompt or on standard input".to_owned())
            }
            (_, Some(_)) if !field.sensitive => Some("is no secret: give it as a value".to_owned()),
            (Some(text), _) | (_, Some(text)) if !text.is_empty() => {
                field.accepts(text).err().or_else(|| unfit(server, field, text))
            }
            _ if given.elsewhere.contains(&field.name.as_str()) || field.default.is_some() => None,
            _ if field.required || (field.sensitive && is_placed(server, field)) => Some("is missing".to_owned()),
            // Nothing was given where nothing has to be, or an empty text on purpose.
            (text, _) => text.and_then(|text| field.accepts(text).err()),
        };
        problems.extend(why.map(|why| (field.name.clone(), why)));
    }
    problems
}

fn is_placed(server: &McpServer, field: &Field) -> bool {
    server.credential.iter().flat_map(|c| &c.place).any(|p| p.field == field.name)
}

/// Whether a value can't stand where the server wants it: found out now, and not by the first call.
fn unfit(server: &McpServer, field: &Field, value: &str) -> Option<String> {
    let mut places = server.credential.iter().flat_map(|c| &c.place).filter(|p| p.field == field.name);
    // Of what is no ASCII nobody knows how a server reads it in a header (RFC 9110 section 5.5); much of it is invisible, and came along
    // when the value was copied.
    let breaks = value.bytes().any(|b| !matches!(b, b' '..=b'~' | b'\t'));
    (breaks && places.any(|p| p.header.is_some())).then(|| {
        "holds a line break or another character that can't stand in a header: only ASCII can, and some are invisible".to_owned()
    })
}
