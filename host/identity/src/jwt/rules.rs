//! What must hold of a token, read once from what a plugin asked for.

use jsonwebtoken::{Algorithm, Validation};
use portcullis_model::text::shown;
use portcullis_plugin::{JwtError, JwtRules};

/// The most clock skew, in seconds.
const MAX_LEEWAY: u32 = 300;

/// Algorithms that are ever accepted: signatures with public keys.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];
/// Those accepted where the rules name none.
const DEFAULT: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Rules that make sense.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    pub(super) issuer: &'a str,
    pub(super) jwks_url: Option<&'a str>,
    pub(super) audiences: &'a [String],
    pub(super) leeway: u64,
    allowed: Vec<Algorithm>,
    token_type: Option<&'a str>,
}

/// An algorithm by its name in RFC 7518 and RFC 8037, if it is one that is ever accepted.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
}

impl<'a> Rules<'a> {
    pub(super) fn read(rules: &'a JwtRules) -> Result<Self, JwtError> {
        let refused = |name: &str| JwtError::Algorithm(shown(name, 20));
        let allowed: Vec<Algorithm> = rules
            .algorithms
            .iter()
            .map(|name| algorithm(name).ok_or_else(|| refused(name)))
            .collect::<Result<_, _>>()?;
        if rules.audiences.is_empty() {
            return Err(JwtError::Audience);
        }
        Ok(Self {
            issuer: &rules.issuer,
            jwks_url: rules.jwks_url.as_deref(),
            audiences: &rules.audiences,
            leeway: u64::from(rules.leeway_seconds.min(MAX_LEEWAY)),
            allowed: if allowed.is_empty() { DEFAULT.to_vec() } else { allowed },
            token_type: rules.token_type.as_deref(),
        })
    }

    /// The algorithm that a token's header names, if it is allowed.
    pub(super) fn algorithm(&self, name: &str) -> Result<Algorithm, JwtError> {
        algorithm(name)
            .filter(|algorithm| self.allowed.contains(algorithm))
            .ok_or_else(|| JwtError::Algorithm(shown(name, 20)))
    }

    /// RFC 7515 section 4.1.9: case does not matter, and `application/` may be left out.
    pub(super) fn check_type(&self, typ: Option<&str>) -> Result<(), JwtError> {
        let bare = |text: &str| {
            let lower = text.to_ascii_lowercase();
            lower.strip_prefix("application/").map(str::to_owned).unwrap_or(lower)
        };
        match (self.token_type, typ) {
            (None, _) => Ok(()),
            (Some(wanted), Some(typ)) if bare(wanted) == bare(typ) => Ok(()),
            (Some(_), _) => Err(JwtError::TokenType),
        }
    }

    /// What the signature library checks beside the signature.
    pub(super) fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway;
        validation.validate_nbf = true;
        validation.set_audience(self.audiences);
        validation.set_issuer(&[self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(algorithms: &[&str]) -> JwtRules {
        JwtRules {
            issuer: "https://i".into(),
            jwks_url: None,
            audiences: vec!["a".into()],
            algorithms: algorithms.iter().map(|s| (*s).to_owned()).collect(),
            leeway_seconds: 9999,
            token_type: Some("at+jwt".into()),
        }
    }

    #[test]
    fn only_public_key_signatures_can_be_asked_for() {
        for bad in ["none", "None", "HS256", "HS512", "hs256", "RS1", "ES256K", "rs256", ""] {
            assert_eq!(Rules::read(&rules(&["RS256", bad])).unwrap_err(), JwtError::Algorithm(bad.into()));
            let rules_ = rules(&[]);
            assert!(Rules::read(&rules_).unwrap().algorithm(bad).is_err(), "{bad}");
        }
        let only = rules(&["ES384"]);
        let only = Rules::read(&only).unwrap();
        assert_eq!(only.algorithm("ES384"), Ok(Algorithm::ES384));
        assert!(only.algorithm("RS256").is_err(), "not among those asked for");
        assert_eq!(only.leeway, 300);
    }

    #[test]
    fn types_are_compared_as_media_types() {
        let rules = rules(&[]);
        let rules = Rules::read(&rules).unwrap();
        for good in ["at+jwt", "AT+JWT", "application/at+jwt"] {
            assert_eq!(rules.check_type(Some(good)), Ok(()));
        }
        for bad in [None, Some("JWT"), Some("at"), Some("")] {
            assert_eq!(rules.check_type(bad), Err(JwtError::TokenType));
        }
    }
}
