//! Keys of the store's own: made once, sealed by the vault, the same after a restart and for all who share the store. One seals
//! session ids and cursors; one tells this installation's objects in a cluster from others'.

use anyhow::{Context, Result, anyhow};
use portcullis_credential::Vault;
use portcullis_model::Secret;
use portcullis_protocol::seal::Sealer;
use portcullis_store::{Expect, Store, StoreError, Write};
use portcullis_workload::Installation;

const SESSION: &str = "k/session";
const INSTALLATION: &str = "k/installation";

/// The sealer of this store's sessions.
///
/// # Errors
/// When the key can be neither read nor made.
pub async fn sealer(store: &dyn Store, vault: &Vault) -> Result<Sealer> {
    let key = kept(store, vault, SESSION).await.context("the session key")?;
    Ok(Sealer::new(1, &key)?)
}

/// All gateways that share this store, as a cluster knows them.
///
/// # Errors
/// When the key can be neither read nor made.
pub async fn installation(store: &dyn Store, vault: &Vault) -> Result<Installation> {
    Ok(Installation::new(kept(store, vault, INSTALLATION).await.context("the installation's key")?))
}

async fn kept(store: &dyn Store, vault: &Vault, name: &str) -> Result<Secret> {
    // Another process may make it at the same moment: then its key is the one.
    for _ in 0..2 {
        if let Some(record) = store.get(name).await.context("it can't be read")? {
            return vault.unseal(name.as_bytes(), &record.value).context("it can't be opened");
        }
        let mut fresh = vec![0; 32];
        getrandom::fill(&mut fresh).map_err(|e| anyhow!("no randomness: {e}"))?;
        let value = vault.seal(name.as_bytes(), &Secret::new(fresh)).context("it can't be sealed")?;
        let write = Write::Put { key: name.to_owned(), value, expect: Expect::Absent };
        match store.write(vec![write]).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error).context("it can't be kept"),
        }
    }
    Err(anyhow!("it can't be kept"))
}
