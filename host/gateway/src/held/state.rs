//! The `requestState` of a held call: sealed, for one caller, one request and one round (security decision 19).

use portcullis_protocol::{
    Message, Piece, canonical,
    seal::{Domain, SealError, Sealer},
    session::Binding,
};
use sha2::{Digest, Sha256};

/// How ours begin, so that they are told from those of servers.
const PREFIX: &str = "pcs1.";

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestState {
    /// Which process holds the call.
    pub replica: [u8; 8],
    /// The held call.
    pub call: [u8; 16],
    /// The round that it answers.
    pub round: [u8; 16],
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl RequestState {
    /// Seals it for this caller and request.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn seal(&self, sealer: &Sealer, bound: &Bound) -> Result<String, SealError> {
        let mut plain = Vec::with_capacity(88);
        plain.extend_from_slice(&bound.0);
        plain.extend_from_slice(&self.replica);
        plain.extend_from_slice(&self.call);
        plain.extend_from_slice(&self.round);
        plain.extend_from_slice(&self.expires_ms.to_be_bytes());
        Ok(format!("{PREFIX}{}", sealer.seal(Domain::RequestState, &plain)?))
    }

    /// Opens one that this caller presents with this request; none where it is not one of ours.
    ///
    /// # Errors
    /// [`SealError`], which the caller does not learn.
    pub fn open(
        sealer: &Sealer,
        piece: Piece<'_>,
        bound: impl FnOnce() -> Bound,
        now_ms: u64,
    ) -> Option<Result<Self, SealError>> {
        let text: String = serde_json::from_str(piece.raw).ok()?;
        let sealed = text.strip_prefix(PREFIX)?;
        Some(Self::read(sealer, sealed, &bound(), now_ms))
    }

    fn read(sealer: &Sealer, sealed: &str, bound: &Bound, now_ms: u64) -> Result<Self, SealError> {
        let plain = sealer.open(Domain::RequestState, sealed)?;
        let (to, rest) = plain.split_first_chunk::<32>().ok_or(SealError::Malformed)?;
        let (replica, rest) = rest.split_first_chunk::<8>().ok_or(SealError::Malformed)?;
        let (call, rest) = rest.split_first_chunk::<16>().ok_or(SealError::Malformed)?;
        let (round, rest) = rest.split_first_chunk::<16>().ok_or(SealError::Malformed)?;
        let expires: [u8; 8] = rest.try_into().map_err(|_| SealError::Malformed)?;
        let expires_ms = u64::from_be_bytes(expires);
        if *to != bound.0 {
            return Err(SealError::Foreign);
        }
        if now_ms >= expires_ms {
            return Err(SealError::Expired);
        }
        Ok(Self { replica: *replica, call: *call, round: *round, expires_ms })
    }
}

/// A digest of caller and request: tenant, gateway, principal, method, and canonical params without `_meta`,
/// `inputResponses` and `requestState`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound([u8; 32]);

impl Bound {
    /// That of a request of this caller.
    pub fn of(binding: &Binding, message: &Message<'_>) -> Self {
        let mut hash = Sha256::new();
        for part in [binding.tenant.as_str(), binding.gateway.as_str(), message.method()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(binding.principal);
        // A message that was parsed has a digest.
        hash.update(canonical::params(message).unwrap_or_default());
        Self(hash.finalize().into())
    }
}

/// The digest of a JSON text, whatever its key order and white space.
pub fn digest(raw: &str) -> [u8; 32] {
    canonical::digest(raw).unwrap_or_default()
}

/// So many random bytes as text, for ids that nobody may guess.
pub fn random() -> Result<[u8; 16], SealError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| SealError::NoRandomness)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use portcullis_protocol::{ParseLimits, parse, session::principal_hash};

    use super::*;

    fn binding(subject: &str) -> Binding {
        Binding {
            tenant: "default".parse().unwrap(),
            gateway: "dev".parse().unwrap(),
            principal: principal_hash(subject, None),
        }
    }

    fn bound(subject: &str, params: &str) -> Bound {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let message = parse(text.as_bytes(), &ParseLimits::default()).unwrap();
        Bound::of(&binding(subject), &message)
    }

    #[test]
    fn the_digest_goes_by_what_is_asked_for() {
        let one = bound("a", r#"{"name":"x","arguments":{"a":1,"b":[1.5,{"c":"é"}]}}"#);
        let same = bound(
            "a",
            r#"{"requestState":"s","arguments":{ "b":[1.5,{"c":"\u00e9"}],"a":1},"inputResponses":{},"_meta":{"p":1},"name":"x"}"#,
        );
        assert_eq!(one, same);
        for (subject, params) in [
            ("b", r#"{"name":"x","arguments":{"a":1,"b":[1.5,{"c":"é"}]}}"#),
            ("a", r#"{"name":"y","arguments":{"a":1,"b":[1.5,{"c":"é"}]}}"#),
            ("a", r#"{"name":"x","arguments":{"a":2,"b":[1.5,{"c":"é"}]}}"#),
            ("a", r#"{"name":"x","arguments":{"a":1,"b":[1.5,{"c":"é"}]},"extra":1}"#),
        ] {
            assert_ne!(one, bound(subject, params), "{subject} {params}");
        }
    }

    #[test]
    fn a_state_is_for_one_caller_one_request_and_one_time() {
        let sealer = Sealer::new(1, &portcullis_model::Secret::new(vec![7; 32])).unwrap();
        let state = RequestState { replica: [1; 8], call: [2; 16], round: [3; 16], expires_ms: 1_000 };
        let mine = bound("a", r#"{"name":"x"}"#);
        let text = state.seal(&sealer, &mine).unwrap();
        let quoted = format!("\"{text}\"");
        let open =
            |raw: &str, bound: &Bound, now| RequestState::open(&sealer, Piece { raw, at: 0 }, || bound.clone(), now);
        assert_eq!(open(&quoted, &mine, 999), Some(Ok(state)));
        assert_eq!(open(&quoted, &mine, 1_000), Some(Err(SealError::Expired)));
        assert_eq!(open(&quoted, &bound("b", r#"{"name":"x"}"#), 999), Some(Err(SealError::Foreign)));
        assert_eq!(open(&quoted, &bound("a", r#"{"name":"y"}"#), 999), Some(Err(SealError::Foreign)));
        assert_eq!(open("\"a server's own\"", &mine, 999), None);
        assert_eq!(open("7", &mine, 999), None);
        for at in [6, 20, text.len() - 1] {
            let mut bad = text.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            let bad = format!("\"{}\"", String::from_utf8(bad).unwrap());
            assert!(matches!(open(&bad, &mine, 999), Some(Err(_))), "byte {at}");
        }
    }
}
