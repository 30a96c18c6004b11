//! What the house answers to a plugin in a case: the services of `host/plugin`, scripted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use portcullis_model::{Name, Principal, PrincipalKind, Secret, Subject};
use portcullis_plugin::{
    Assertion, Assertions, BoxFuture, ConnectionFacts, Connections, Jwt, JwtError, JwtRules, Outbound, OutboundError,
    OutboundRequest, OutboundResponse, RevealAudit, TokenFacts, TokenLookupError, Tokens, VerifiedJwt,
};
use serde::Serialize;
use serde_json::Value;

use crate::case::{Case, NoAnswer, Signed};

/// How often each method and URL was answered.
type Counts = HashMap<(String, String), usize>;

/// A request that the plugin sent to another service, secrets included: they are made up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// The method.
    pub method: String,
    /// The URL.
    pub url: String,
    /// The headers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
}

/// The most requests that are remembered.
const MAX_SENT: usize = 1_000;

/// The house of one case.
pub(crate) struct House {
    case: Case,
    now_ms: u64,
    /// What was sent, and what was answered.
    asked: Mutex<(Vec<Sent>, Counts)>,
}

impl House {
    pub(crate) fn new(case: &Case, now_ms: u64) -> Arc<Self> {
        Arc::new(Self { case: case.clone(), now_ms, asked: Mutex::default() })
    }

    /// What was sent since the last time.
    pub(crate) fn take_sent(&self) -> Vec<Sent> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.1.clear();
        std::mem::take(&mut asked.0)
    }

    fn answer(&self, request: &OutboundRequest) -> Result<OutboundResponse, OutboundError> {
        let (method, url) = (request.method.to_string(), request.url.to_string());
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let sent = Sent {
            method: method.clone(),
            url: url.clone(),
            headers: request.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: String::from_utf8_lossy(request.body.expose()).into_owned(),
        };
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever measures asks a hundred thousand times, and looks at none of it.
        if asked.0.len() < MAX_SENT {
            asked.0.push(sent);
        }
        let fits = |exchange: &&crate::Exchange| {
            exchange.method.as_deref().unwrap_or("GET") == method
                && url::Url::parse(&exchange.url).is_ok_and(|known| known == request.url)
        };
        let known: Vec<_> = self.case.http.iter().filter(fits).collect();
        let turn = asked.1.entry((method.clone(), url.clone())).or_default();
        let Some(exchange) = known.get(*turn).or(known.last()) else {
            return Err(OutboundError::Connect(format!("the case holds no answer to {method} {url}")));
        };
        *turn += 1;
        match exchange.failure {
            Some(NoAnswer::Timeout) => return Err(OutboundError::Timeout),
            Some(NoAnswer::Connect) => return Err(OutboundError::Connect("connection refused".to_owned())),
            Some(NoAnswer::Dns) => return Err(OutboundError::Dns),
            Some(NoAnswer::Tls) => return Err(OutboundError::Tls("no trusted certificate".to_owned())),
            Some(NoAnswer::TooLarge) => return Err(OutboundError::TooLarge),
            None => {}
        }
        let wrong = |what: &str| OutboundError::Other(format!("the case's answer to {method} {url} has no {what}"));
        let mut headers = HeaderMap::new();
        if exchange.json.is_some() {
            headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        for (name, value) in &exchange.headers {
            let name: HeaderName = name.parse().map_err(|_| wrong("valid header name"))?;
            headers.insert(name, value.parse().map_err(|_| wrong("valid header value"))?);
        }
        let body = match (&exchange.json, &exchange.body) {
            (Some(json), _) => json.to_string(),
            (None, Some(body)) => body.clone(),
            (None, None) => String::new(),
        };
        if body.len() > request.max_body {
            return Err(OutboundError::TooLarge);
        }
        let status = StatusCode::from_u16(exchange.status.unwrap_or(200)).map_err(|_| wrong("valid status"))?;
        Ok(OutboundResponse { status, headers, body: Bytes::from(body) })
    }
}

impl Outbound for House {
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>> {
        let answer = self.answer(&request);
        Box::pin(async move { answer })
    }
}

impl Tokens for House {
    fn lookup(&self, _: &Name, _: &Name, token: &Secret) -> Result<TokenFacts, TokenLookupError> {
        let known = std::str::from_utf8(token.expose()).ok().and_then(|text| self.case.tokens.get(text));
        let known = known.ok_or(TokenLookupError::NotOurs)?;
        match known.refused.as_deref() {
            Some("unknown") => return Err(TokenLookupError::Unknown),
            Some("expired") => return Err(TokenLookupError::Expired),
            Some("revoked") => return Err(TokenLookupError::Revoked),
            Some("wrong-gateway") => return Err(TokenLookupError::WrongGateway),
            Some(why) => return Err(TokenLookupError::Unavailable(why.to_owned())),
            None => {}
        }
        let subject = known.subject.as_deref().unwrap_or("anonymous").parse();
        let subject = subject.map_err(|_| TokenLookupError::Unavailable("the case names no such owner".to_owned()))?;
        Ok(TokenFacts { id: "t1".to_owned(), subject, expires_ms: known.expires_ms })
    }
}

impl Jwt for House {
    fn unverified_issuer(&self, token: &Secret) -> Option<String> {
        Some(self.signed(token)?.claims.get("iss")?.as_str()?.to_owned())
    }

    fn verify<'a>(&'a self, token: &'a Secret, rules: &'a JwtRules) -> BoxFuture<'a, Result<VerifiedJwt, JwtError>> {
        let verdict = self.signed(token).ok_or(JwtError::Malformed).and_then(|signed| self.verified(signed, rules));
        Box::pin(async move { verdict })
    }
}

impl House {
    fn signed(&self, token: &Secret) -> Option<&Signed> {
        self.case.jwts.get(std::str::from_utf8(token.expose()).ok()?)
    }

    fn verified(&self, signed: &Signed, rules: &JwtRules) -> Result<VerifiedJwt, JwtError> {
        match signed.broken.as_deref() {
            Some("signature") => return Err(JwtError::Signature),
            Some("unknown-key") => return Err(JwtError::UnknownKey),
            Some("expired") => return Err(JwtError::Expired),
            Some("not-yet-valid") => return Err(JwtError::NotYetValid),
            Some("malformed") => return Err(JwtError::Malformed),
            Some(why) => return Err(JwtError::Unavailable(why.to_owned())),
            None => {}
        }
        let text = |name: &str| signed.claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let algorithm = signed.algorithm.as_deref().unwrap_or("RS256");
        let usual = rules.algorithms.is_empty() && ["RS256", "ES256", "EdDSA"].contains(&algorithm);
        if !usual && !rules.algorithms.iter().any(|one| one == algorithm) {
            return Err(JwtError::Algorithm(algorithm.to_owned()));
        }
        if text("iss") != rules.issuer {
            return Err(JwtError::Issuer);
        }
        let holds = |wanted: &String| match signed.claims.get("aud") {
            Some(Value::String(one)) => one == wanted,
            Some(Value::Array(many)) => many.iter().any(|one| one == wanted),
            _ => false,
        };
        if !rules.audiences.iter().any(holds) {
            return Err(JwtError::Audience);
        }
        if rules.token_type.is_some() && rules.token_type != signed.token_type {
            return Err(JwtError::TokenType);
        }
        let expires_ms = signed.claims.get("exp").and_then(Value::as_u64).unwrap_or(4_000_000_000).saturating_mul(1000);
        if expires_ms <= self.now_ms.saturating_sub(u64::from(rules.leeway_seconds) * 1000) {
            return Err(JwtError::Expired);
        }
        let claims = Value::Object(signed.claims.clone());
        Ok(VerifiedJwt { issuer: text("iss"), subject: text("sub"), expires_ms, claims })
    }
}

impl Connections for House {
    fn candidates(&self, _: &Principal, _: &Name, _: Option<&Name>) -> Vec<ConnectionFacts> {
        let fact = |offered: &crate::Offered| {
            let owner: Subject = offered.owner.parse().ok()?;
            let (owner_kind, owner) = match owner {
                Subject::User(name) => (PrincipalKind::User, name.to_string()),
                Subject::Team(name) => (PrincipalKind::Team, name.to_string()),
                Subject::Agent(name) => (PrincipalKind::Agent, name.to_string()),
                _ => (PrincipalKind::Organization, String::new()),
            };
            Some(ConnectionFacts {
                id: offered.id.parse().ok()?,
                owner_kind,
                owner,
                owner_only: offered.owner_only,
                healthy: !offered.unhealthy,
                created_ms: offered.created_ms,
            })
        };
        self.case.connections.iter().filter_map(fact).collect()
    }
}

impl RevealAudit for House {
    fn revealed(&self, _: &Name, _: &str, _: &str) -> bool {
        true
    }
}

impl Assertions for House {
    fn sign(&self, _: &Secret, assertion: &Assertion<'_>) -> Result<Secret, String> {
        Ok(Secret::new(format!("assertion-of-{}-for-{}", assertion.client_id, assertion.audience)))
    }

    fn sign_claims(&self, _: &Secret, token: &portcullis_plugin::Signed<'_>) -> Result<Secret, String> {
        Ok(Secret::new(format!("token-of-{}", token.claims)))
    }
}
