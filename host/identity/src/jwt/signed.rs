//! Whether a token is an issuer's at all, told from keys that are in memory: nothing is fetched, nobody is asked.

use std::time::Instant;

use jsonwebtoken::Algorithm;
use portcullis_model::Secret;
use serde::Deserialize;

use super::{Header, JwtService, MAX_TOKEN, claims, decode, keys::Issuers, rules, split};
use crate::clock::now_ms;

/// Seconds that clocks may differ. Who accepts the token looks again, more strictly.
const LEEWAY: u64 = 300;

#[derive(Deserialize)]
struct Claims {
    iss: String,
    exp: f64,
}

impl JwtService {
    /// Whether a token is of now and signed with a key of the issuer that it names, as far as those keys are in memory.
    /// It says nothing about whom the token is for: that is an auth provider's to decide. It costs four signature checks at
    /// most, and for what is no such token none.
    pub fn signed(&self, token: &Secret) -> bool {
        self.is_signed(token).unwrap_or(false)
    }

    fn is_signed(&self, token: &Secret) -> Option<bool> {
        let text = token.expose();
        if text.len() > MAX_TOKEN {
            return None;
        }
        let (header, payload) = split(text)?;
        let header: Header = decode(header)?;
        let algorithm = rules::algorithm(&header.alg)?;
        let Claims { iss, exp } = decode(payload)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts of floats saturate")]
        claims::check_times(0, exp as u64, LEEWAY, now_ms() / 1000).ok()?;
        let text = std::str::from_utf8(text).ok()?;
        let (message, signature) = text.rsplit_once('.')?;
        Some(self.issuers.signed_by(&iss, header.kid.as_deref(), algorithm, message.as_bytes(), signature))
    }
}

impl Issuers {
    /// Whether a key of the issuer, as it is held now, made this signature.
    fn signed_by(
        &self,
        issuer: &str,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &str,
    ) -> bool {
        let now = Instant::now();
        // Several places may be named for one issuer's keys, by several plugins.
        self.held(issuer, now).iter().any(|keys| {
            keys.matching(kid, algorithm)
                .any(|key| jsonwebtoken::crypto::verify(signature, message, &key.decoding, algorithm).unwrap_or(false))
        })
    }
}
