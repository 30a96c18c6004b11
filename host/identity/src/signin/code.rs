//! One-time codes, by which people without an identity provider sign in: made by an operator, typed once.

use portcullis_model::{Name, Secret, Subject};
use portcullis_store::StoreError;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{CODE_LIFE, SignIn, Who, digest};
use crate::{
    clock::{millis, now_ms},
    shelf::ShelfError,
};

/// Letters and digits that nobody mistakes for others (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 5 bits each: 60 bits, for ten minutes and behind a limit on failures.
const LENGTH: usize = 12;
const LABEL: &str = "portcullis sign-in code 1";

/// What the store keeps of a code.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    tenant: Name,
    user: Name,
    created_ms: u64,
}

/// A code that was just made.
#[derive(Debug)]
pub struct NewCode {
    /// What is typed, such as `7KQ2-M9TX-0C4D`.
    pub text: Secret,
    /// When it ends, in milliseconds since 1970.
    pub until_ms: u64,
}

/// Why there is no code, or it leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// There is no such user.
    #[error("User/{0} does not exist")]
    NoUser(Name),
    /// It was never made, was used, or has ended. Which one is nobody's business.
    #[error("this code is not valid: it is used, too old or mistyped")]
    Invalid,
    /// The operating system has no randomness to give.
    #[error("the operating system has no randomness to give")]
    NoRandomness,
    /// It was not kept.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
}

impl From<StoreError> for CodeError {
    fn from(error: StoreError) -> Self {
        Self::Shelf(error.into())
    }
}

impl SignIn {
    /// Makes a code for a user.
    ///
    /// # Errors
    /// [`CodeError`], all but `Invalid`.
    pub async fn make_code(&self, tenant: &Name, user: &Name) -> Result<NewCode, CodeError> {
        self.directories.refresh();
        let exists = self.directories.load().since(tenant, &Subject::User(user.clone())).is_some();
        if !exists {
            return Err(CodeError::NoUser(user.clone()));
        }
        let mut random = Zeroizing::new([0_u8; LENGTH]);
        getrandom::fill(&mut *random).map_err(|_| CodeError::NoRandomness)?;
        let plain: Zeroizing<Vec<u8>> =
            Zeroizing::new(random.iter().map(|b| ALPHABET[usize::from(*b) % ALPHABET.len()]).collect());
        let until_ms = now_ms().saturating_add(millis(CODE_LIFE));
        let record = Record { tenant: tenant.clone(), user: user.clone(), created_ms: now_ms() };
        self.codes.put(&digest(LABEL, &plain), until_ms, &record).await?;
        let mut text = Zeroizing::new(Vec::with_capacity(LENGTH + 2));
        for (at, piece) in plain.chunks(4).enumerate() {
            if at > 0 {
                text.push(b'-');
            }
            text.extend_from_slice(piece);
        }
        Ok(NewCode { text: Secret::new(text.as_slice()), until_ms })
    }

    /// Uses a code up: whose it was. Case, spaces and dashes do not matter.
    ///
    /// # Errors
    /// [`CodeError::Invalid`], or the store's.
    pub async fn use_code(&self, typed: &str) -> Result<(Name, Who), CodeError> {
        let plain = normal(typed).ok_or(CodeError::Invalid)?;
        let record = self.codes.take(&digest(LABEL, &plain)).await?.ok_or(CodeError::Invalid)?;
        let since = self.directories.load().since(&record.tenant, &Subject::User(record.user.clone()));
        // It was made for an earlier user of this name.
        if since.is_none_or(|since| record.created_ms < since) {
            return Err(CodeError::Invalid);
        }
        Ok((record.tenant, Who::User(record.user)))
    }
}

/// What was typed, as it is digested; none where it can't be a code.
fn normal(typed: &str) -> Option<Zeroizing<Vec<u8>>> {
    if typed.len() > 64 {
        return None;
    }
    let mut plain = Zeroizing::new(Vec::with_capacity(LENGTH));
    for byte in typed.bytes().filter(|b| !b" -\t\r\n".contains(b)) {
        let byte = match byte.to_ascii_uppercase() {
            b'O' => b'0',
            b'I' | b'L' => b'1',
            other => other,
        };
        if plain.len() == LENGTH || !ALPHABET.contains(&byte) {
            return None;
        }
        plain.push(byte);
    }
    (plain.len() == LENGTH).then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type_is_read_with_patience() {
        let normal = |text: &str| normal(text).map(|p| String::from_utf8(p.to_vec()).unwrap());
        assert_eq!(normal("7kq2-m9tx-oc4d"), Some("7KQ2M9TX0C4D".to_owned()));
        assert_eq!(normal("  7KQ2 M9TX Oi4D\n"), Some("7KQ2M9TX014D".to_owned()));
        for wrong in ["", "7KQ2", "7KQ2-M9TX-0C4D-A", "7KQ2-M9TX-0C4U", "7KQ2-M9TX-0C4é", &"A".repeat(1000)] {
            assert_eq!(normal(wrong), None, "{wrong}");
        }
    }
}
