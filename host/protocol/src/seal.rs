//! Sealing: state that travels with a client and comes back unread and unchanged, or not at all.
//!
//! AES-256-GCM under a random 96-bit nonce. What the text is for is authenticated with it, so that a cursor is no session
//! id; the key's id stands in front, so that keys can be rotated.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_model::Secret;

/// The most characters of a sealed text.
pub const MAX_TEXT: usize = 1023;
const FORMAT: u8 = 1;
const NONCE: usize = 12;
/// Format, key id, nonce.
const HEAD: usize = 1 + 4 + NONCE;

/// What a sealed text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// The id of a legacy session.
    Session,
    /// The cursor of a list.
    Cursor,
    /// State of ours around a server's `requestState`.
    RequestState,
    /// A link to the page where an account is connected.
    ConnectLink,
}

impl Domain {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Session => b"portcullis/session/1",
            Self::Cursor => b"portcullis/cursor/1",
            Self::RequestState => b"portcullis/request-state/1",
            Self::ConnectLink => b"portcullis/connect-link/1",
        }
    }
}

/// Why a sealed text is refused. Whoever sent it learns the same for all of them (see [`SealError::PUBLIC`]), so that
/// nothing can be probed; logs and metrics tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not in the form of a sealed text.
    #[error("not a sealed text")]
    Malformed,
    /// Sealed under a key that is not here.
    #[error("sealed under an unknown key")]
    UnknownKey,
    /// Changed, made up, or sealed for another purpose.
    #[error("forged")]
    Forged,
    /// Genuine, but for another tenant, gateway or caller.
    #[error("sealed for somebody else")]
    Foreign,
    /// Genuine, but too old.
    #[error("expired")]
    Expired,
    /// Too much to seal.
    #[error("too large to seal")]
    TooLarge,
    /// The system has no randomness to give.
    #[error("no randomness available")]
    NoRandomness,
    /// The key has not 32 bytes.
    #[error("a sealing key must have 32 bytes")]
    BadKey,
}

impl SealError {
    /// What a client may learn.
    pub const PUBLIC: &'static str = "unknown or expired";

    /// The word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown-key",
            Self::Forged => "forged",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
            Self::TooLarge => "too-large",
            Self::NoRandomness => "no-randomness",
            Self::BadKey => "bad-key",
        }
    }
}

/// Seals and opens.
pub struct Sealer {
    /// The first seals; all open.
    keys: Vec<(u32, Aes256Gcm)>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(id, _)| id)).finish()
    }
}

impl Sealer {
    /// Seals with `key` (32 bytes) under the id `key_id`.
    ///
    /// # Errors
    /// [`SealError::BadKey`].
    pub fn new(key_id: u32, key: &Secret) -> Result<Self, SealError> {
        Ok(Self { keys: vec![(key_id, cipher(key)?)] })
    }

    /// Also opens what was sealed with a key that has been replaced.
    ///
    /// # Errors
    /// [`SealError::BadKey`].
    pub fn with_older(mut self, key_id: u32, key: &Secret) -> Result<Self, SealError> {
        self.keys.push((key_id, cipher(key)?));
        Ok(self)
    }

    /// Seals `plain` as URL-safe text of at most [`MAX_TEXT`] characters.
    ///
    /// # Errors
    /// [`SealError::TooLarge`] or [`SealError::NoRandomness`].
    pub fn seal(&self, domain: Domain, plain: &[u8]) -> Result<String, SealError> {
        let (key_id, cipher) = self.keys.first().ok_or(SealError::UnknownKey)?;
        let mut bytes = Vec::with_capacity(HEAD + plain.len() + 16);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&key_id.to_be_bytes());
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        bytes.extend_from_slice(&nonce);
        let aad = aad(domain, *key_id);
        let sealed =
            cipher.encrypt(&nonce.into(), Payload { msg: plain, aad: &aad }).map_err(|_| SealError::TooLarge)?;
        bytes.extend_from_slice(&sealed);
        let text = URL_SAFE_NO_PAD.encode(bytes);
        if text.len() > MAX_TEXT { Err(SealError::TooLarge) } else { Ok(text) }
    }

    /// Opens a sealed text.
    ///
    /// # Errors
    /// [`SealError::Malformed`], [`SealError::UnknownKey`] or [`SealError::Forged`].
    pub fn open(&self, domain: Domain, text: &str) -> Result<Vec<u8>, SealError> {
        if text.len() > MAX_TEXT {
            return Err(SealError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Malformed)?;
        let (head, sealed) = bytes.split_at_checked(HEAD).ok_or(SealError::Malformed)?;
        if head[0] != FORMAT {
            return Err(SealError::Malformed);
        }
        let mut id = [0; 4];
        id.copy_from_slice(&head[1..5]);
        let key_id = u32::from_be_bytes(id);
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&head[5..]);
        let (_, cipher) = self.keys.iter().find(|(id, _)| *id == key_id).ok_or(SealError::UnknownKey)?;
        let aad = aad(domain, key_id);
        cipher.decrypt(&nonce.into(), Payload { msg: sealed, aad: &aad }).map_err(|_| SealError::Forged)
    }
}

fn cipher(key: &Secret) -> Result<Aes256Gcm, SealError> {
    Aes256Gcm::new_from_slice(key.expose()).map_err(|_| SealError::BadKey)
}

fn aad(domain: Domain, key_id: u32) -> Vec<u8> {
    let mut aad = Vec::with_capacity(40);
    aad.push(FORMAT);
    aad.extend_from_slice(&key_id.to_be_bytes());
    aad.extend_from_slice(domain.label());
    aad
}
