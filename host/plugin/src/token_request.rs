//! Token requests as plugins put them together, and what may be read of the answers.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use portcullis_model::Secret;
use serde_json::{Map, Value};

use crate::secrets::Guarded;

/// The most fields of one request.
pub(crate) const MAX_FIELDS: usize = 64;
/// The most bytes of an answer.
pub(crate) const MAX_ANSWER: usize = 256 << 10;
/// The most bytes of a text of an answer that a plugin may read.
const MAX_TEXT: usize = 1024;
/// The most characters of a description.
const MAX_DESCRIPTION: usize = 256;
/// A longer run of characters that tokens are made of is not shown. Ids of 36 characters are, for whoever looks for them.
const LONGEST_WORD: usize = 40;
/// Secrets shorter than this are not looked for in texts: they would blank words.
const SHORTEST_SECRET: usize = 6;

/// A request that is being put together.
pub(crate) struct TokenRequest {
    pub(crate) endpoint: String,
    pub(crate) fields: Vec<(String, Guarded)>,
    pub(crate) client: Client,
    pub(crate) key_id: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) algorithm: Option<String>,
    pub(crate) timeout_ms: Option<u32>,
    /// What is wrong with it, said when it is sent.
    pub(crate) invalid: Option<&'static str>,
}

/// How the client says who it is.
pub(crate) enum Client {
    Unsaid,
    Public(String),
    Basic(String, Guarded),
    Post(String, Guarded),
    Key(String, Guarded),
}

impl TokenRequest {
    pub(crate) fn new(endpoint: String) -> Self {
        Self {
            endpoint,
            fields: Vec::new(),
            client: Client::Unsaid,
            key_id: None,
            audience: None,
            algorithm: None,
            timeout_ms: None,
            invalid: None,
        }
    }

    /// Every secret in it, with the header that it stands in; none for the body.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (&Guarded, Option<&'static str>)> {
        let client = match &self.client {
            Client::Unsaid | Client::Public(_) => None,
            Client::Basic(_, secret) => Some((secret, Some("authorization"))),
            Client::Post(_, secret) | Client::Key(_, secret) => Some((secret, None)),
        };
        self.fields.iter().map(|(_, value)| (value, None)).chain(client).filter(|(value, _)| value.is_secret())
    }
}

/// An answer that holds tokens.
pub(crate) struct TokenAnswer {
    pub(crate) body: Map<String, Value>,
    /// What the request carried, to be blanked wherever the answer repeats it.
    pub(crate) sent: Vec<Secret>,
    /// The same, with where each may go.
    pub(crate) given: Vec<Guarded>,
}

/// Whether a secret of an answer is one that the request carried.
pub(crate) enum Repeated<'a> {
    /// It is not.
    No,
    /// It is this one: what comes back may go where it might go before, and nowhere else.
    Whole(&'a Guarded),
    /// One of the two is in the other.
    Partly,
}

impl TokenAnswer {
    /// A string of the answer that is a secret.
    pub(crate) fn secret(&self, pointer: &str) -> Option<Secret> {
        let mut parts = pointer.strip_prefix('/')?.splitn(2, '/');
        let first = parts.next()?.replace("~1", "/").replace("~0", "~");
        let found = self.body.get(&first)?;
        let found = match parts.next() {
            Some(rest) => found.pointer(&format!("/{rest}"))?,
            None => found,
        };
        found.as_str().filter(|text| !text.is_empty()).map(Secret::new)
    }

    /// Whether a secret of the answer is one that was sent.
    pub(crate) fn repeated(&self, secret: &Secret) -> Repeated<'_> {
        if let Some(sent) = self.given.iter().find(|sent| sent.is(secret)) {
            return Repeated::Whole(sent);
        }
        // The caller's token may have been sent as a part of something.
        let part = |sent: &Guarded| {
            sent.is_callers() && secret.len() >= SHORTEST_SECRET && secret.is_in(sent.value().expose())
        };
        let partly = self.sent.iter().any(|sent| sent.len() >= SHORTEST_SECRET && sent.is_in(secret.expose()));
        if partly || self.given.iter().any(part) { Repeated::Partly } else { Repeated::No }
    }

    /// A word of the answer: printable ASCII, short, and nothing that the request carried.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        let text = self.body.get(name)?.as_str()?;
        let clean = text.len() <= MAX_TEXT && text.bytes().all(|b| (0x20..0x7f).contains(&b));
        (clean && !repeats(text, &self.sent)).then(|| text.to_owned())
    }

    /// `expires_in`, which some write as a text.
    pub(crate) fn expires_in(&self) -> Option<u64> {
        match self.body.get("expires_in")? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// What an endpoint's answer comes to.
pub(crate) enum Read {
    Answer(Map<String, Value>),
    Refused { status: u16, error: String, description: Option<String> },
    Unavailable(String),
    Malformed(String),
}

/// Reads what an endpoint answered. An `error` is one whatever the status says.
pub(crate) fn read(status: StatusCode, headers: &HeaderMap, body: &Bytes, sent: &[Secret]) -> Read {
    let number = status.as_u16();
    if status.is_redirection() {
        return Read::Malformed(format!("it answered {number}, and a token endpoint does not redirect"));
    }
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Read::Unavailable(format!("it answered {number}"));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind != "application/json" && !kind.ends_with("+json") {
        return Read::Malformed(format!("it answered {number} without JSON"));
    }
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
        return Read::Malformed(format!("it answered {number} with no JSON object"));
    };
    if let Some(error) = body.get("error") {
        let word = error.as_str().unwrap_or_default();
        let clean = !word.is_empty()
            && word.len() <= 64
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:/".contains(&b))
            && !repeats(word, sent);
        let error = if clean { word } else { "unreadable" }.to_owned();
        let description = body.get("error_description").and_then(Value::as_str).map(|text| shown(text, sent));
        return Read::Refused { status: number, error, description };
    }
    if status.is_success() { Read::Answer(body) } else { Read::Malformed(format!("it answered {number}")) }
}

/// Whether an answer repeats the caller's own token anywhere. As a token of a token endpoint it could go where the caller's
/// must not.
pub(crate) fn returns_callers(body: &Map<String, Value>, given: &[Guarded]) -> bool {
    fn holds(value: &Value, secret: &Secret) -> bool {
        match value {
            Value::String(text) => secret.is_in(text.as_bytes()),
            Value::Array(all) => all.iter().any(|one| holds(one, secret)),
            Value::Object(all) => all.values().any(|one| holds(one, secret)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    let mut callers = given.iter().filter(|sent| sent.is_callers() && sent.value().len() >= SHORTEST_SECRET);
    callers.any(|sent| body.values().any(|value| holds(value, sent.value())))
}

/// Whether a text repeats a secret that was sent.
fn repeats(text: &str, sent: &[Secret]) -> bool {
    sent.iter().filter(|s| s.len() >= SHORTEST_SECRET).any(|secret| secret.is_in(text.as_bytes()))
}

/// Another's words without what could be a secret: one line, short, and neither what was sent nor what looks like a token.
fn shown(text: &str, sent: &[Secret]) -> String {
    if repeats(text, sent) {
        return "(left out: it repeats a secret)".to_owned();
    }
    let of_tokens = |c: char| c.is_ascii_alphanumeric() || "-_.~+/=".contains(c);
    let line: String = text.chars().map(|c| if portcullis_model::text::deceives(c) { ' ' } else { c }).collect();
    let words = line.split_inclusive(|c| !of_tokens(c)).map(|piece| {
        let word = piece.trim_end_matches(|c| !of_tokens(c));
        if word.len() > LONGEST_WORD { format!("...{}", &piece[word.len()..]) } else { piece.to_owned() }
    });
    words.collect::<String>().chars().take(MAX_DESCRIPTION).collect()
}

/// A form (application/x-www-form-urlencoded), in a buffer that never grows: growing would leave unwiped copies behind.
pub(crate) fn form(fields: &[(&str, &Secret)]) -> Secret {
    let most: usize = fields.iter().map(|(name, value)| 3 * (name.len() + value.len()) + 2).sum();
    let mut body = Vec::with_capacity(most);
    for (name, value) in fields {
        if !body.is_empty() {
            body.push(b'&');
        }
        push_encoded(&mut body, name.as_bytes());
        body.push(b'=');
        push_encoded(&mut body, value.expose());
    }
    Secret::new(body)
}

/// `Authorization: Basic`, id and secret form-encoded first (RFC 6749 section 2.3.1).
pub(crate) fn basic(id: &str, secret: &Secret) -> Guarded {
    let mut pair = Vec::with_capacity(3 * (id.len() + secret.len()) + 1);
    push_encoded(&mut pair, id.as_bytes());
    pair.push(b':');
    push_encoded(&mut pair, secret.expose());
    let pair = Guarded::secret(Secret::new(pair), crate::secrets::Allowed::nowhere(), "").base64();
    // Parts this small always fit.
    Guarded::concat(&[Guarded::text("Basic ".into()), pair.clone()]).unwrap_or(pair)
}

fn push_encoded(body: &mut Vec<u8>, bytes: &[u8]) {
    for piece in url::form_urlencoded::byte_serialize(bytes) {
        body.extend_from_slice(piece.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(status: u16, kind: &str, body: &str) -> Read {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        read(status, &headers, &Bytes::from(body.to_owned()), &[Secret::new("s3cret-value")])
    }

    #[test]
    fn answers_are_told_apart() {
        let json = "application/json;charset=UTF-8";
        assert!(matches!(ask(200, json, r#"{"access_token":"x"}"#), Read::Answer(_)));
        assert!(matches!(ask(200, "application/token+json", "{}"), Read::Answer(_)));
        let refused = |read| match read {
            Read::Refused { status, error, description } => (status, error, description.unwrap_or_default()),
            _ => panic!("not refused"),
        };
        assert_eq!(
            refused(ask(400, json, r#"{"error":"invalid_grant"}"#)),
            (400, "invalid_grant".into(), String::new())
        );
        assert_eq!(
            refused(ask(200, json, r#"{"access_token":"x","error":"invalid_grant"}"#)).0,
            200,
            "an error is one"
        );
        assert_eq!(refused(ask(400, json, r#"{"error":{"a":1}}"#)).1, "unreadable");
        assert_eq!(refused(ask(400, json, r#"{"error":"a\nb"}"#)).1, "unreadable");
        assert!(matches!(ask(503, json, r#"{"error":"temporarily_unavailable"}"#), Read::Unavailable(_)));
        assert!(matches!(ask(429, "text/plain", ""), Read::Unavailable(_)));
        for (status, kind, body) in [
            (302, json, r#"{"access_token":"x"}"#),
            (200, "text/html", r#"{"access_token":"x"}"#),
            (200, json, "[]"),
            (200, json, "<html>"),
            (404, json, "{}"),
        ] {
            assert!(matches!(ask(status, kind, body), Read::Malformed(_)), "{status} {kind} {body}");
        }
    }

    #[test]
    fn what_was_sent_and_what_looks_like_a_token_is_not_shown() {
        let said = |text: &str| shown(text, &[Secret::new("s3cret-value")]);
        assert_eq!(
            said("AADSTS65001: consent is needed. Trace ID: 8d3a0000-1111-2222-3333-444455556666"),
            "AADSTS65001: consent is needed. Trace ID: 8d3a0000-1111-2222-3333-444455556666"
        );
        assert!(!said("bad secret s3cret-value").contains("s3cret"));
        let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl";
        assert_eq!(said(&format!("the token {token}, which is old")), "the token ..., which is old");
        assert_eq!(said("a\r\nb"), "a  b");
        assert_eq!(said(&"word ".repeat(200)).len(), MAX_DESCRIPTION);
    }

    #[test]
    fn texts_and_secrets_of_an_answer() {
        let body = serde_json::json!({"access_token": "at", "a/b": {"c": "deep"}, "empty": "", "scope": "s3cret-value x",
            "token_type": "Bearer", "expires_in": "60", "odd": "a\u{7}"});
        let Value::Object(body) = body else { panic!() };
        let answer = TokenAnswer { body, sent: vec![Secret::new("s3cret-value")], given: Vec::new() };
        let secret = |pointer| answer.secret(pointer).map(|s| String::from_utf8(s.expose().to_vec()).unwrap());
        assert_eq!(secret("/access_token").as_deref(), Some("at"));
        assert_eq!(secret("/a~1b/c").as_deref(), Some("deep"));
        for none in ["", "access_token", "/nothing", "/a~1b", "/empty", "/a~1b/d"] {
            assert_eq!(secret(none), None, "{none}");
        }
        assert_eq!(answer.text("token_type").as_deref(), Some("Bearer"));
        assert_eq!((answer.text("scope"), answer.text("odd")), (None, None));
        assert_eq!(answer.expires_in(), Some(60));
    }

    #[test]
    fn what_was_sent_does_not_come_back_as_something_else() {
        use crate::secrets::Allowed;

        let allowed = |origin: &str| Allowed::granted(&[origin.to_owned()]).unwrap();
        let callers = Guarded::callers(Secret::new("callers-token"), Allowed::nowhere(), "the caller's token");
        let own = Guarded::secret(Secret::new("refresh-token"), allowed("https://as.example"), "mine");
        let Value::Object(body) = serde_json::json!({"access_token": "at-0123", "refresh_token": "refresh-token",
            "long": "x refresh-token y", "part": "callers-tok"})
        else {
            panic!()
        };
        let sent = vec![callers.value().clone(), own.value().clone()];
        let answer = TokenAnswer { body, sent, given: vec![callers.clone(), own] };
        let taken = |pointer| {
            answer.secret(pointer).map(|secret| match answer.repeated(&secret) {
                Repeated::No => "new".to_owned(),
                Repeated::Whole(sent) => format!("still {:?}", sent.allowed().map(|a| a.origins.len())),
                Repeated::Partly => "refused".to_owned(),
            })
        };
        assert_eq!(taken("/access_token").as_deref(), Some("new"));
        assert_eq!(taken("/refresh_token").as_deref(), Some("still Some(1)"), "where it might go before");
        assert_eq!(taken("/long").as_deref(), Some("refused"));
        assert_eq!(taken("/part").as_deref(), Some("refused"));

        let returns = |body: Value| {
            let Value::Object(body) = body else { panic!() };
            returns_callers(&body, std::slice::from_ref(&callers))
        };
        assert!(returns(serde_json::json!({"access_token": "callers-token"})));
        assert!(returns(serde_json::json!({"a": [{"b": "Bearer callers-token"}]})));
        assert!(!returns(serde_json::json!({"access_token": "another", "n": 1})));
    }

    #[test]
    fn forms_and_basic_are_encoded() {
        let (a, b) = (Secret::new("a b&c=d"), Secret::new("é"));
        assert_eq!(form(&[("x", &a), ("y[]", &b)]).expose(), b"x=a+b%26c%3Dd&y%5B%5D=%C3%A9");
        // id "a:b", secret "c d" (RFC 6749 appendix B).
        assert_eq!(basic("a:b", &Secret::new("c d")).value().expose(), b"Basic YSUzQWI6Yytk");
    }
}
