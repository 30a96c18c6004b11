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

use super::{
    BuiltIn, Manager, Resource, Stage,
    works::{Progress, Wait},
};
use crate::{
    GrantedSecret, SecretReader,
    distribution::{self, Believed},
};

/// A component's bytes, and what it is granted where its resource says nothing.
#[derive(Clone)]
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

/// Why there is no component, or no plugin.
#[derive(Clone, Debug)]
pub(super) enum Unready {
    /// In words for operators.
    Failed(String),
    /// Not yet.
    UnderWay(Stage),
}

impl Unready {
    /// In words for operators.
    pub(super) fn words(&self) -> &str {
        match self {
            Self::Failed(problem) => problem,
            Self::UnderWay(stage) => stage.words(),
        }
    }

    pub(super) fn under_way(&self) -> Option<Stage> {
        match self {
            Self::Failed(_) => None,
            Self::UnderWay(stage) => Some(*stage),
        }
    }
}

impl From<String> for Unready {
    fn from(problem: String) -> Self {
        Self::Failed(problem)
    }
}

impl Manager {
    /// The component of a source, believed.
    ///
    /// # Errors
    /// Why there is none, or none yet.
    pub(super) async fn fetch(&self, source: &Source, resource: &Resource, wait: &Wait) -> Result<Fetched, Unready> {
        let packages = self.packages.clone();
        let key = || {
            let source = serde_json::to_string(source).unwrap_or_default();
            format!("{}/{}/{:?}/{source}", resource.tenant, resource.name, resource.base)
        };
        let progress = match source {
            Source::BuiltIn(name) => return Ok(built_in(name, &self.built_ins)?),
            Source::File { path, sha256 } => {
                let base = resource.base.as_deref();
                let full = base.map_or_else(|| PathBuf::from(path), |base| base.join(path));
                let (sha256, max) = (sha256.clone(), self.host.max_component);
                let read = || async move {
                    let wasm = distribution::read(&full, sha256.as_deref(), max).await?;
                    fetched(distribution::from_file(packages.as_deref(), &full, wasm).await?).await
                };
                let progress = self.fetches.get(&key(), wait, read).await;
                if matches!(progress, Progress::Done { late: true, .. }) {
                    // It was read a while ago, and may be another one by now.
                    self.told.send_modify(|told| *told += 1);
                }
                progress
            }
            Source::Oci(oci) => {
                let credentials = distribution::credentials(self.services.secrets.as_deref(), &resource.tenant, oci)?;
                let oci = oci.clone();
                let get = || async move {
                    fetched(distribution::from_registry(packages.as_deref(), credentials, &oci).await?).await
                };
                self.fetches.get(&key(), wait, get).await
            }
        };
        match progress {
            Progress::Done { value, .. } => Ok(value?),
            Progress::UnderWay => Err(Unready::UnderWay(Stage::Fetching)),
            Progress::Lost => Err(Unready::Failed("fetching it ended without a word".to_owned())),
        }
    }
}

/// What was fetched, with its digest; hashing many megabytes takes its time.
async fn fetched(believed: Believed) -> Result<Fetched, String> {
    let key = believed.signer.map(|signer| signer.name.to_string());
    let hashed = tokio::task::spawn_blocking(move || Fetched::new(believed.wasm, None));
    hashed.await.map(|fetched| Fetched { key, ..fetched }).map_err(|e| e.to_string())
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
