//! Fakes of a request to authenticate, of tokens and of an auth provider's answer.

use std::{cell::RefCell, collections::BTreeMap};

use super::Secret;
use crate::{JwtError, Value};

/// A request to authenticate.
#[derive(Clone, Debug, Default)]
pub struct Request {
    bearer: Option<String>,
    headers: BTreeMap<String, String>,
    certificate: Option<Certificate>,
}

impl Request {
    /// A request without a credential, of the gateway `main`.
    pub fn new() -> Self {
        Self::default()
    }

    /// With `Authorization: Bearer`.
    #[must_use]
    pub fn with_bearer(mut self, token: &str) -> Self {
        self.bearer = Some(token.into());
        self
    }

    /// With a header (lower-case name).
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Over TLS, by a client that has proved this certificate.
    #[must_use]
    pub fn with_certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = Some(certificate);
        self
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Request<'_> {
        crate::Request(self)
    }

    pub(crate) fn tenant(&self) -> String {
        "default".into()
    }

    pub(crate) fn gateway(&self) -> String {
        "main".into()
    }

    pub(crate) fn method(&self) -> String {
        "POST".into()
    }

    pub(crate) fn path(&self) -> String {
        "/mcp/main".into()
    }

    pub(crate) fn peer(&self) -> String {
        "192.0.2.1".into()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).cloned()
    }

    pub(crate) fn bearer(&self) -> Option<Secret> {
        self.bearer.as_deref().map(Secret::new)
    }

    pub(crate) fn certificate(&self) -> Option<Certificate> {
        self.certificate.clone()
    }
}

/// A client certificate, to be filled.
#[derive(Clone, Debug, Default)]
pub struct Certificate {
    subject: Vec<(String, String)>,
    issuer: Vec<(String, String)>,
    uris: Vec<String>,
    dns_names: Vec<String>,
    emails: Vec<String>,
}

impl Certificate {
    /// One that says nothing, in force until 2096.
    pub fn new() -> Self {
        Self::default()
    }

    /// With an attribute of the subject's name, such as `CN`.
    #[must_use]
    pub fn with_subject(mut self, attribute: &str, value: &str) -> Self {
        self.subject.push((attribute.into(), value.into()));
        self
    }

    /// With an attribute of the issuer's name.
    #[must_use]
    pub fn with_issuer(mut self, attribute: &str, value: &str) -> Self {
        self.issuer.push((attribute.into(), value.into()));
        self
    }

    /// With a URI.
    #[must_use]
    pub fn with_uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.into());
        self
    }

    /// With a DNS name.
    #[must_use]
    pub fn with_dns_name(mut self, name: &str) -> Self {
        self.dns_names.push(name.into());
        self
    }

    /// With an e-mail address.
    #[must_use]
    pub fn with_email(mut self, email: &str) -> Self {
        self.emails.push(email.into());
        self
    }

    pub(crate) fn fingerprint(&self) -> String {
        "00".repeat(32)
    }

    pub(crate) fn subject(&self, attribute: &str) -> Vec<String> {
        values(&self.subject, attribute)
    }

    pub(crate) fn issuer(&self, attribute: &str) -> Vec<String> {
        values(&self.issuer, attribute)
    }

    pub(crate) fn uris(&self) -> Vec<String> {
        self.uris.clone()
    }

    pub(crate) fn dns_names(&self) -> Vec<String> {
        self.dns_names.clone()
    }

    pub(crate) fn emails(&self) -> Vec<String> {
        self.emails.clone()
    }

    pub(crate) fn expires_ms(&self) -> u64 {
        4_000_000_000_000
    }
}

fn values(name: &[(String, String)], attribute: &str) -> Vec<String> {
    name.iter().filter(|(known, _)| known == attribute).map(|(_, value)| value.clone()).collect()
}

#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) subject: String,
    pub(crate) expires_ms: Option<u64>,
}

impl Token {
    pub(crate) fn subject(&self) -> String {
        self.subject.clone()
    }

    pub(crate) fn kind(&self) -> String {
        self.subject.split(':').next().unwrap_or_default().to_owned()
    }

    pub(crate) fn expires_ms(&self) -> Option<u64> {
        self.expires_ms
    }
}

#[derive(Debug, Default)]
pub(crate) struct Rules(RefCell<RuleSet>);

#[derive(Debug, Default)]
struct RuleSet {
    issuer: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    token_type: Option<String>,
}

impl Rules {
    pub(crate) fn new(issuer: &str) -> Self {
        Self(RefCell::new(RuleSet { issuer: issuer.into(), ..RuleSet::default() }))
    }

    pub(crate) fn jwks_url(&self, _url: &str) {}

    pub(crate) fn audience(&self, audience: &str) {
        self.0.borrow_mut().audiences.push(audience.into());
    }

    pub(crate) fn algorithm(&self, name: &str) {
        self.0.borrow_mut().algorithms.push(name.into());
    }

    pub(crate) fn leeway(&self, _seconds: u32) {}

    pub(crate) fn token_type(&self, name: &str) {
        self.0.borrow_mut().token_type = Some(name.into());
    }
}

/// A signed token of somebody else; give it to [`Host::signed`](super::Host::signed) under the text that stands for it. The
/// fake checks issuer, audience, algorithm and type as the host does; what else may be wrong is said by
/// [`broken`](Self::broken).
#[derive(Clone, Debug)]
pub struct SignedToken {
    pub(crate) issuer: String,
    claims: serde_json::Value,
    algorithm: String,
    token_type: String,
    broken: Option<JwtError>,
}

impl SignedToken {
    /// A token with an issuer and claims (JSON), signed with RS256, typed `at+jwt`.
    ///
    /// # Panics
    /// Where `claims` is no JSON.
    pub fn new(issuer: &str, claims: impl ToString) -> Self {
        #[allow(clippy::expect_used, reason = "a test's own mistake")]
        let claims = serde_json::from_str(&claims.to_string()).expect("claims are JSON");
        Self { issuer: issuer.into(), claims, algorithm: "RS256".into(), token_type: "at+jwt".into(), broken: None }
    }

    /// Signed with another algorithm.
    #[must_use]
    pub fn algorithm(mut self, name: &str) -> Self {
        self.algorithm = name.into();
        self
    }

    /// Of another type.
    #[must_use]
    pub fn token_type(mut self, name: &str) -> Self {
        self.token_type = name.into();
        self
    }

    /// Something is wrong with it.
    #[must_use]
    pub fn broken(mut self, how: JwtError) -> Self {
        self.broken = Some(how);
        self
    }

    pub(crate) fn check(&self, rules: &Rules) -> Result<(), JwtError> {
        let rules = rules.0.borrow();
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let allowed = if rules.algorithms.is_empty() {
            matches!(self.algorithm.as_str(), "RS256" | "ES256" | "EdDSA")
        } else {
            rules.algorithms.contains(&self.algorithm)
        };
        if !allowed {
            return Err(JwtError::Algorithm(self.algorithm.clone()));
        }
        if rules.issuer != self.issuer {
            return Err(JwtError::Issuer);
        }
        let aud = match &self.claims["aud"] {
            serde_json::Value::Array(many) => many.iter().filter_map(|one| one.as_str()).collect(),
            one => one.as_str().into_iter().collect::<Vec<_>>(),
        };
        if !aud.iter().any(|one| rules.audiences.iter().any(|wanted| wanted == one)) {
            return Err(JwtError::Audience);
        }
        if rules.token_type.as_ref().is_some_and(|wanted| *wanted != self.token_type) {
            return Err(JwtError::TokenType);
        }
        Ok(())
    }

    pub(crate) fn issuer(&self) -> String {
        self.issuer.clone()
    }

    pub(crate) fn subject(&self) -> String {
        self.claims["sub"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn expires_ms(&self) -> u64 {
        self.claims["exp"].as_u64().unwrap_or(4_000_000_000) * 1_000
    }

    pub(crate) fn claim(&self, pointer: &str) -> Option<Value> {
        let found = if pointer.starts_with('/') { self.claims.pointer(pointer) } else { self.claims.get(pointer) };
        found.map(Value::from_json)
    }
}

/// An auth provider's answer, to be filled and then looked at.
#[derive(Clone, Debug, Default)]
pub struct Identity(RefCell<Answer>);

#[derive(Clone, Debug, Default)]
struct Answer {
    subject: Option<String>,
    display_name: Option<String>,
    groups: Vec<String>,
    roles: Vec<String>,
    claims: BTreeMap<String, Value>,
    expires_ms: Option<u64>,
    vary: Vec<String>,
}

impl Identity {
    /// An empty answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// As the hook gets it.
    pub fn lend(&self) -> crate::Identity<'_> {
        crate::Identity(self)
    }

    /// Who it is: the owner of the adopted token, or `external:ISSUER#SUBJECT`.
    pub fn named(&self) -> Option<String> {
        self.0.borrow().subject.clone()
    }

    /// How the principal may be shown.
    pub fn shown_as(&self) -> Option<String> {
        self.0.borrow().display_name.clone()
    }

    /// Its groups.
    pub fn groups(&self) -> Vec<String> {
        self.0.borrow().groups.clone()
    }

    /// Its roles.
    pub fn roles(&self) -> Vec<String> {
        self.0.borrow().roles.clone()
    }

    /// A claim of it.
    pub fn claimed(&self, name: &str) -> Option<Value> {
        self.0.borrow().claims.get(name).cloned()
    }

    /// Until when the verdict may be used again.
    pub fn expiry_ms(&self) -> Option<u64> {
        self.0.borrow().expires_ms
    }

    /// What else the verdict depends on.
    pub fn varies_on(&self) -> Vec<String> {
        self.0.borrow().vary.clone()
    }

    pub(crate) fn adopt(&self, token: &Token) {
        self.0.borrow_mut().subject = Some(token.subject.clone());
    }

    pub(crate) fn external(&self, issuer: &str, subject: &str) {
        self.0.borrow_mut().subject = Some(format!("external:{issuer}#{subject}"));
    }

    pub(crate) fn display_name(&self, name: &str) {
        self.0.borrow_mut().display_name = Some(name.into());
    }

    pub(crate) fn group(&self, name: &str) {
        self.0.borrow_mut().groups.push(name.into());
    }

    pub(crate) fn role(&self, name: &str) {
        self.0.borrow_mut().roles.push(name.into());
    }

    pub(crate) fn claim(&self, name: &str, value: &Value) {
        self.0.borrow_mut().claims.insert(name.into(), value.clone());
    }

    pub(crate) fn expires(&self, at_ms: u64) {
        self.0.borrow_mut().expires_ms = Some(at_ms);
    }

    pub(crate) fn vary(&self, header: &str) {
        self.0.borrow_mut().vary.push(header.into());
    }
}
