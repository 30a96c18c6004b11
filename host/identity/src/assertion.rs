//! Assertions by which a client proves with its key who it is (`private_key_jwt`: RFC 7523 sections 2.2 and 3).

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use portcullis_model::Secret;
use portcullis_plugin::{Assertion, Assertions, Signed};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::clock::now_ms;

/// How long an assertion holds, in seconds.
const LIFE: u64 = 60;

/// Signs assertions.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientAssertions;

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: String,
    iat: u64,
    exp: u64,
}

impl Assertions for ClientAssertions {
    fn sign(&self, key: &Secret, assertion: &Assertion<'_>) -> Result<Secret, String> {
        let pem = key.expose();
        let (key, algorithm) = key_for(pem, assertion.algorithm)?;
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| "there is no randomness".to_owned())?;
        let now = now_ms() / 1000;
        let claims = Claims {
            iss: assertion.client_id,
            sub: assertion.client_id,
            aud: assertion.audience,
            jti: URL_SAFE_NO_PAD.encode(id),
            iat: now,
            exp: now + LIFE,
        };
        let mut header = Header::new(algorithm);
        header.kid = assertion.key_id.map(str::to_owned);
        header.x5t_s256 = certificate(pem).map(|der| URL_SAFE_NO_PAD.encode(Sha256::digest(der)));
        let signed = jsonwebtoken::encode(&header, &claims, &key);
        signed.map(Secret::new).map_err(|_| "the key can't sign".to_owned())
    }

    fn sign_claims(&self, key: &Secret, token: &Signed<'_>) -> Result<Secret, String> {
        let (key, algorithm) = key_for(key.expose(), token.algorithm)?;
        let mut header = Header::new(algorithm);
        header.kid = token.key_id.map(str::to_owned);
        if let Some(name) = token.token_type {
            header.typ = Some(name.to_owned());
        }
        // As they are: what a number or a key looks like is the plugin's affair.
        let claims: &RawValue = serde_json::from_str(token.claims).map_err(|_| "the claims are no JSON".to_owned())?;
        let signed = jsonwebtoken::encode(&header, &claims, &key);
        signed.map(Secret::new).map_err(|_| "the key can't sign".to_owned())
    }
}

/// A key, and the algorithm that it signs with: the one that is asked for, where it can.
fn key_for(pem: &[u8], asked: Option<&str>) -> Result<(EncodingKey, Algorithm), String> {
    let (key, usual, allowed) = read(pem)?;
    let algorithm = match asked {
        None => usual,
        Some(name) => allowed
            .iter()
            .copied()
            .find(|algorithm| format!("{algorithm:?}") == name)
            .ok_or_else(|| "the key does not sign with the algorithm that is asked for".to_owned())?,
    };
    Ok((key, algorithm))
}

/// A key with the algorithm that it usually signs with, and all that it can.
fn read(pem: &[u8]) -> Result<(EncodingKey, Algorithm, &'static [Algorithm]), String> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    if let Ok(key) = EncodingKey::from_rsa_pem(pem) {
        return Ok((key, RS256, &[RS256, RS384, RS512, PS256, PS384, PS512]));
    }
    if let Ok(key) = EncodingKey::from_ed_pem(pem) {
        return Ok((key, EdDSA, &[EdDSA]));
    }
    if let Ok(key) = EncodingKey::from_ec_pem(pem) {
        // The curve shows when it signs: another one's algorithm fails.
        let fits = |algorithm| jsonwebtoken::crypto::sign(b"", &key, algorithm).is_ok();
        return match (fits(ES256), fits(ES384)) {
            (true, _) => Ok((key, ES256, &[ES256])),
            (false, true) => Ok((key, ES384, &[ES384])),
            (false, false) => Err("the key is of a curve that is not supported".to_owned()),
        };
    }
    Err("the key is no PEM of an RSA, P-256, P-384 or Ed25519 key in PKCS #8".to_owned())
}

/// The first certificate of a PEM text, in DER.
fn certificate(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    STANDARD.decode(body).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// P-256, made for this test.
    const KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgpTA3V7rcQIDtLBzJ
uRZVvFhn4i6xbiwom+yf0DOICHyhRANCAASphBAn1TRWB24FUNew2VybOeqZdc9c
TJ2MAVOjmb056XiVhAMP9h9haiyeBUCR4FjJlp4/+KFDYHx+Mu3s2cVJ
-----END PRIVATE KEY-----
";

    fn part(token: &Secret, at: usize) -> Value {
        let text = std::str::from_utf8(token.expose()).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.split('.').nth(at).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn an_assertion_says_who_for_whom_and_for_a_minute() {
        let assertion =
            Assertion { client_id: "me", audience: "https://idp/token", key_id: Some("k1"), algorithm: None };
        let sign = || ClientAssertions.sign(&Secret::new(KEY), &assertion).unwrap();
        let (one, two) = (sign(), sign());
        let (header, claims) = (part(&one, 0), part(&one, 1));
        assert_eq!((&header["alg"], &header["kid"]), (&Value::from("ES256"), &Value::from("k1")));
        assert_eq!(
            (&claims["iss"], &claims["sub"], &claims["aud"]),
            (&"me".into(), &"me".into(), &"https://idp/token".into())
        );
        assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 60);
        assert_ne!(claims["jti"], part(&two, 1)["jti"], "used once");
    }

    #[test]
    fn what_does_not_fit_is_refused_without_quoting_the_key() {
        let assertion = |algorithm| Assertion { client_id: "me", audience: "a", key_id: None, algorithm };
        for (key, algorithm) in [(KEY, Some("RS256")), (KEY, Some("none")), ("no key", None), ("", None)] {
            let error = ClientAssertions.sign(&Secret::new(key), &assertion(algorithm)).unwrap_err();
            assert!(!error.contains("MIG") && !error.contains("no key at"), "{error}");
        }
    }

    #[test]
    fn claims_of_a_plugin_are_signed_as_they_are() {
        let claims = r#"{"iss":12345678901234567890,"exp":1.50}"#;
        let token = |algorithm| Signed { claims, key_id: Some("k1"), token_type: Some("at+jwt"), algorithm };
        let signed = ClientAssertions.sign_claims(&Secret::new(KEY), &token(None)).unwrap();
        let text = std::str::from_utf8(signed.expose()).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap(), claims.as_bytes());
        let header = part(&signed, 0);
        assert_eq!((&header["alg"], &header["kid"], &header["typ"]), (&"ES256".into(), &"k1".into(), &"at+jwt".into()));
        for algorithm in ["none", "HS256", "RS256"] {
            assert!(ClientAssertions.sign_claims(&Secret::new(KEY), &token(Some(algorithm))).is_err(), "{algorithm}");
        }
    }

    #[test]
    fn a_certificate_beside_the_key_is_named() {
        let with = format!("{KEY}-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n");
        let assertion = Assertion { client_id: "me", audience: "a", key_id: None, algorithm: None };
        let signed = ClientAssertions.sign(&Secret::new(with), &assertion).unwrap();
        assert_eq!(part(&signed, 0)["x5t#S256"], URL_SAFE_NO_PAD.encode(Sha256::digest(b"abc")));
    }
}
