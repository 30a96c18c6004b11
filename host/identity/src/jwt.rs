//! Signed tokens of others (RFC 7519): verified against keys that are fetched and cached.
//!
//! Signatures with a public key only: never `none`, never a shared secret (RFC 8725 sections 3.1 and 3.2). Which issuers
//! may be asked for is decided by the grants of the plugin that asks, before it comes here.

mod claims;
mod fetch;
mod guard;
mod jwks;
mod keys;
mod rules;
mod signed;

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::errors::ErrorKind;
use portcullis_model::Secret;
use portcullis_plugin::{BoxFuture, Jwt, JwtError, JwtRules, VerifiedJwt};
use quick_cache::{Weighter, sync::Cache};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clock::now_ms;
use fetch::Fetcher;
use jwks::KeyId;
use keys::Issuers;
use rules::Rules;

/// The most bytes of a token. Larger ones would not fit a request's headers anywhere.
pub const MAX_TOKEN: usize = 16 << 10;
/// Bytes of verified tokens that are remembered.
const REMEMBERED: u64 = 16 << 20;

/// How keys are fetched and kept.
#[derive(Clone, Debug)]
pub struct JwtOptions {
    /// Lets issuers have loopback, private and link-local addresses, and the rest of what is not the public internet. An
    /// `http` URL at a loopback address is allowed where the issuer itself is one, even without this.
    pub allow_private: bool,
    /// How long one request for keys or metadata may take, from connecting to the last byte.
    pub timeout: Duration,
    /// How long keys are used that can't be fetched again.
    pub stale: Duration,
    /// The least time between two fetches from one issuer.
    pub refetch: Duration,
    /// The shortest and longest time that keys count as fresh, whatever the issuer says.
    pub fresh: (Duration, Duration),
    /// What requests are sent with.
    pub client: Arc<portcullis_outbound::Client>,
}

impl JwtOptions {
    /// What is usual, with this client.
    pub fn new(client: Arc<portcullis_outbound::Client>) -> Self {
        Self {
            allow_private: false,
            timeout: Duration::from_secs(5),
            stale: Duration::from_secs(3600),
            refetch: Duration::from_secs(10),
            fresh: (Duration::from_secs(300), Duration::from_secs(86_400)),
            client,
        }
    }
}

/// Verifies JSON Web Tokens.
pub struct JwtService {
    issuers: Issuers,
    verified: Cache<[u8; 32], Arc<Remembered>, BySize>,
}

/// A token whose signature held once. Its claims are checked against the clock each time, its key against the issuer's.
struct Remembered {
    key: KeyId,
    size: u64,
    not_before: u64,
    expires: u64,
    jwt: VerifiedJwt,
}

#[derive(Clone)]
struct BySize;

impl Weighter<[u8; 32], Arc<Remembered>> for BySize {
    fn weight(&self, _key: &[u8; 32], value: &Arc<Remembered>) -> u64 {
        value.size
    }
}

/// The header of a token (RFC 7515 section 4), as far as it is understood. Keys and URLs in it are never used.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

impl JwtService {
    /// A service without keys; they are fetched when they are needed.
    pub fn new(options: JwtOptions) -> Arc<Self> {
        let issuers = Issuers::new(Fetcher::new(&options), options);
        let capacity = usize::try_from(REMEMBERED / 4096).unwrap_or(usize::MAX);
        Arc::new(Self { issuers, verified: Cache::with_weighter(capacity, REMEMBERED, BySize) })
    }

    /// Verifies a token by the keys of a JSON Web Key Set (RFC 7517) that is given instead of fetched.
    ///
    /// # Errors
    /// [`JwtError`].
    pub fn verify_by(&self, keys: &[u8], token: &Secret, wanted: &JwtRules) -> Result<VerifiedJwt, JwtError> {
        let text = token.expose();
        if text.len() > MAX_TOKEN {
            return Err(JwtError::Malformed);
        }
        let rules = Rules::read(wanted)?;
        let (header, _) = split(text).ok_or(JwtError::Malformed)?;
        let header: Header = decode(header).ok_or(JwtError::Malformed)?;
        let algorithm = rules.algorithm(&header.alg)?;
        if header.crit.is_some() {
            return Err(JwtError::Other("the token has critical header parameters that are not supported".to_owned()));
        }
        rules.check_type(header.typ.as_deref())?;
        let keys = jwks::KeySet::read(keys).map_err(|why| JwtError::Other(why.to_owned()))?;
        keys.decode(text, header.kid.as_deref(), algorithm, &rules).map(|(verified, _)| verified.0)
    }

    async fn check(&self, token: &Secret, wanted: &JwtRules) -> Result<VerifiedJwt, JwtError> {
        let text = token.expose();
        if text.len() > MAX_TOKEN {
            return Err(JwtError::Malformed);
        }
        let rules = Rules::read(wanted)?;
        let (header, _) = split(text).ok_or(JwtError::Malformed)?;
        let header: Header = decode(header).ok_or(JwtError::Malformed)?;
        let algorithm = rules.algorithm(&header.alg)?;
        if header.crit.is_some() {
            // RFC 7515 section 4.1.11: what is critical and not understood refuses the token. Nothing is understood.
            return Err(JwtError::Other("the token has critical header parameters that are not supported".to_owned()));
        }
        rules.check_type(header.typ.as_deref())?;

        let digest = fingerprint(text, wanted);
        let now = now_ms() / 1000;
        if let Some(known) = self.verified.get(&digest) {
            let keys = self.issuers.keys(&rules, None).await?;
            if keys.holds(&known.key) {
                claims::check_times(known.not_before, known.expires, rules.leeway, now)?;
                return Ok(known.jwt.clone());
            }
            self.verified.remove(&digest);
        }
        // Before keys are fetched for it: an unsigned claim to be of another issuer or long over costs no request.
        claims::check_unverified(text, &rules, now)?;

        let keys = self.issuers.keys(&rules, Some((header.kid.as_deref(), algorithm))).await?;
        let ((jwt, not_before, expires), key) = keys.decode(text, header.kid.as_deref(), algorithm, &rules)?;
        let size = u64::try_from(text.len() * 2 + 512).unwrap_or(u64::MAX);
        let remembered = Remembered { key, size, not_before, expires, jwt: jwt.clone() };
        self.verified.insert(digest, Arc::new(remembered));
        Ok(jwt)
    }
}

impl Jwt for JwtService {
    fn unverified_issuer(&self, token: &Secret) -> Option<String> {
        let text = token.expose();
        if text.len() > MAX_TOKEN {
            return None;
        }
        let (header, payload) = split(text)?;
        let _: Header = decode(header)?;
        #[derive(Deserialize)]
        struct Claims {
            iss: String,
        }
        decode::<Claims>(payload).map(|claims| claims.iss)
    }

    fn verify<'a>(&'a self, token: &'a Secret, rules: &'a JwtRules) -> BoxFuture<'a, Result<VerifiedJwt, JwtError>> {
        Box::pin(self.check(token, rules))
    }
}

/// A token that holds, with when it begins and ends, in seconds since 1970.
type Held = (VerifiedJwt, u64, u64);

impl jwks::KeySet {
    /// A token that one of the keys signed, and that key.
    fn decode(
        &self,
        text: &[u8],
        kid: Option<&str>,
        algorithm: jsonwebtoken::Algorithm,
        rules: &Rules<'_>,
    ) -> Result<(Held, KeyId), JwtError> {
        let mut outcome = Err(JwtError::UnknownKey);
        for key in self.matching(kid, algorithm) {
            match jsonwebtoken::decode::<Value>(text, &key.decoding, &rules.validation(algorithm)) {
                Ok(data) => return Ok((claims::read(data.claims, rules, now_ms() / 1000)?, key.id)),
                Err(error) => outcome = Err(translate(error.kind())),
            }
            // Another key of the same id may be the right one; any other refusal is final.
            if !matches!(outcome, Err(JwtError::Signature)) {
                break;
            }
        }
        outcome
    }
}

/// Header and payload of a token in compact form (RFC 7515 section 7.1), still encoded.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = text.split(|b| *b == b'.');
    let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && !header.is_empty() && !payload.is_empty() && !signature.is_empty())
        .then_some((header, payload))
}

fn decode<T: serde::de::DeserializeOwned>(part: &[u8]) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Of a token and of what must hold of it: another plugin's rules never find this one's result.
fn fingerprint(token: &[u8], rules: &JwtRules) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut add = |part: &[u8]| {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    };
    add(token);
    add(rules.issuer.as_bytes());
    for option in [&rules.jwks_url, &rules.token_type] {
        add(&[u8::from(option.is_some())]);
        add(option.as_deref().unwrap_or_default().as_bytes());
    }
    for list in [&rules.audiences, &rules.algorithms] {
        add(&(list.len() as u64).to_be_bytes());
        list.iter().for_each(|item| add(item.as_bytes()));
    }
    add(&rules.leeway_seconds.to_be_bytes());
    hasher.finalize().into()
}

fn translate(kind: &ErrorKind) -> JwtError {
    match kind {
        ErrorKind::InvalidSignature => JwtError::Signature,
        ErrorKind::InvalidIssuer => JwtError::Issuer,
        ErrorKind::InvalidAudience => JwtError::Audience,
        ErrorKind::ExpiredSignature => JwtError::Expired,
        ErrorKind::ImmatureSignature => JwtError::NotYetValid,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => JwtError::Algorithm("of the key".to_owned()),
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "aud" => JwtError::Audience,
            "iss" => JwtError::Issuer,
            _ => JwtError::Other(format!("the claim {claim} is missing")),
        },
        ErrorKind::InvalidRsaKey(_)
        | ErrorKind::InvalidEcdsaKey
        | ErrorKind::InvalidEddsaKey
        | ErrorKind::InvalidKeyFormat => JwtError::UnknownKey,
        ErrorKind::InvalidToken
        | ErrorKind::InvalidClaimFormat(_)
        | ErrorKind::Base64(_)
        | ErrorKind::Json(_)
        | ErrorKind::Utf8(_) => JwtError::Malformed,
        _ => JwtError::Other("the token can't be verified".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_part_of_what_is_remembered() {
        let rules = |audiences: &[&str], algorithms: &[&str]| JwtRules {
            issuer: "https://i".into(),
            jwks_url: None,
            audiences: audiences.iter().map(|s| (*s).to_owned()).collect(),
            algorithms: algorithms.iter().map(|s| (*s).to_owned()).collect(),
            leeway_seconds: 30,
            token_type: None,
        };
        let all = [
            fingerprint(b"t", &rules(&["a"], &["b"])),
            fingerprint(b"t", &rules(&["a", "b"], &[])),
            fingerprint(b"t", &rules(&[], &["a", "b"])),
            fingerprint(b"u", &rules(&["a"], &["b"])),
            fingerprint(b"t", &JwtRules { jwks_url: Some(String::new()), ..rules(&["a"], &["b"]) }),
            fingerprint(b"t", &JwtRules { token_type: Some(String::new()), ..rules(&["a"], &["b"]) }),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn an_issuer_is_read_without_trusting_it() {
        let service = JwtService::new(JwtOptions::new(portcullis_outbound::Client::new().unwrap()));
        let token = |header: &str, payload: &str| {
            Secret::new(format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload)))
        };
        let issuer = service.unverified_issuer(&token(r#"{"alg":"none"}"#, r#"{"iss":"https://i"}"#));
        assert_eq!(issuer.as_deref(), Some("https://i"));
        for garbage in ["", "a", "a.b.c", "..", "a.b.c.d", "pcl_x"] {
            assert_eq!(service.unverified_issuer(&Secret::new(garbage)), None, "{garbage}");
        }
        assert_eq!(service.unverified_issuer(&token("{}", r#"{"iss":"https://i"}"#)), None);
        assert_eq!(service.unverified_issuer(&token(r#"{"alg":"RS256"}"#, r#"{"iss":1}"#)), None);
        assert_eq!(service.unverified_issuer(&token(r#"{"alg":"RS256"}"#, r#"{"iss":"a","iss":"b"}"#)), None);
        let huge = format!(r#"{{"iss":"{}"}}"#, "x".repeat(MAX_TOKEN));
        assert_eq!(service.unverified_issuer(&token(r#"{"alg":"RS256"}"#, &huge)), None);
    }
}
