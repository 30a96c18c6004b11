//! Auth provider `jwks`: callers who come with a signed token (RFC 7519) of an identity provider that the operator trusts.
//!
//! Signatures and times are checked by the host, against keys that it fetches and caches. This plugin says which rules a
//! token of which issuer must hold, and which of its claims make groups, a name to show, and claims for policies.

mod config;

use config::{Config, Issuer};
use portcullis_sdk::{
    ConfigCell, Error, Identity, JwtError, Outcome, Provider, Request, Rules, Value, Verified, export,
    unverified_issuer,
};

static CONFIG: ConfigCell<Config> = ConfigCell::new();

/// RFC 6750 section 3.1: expired, revoked, malformed or invalid for other reasons.
const INVALID_TOKEN: &str = "invalid_token";

/// The provider.
pub struct Jwks;

impl Provider for Jwks {
    fn authenticate(request: Request<'_>, into: Identity<'_>) -> Result<Outcome, Error> {
        CONFIG.read(|config| {
            let Some(bearer) = request.bearer() else { return Ok(Outcome::NotMine) };
            // Only to choose the rules: `verify` holds the token to the chosen issuer.
            let claimed = unverified_issuer(&bearer);
            let Some(issuer) = config.issuers.iter().find(|issuer| Some(&issuer.issuer) == claimed.as_ref()) else {
                return Ok(Outcome::NotMine);
            };
            let verified = match rules(issuer).verify(&bearer) {
                Ok(verified) => verified,
                Err(JwtError::Unavailable(why)) => return Err(Error::Unavailable(why)),
                Err(broken) => return Ok(Outcome::challenge(INVALID_TOKEN, advice(&broken))),
            };
            Ok(match identify(issuer, &verified, into) {
                Ok(()) => Outcome::Accepted,
                Err(why) => Outcome::challenge(INVALID_TOKEN, why),
            })
        })
    }
}

fn rules(issuer: &Issuer) -> Rules {
    let mut rules = Rules::issuer(&issuer.issuer);
    if let Some(url) = &issuer.jwks_url {
        rules = rules.jwks_url(url);
    }
    if let Some(seconds) = issuer.leeway_seconds {
        rules = rules.leeway(seconds);
    }
    if let Some(name) = &issuer.token_type {
        rules = rules.token_type(name);
    }
    rules = issuer.audience.iter().fold(rules, |rules, audience| rules.audience(audience));
    issuer.algorithms.iter().fold(rules, |rules, algorithm| rules.algorithm(algorithm))
}

fn advice(broken: &JwtError) -> String {
    match broken {
        JwtError::Expired => format!("{broken}: sign in again"),
        JwtError::NotYetValid => format!("{broken}: check the clocks of the client and of the identity provider"),
        JwtError::Audience | JwtError::TokenType => {
            format!("{broken}: request an access token for this gateway from the identity provider")
        }
        _ => broken.to_string(),
    }
}

/// Fills the answer, or says why the token names nobody. What can't be understood refuses: a group that was overlooked
/// might be one that a policy denies.
fn identify(issuer: &Issuer, token: &Verified, into: Identity<'_>) -> Result<(), String> {
    for (pointer, wanted) in &issuer.require_claims {
        if !token.claim(pointer).is_some_and(|found| holds(&found.to_json(), wanted)) {
            return Err(format!("the token's claim {pointer} is not what this gateway requires"));
        }
    }
    let subject = match issuer.claims.subject.as_deref() {
        None => token.subject(),
        Some(pointer) => match token.claim(pointer) {
            Some(Value::Text(subject)) => subject,
            _ => String::new(),
        },
    };
    if subject.is_empty() {
        return Err("the token names no subject".to_owned());
    }
    let groups = texts(token, issuer.claims.groups.as_deref(), "groups")?;
    let roles = texts(token, issuer.claims.roles.as_ref().map(|roles| roles.claim.as_str()), "roles")?;
    into.external(&issuer.issuer, &subject);
    into.expires(token.expires_ms());
    for group in &groups {
        into.group(group);
    }
    let known = issuer.claims.roles.iter().flat_map(|roles| &roles.map);
    for (_, role) in known.filter(|(value, _)| roles.contains(value)) {
        into.role(role);
    }
    let unverified = || token.claim("email_verified").is_some_and(|v| v.to_json() == serde_json::Value::Bool(false));
    if let Some(Value::Text(email)) = issuer.claims.email.as_deref().and_then(|pointer| token.claim(pointer))
        && !unverified()
    {
        into.claim("email", &Value::Text(email));
    }
    if let Some(Value::Text(name)) = issuer.claims.display_name.as_deref().and_then(|pointer| token.claim(pointer)) {
        into.display_name(&name);
    }
    for pointer in &issuer.claims.keep {
        if let Some(value) = token.claim(pointer) {
            into.claim(pointer, &value);
        }
    }
    Ok(())
}

/// A claim that is a text or a list of texts.
fn texts(token: &Verified, pointer: Option<&str>, what: &str) -> Result<Vec<String>, String> {
    match pointer.and_then(|pointer| token.claim(pointer)) {
        None => Ok(Vec::new()),
        Some(Value::Text(one)) => Ok(vec![one]),
        Some(Value::Texts(many)) => Ok(many),
        Some(Value::Other(json)) if json == "null" || json == "[]" => Ok(Vec::new()),
        Some(_) => Err(format!("the token's {what} are neither a text nor a list of texts")),
    }
}

/// Whether a claim is the wanted value, or a list that holds it.
fn holds(found: &serde_json::Value, wanted: &serde_json::Value) -> bool {
    let same = |a: &serde_json::Value, b: &serde_json::Value| match (a.as_f64(), b.as_f64()) {
        // Claims come as floating point, so 1.0 stands for the 1 of the configuration.
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    };
    same(found, wanted) || found.as_array().is_some_and(|many| many.iter().any(|one| same(one, wanted)))
}

export!(Jwks: Provider; config: Config; wants: {
    issuers: "verifies tokens of the issuers in its configuration and says who their people are",
    roles: "gives the roles that claims.roles maps to",
});

#[cfg(test)]
mod tests;
