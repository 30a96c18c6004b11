//! The claims of a token, more strictly than the signature library reads them.

use portcullis_plugin::{JwtError, VerifiedJwt};
use serde_json::Value;

use super::{decode, rules::Rules, split};

/// The most bytes of a subject; more is no name but an attack on logs.
const MAX_SUBJECT: usize = 512;

/// Checks that a time window holds now. All in seconds since 1970.
pub(super) fn check_times(not_before: u64, expires: u64, leeway: u64, now: u64) -> Result<(), JwtError> {
    if now >= expires.saturating_add(leeway) {
        return Err(JwtError::Expired);
    }
    if not_before > now.saturating_add(leeway) {
        return Err(JwtError::NotYetValid);
    }
    Ok(())
}

/// Claims that would refuse the token in any case, read before its signature is checked.
pub(super) fn check_unverified(text: &[u8], rules: &Rules<'_>, now: u64) -> Result<(), JwtError> {
    let (_, payload) = split(text).ok_or(JwtError::Malformed)?;
    let claims: Value = decode(payload).ok_or(JwtError::Malformed)?;
    read(claims, rules, now).map(|_| ())
}

/// The verified token with its window.
pub(super) fn read(claims: Value, rules: &Rules<'_>, now: u64) -> Result<(VerifiedJwt, u64, u64), JwtError> {
    let Value::Object(object) = &claims else { return Err(JwtError::Malformed) };
    // Exact: a list of issuers, or one that differs by a slash, is another issuer.
    if object.get("iss").and_then(Value::as_str) != Some(rules.issuer) {
        return Err(JwtError::Issuer);
    }
    let subject = match object.get("sub") {
        Some(Value::String(subject)) if !subject.is_empty() && subject.len() <= MAX_SUBJECT => subject.clone(),
        None => return Err(JwtError::Other("the claim sub is missing".to_owned())),
        Some(_) => return Err(JwtError::Malformed),
    };
    let expires = match object.get("exp") {
        Some(at) => seconds(at)?,
        None => return Err(JwtError::Other("the claim exp is missing".to_owned())),
    };
    let not_before = object.get("nbf").map_or(Ok(0), seconds)?;
    check_times(not_before, expires, rules.leeway, now)?;
    let wanted = |audience: &Value| audience.as_str().is_some_and(|a| rules.audiences.iter().any(|r| r == a));
    let audience = match object.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(wanted),
        Some(audience) => wanted(audience),
        None => false,
    };
    if !audience {
        return Err(JwtError::Audience);
    }
    let jwt =
        VerifiedJwt { issuer: rules.issuer.to_owned(), subject, expires_ms: expires.saturating_mul(1000), claims };
    Ok((jwt, not_before, expires))
}

/// A NumericDate (RFC 7519 section 2), which may have decimals.
fn seconds(value: &Value) -> Result<u64, JwtError> {
    let decimal = || value.as_f64().filter(|n| (0.0..9e15).contains(n));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
    value.as_u64().or_else(|| decimal().map(|n| n as u64)).ok_or(JwtError::Malformed)
}
