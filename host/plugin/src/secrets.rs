//! Secrets as plugins hold them: a handle that remembers where its secret may go.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use portcullis_model::Secret;
use url::Url;

/// An origin of an allow-list: `https://host`, `https://host:port` or `https://*.host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern {
    scheme: String,
    host: String,
    /// The host is a parent domain; any name below it matches, itself not.
    below: bool,
    port: Option<u16>,
}

impl OriginPattern {
    /// Parses an origin as operators write it; none where it is no origin.
    pub fn parse(text: &str) -> Option<Self> {
        let below = text.contains("://*.");
        let url = Url::parse(&text.replacen("://*.", "://", 1)).ok()?;
        let plain = matches!(url.scheme(), "http" | "https")
            && !url.host_str()?.contains('*')
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        // A wildcard above an address or a single label would match far more than anybody meant.
        if !plain || (below && !matches!(url.host(), Some(url::Host::Domain(d)) if d.contains('.'))) {
            return None;
        }
        let (scheme, host, port) = (url.scheme().to_owned(), url.host_str()?.to_owned(), url.port_or_known_default());
        Some(Self { scheme, host, below, port })
    }

    /// Whether every URL at that origin lies at this one.
    pub(crate) fn holds(&self, other: &Self) -> bool {
        (&self.scheme, self.port) == (&other.scheme, other.port)
            && match (self.below, other.below) {
                (false, false) => self.host == other.host,
                (false, true) => false,
                (true, false) => self.is_above(&other.host),
                (true, true) => self.host == other.host || self.is_above(&other.host),
            }
    }

    fn is_above(&self, host: &str) -> bool {
        host.strip_suffix(self.host.as_str()).is_some_and(|head| head.len() > 1 && head.ends_with('.'))
    }

    /// Whether the URL lies at this origin.
    pub fn matches(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        self.scheme == url.scheme()
            && self.port == url.port_or_known_default()
            && if self.below { self.is_above(host) } else { host == self.host }
    }
}

/// Where a secret may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Origins of outgoing requests.
    pub origins: Vec<OriginPattern>,
    /// Also the server that a resolver is answering for.
    pub target: bool,
    /// Header names (lower case) that it may stand in; any where none.
    pub headers: Option<Vec<String>>,
    /// Whether it may stand in a body.
    pub body: bool,
}

impl Allowed {
    /// Nowhere: it can be looked up or verified, never sent.
    pub fn nowhere() -> Self {
        Self::default()
    }

    /// What an operator's grant says: these origins, or the resolver's target where there are none.
    ///
    /// # Errors
    /// The text that is no origin.
    pub fn granted(origins: &[String]) -> Result<Self, String> {
        let parsed: Result<Vec<_>, _> =
            origins.iter().map(|o| OriginPattern::parse(o).ok_or_else(|| o.clone())).collect();
        Ok(Self { origins: parsed?, target: origins.is_empty(), headers: None, body: true })
    }

    /// Whether a request to `url` may carry it; `target` is the URL of the server that a resolver answers for.
    pub fn at(&self, url: &Url, target: Option<&Url>) -> bool {
        self.origins.iter().any(|o| o.matches(url))
            || (self.target && target.is_some_and(|t| t.origin() == url.origin()))
    }

    /// Whether it may stand in this header.
    pub fn in_header(&self, name: &str) -> bool {
        self.headers.as_ref().is_none_or(|names| names.iter().any(|n| n == name))
    }

    fn both(&self, other: &Self) -> Self {
        Self {
            origins: self.origins.iter().filter(|o| other.origins.contains(o)).cloned().collect(),
            target: self.target && other.target,
            headers: match (&self.headers, &other.headers) {
                (None, h) | (h, None) => h.clone(),
                (Some(a), Some(b)) => Some(a.iter().filter(|n| b.contains(n)).cloned().collect()),
            },
            body: self.body && other.body,
        }
    }
}

/// Bytes with the places where they may go. Texts of the plugin itself have none to keep to.
#[derive(Clone)]
pub struct Guarded {
    value: Secret,
    allowed: Option<Allowed>,
    label: String,
    /// Whether the caller's own token is in it.
    callers: bool,
}

/// The most bytes of one secret that a plugin puts together.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

impl Guarded {
    /// A secret; `label` names it in audits and never holds any of it.
    pub fn secret(value: Secret, allowed: Allowed, label: impl Into<String>) -> Self {
        Self { value, allowed: Some(allowed), label: label.into(), callers: false }
    }

    /// The caller's own token.
    pub fn callers(value: Secret, allowed: Allowed, label: impl Into<String>) -> Self {
        Self { callers: true, ..Self::secret(value, allowed, label) }
    }

    /// Whether the caller's own token is in it.
    pub fn is_callers(&self) -> bool {
        self.callers
    }

    /// Whether it is this secret, unchanged.
    pub(crate) fn is(&self, secret: &Secret) -> bool {
        self.value.len() == secret.len() && self.value.is_in(secret.expose())
    }

    /// A text of the plugin's own.
    pub fn text(text: String) -> Self {
        Self { value: Secret::new(text), allowed: None, label: String::new(), callers: false }
    }

    /// The bytes, to be placed in a request. Reading them is an exit.
    pub fn value(&self) -> &Secret {
        &self.value
    }

    /// Where they may go; none where anywhere.
    pub fn allowed(&self) -> Option<&Allowed> {
        self.allowed.as_ref()
    }

    /// Whether a secret is in it.
    pub fn is_secret(&self) -> bool {
        self.allowed.is_some()
    }

    /// The names of the secrets in it, for audits.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Base64 (RFC 4648 section 4).
    pub fn base64(&self) -> Self {
        self.with(STANDARD.encode(self.value.expose()).into_bytes())
    }

    /// application/x-www-form-urlencoded.
    pub fn form_encoded(&self) -> Self {
        self.with(url::form_urlencoded::byte_serialize(self.value.expose()).collect::<String>().into_bytes())
    }

    /// Lower-case hex.
    pub fn hex(&self) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let bytes = self.value.expose();
        let digits = bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        let mut hex = Vec::with_capacity(bytes.len() * 2);
        hex.extend(digits);
        self.with(hex)
    }

    /// What was made with it: it may go where this may.
    pub(crate) fn made_into(&self, value: Secret, how: &str) -> Self {
        Self { value, label: format!("{how} {}", self.label), ..self.clone() }
    }

    fn with(&self, bytes: Vec<u8>) -> Self {
        Self { value: Secret::new(bytes), ..self.clone() }
    }

    /// One after another; the result may go only where each of them may. None above [`MAX_SECRET_BYTES`].
    pub fn concat(parts: &[Self]) -> Option<Self> {
        let length: usize = parts.iter().map(|p| p.value.len()).sum();
        if length > MAX_SECRET_BYTES {
            return None;
        }
        // The exact capacity at once: growing would leave unwiped copies behind.
        let mut bytes = Vec::with_capacity(length);
        let mut allowed: Option<Allowed> = None;
        let mut label = String::new();
        for part in parts {
            bytes.extend_from_slice(part.value.expose());
            if let Some(next) = &part.allowed {
                allowed = Some(allowed.map_or_else(|| next.clone(), |a| a.both(next)));
                if !label.is_empty() {
                    label.push('+');
                }
                label.push_str(&part.label);
            }
        }
        let callers = parts.iter().any(|part| part.callers);
        Some(Self { value: Secret::new(bytes), allowed, label, callers })
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guarded({})", self.label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("url")
    }

    #[test]
    fn origins_match_exactly() {
        let plain = OriginPattern::parse("https://idp.example.com").expect("origin");
        assert!(plain.matches(&url("https://idp.example.com/token")));
        assert!(plain.matches(&url("https://idp.example.com:443/")));
        for other in [
            "http://idp.example.com/",
            "https://idp.example.com:8443/",
            "https://evil.idp.example.com/",
            "https://idp.example.com.evil.net/",
            "https://evil@other.net/",
        ] {
            assert!(!plain.matches(&url(other)), "{other}");
        }
        let below = OriginPattern::parse("https://*.example.com").expect("origin");
        assert!(below.matches(&url("https://a.b.example.com/")));
        assert!(!below.matches(&url("https://example.com/")));
        assert!(!below.matches(&url("https://evilexample.com/")));
        for bad in [
            "https://*.com",
            "https://*",
            "ftp://a.b",
            "https://a.b/path",
            "https://u:p@a.b",
            "a.b",
            "https://*.127.0.0.1",
        ] {
            assert!(OriginPattern::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_is_put_together_goes_only_where_both_may() {
        let a = Allowed::granted(&["https://a.example.com".into(), "https://b.example.com".into()]).expect("allowed");
        let b = Allowed::granted(&["https://b.example.com".into()]).expect("allowed");
        let both = Guarded::concat(&[
            Guarded::text("x ".into()),
            Guarded::secret(Secret::new("one"), a, "one"),
            Guarded::secret(Secret::new("two"), b, "two"),
        ])
        .expect("small");
        assert_eq!(both.value().expose(), b"x onetwo");
        let allowed = both.allowed().expect("secret");
        assert!(allowed.at(&url("https://b.example.com/x"), None));
        assert!(!allowed.at(&url("https://a.example.com/x"), None));
        assert_eq!(format!("{both:?}"), "Guarded(one+two)");
        assert!(!both.is_callers());
        let own = Guarded::callers(Secret::new("mine"), Allowed::nowhere(), "own");
        let mixed = Guarded::concat(&[Guarded::text("Bearer ".into()), own]).expect("small");
        assert!(mixed.is_callers() && mixed.base64().is_callers(), "it stays the caller's in whatever is made of it");
    }

    #[test]
    fn encodings_keep_the_guard() {
        let s = Guarded::secret(Secret::new("a b&c"), Allowed::nowhere(), "s");
        assert_eq!(s.base64().value().expose(), b"YSBiJmM=");
        assert_eq!(s.form_encoded().value().expose(), b"a+b%26c");
        assert_eq!(s.hex().value().expose(), b"6120622663");
        assert!(s.hex().is_secret() && s.made_into(Secret::new("x"), "made of").label() == "made of s");
        assert!(
            !s.base64().allowed().expect("secret").at(&url("https://x.example/"), Some(&url("https://x.example/")))
        );
    }
}
