//! The text of a token: `pcl_`, 256 random bits in base64url, and four characters by which typing errors are recognised.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::Secret;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What every token begins with, so that secret scanners find it in the wrong places.
pub const PREFIX: &str = "pcl_";
const RANDOM: usize = 32;
/// 32 bytes in base64url without padding.
const BODY_LEN: usize = 43;
/// 3 bytes in base64url.
const CHECK_LEN: usize = 4;
/// How many characters a token has.
pub const TEXT_LEN: usize = PREFIX.len() + BODY_LEN + CHECK_LEN;

/// The SHA-256 of a token's text: what is stored and looked up. Of no use to whoever wants to call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenDigest([u8; 32]);

/// Why a text is none of our tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAToken {
    /// It does not begin like one: somebody else's.
    #[error("not one of our tokens")]
    Foreign,
    /// It begins like one, but has the wrong length, a wrong character or a wrong checksum.
    #[error("a damaged token: a character is wrong, missing or too many")]
    Damaged,
}

impl TokenDigest {
    /// Checks a token's form and digests it. Nothing is looked up for texts that can't be tokens.
    ///
    /// # Errors
    /// [`NotAToken`].
    pub fn of(token: &Secret) -> Result<Self, NotAToken> {
        let text = token.expose();
        let rest = text.strip_prefix(PREFIX.as_bytes()).ok_or(NotAToken::Foreign)?;
        if rest.len() != BODY_LEN + CHECK_LEN {
            return Err(NotAToken::Damaged);
        }
        let (body, check) = rest.split_at(BODY_LEN);
        // One more than needed: the decoder asks for room in threes.
        let mut random = Zeroizing::new([0_u8; RANDOM + 1]);
        let length = URL_SAFE_NO_PAD.decode_slice(body, &mut *random).map_err(|_| NotAToken::Damaged)?;
        if length != RANDOM || checksum(body) != check {
            return Err(NotAToken::Damaged);
        }
        Ok(Self(Sha256::digest(text).into()))
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A number that spreads digests evenly.
    pub(crate) fn spread(&self) -> usize {
        usize::from(self.0[0])
    }
}

/// Tells the first bytes only; enough to compare two in a log.
impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenDigest({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl Serialize for TokenDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for TokenDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(serde::de::Error::custom)?;
        bytes.try_into().map(Self).map_err(|_| serde::de::Error::custom("a digest has 32 bytes"))
    }
}

/// A new token's text.
///
/// # Errors
/// The operating system has no randomness to give.
pub(crate) fn generate() -> Result<Secret, getrandom::Error> {
    let mut random = Zeroizing::new([0_u8; RANDOM]);
    getrandom::fill(&mut *random)?;
    Ok(compose(&random))
}

fn compose(random: &[u8; RANDOM]) -> Secret {
    let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
    text.push_str(PREFIX);
    URL_SAFE_NO_PAD.encode_string(random, &mut text);
    let check = checksum(&text.as_bytes()[PREFIX.len()..]);
    text.push_str(std::str::from_utf8(&check).unwrap_or_default());
    Secret::new(text.as_bytes())
}

/// Three bytes of a hash of its own domain, so that the checksum says nothing about the stored digest.
fn checksum(body: &[u8]) -> [u8; CHECK_LEN] {
    let mut hasher = Sha256::new();
    hasher.update(b"portcullis token checksum 1\0");
    hasher.update(body);
    let hash = hasher.finalize();
    let mut check = [0_u8; CHECK_LEN];
    // Three bytes always fill four characters, so this can't fail; if it did, no token would be valid.
    let _ = URL_SAFE_NO_PAD.encode_slice(&hash[..3], &mut check);
    check
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_have_the_documented_form() {
        let token = generate().unwrap();
        let text = std::str::from_utf8(token.expose()).unwrap();
        assert_eq!(text.len(), TEXT_LEN);
        assert!(text.starts_with("pcl_") && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
        assert_ne!(generate().unwrap().expose(), token.expose());
        assert_eq!(TokenDigest::of(&token).unwrap().bytes()[..], Sha256::digest(token.expose())[..]);
    }

    #[test]
    fn foreign_and_damaged_texts_are_told_apart() {
        for foreign in ["", "p", "pcl", "PCL_aaaa", "eyJhbGciOiJub25lIn0.e30.", " pcl_", "Bearer pcl_"] {
            assert_eq!(TokenDigest::of(&Secret::new(foreign)), Err(NotAToken::Foreign), "{foreign}");
        }
        let long = format!("pcl_{}", "A".repeat(1 << 16));
        for damaged in ["pcl_", "pcl_x", &long, &format!("pcl_{}", "A".repeat(47)), &format!("pcl_{}", "=".repeat(47))]
        {
            assert_eq!(TokenDigest::of(&Secret::new(damaged)), Err(NotAToken::Damaged));
        }
    }

    proptest! {
        #[test]
        fn every_token_is_recognised_and_every_change_noticed(
            random: [u8; RANDOM],
            at in PREFIX.len()..TEXT_LEN,
            to in "[A-Za-z0-9_-]",
        ) {
            let token = compose(&random);
            prop_assert!(TokenDigest::of(&token).is_ok());
            let mut changed = token.expose().to_vec();
            let to = to.as_bytes()[0];
            prop_assume!(changed[at] != to);
            changed[at] = to;
            // 24 bits of checksum: a change of the body is missed once in 16 million.
            prop_assert_eq!(TokenDigest::of(&Secret::new(changed)), Err(NotAToken::Damaged));
            let cut = &token.expose()[..at];
            prop_assert_eq!(TokenDigest::of(&Secret::new(cut)), Err(NotAToken::Damaged));
        }

        #[test]
        fn no_bytes_upset_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..200), ours: bool) {
            let mut text = if ours { PREFIX.as_bytes().to_vec() } else { Vec::new() };
            text.extend(bytes);
            let _ = TokenDigest::of(&Secret::new(text));
        }
    }
}
