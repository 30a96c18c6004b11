//! What a plugin is made of, brought together: the component's bytes, its grants and secrets, and what tells it from others.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use portcullis_model::{
    Name,
    spec::{Grants, Isolation, Limits, SecretGrant, Source},
};
use sha2::{Digest as _, Sha256};

use super::{BuiltIn, Manager, Resource};
use crate::{GrantedSecret, SecretReader, distribution};

/// A component's bytes, and what it is granted where its resource says nothing.
pub(super) struct Fetched {
    pub(super) wasm: Arc<[u8]>,
    pub(super) digest: String,
    pub(super) usual: Option<Grants>,
    /// The name of the key that signed it; none where nobody looked.
    pub(super) key: Option<String>,
}

impl Fetched {
    pub(super) fn new(wasm: Arc<[u8]>, usual: Option<Grants>) -> Self {
        Self { digest: hex(&Sha256::digest(&wasm)), wasm, usual, key: None }
    }
}

impl Manager {
    /// The component of a source, believed.
    ///
    /// # Errors
    /// In words for operators.
    pub(super) async fn fetch(&self, source: &Source, resource: &Resource) -> Result<Fetched, String> {
        let packages = self.packages.as_deref();
        let believed = match source {
            Source::BuiltIn(name) => return built_in(name, &self.built_ins),
            Source::File { path, sha256 } => {
                let base = resource.base.as_deref();
                let full = base.map_or_else(|| PathBuf::from(path), |base| base.join(path));
                let wasm = distribution::read(&full, sha256.as_deref()).await?;
                distribution::from_file(packages, &full, wasm).await?
            }
            Source::Oci(oci) => {
                let secrets = self.services.secrets.as_deref();
                distribution::from_registry(packages, secrets, &resource.tenant, oci).await?
            }
        };
        let key = believed.signer.map(|signer| signer.name.to_string());
        Ok(Fetched { key, ..Fetched::new(believed.wasm, None) })
    }
}

/// A plugin that Portcullis brings.
pub(super) fn built_in(name: &str, built_ins: &HashMap<&'static str, BuiltIn>) -> Result<Fetched, String> {
    let found = built_ins.get(name).ok_or_else(|| {
        let mut known: Vec<_> = built_ins.keys().copied().collect();
        known.sort_unstable();
        format!("there is no plugin \"{name}\"; built in are {}", known.join(", "))
    })?;
    Ok(Fetched::new(Arc::from(found.wasm), Some(found.grants.clone())))
}

/// The secrets that are granted, read.
pub(super) fn granted(
    tenant: &Name,
    grants: &Grants,
    reader: Option<&dyn SecretReader>,
) -> Result<BTreeMap<String, GrantedSecret>, String> {
    let granted = |(name, grant): (&String, &SecretGrant)| {
        let value = reader.ok_or("secrets can't be read here")?.read(tenant, &grant.from)?;
        Ok((name.clone(), GrantedSecret { value, origins: grant.origins.clone() }))
    };
    grants.secrets.iter().map(granted).collect()
}

/// A digest of all that makes a plugin what it is.
pub(super) fn identity(
    component: &str,
    config: &str,
    grants: &Grants,
    secrets: &BTreeMap<String, GrantedSecret>,
    limits: &Limits,
    isolation: Isolation,
) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(component.as_bytes());
    part(config.as_bytes());
    part(&serde_json::to_vec(grants).unwrap_or_default());
    part(&serde_json::to_vec(&(limits, isolation)).unwrap_or_default());
    for (name, secret) in secrets {
        part(name.as_bytes());
        // Exit: only the digest of the digest stays, to notice a rotated secret.
        part(&Sha256::digest(secret.value.expose()));
    }
    hex(&hash.finalize())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
