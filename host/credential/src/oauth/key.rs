//! The key with which the gateway signs as a client (`private_key_jwt`, RFC 7523 section 2.2): made once, sealed in the store.

use std::sync::Arc;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::Secret;
use portcullis_store::{Expect, StoreError, Write, keys};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::OAuthError;
use crate::Secrets;

/// How long an assertion holds, in seconds.
const LIFE: u64 = 60;

/// Signs assertions about the gateway as a client.
pub(crate) struct ClientKey {
    pair: EcdsaKeyPair,
    id: String,
}

impl ClientKey {
    /// Reads the key, or makes it. Another process may make it at the same moment: then its key is the one.
    pub(crate) async fn open(secrets: &Secrets) -> Result<Arc<Self>, OAuthError> {
        let key = keys::UPSTREAM_KEY;
        for _ in 0..2 {
            if let Some(record) = secrets.store().get(key).await.map_err(crate::SecretsError::from)? {
                return Self::read(&secrets.unseal(key, &record.value)?).map(Arc::new);
            }
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| OAuthError::Internal("no key could be made"))?;
            let value = secrets.seal(key, &Secret::new(made.as_ref()))?;
            let write = Write::Put { key: key.to_owned(), value, expect: Expect::Absent };
            match secrets.store().write(vec![write]).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(crate::SecretsError::from(error).into()),
            }
        }
        Err(OAuthError::Internal("the client's key can't be kept"))
    }

    fn read(pkcs8: &Secret) -> Result<Self, OAuthError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.expose())
            .map_err(|_| OAuthError::Internal("the client's key can't be read"))?;
        let digest = Sha256::digest(pair.public_key().as_ref());
        Ok(Self { pair, id: URL_SAFE_NO_PAD.encode(&digest[..12]) })
    }

    /// The public key, as a set of one (RFC 7517 section 5).
    pub(crate) fn set(&self) -> Value {
        // An uncompressed point: 4, x, y (SEC 1 section 2.3.3).
        let point = self.pair.public_key().as_ref();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default());
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": part(1..33), "y": part(33..65)}]})
    }

    /// Says to `audience` that the bearer is `client`, once and for a minute.
    pub(crate) fn assertion(&self, client: &str, audience: &str, now_ms: u64) -> Result<Secret, OAuthError> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| OAuthError::Internal("no randomness"))?;
        let now = now_ms / 1000;
        let head = json!({"alg": "ES256", "typ": "JWT", "kid": self.id});
        let claims = json!({"iss": client, "sub": client, "aud": audience, "jti": URL_SAFE_NO_PAD.encode(nonce), "iat": now, "exp": now + LIFE});
        let text =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signed = self.pair.sign(&SystemRandom::new(), text.as_bytes());
        let signature = signed.map_err(|_| OAuthError::Internal("nothing could be signed"))?;
        Ok(Secret::new(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientKey({})", self.id)
    }
}
