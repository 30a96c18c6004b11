//! The key that seals session ids and cursors: made once, sealed by the vault, so that sessions survive a restart.

use anyhow::{Context, Result, anyhow};
use portcullis_credential::Vault;
use portcullis_model::Secret;
use portcullis_protocol::seal::Sealer;
use portcullis_store::{Expect, Store, StoreError, Write};

const KEY: &str = "k/session";

/// The sealer of this store's sessions.
///
/// # Errors
/// When the key can be neither read nor made.
pub async fn sealer(store: &dyn Store, vault: &Vault) -> Result<Sealer> {
    // Another process may make it at the same moment: then its key is the one.
    for _ in 0..2 {
        if let Some(record) = store.get(KEY).await.context("the session key can't be read")? {
            let key = vault.unseal(KEY.as_bytes(), &record.value).context("the session key can't be opened")?;
            return Ok(Sealer::new(1, &key)?);
        }
        let mut fresh = vec![0; 32];
        getrandom::fill(&mut fresh).map_err(|e| anyhow!("no randomness: {e}"))?;
        let value = vault.seal(KEY.as_bytes(), &Secret::new(fresh)).context("the session key can't be sealed")?;
        let write = Write::Put { key: KEY.to_owned(), value, expect: Expect::Absent };
        match store.write(vec![write]).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error).context("the session key can't be kept"),
        }
    }
    Err(anyhow!("the session key can't be kept"))
}
