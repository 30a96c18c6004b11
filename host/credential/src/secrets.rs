//! A connection's secrets, sealed in the store under `s/{tenant}/{connection}`.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use portcullis_model::{Name, Secret};
use portcullis_store::{Expect, Record, Revision, Store, StoreError, Write, keys, scan_all};
use zeroize::Zeroizing;

use crate::{Vault, VaultError, resolver::now_ms};

/// The most fields of one connection.
pub const MAX_FIELDS: usize = 64;
/// The most bytes of one field's value.
pub const MAX_FIELD_BYTES: usize = 64 << 10;

/// Why secrets can't be kept or read. Never quotes one.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The store's part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The vault's part, and for which record.
    #[error("{record}: {source}")]
    Vault {
        /// The record.
        record: String,
        /// Why.
        source: VaultError,
    },
    /// Too many or too long.
    #[error("a connection has at most {MAX_FIELDS} secrets of {MAX_FIELD_BYTES} bytes")]
    TooLarge,
}

/// What [`Secrets::reseal`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// How many records were sealed again.
    pub records: usize,
    /// The id of the key that all records are sealed with now.
    pub key: String,
    /// Ids of keys that nothing is sealed with any more.
    pub unneeded: Vec<String>,
}

/// One connection's sealed secrets, opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The record's.
    pub revision: Revision,
    /// When somebody gave them, in milliseconds since 1970; sealing them again with another key changes nothing about it.
    /// None in records of before this was kept.
    pub given_ms: Option<u64>,
    /// By field.
    pub fields: Arc<BTreeMap<String, Secret>>,
}

/// Sealed secrets in a store.
#[derive(Clone)]
pub struct Secrets {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
}

impl Secrets {
    /// Over a store, sealed by a vault.
    pub fn new(store: Arc<dyn Store>, vault: Arc<Vault>) -> Self {
        Self { store, vault }
    }

    /// The store underneath.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The write that keeps a connection's secrets, to be made together with the connection itself
    /// ([`portcullis_store::Registry::apply_with`]). Replaces all earlier ones.
    ///
    /// # Errors
    /// [`SecretsError::TooLarge`], or where the vault can't seal.
    pub fn sealing(
        &self,
        tenant: &Name,
        connection: &Name,
        fields: &BTreeMap<String, Secret>,
    ) -> Result<Write, SecretsError> {
        let key = keys::secret(tenant, connection);
        let plain = pack(fields, now_ms()).ok_or(SecretsError::TooLarge)?;
        let value = self.seal(&key, &plain)?;
        Ok(Write::Put { key, value, expect: Expect::Any })
    }

    /// Seals what is kept under a key.
    pub(crate) fn seal(&self, key: &str, plain: &Secret) -> Result<Bytes, SecretsError> {
        let sealed = self.vault.seal(key.as_bytes(), plain);
        sealed.map_err(|source| SecretsError::Vault { record: key.to_owned(), source })
    }

    /// Opens what is kept under a key.
    pub(crate) fn unseal(&self, key: &str, sealed: &[u8]) -> Result<Secret, SecretsError> {
        let plain = self.vault.unseal(key.as_bytes(), sealed);
        plain.map_err(|source| SecretsError::Vault { record: key.to_owned(), source })
    }

    /// Seals and writes a connection's secrets. Replaces all earlier ones.
    ///
    /// # Errors
    /// Those of [`Secrets::sealing`] and of the store.
    pub async fn put(
        &self,
        tenant: &Name,
        connection: &Name,
        fields: &BTreeMap<String, Secret>,
    ) -> Result<Revision, SecretsError> {
        Ok(self.store.write(vec![self.sealing(tenant, connection, fields)?]).await?)
    }

    /// Checks that every sealed record was sealed with a key of the vault. To be called before serving: with a lost key it is
    /// better not to start than to refuse call by call.
    ///
    /// # Errors
    /// Names the first record whose key is not there.
    pub async fn verify(&self) -> Result<(), SecretsError> {
        self.each_sealed(|sealed| self.vault.check(sealed)).await
    }

    async fn each_sealed(&self, check: impl Fn(&[u8]) -> Result<(), VaultError>) -> Result<(), SecretsError> {
        for prefix in keys::SEALED {
            for record in scan_all(&*self.store, prefix).await? {
                let checked = check(&record.value);
                checked.map_err(|source| SecretsError::Vault { record: record.key.to_string(), source })?;
            }
        }
        Ok(())
    }

    /// Reads the sealing keys again and seals with the first of them whatever was sealed with another, wherever in the store
    /// it is. Calls go on meanwhile; a record that is replaced meanwhile is sealed with the new key anyway.
    ///
    /// # Errors
    /// Those of the keys, of the store, and of a record that does not open.
    pub async fn reseal(&self) -> Result<Resealed, SecretsError> {
        let vault = Arc::clone(&self.vault);
        let read = tokio::task::spawn_blocking(move || vault.read_again()).await;
        let read = read.map_err(|e| StoreError::Unavailable(format!("the sealing keys were not read: {e}")))?;
        let keys = read.map_err(|source| SecretsError::Vault { record: "the sealing keys".to_owned(), source })?;
        // With a key that is missing nothing is touched, and those of before stay in use.
        self.each_sealed(|sealed| keys.check(sealed)).await?;
        self.vault.adopt(keys);
        let mut records = 0;
        for prefix in portcullis_store::keys::SEALED {
            for record in scan_all(&*self.store, prefix).await? {
                if self.vault.is_stale(&record.value) && self.seal_again(&record).await? {
                    records += 1;
                }
            }
        }
        let mut ids = self.vault.key_ids().into_iter();
        Ok(Resealed { records, key: ids.next().unwrap_or_default(), unneeded: ids.collect() })
    }

    /// Answers whether it was still there and as it was read.
    async fn seal_again(&self, record: &Record) -> Result<bool, SecretsError> {
        let wrong = |source| SecretsError::Vault { record: record.key.to_string(), source };
        let plain = self.vault.unseal(record.key.as_bytes(), &record.value).map_err(wrong)?;
        let value = self.vault.seal(record.key.as_bytes(), &plain).map_err(wrong)?;
        let expect = Expect::Is(record.revision);
        match self.store.write(vec![Write::Put { key: record.key.to_string(), value, expect }]).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens all sealed secrets. One that does not open is left out and logged: its connection lacks its secrets, the others
    /// work. `known` are those of last time, which are not opened again where they are the same.
    pub(crate) async fn all(
        &self,
        known: &BTreeMap<(Name, Name), Opened>,
    ) -> Result<BTreeMap<(Name, Name), Opened>, StoreError> {
        let mut all = BTreeMap::new();
        for record in scan_all(&*self.store, keys::SECRETS).await? {
            let Some(key) = keys::parse_secret(&record.key) else { continue };
            if let Some(same) = known.get(&key).filter(|k| k.revision == record.revision) {
                all.insert(key, same.clone());
                continue;
            }
            let opened = self.vault.unseal(record.key.as_bytes(), &record.value);
            match opened
                .map_err(|e| e.to_string())
                .and_then(|plain| unpack(&plain).ok_or_else(|| "it is cut off".to_owned()))
            {
                Ok((fields, given_ms)) => {
                    all.insert(key, Opened { revision: record.revision, given_ms, fields: Arc::new(fields) });
                }
                Err(error) => tracing::error!(record = &*record.key, error, "a connection's secrets can't be opened"),
            }
        }
        Ok(all)
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({:?})", self.vault)
    }
}

/// Fields one after another, each as name and value with their lengths (4 bytes, big endian) before them. The one without a
/// name, which no field of a server is, says when they were given: 8 bytes, big endian.
fn pack(fields: &BTreeMap<String, Secret>, given_ms: u64) -> Option<Secret> {
    fn put(bytes: &mut Vec<u8>, part: &[u8]) -> Option<()> {
        bytes.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(part);
        Some(())
    }
    if fields.len() > MAX_FIELDS || fields.contains_key("") {
        return None;
    }
    // Sized exactly, since a buffer that grows would leave copies behind.
    let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 16));
    put(&mut bytes, b"")?;
    put(&mut bytes, &given_ms.to_be_bytes())?;
    for (name, value) in fields {
        if name.len() > 256 || value.len() > MAX_FIELD_BYTES {
            return None;
        }
        put(&mut bytes, name.as_bytes())?;
        put(&mut bytes, value.expose())?;
    }
    Some(Secret::new(bytes.as_slice()))
}

/// Reads [`pack`] back: the fields, and when they were given.
fn unpack(plain: &Secret) -> Option<(BTreeMap<String, Secret>, Option<u64>)> {
    fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, tail) = rest.split_first_chunk::<4>()?;
        let (part, tail) = tail.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        *rest = tail;
        Some(part)
    }
    let mut rest = plain.expose();
    let (mut fields, mut given_ms) = (BTreeMap::new(), None);
    while !rest.is_empty() {
        let name = std::str::from_utf8(part(&mut rest)?).ok()?.to_owned();
        let value = part(&mut rest)?;
        if name.is_empty() {
            given_ms = Some(u64::from_be_bytes(value.try_into().ok()?));
        } else {
            fields.insert(name, Secret::new(value));
        }
    }
    Some((fields, given_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_secrets_were_given_is_sealed_with_them() {
        let fields = BTreeMap::from([("token".to_owned(), Secret::new("hunter2"))]);
        let (again, given_ms) = unpack(&pack(&fields, 7).unwrap()).unwrap();
        assert_eq!((again.len(), again["token"].expose(), given_ms), (1, &b"hunter2"[..], Some(7)));
        // A record of before this was kept, and one that is cut off.
        let old = Secret::new(&b"\0\0\0\x05token\0\0\0\x01x"[..]);
        let (again, given_ms) = unpack(&old).unwrap();
        assert_eq!((again["token"].expose(), given_ms), (&b"x"[..], None));
        assert!(unpack(&Secret::new(&b"\0\0\0\0\0\0\0\x01x"[..])).is_none());
        assert!(pack(&BTreeMap::from([(String::new(), Secret::new("x"))]), 7).is_none());
    }
}
