//! How a server's tool is called towards clients, and back.
//!
//! `prefix__tool`, where the prefix is written in the assignment and is the server's name otherwise: from the first server
//! on, so that a second one renames nothing. A prefix never holds `__`, so the first one separates. A name that the
//! specification or common clients would refuse (other characters than `[A-Za-z0-9_.-]`, or more than 64) is shown
//! shortened, with a digest of the real name behind it, so that it stays the same from one day and one replica to another.

use std::borrow::Cow;

use portcullis_model::text::deceives;
use sha2::{Digest, Sha256};

/// The longest exposed name. The specification allows 128 (2026-07-28 server/tools "Tool Names"), several clients 64.
pub const MAX_EXPOSED: usize = 64;
/// Between prefix and tool.
pub const SEPARATOR: &str = "__";
/// Hex digits of the digest behind a shortened name.
const DIGEST_DIGITS: usize = 8;

/// The name under which clients see `tool` of a server with this prefix (separator included).
pub fn expose(prefix: &str, tool: &str) -> String {
    if prefix.len() + tool.len() <= MAX_EXPOSED && is_regular(tool) {
        return format!("{prefix}{tool}");
    }
    let digest = Sha256::digest(tool.as_bytes());
    let mut name = String::with_capacity(MAX_EXPOSED);
    name.push_str(prefix);
    let room = MAX_EXPOSED - DIGEST_DIGITS - 1;
    for c in tool.chars() {
        if name.len() >= room {
            break;
        }
        name.push(if is_regular_char(c) { c } else { '_' });
    }
    name.push('_');
    for byte in digest.iter().take(DIGEST_DIGITS / 2) {
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

/// Splits an exposed name into prefix (separator included) and the rest.
pub fn split(exposed: &str) -> Option<(&str, &str)> {
    let at = exposed.find(SEPARATOR)? + SEPARATOR.len();
    Some(exposed.split_at(at))
}

/// Whether `exposed` may stand for a name that is not its own rest, so that the catalogue has to be asked.
pub fn may_be_shortened(rest: &str) -> bool {
    rest.len() > DIGEST_DIGITS
        && rest.as_bytes()[rest.len() - DIGEST_DIGITS - 1] == b'_'
        && rest.bytes().rev().take(DIGEST_DIGITS).all(|b| b.is_ascii_hexdigit())
}

/// A text of a caller, cut so that it can stand in an error or a log line.
pub fn quoted(text: &str) -> Cow<'_, str> {
    const MOST: usize = 100;
    if !text.chars().any(deceives) {
        return cut(text, MOST);
    }
    let plain: String = text.chars().filter(|c| !deceives(*c)).take(MOST + 1).collect();
    Cow::Owned(cut(&plain, MOST).into_owned())
}

/// At most so many bytes of a text, with a mark at the end where something is missing.
pub fn cut(text: &str, most: usize) -> Cow<'_, str> {
    const MARK: &str = "…";
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let end = (0..=most.saturating_sub(MARK.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Cow::Owned(format!("{}{MARK}", text[..end].trim_end()))
}

fn is_regular(tool: &str) -> bool {
    !tool.is_empty() && tool.chars().all(is_regular_char)
}

fn is_regular_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_names_are_only_prefixed() {
        assert_eq!(expose("time__", "get_current_time"), "time__get_current_time");
        assert_eq!(split("time__get__x"), Some(("time__", "get__x")));
        assert_eq!(split("time"), None);
    }

    #[test]
    fn irregular_names_become_valid_and_stay_distinct() {
        let odd = [
            "a/b".to_owned(),
            "a b".to_owned(),
            "é".to_owned(),
            "x".repeat(80),
            format!("{}y", "x".repeat(80)),
            String::new(),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for tool in &odd {
            let name = expose("files__", tool);
            assert!(name.len() <= MAX_EXPOSED && is_regular(&name), "{name}");
            let (_, rest) = split(&name).expect("has its prefix");
            assert!(may_be_shortened(&format!("x{rest}")), "{rest}");
            assert!(seen.insert(name), "{tool} clashes");
        }
    }

    #[test]
    fn the_longest_prefix_leaves_room() {
        let prefix = format!("{}__", "p".repeat(32));
        assert!(expose(&prefix, &"t".repeat(100)).len() <= MAX_EXPOSED);
    }

    #[test]
    fn quotes_are_short_and_plain() {
        assert_eq!(quoted("a\nb"), "ab");
        assert_eq!(quoted(&"x".repeat(500)).len(), 100);
        assert!(quoted(&"x".repeat(500)).ends_with('…'), "what is cut says so");
        assert_eq!(cut("é é é", 6), "é…");
        assert_eq!(cut("short", 5), "short");
    }
}
