//! The keyed hash that stands for a text: equal texts can be told, and what they were can't be tried out without the salt.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The shortest salt.
const MIN_SALT: usize = 16;

/// What hashes are keyed by.
pub(crate) struct Salt(Vec<u8>);

impl Salt {
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.len() < MIN_SALT {
            return Err(format!("salt: {MIN_SALT} characters are the least"));
        }
        Ok(Self(text.as_bytes().to_vec()))
    }

    /// 64 bits of HMAC-SHA-256, in hex.
    pub(crate) fn hash(&self, text: &str) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
