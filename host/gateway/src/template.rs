//! URI templates (RFC 6570), as far as routing needs them: does this URI come from that template?

/// The longest template and the longest URI that are compared: their product bounds the work.
const MOST_TEMPLATE: usize = 2048;
const MOST_URI: usize = 4096;

/// A template, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Text as it stands.
    Literal(Box<str>),
    /// An expression, expanded to anything, or to anything within one segment of the path.
    Any {
        /// Whether `/`, `?` and `#` may stand in it.
        reserved: bool,
    },
}

impl Template {
    /// Reads a template. None where it is too long, or its braces do not pair.
    pub fn new(text: &str) -> Option<Self> {
        if text.len() > MOST_TEMPLATE {
            return None;
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (literal, tail) = rest.split_at(open);
            if literal.contains('}') {
                return None;
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            let (expression, tail) = tail[1..].split_once('}')?;
            if expression.is_empty() || expression.contains('{') {
                return None;
            }
            // Operators that expand to reserved characters, and exploded lists (RFC 6570 sections 2.2 and 2.4).
            let reserved = expression.starts_with(['+', '#', '/', '?', '&', '.', ';']) || expression.ends_with('*');
            match parts.last_mut() {
                Some(Part::Any { reserved: before }) => *before |= reserved,
                _ => parts.push(Part::Any { reserved }),
            }
            rest = tail;
        }
        if rest.contains('}') {
            return None;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.into()));
        }
        Some(Self { parts: parts.into() })
    }

    /// What stands before the first expression.
    pub fn literal(&self) -> &str {
        match self.parts.first() {
            Some(Part::Literal(text)) => text,
            _ => "",
        }
    }

    /// Whether a URI may be an expansion of this.
    pub fn matches(&self, uri: &str) -> bool {
        if uri.len() > MOST_URI || !uri.starts_with(self.literal()) {
            return false;
        }
        // `here[i]`: the parts so far may have brought us to byte i.
        let bytes = uri.as_bytes();
        let mut here = vec![false; bytes.len() + 1];
        here[0] = true;
        for part in &self.parts {
            let mut next = vec![false; bytes.len() + 1];
            match part {
                Part::Literal(text) => {
                    for at in (0..here.len()).filter(|at| here[*at]) {
                        if bytes[at..].starts_with(text.as_bytes()) {
                            next[at + text.len()] = true;
                        }
                    }
                }
                Part::Any { reserved } => {
                    let mut open = false;
                    for at in 0..here.len() {
                        open |= here[at];
                        next[at] = open;
                        if !reserved && matches!(bytes.get(at), Some(b'/' | b'?' | b'#')) {
                            open = false;
                        }
                    }
                }
            }
            here = next;
        }
        here[bytes.len()]
    }

    /// Whether some URI may be an expansion of both. Says so too often rather than too seldom.
    pub fn may_meet(&self, other: &Self) -> bool {
        let (a, b) = (self.literal(), other.literal());
        a.starts_with(b) || b.starts_with(a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(template: &str, uri: &str) -> bool {
        Template::new(template).unwrap().matches(uri)
    }

    #[test]
    fn expansions_match_and_others_do_not() {
        for (template, yes, no) in [
            ("file:///{path}", vec!["file:///a.txt", "file:///"], vec!["file:///a/b", "http://x", "file://"]),
            ("file:///{+path}", vec!["file:///a/b?c"], vec!["file:/x"]),
            ("t://{id}/data", vec!["t://7/data"], vec!["t://7/8/data", "t://7/datas", "t:///x"]),
            ("t://x{?q,r}", vec!["t://x", "t://x?q=1"], vec!["t://y?q=1"]),
            ("t://x{/a,b}/end", vec!["t://x/1/2/end"], vec!["t://x/1/2"]),
            ("{a}{+b}", vec!["anything/at#all"], vec![]),
            ("t://plain", vec!["t://plain"], vec!["t://plain/"]),
        ] {
            for uri in yes {
                assert!(matches(template, uri), "{template} {uri}");
            }
            for uri in no {
                assert!(!matches(template, uri), "{template} {uri}");
            }
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in ["{", "}", "a{}b", "a{b", "a}b", "{{a}}", &"x".repeat(5000)] {
            assert_eq!(Template::new(text), None, "{text}");
        }
    }

    #[test]
    fn long_and_awkward_ones_end_soon() {
        let template = Template::new(&"{a}/".repeat(500)).unwrap();
        let started = std::time::Instant::now();
        assert!(!template.matches(&"a/".repeat(2000)));
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn overlap_is_seen() {
        let t = |text| Template::new(text).unwrap();
        assert!(t("file:///{a}").may_meet(&t("file:///home/{b}")));
        assert!(!t("file:///x/{a}").may_meet(&t("file:///y/{b}")));
        assert!(t("{a}").may_meet(&t("x://{b}")));
    }
}
