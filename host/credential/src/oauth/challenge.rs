//! `WWW-Authenticate` of a server: where its metadata is and which scopes it wants (RFC 6750 section 3, RFC 9728 section 5.1).

/// The most scopes that one challenge may name.
const MAX_SCOPES: usize = 64;
/// The longest scope.
const MAX_SCOPE: usize = 256;

/// The `Bearer` challenge of a refused request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// Why it was refused, such as `invalid_token`.
    pub error: Option<String>,
    /// The scopes that would do.
    pub scopes: Vec<String>,
    /// Where the server's metadata is.
    pub resource_metadata: Option<String>,
}

impl Challenge {
    /// The first `Bearer` challenge of a header's value; none where there is none.
    pub fn read(header: &str) -> Option<Self> {
        let mut found: Option<Self> = None;
        for (scheme, name, value) in Parameters::of(header) {
            if let Some(scheme) = scheme {
                if found.is_some() {
                    break;
                }
                if scheme.eq_ignore_ascii_case("bearer") {
                    found = Some(Self::default());
                }
            }
            let (Some(challenge), Some(name)) = (&mut found, name) else { continue };
            match &*name.to_ascii_lowercase() {
                "error" => challenge.error = Some(value),
                "scope" => challenge.scopes = scopes(&value),
                "resource_metadata" => challenge.resource_metadata = Some(value),
                _ => {}
            }
        }
        found
    }
}

/// The scopes that a server wants which refused a call with status 403 for want of them; none for any other refusal.
pub fn insufficient_scope(status: u16, www_authenticate: Option<&str>) -> Option<Vec<String>> {
    let challenge = Challenge::read(www_authenticate?)?;
    let wanted = status == 403 && challenge.error.as_deref() == Some("insufficient_scope");
    (wanted && !challenge.scopes.is_empty()).then_some(challenge.scopes)
}

/// The words of a `scope`, each of the characters that RFC 6749 section 3.3 allows, in order and once.
pub(crate) fn scopes(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for word in text.split(' ').filter(|w| !w.is_empty() && w.len() <= MAX_SCOPE) {
        let fine = word.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
        if fine && all.len() < MAX_SCOPES && !all.iter().any(|other| other == word) {
            all.push(word.to_owned());
        }
    }
    all
}

/// `(scheme, name, value)` for each parameter; a scheme stands with its first one, or alone (RFC 9110 section 11.6.1).
struct Parameters<'a> {
    rest: &'a str,
}

impl<'a> Parameters<'a> {
    fn of(header: &'a str) -> Self {
        Self { rest: header }
    }

    fn token(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| c == '=' || c == ',' || c == '"' || c.is_whitespace());
        let (token, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        token
    }

    /// What follows `=`: quoted or not.
    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            return self.token().to_owned();
        };
        let (mut value, mut escaped) = (String::new(), false);
        for (at, c) in quoted.char_indices() {
            match c {
                _ if escaped => {
                    value.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return value;
                }
                _ => value.push(c),
            }
        }
        // Never closed: what is cut off says nothing.
        self.rest = "";
        String::new()
    }
}

impl<'a> Iterator for Parameters<'a> {
    type Item = (Option<&'a str>, Option<&'a str>, String);

    fn next(&mut self) -> Option<Self::Item> {
        self.rest = self.rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
        if self.rest.is_empty() {
            return None;
        }
        let first = self.token();
        if first.is_empty() {
            // A stray quote or equals sign: nothing that can be read follows.
            self.rest = "";
            return None;
        }
        let after = self.rest.trim_start();
        if let Some(rest) = after.strip_prefix('=').filter(|_| !after.starts_with("==")) {
            self.rest = rest.trim_start();
            let value = self.value();
            return Some((None, Some(first), value));
        }
        // A scheme, with a parameter, or a token68, or nothing behind it.
        // What a token68 is filled up with (RFC 9110 section 11.2) begins nothing.
        self.rest = if after.starts_with("==") { after.trim_start_matches('=') } else { after };
        let mut ahead = Parameters { rest: after };
        let name = ahead.token();
        let behind = ahead.rest.trim_start();
        if !name.is_empty() && behind.starts_with('=') && !behind.starts_with("==") {
            self.rest = behind[1..].trim_start();
            let value = self.value();
            return Some((Some(first), Some(name), value));
        }
        Some((Some(first), None, String::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let read = |text: &str| Challenge::read(text).unwrap();
        let one = read(r#"Bearer error="insufficient_scope", scope="a b:c  a", resource_metadata="https://x/y?z=1,2""#);
        assert_eq!(one.error.as_deref(), Some("insufficient_scope"));
        assert_eq!(one.scopes, ["a", "b:c"]);
        assert_eq!(one.resource_metadata.as_deref(), Some("https://x/y?z=1,2"));
        let two = read(r#"Basic realm="a, Bearer scope=\"x\"", bearer scope=one , Negotiate"#);
        assert_eq!(two.scopes, ["one"]);
        assert_eq!(read("Bearer"), Challenge::default());
        assert_eq!(read("Negotiate abc==, Bearer scope=s").scopes, ["s"]);
        assert_eq!(read(r#"Bearer realm="x", Digest scope="other""#), Challenge::default());
        assert_eq!(read(r#"Bearer scope="never closed"#), Challenge::default());
        assert_eq!(read("Bearer scope=\"a\u{7}b good\"").scopes, ["good"]);
        for none in ["", ",,", "=", "\"", "Basic realm=\"Bearer\"", "é\"="] {
            assert_eq!(Challenge::read(none), None, "{none}");
        }
    }

    #[test]
    fn only_a_typed_refusal_asks_for_scopes() {
        let wants = |status, header: &str| insufficient_scope(status, Some(header)).is_some();
        assert!(wants(403, r#"Bearer error="insufficient_scope", scope="a""#));
        assert!(!wants(401, r#"Bearer error="insufficient_scope", scope="a""#));
        assert!(!wants(403, r#"Bearer error="invalid_token", scope="a""#));
        assert!(!wants(403, r#"Bearer error="insufficient_scope""#));
        assert_eq!(insufficient_scope(403, None), None);
    }
}
