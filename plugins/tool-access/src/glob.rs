//! Patterns of names: `*` stands for any run of characters, `?` for one.

/// Whether a whole text fits a pattern. Takes at most the product of their lengths, whatever the pattern.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    if !pattern.contains(['*', '?']) {
        return pattern == text;
    }
    // Bytes do: what is compared is whole characters of UTF-8, and a step over one is as wide as its first byte says.
    let (mut p, mut t) = (pattern.as_bytes(), text.as_bytes());
    // The pattern behind the last `*`, and the text that it has not swallowed so far.
    let mut star: Option<(&[u8], &[u8])> = None;
    while let [first, rest @ ..] = t {
        match p {
            [b'*', after @ ..] => {
                star = Some((after, t));
                p = after;
            }
            [b'?', after @ ..] => (p, t) = (after, after_one(t)),
            [same, after @ ..] if same == first => (p, t) = (after, rest),
            _ => {
                let Some((after, unswallowed)) = star else { return false };
                let unswallowed = after_one(unswallowed);
                star = Some((after, unswallowed));
                (p, t) = (after, unswallowed);
            }
        }
    }
    p.iter().all(|c| *c == b'*')
}

/// A text without its first character.
fn after_one(text: &[u8]) -> &[u8] {
    let width = match text.first() {
        None | Some(..0x80) => 1,
        Some(..0xe0) => 2,
        Some(..0xf0) => 3,
        Some(_) => 4,
    };
    text.get(width..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn fits_whole_texts() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "a"),
            ("a", "a"),
            ("", ""),
            ("a*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "abbc"),
            ("a?c", "abc"),
            ("*b*", "abc"),
            ("a*b*c", "axxbxxc"),
            ("**", "x"),
            ("*.*", "a.b"),
            ("?", "é"),
            ("*?é*", "日本é"),
            ("??b", "é日b"),
            ("*ab", "aab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", "A"),
            ("a", "ab"),
            ("?", ""),
            ("a?", "a"),
            ("a*c", "ab"),
            ("*c", "cb"),
            ("a*b*c", "acb"),
            ("a", ""),
            ("get_*", "forget_it"),
            ("[a]", "a"),
            ("??", "é"),
            ("*?", ""),
            ("è", "é"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        assert!(!matches(&"*a".repeat(200), &format!("{}b", "a".repeat(2_000))));
    }
}
