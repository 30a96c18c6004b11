//! A set of keys (RFC 7517), read with tolerance for what other people put into theirs.

use std::collections::HashSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::rules;

/// The most keys of one set; nobody has more, and each may cost a signature check.
const MAX_KEYS: usize = 64;
/// The most keys that are tried for one token, so that a set full of keys of one id costs little.
const MAX_TRIES: usize = 4;
/// The smallest RSA modulus in bits (RFC 7518 section 3.3), and the largest that is worth a check.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// What a key is, whatever it is called: a digest of its material.
pub(super) type KeyId = [u8; 32];

/// One usable key.
pub(super) struct Key {
    pub(super) id: KeyId,
    pub(super) decoding: DecodingKey,
    kid: Option<String>,
    /// Algorithms that it may be used with: what its kind can do, or the one that the issuer names.
    algorithms: Vec<Algorithm>,
}

/// The usable keys of an issuer.
#[derive(Default)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    ids: HashSet<KeyId>,
}

impl KeySet {
    /// Reads a set. Keys that are broken, for encryption, symmetric or of an unknown kind are left out; the rest counts.
    pub(super) fn read(body: &[u8]) -> Result<Self, &'static str> {
        let set: Value = serde_json::from_slice(body).map_err(|_| "the key set is no JSON")?;
        let entries = set.get("keys").and_then(Value::as_array).ok_or("the key set has no list of keys")?;
        let mut all = Self::default();
        for key in entries.iter().filter_map(Key::read).take(MAX_KEYS) {
            // The same key twice under one id says nothing new; two keys under one id are both tried.
            if !all.keys.iter().any(|known| known.id == key.id && known.kid == key.kid) {
                all.ids.insert(key.id);
                all.keys.push(key);
            }
        }
        Ok(all)
    }

    /// Whether the issuer still publishes this key.
    pub(super) fn holds(&self, id: &KeyId) -> bool {
        self.ids.contains(id)
    }

    /// Keys that a token with this header may be signed by. Without an id, every key of the right kind may be.
    pub(super) fn matching(&self, kid: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        self.keys
            .iter()
            .filter(move |key| {
                kid.is_none_or(|kid| key.kid.as_deref() == Some(kid)) && key.algorithms.contains(&algorithm)
            })
            .take(MAX_TRIES)
    }
}

impl Key {
    fn read(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|u| u != "sig") {
            return None;
        }
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return None;
        }
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let (decoding, able, material) = match text("kty")? {
            "RSA" => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                let significant = n.iter().position(|b| *b != 0).map_or(0, |zeros| (n.len() - zeros) * 8);
                if !RSA_BITS.contains(&significant) || e.len() > 8 {
                    return None;
                }
                let able = vec![
                    Algorithm::RS256,
                    Algorithm::RS384,
                    Algorithm::RS512,
                    Algorithm::PS256,
                    Algorithm::PS384,
                    Algorithm::PS512,
                ];
                (DecodingKey::from_rsa_raw_components(&n, &e), able, [n, e].concat())
            }
            "EC" => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                let (algorithm, size) = match text("crv")? {
                    "P-256" => (Algorithm::ES256, 32),
                    "P-384" => (Algorithm::ES384, 48),
                    _ => return None,
                };
                if x.len() != size || y.len() != size {
                    return None;
                }
                (DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?, vec![algorithm], [x, y].concat())
            }
            "OKP" if text("crv") == Some("Ed25519") => {
                let x = bytes("x").filter(|x| x.len() == 32)?;
                (DecodingKey::from_ed_components(text("x")?).ok()?, vec![Algorithm::EdDSA], x)
            }
            // Above all `oct`: a shared secret in a public document would let anybody sign.
            _ => return None,
        };
        let algorithms = match jwk.get("alg") {
            None => able,
            // A key for another algorithm than its kind can do, or one never accepted, is no key.
            Some(named) => vec![rules::algorithm(named.as_str()?).filter(|a| able.contains(a))?],
        };
        let kid = jwk.get("kid").map(|kid| kid.as_str().map(str::to_owned).ok_or(())).transpose().ok()?;
        let mut hasher = Sha256::new();
        hasher.update(text("kty")?);
        hasher.update([0]);
        hasher.update(material);
        Some(Self { id: hasher.finalize().into(), decoding, kid, algorithms })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(keys: &Value, kid: Option<&str>, algorithm: Algorithm, expected: usize) {
        let set = KeySet::read(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
        assert_eq!(set.matching(kid, algorithm).count(), expected, "{keys}");
    }

    #[test]
    fn odd_keys_are_left_out() {
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        let n = URL_SAFE_NO_PAD.encode([0xc1; 256]);
        let good = json!({"kty":"RSA","n":n,"e":"AQAB","kid":"a"});
        let with = |name: &str, value: Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        check(&json!([good]), Some("a"), Algorithm::RS256, 1);
        check(&json!([good]), None, Algorithm::PS512, 1);
        check(&json!([good]), Some("b"), Algorithm::RS256, 0);
        check(&json!([good]), Some("a"), Algorithm::ES256, 0);
        check(&json!([good, good]), Some("a"), Algorithm::RS256, 1);
        check(&json!([with("alg", json!("RS512"))]), Some("a"), Algorithm::RS256, 0);
        check(&json!([with("alg", json!("HS256"))]), Some("a"), Algorithm::RS256, 0);
        check(&json!([with("alg", json!(7))]), Some("a"), Algorithm::RS256, 0);
        check(&json!([with("use", json!("enc"))]), Some("a"), Algorithm::RS256, 0);
        check(&json!([with("key_ops", json!(["encrypt"]))]), Some("a"), Algorithm::RS256, 0);
        check(&json!([with("key_ops", json!(["verify"]))]), Some("a"), Algorithm::RS256, 1);
        check(&json!([with("kid", json!(7))]), None, Algorithm::RS256, 0);
        check(&json!([with("n", json!(URL_SAFE_NO_PAD.encode([0xc1; 128])))]), Some("a"), Algorithm::RS256, 0);
        check(&json!([with("n", json!("!!"))]), Some("a"), Algorithm::RS256, 0);
        check(
            &json!([1, null, "x", {}, {"kty":"oct","k":"AAAA","kid":"a"}, {"kty":"what"}, good]),
            Some("a"),
            Algorithm::RS256,
            1,
        );
        check(&json!([{"kty":"OKP","crv":"Ed25519","x":x}]), None, Algorithm::EdDSA, 1);
        check(&json!([{"kty":"OKP","crv":"X25519","x":x}]), None, Algorithm::EdDSA, 0);
        check(&json!([{"kty":"EC","crv":"P-256","x":x,"y":x}]), None, Algorithm::ES256, 1);
        check(&json!([{"kty":"EC","crv":"P-384","x":x,"y":x}]), None, Algorithm::ES384, 0);
    }

    #[test]
    fn many_keys_of_one_id_are_bounded() {
        let keys: Vec<Value> = (0_u8..100)
            .map(|i| json!({"kty":"OKP","crv":"Ed25519","kid":"a","x":URL_SAFE_NO_PAD.encode([i; 32])}))
            .collect();
        check(&json!(keys), Some("a"), Algorithm::EdDSA, MAX_TRIES);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bad in ["", "[]", "{}", r#"{"keys":{}}"#, "<html>"] {
            assert!(KeySet::read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(KeySet::read(br#"{"keys":[]}"#).is_ok());
    }
}
