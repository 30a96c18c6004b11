//! Which headers an operator may pass on from clients, or fix.

use std::collections::BTreeMap;

use crate::Problem;

/// The most headers of one list.
const MOST: usize = 32;
/// The most bytes of a fixed value.
const MAX_VALUE: usize = 4096;

/// What belongs to one connection (RFC 9110 section 7.6.1), to the message, or to who is asked.
const OURS: [&str; 20] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "last-event-id",
    "origin",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-real-ip",
];
/// What proves who somebody is: the client's is for the gateway alone, and the server's is a connection's.
const CREDENTIALS: [&str; 5] = ["authorization", "cookie", "set-cookie", "x-api-key", "x-csrf-token"];
/// The same, and what a client could make up about where it is.
const PREFIXES: [&str; 5] = ["mcp-", "proxy-", "sec-", "x-forwarded-", "forwarded"];

/// Why a header may be neither passed on nor fixed; none where it may.
pub fn refusal(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        Some("is not a header name")
    } else if CREDENTIALS.contains(&&*name) {
        Some("holds a credential: use a connection, or a credential mode")
    } else if OURS.contains(&&*name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        Some("is set by Portcullis")
    } else {
        None
    }
}

pub(super) fn check(path: &str, pass: &[String], fixed: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
    for (what, count) in [("passHeaders", pass.len()), ("headers", fixed.len())] {
        if count > MOST {
            problems.push(Problem::new(format!("{path}.{what}"), format!("{MOST} headers are the most")));
        }
    }
    for (i, name) in pass.iter().enumerate() {
        if let Some(why) = refusal(name) {
            problems.push(Problem::new(format!("{path}.passHeaders[{i}]"), why));
        }
    }
    for (name, value) in fixed {
        if let Some(why) = refusal(name) {
            problems.push(Problem::new(format!("{path}.headers.{name}"), why));
        }
        if value.len() > MAX_VALUE || !value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            let why = format!("the value must be at most {MAX_VALUE} printable ASCII characters");
            problems.push(Problem::new(format!("{path}.headers.{name}"), why));
        }
    }
}
