//! Fakes of the caller's own token, of an earlier answer, and of token endpoints.

use std::{cell::RefCell, collections::BTreeMap};

use super::Secret;
use crate::TokenError;

/// The token that the caller came with; give it to [`Host::caller_token`](super::Host::caller_token).
#[derive(Clone, Debug)]
pub struct CallerToken {
    kind: &'static str,
    text: Option<String>,
    issuer: Option<String>,
    audiences: Vec<String>,
    expires_ms: Option<u64>,
    bound: bool,
    token_type: Option<String>,
}

impl CallerToken {
    /// An identity provider's token that came with the request.
    pub fn new(text: &str, issuer: &str, audiences: &[&str]) -> Self {
        Self {
            kind: "jwt",
            text: Some(text.into()),
            issuer: Some(issuer.into()),
            audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
            expires_ms: None,
            bound: false,
            token_type: None,
        }
    }

    /// A token of Portcullis itself, which nobody gets.
    pub fn ours() -> Self {
        Self { kind: "ours", text: None, issuer: None, ..Self::new("", "", &[]) }
    }

    /// Kept since the caller signed in.
    #[must_use]
    pub fn of_sign_in(mut self) -> Self {
        self.kind = "sign-in";
        self
    }

    /// Bound to a key of the caller's.
    #[must_use]
    pub fn bound(mut self) -> Self {
        self.bound = true;
        self
    }

    /// Valid until then, in milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn expires_ms(mut self, at: u64) -> Self {
        self.expires_ms = Some(at);
        self
    }

    /// Known to be of this type (RFC 8693 section 3).
    #[must_use]
    pub fn typed(mut self, token_type: &str) -> Self {
        self.token_type = Some(token_type.into());
        self
    }
}

pub(crate) struct CallersToken(pub(crate) CallerToken);

impl CallersToken {
    pub(crate) fn kind(&self) -> String {
        self.0.kind.into()
    }
    pub(crate) fn issuer(&self) -> Option<String> {
        self.0.issuer.clone()
    }
    pub(crate) fn audiences(&self) -> Vec<String> {
        self.0.audiences.clone()
    }
    pub(crate) fn expires_ms(&self) -> Option<u64> {
        self.0.expires_ms
    }
    pub(crate) fn bound(&self) -> bool {
        self.0.bound
    }
    pub(crate) fn token_type(&self) -> Option<String> {
        self.0.token_type.clone()
    }
    pub(crate) fn secret(&self) -> Option<Secret> {
        self.0.text.as_deref().map(Secret::new)
    }
}

/// An earlier answer that is followed up.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    expires_ms: Option<u64>,
    kept: BTreeMap<String, String>,
}

impl Earlier {
    /// One that keeps nothing and does not expire.
    pub fn new() -> Self {
        Self::default()
    }

    /// Until when it said that it may be used.
    #[must_use]
    pub fn until(mut self, at_ms: u64) -> Self {
        self.expires_ms = Some(at_ms);
        self
    }

    /// With a secret that was kept beside it.
    #[must_use]
    pub fn keeping(mut self, name: &str, text: &str) -> Self {
        self.kept.insert(name.into(), text.into());
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Earlier<'_> {
        crate::Earlier(self)
    }

    pub(crate) fn expires_ms(&self) -> Option<u64> {
        self.expires_ms
    }

    pub(crate) fn kept(&self, name: &str) -> Option<Secret> {
        self.kept.get(name).map(|text| Secret::new(text))
    }
}

/// A token request that the plugin sent, secrets included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSent {
    /// The endpoint.
    pub endpoint: String,
    /// The form's fields, in order, but for those of the client.
    pub fields: Vec<(String, String)>,
    /// How the client says who it is: `public ID`, `basic ID SECRET`, `post ID SECRET` or `key ID KEY`.
    pub client: String,
    /// What the assertion says: `kid`, `aud` and `alg`, as far as they were set.
    pub assertion: BTreeMap<String, String>,
}

impl TokenSent {
    /// A field of the form; the first of its name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

pub(crate) struct TokenRequest(pub(crate) RefCell<TokenSent>);

impl TokenRequest {
    pub(crate) fn new(endpoint: &str) -> Self {
        Self(RefCell::new(TokenSent { endpoint: endpoint.into(), ..TokenSent::default() }))
    }
    pub(crate) fn field(&self, name: &str, value: &str) {
        self.0.borrow_mut().fields.push((name.into(), value.into()));
    }
    pub(crate) fn client_public(&self, id: &str) {
        self.0.borrow_mut().client = format!("public {id}");
    }
    pub(crate) fn client_basic(&self, id: &str, secret: &Secret) {
        self.0.borrow_mut().client = format!("basic {id} {}", secret.text());
    }
    pub(crate) fn client_post(&self, id: &str, secret: &Secret) {
        self.0.borrow_mut().client = format!("post {id} {}", secret.text());
    }
    pub(crate) fn client_key(&self, id: &str, key: &Secret) {
        self.0.borrow_mut().client = format!("key {id} {}", key.text());
    }
    fn say(&self, name: &str, value: &str) {
        self.0.borrow_mut().assertion.insert(name.into(), value.into());
    }
    pub(crate) fn key_id(&self, id: &str) {
        self.say("kid", id);
    }
    pub(crate) fn assertion_audience(&self, audience: &str) {
        self.say("aud", audience);
    }
    pub(crate) fn algorithm(&self, name: &str) {
        self.say("alg", name);
    }
    pub(crate) fn timeout_ms(&self, _millis: u32) {}
}

pub(crate) struct TokenAnswer(pub(crate) serde_json::Value);

impl TokenAnswer {
    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().map(str::to_owned)
    }
    pub(crate) fn access_token(&self) -> Option<Secret> {
        self.field("/access_token")
    }
    pub(crate) fn refresh_token(&self) -> Option<Secret> {
        self.field("/refresh_token")
    }
    pub(crate) fn issued_token_type(&self) -> Option<String> {
        self.text("issued_token_type")
    }
    pub(crate) fn token_type(&self) -> Option<String> {
        self.text("token_type")
    }
    pub(crate) fn expires_in(&self) -> Option<u64> {
        self.0.get("expires_in")?.as_u64()
    }
    pub(crate) fn scope(&self) -> Option<String> {
        self.text("scope")
    }
    pub(crate) fn field(&self, pointer: &str) -> Option<Secret> {
        self.0.pointer(pointer)?.as_str().map(Secret::new)
    }
}

/// What token endpoints answer: each endpoint's answers in order, the last one again and again.
pub(crate) type TokenAnswers = Vec<(String, Result<String, TokenError>)>;
