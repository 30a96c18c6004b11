//! The sealing key, and sealing: AES-256-GCM (NIST SP 800-38D), a random data key for each record, wrapped by the sealing key
//! whose id the record names.
//!
//! A sealed record is `pcv1`, key id (8 bytes), nonce (12) and wrapped data key (48), nonce (12), ciphertext with tag. The
//! associated data of both layers hold the header and what the record is for, so that one moved elsewhere does not open.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use aes_gcm::{
    Aes256Gcm, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use portcullis_model::Secret;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The environment variable that holds the sealing keys where no file is configured.
pub const KEY_VARIABLE: &str = "PORTCULLIS_KEY";

const MAGIC: &[u8; 4] = b"pcv1";
const KEY: usize = 32;
const NONCE: usize = 12;
const TAG: usize = 16;
const HEADER: usize = MAGIC.len() + 8;
const WRAPPED: usize = KEY + TAG;

/// Where sealing keys come from. Several are separated by commas or white space, each 32 bytes in base64; the first one
/// seals, the others only open.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// An environment variable, such as [`KEY_VARIABLE`].
    Env(String),
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// Makes one (mode 0600) where there is none. Only for the embedded store's first start (security.md 5).
        create: bool,
    },
    /// The text itself.
    Text(Secret),
}

/// Why the vault can't open, seal or unseal. Never quotes a key.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// No key where it should be.
    #[error("there is no sealing key in {0}")]
    NoKey(String),
    /// A key that is none.
    #[error("{0} does not hold 32 bytes in base64")]
    BadKey(String),
    /// A file that others can read.
    #[error("{} can be read by everybody: make it readable by the gateway only (chmod 600)", .0.display())]
    Exposed(PathBuf),
    /// The file can't be read or made.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system has no random bytes.
    #[error("no random bytes")]
    Random,
    /// Sealed with a key that the vault does not have.
    #[error("it was sealed with the key {0}, which is not among the sealing keys: put that key back")]
    UnknownKey(String),
    /// Not what was sealed, or not for this place.
    #[error("a sealed record is damaged or was moved")]
    Damaged,
}

struct SealingKey {
    id: [u8; 8],
    cipher: Aes256Gcm,
}

/// Seals and unseals. Holds the keys for as long as it lives.
pub struct Vault {
    source: KeySource,
    /// The first one seals; never empty.
    keys: ArcSwap<Vec<SealingKey>>,
}

impl Vault {
    /// Reads the keys. Blocks while reading a file.
    ///
    /// # Errors
    /// Where there is no key, or one that is none.
    pub fn open(source: &KeySource) -> Result<Self, VaultError> {
        Ok(Self { source: source.clone(), keys: ArcSwap::from_pointee(read_keys(source)?) })
    }

    /// Reads the keys again from where they were read, to be looked at before [`Vault::adopt`]. Blocks while reading a file; a
    /// variable of this process never changes.
    ///
    /// # Errors
    /// Those of [`Vault::open`].
    pub(crate) fn read_again(&self) -> Result<Keys, VaultError> {
        read_keys(&self.source).map(Keys)
    }

    /// Seals and opens with these keys from now on. What was sealed with a key that is not among them opens no more.
    pub(crate) fn adopt(&self, keys: Keys) {
        self.keys.store(Arc::new(keys.0));
    }

    /// The ids of all keys, in hex; the first one seals.
    pub fn key_ids(&self) -> Vec<String> {
        self.keys.load().iter().map(|key| hex(&key.id)).collect()
    }

    /// The id of the key that seals, in hex.
    pub fn key_id(&self) -> String {
        hex(&self.keys.load()[0].id)
    }

    /// Seals a secret for a place: `aad` names it, and it opens with the same `aad` only.
    ///
    /// # Errors
    /// Where the system has no random bytes.
    pub fn seal(&self, aad: &[u8], secret: &Secret) -> Result<Bytes, VaultError> {
        let keys = self.keys.load();
        let key = &keys[0];
        let mut data_key = Zeroizing::new([0; KEY]);
        let (mut wrap_nonce, mut nonce) = ([0; NONCE], [0; NONCE]);
        for buffer in [&mut data_key[..], &mut wrap_nonce, &mut nonce] {
            getrandom::fill(buffer).map_err(|_| VaultError::Random)?;
        }
        let mut sealed = Vec::with_capacity(HEADER + NONCE + WRAPPED + NONCE + secret.len() + TAG);
        sealed.extend_from_slice(MAGIC);
        sealed.extend_from_slice(&key.id);
        let aad = [&sealed[..], aad].concat();
        sealed.extend_from_slice(&wrap_nonce);
        sealed.extend(encrypt(&key.cipher, wrap_nonce, &aad, &data_key[..])?);
        sealed.extend_from_slice(&nonce);
        let cipher = Aes256Gcm::new_from_slice(&data_key[..]).map_err(|_| VaultError::Damaged)?;
        sealed.extend(encrypt(&cipher, nonce, &aad, secret.expose())?);
        Ok(sealed.into())
    }

    /// Opens what [`Vault::seal`] made for the same place.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`] for another vault's record, [`VaultError::Damaged`] for anything else that does not open.
    pub fn unseal(&self, aad: &[u8], sealed: &[u8]) -> Result<Secret, VaultError> {
        let keys = self.keys.load();
        let key = key_of(&keys, sealed)?;
        let aad = [&sealed[..HEADER], aad].concat();
        let rest = &sealed[HEADER..];
        let (wrap_nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(VaultError::Damaged)?;
        let (wrapped, rest) = rest.split_at_checked(WRAPPED).ok_or(VaultError::Damaged)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE>().ok_or(VaultError::Damaged)?;
        let data_key = Zeroizing::new(decrypt(&key.cipher, *wrap_nonce, &aad, wrapped)?);
        let cipher = Aes256Gcm::new_from_slice(&data_key).map_err(|_| VaultError::Damaged)?;
        Ok(Secret::new(decrypt(&cipher, *nonce, &aad, ciphertext)?))
    }

    /// Whether a record can be opened as far as its key goes.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`] or [`VaultError::Damaged`].
    pub fn check(&self, sealed: &[u8]) -> Result<(), VaultError> {
        key_of(&self.keys.load(), sealed).map(|_| ())
    }

    /// Whether a record is sealed with a key that only opens, and should be sealed again.
    pub fn is_stale(&self, sealed: &[u8]) -> bool {
        sealed.get(MAGIC.len()..HEADER).is_some_and(|id| id != self.keys.load()[0].id)
    }
}

/// Keys that are not in use yet.
pub(crate) struct Keys(Vec<SealingKey>);

impl Keys {
    /// Whether a record can be opened with them as far as its key goes.
    pub(crate) fn check(&self, sealed: &[u8]) -> Result<(), VaultError> {
        key_of(&self.0, sealed).map(|_| ())
    }
}

fn key_of<'k>(keys: &'k [SealingKey], sealed: &[u8]) -> Result<&'k SealingKey, VaultError> {
    let header = sealed.get(..HEADER).ok_or(VaultError::Damaged)?;
    let (magic, id) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(VaultError::Damaged);
    }
    keys.iter().find(|key| key.id == id).ok_or_else(|| VaultError::UnknownKey(hex(id)))
}

/// The keys of a source; at least one.
fn read_keys(source: &KeySource) -> Result<Vec<SealingKey>, VaultError> {
    let (text, place) = match source {
        KeySource::Env(name) => {
            let text = std::env::var(name).map_err(|_| VaultError::NoKey(format!("the variable {name}")))?;
            (Zeroizing::new(text.into_bytes()), format!("the variable {name}"))
        }
        KeySource::File { path, create } => (read_or_create(path, *create)?, path.display().to_string()),
        KeySource::Text(text) => (Zeroizing::new(text.expose().to_vec()), "the given text".to_owned()),
    };
    let bad = || VaultError::BadKey(place.clone());
    let text = std::str::from_utf8(&text).map_err(|_| bad())?;
    let mut keys = Vec::new();
    for word in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty()) {
        let key = Zeroizing::new(STANDARD.decode(word).map_err(|_| bad())?);
        if key.len() != KEY {
            return Err(bad());
        }
        keys.push(SealingKey { id: key_id(&key), cipher: Aes256Gcm::new_from_slice(&key).map_err(|_| bad())? });
    }
    if keys.is_empty() { Err(VaultError::NoKey(place)) } else { Ok(keys) }
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vault({})", self.key_id())
    }
}

fn encrypt(cipher: &Aes256Gcm, nonce: [u8; NONCE], aad: &[u8], msg: &[u8]) -> Result<Vec<u8>, VaultError> {
    cipher.encrypt(&Nonce::from(nonce), Payload { msg, aad }).map_err(|_| VaultError::Damaged)
}

fn decrypt(cipher: &Aes256Gcm, nonce: [u8; NONCE], aad: &[u8], msg: &[u8]) -> Result<Vec<u8>, VaultError> {
    cipher.decrypt(&Nonce::from(nonce), Payload { msg, aad }).map_err(|_| VaultError::Damaged)
}

/// Tells keys apart without telling anything of them: a truncated hash of 32 random bytes.
fn key_id(key: &[u8]) -> [u8; 8] {
    let digest = Sha256::new().chain_update(b"portcullis sealing key id\0").chain_update(key).finalize();
    let mut id = [0; 8];
    id.copy_from_slice(&digest[..8]);
    id
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read_or_create(path: &Path, create: bool) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let wrong = |source| VaultError::File { path: path.to_owned(), source };
    match fs::read(path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            let mode = fs::metadata(path).map_err(wrong)?.permissions().mode();
            // A group may read it: that is how a mounted secret reaches a process that is not root.
            if mode & 0o007 != 0 { Err(VaultError::Exposed(path.to_owned())) } else { Ok(text) }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && create => {
            let mut key = Zeroizing::new([0; KEY]);
            getrandom::fill(&mut key[..]).map_err(|_| VaultError::Random)?;
            let text = Zeroizing::new(format!("{}\n", STANDARD.encode(&key[..])).into_bytes());
            // Made whole beside it and linked: a key file that is cut off would lock everybody out for ever.
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::create_dir_all(parent).map_err(wrong)?;
            let draft = path.with_extension(format!("new-{}", std::process::id()));
            let written = write_new(&draft, &text).and_then(|()| fs::hard_link(&draft, path));
            let _ = fs::remove_file(&draft);
            match written {
                Ok(()) => {}
                // Another process was faster: its key holds.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return read_or_create(path, false),
                Err(e) => return Err(wrong(e)),
            }
            fs::File::open(parent).and_then(|d| d.sync_all()).map_err(wrong)?;
            Ok(text)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(VaultError::NoKey(path.display().to_string())),
        Err(e) => Err(wrong(e)),
    }
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
