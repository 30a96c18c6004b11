//! Components as the gateway gets them: from what is kept or from a registry, and only with a signature that counts.
//!
//! Fetching goes on by itself, so that one slow registry holds nobody up for long: whoever asks waits a while once, and is told
//! afterwards that it is still on its way.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use portcullis_model::{
    oci::{Digest, Reference},
    spec::Oci,
};
use portcullis_outbound::Client;
use portcullis_telemetry::Metrics;
use tokio::sync::watch;

use crate::{
    Credentials, PackageError, PackageSettings, Registry, Rules, Signed, Signer, Trust,
    keep::{Kept, Parts},
    patience::Patience,
};

/// The most components that are fetched at once.
const MAX_UNDER_WAY: usize = 16;
/// The most components whose use was told of.
const MAX_TOLD: usize = 1_000;

/// A component whose bytes are those of its digest, and which may be compiled.
#[derive(Clone, Debug)]
pub struct Package {
    /// The component.
    pub component: Arc<[u8]>,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Who signed it; nobody where no signature is needed.
    pub signer: Option<Signer>,
}

type Outcome = Result<Arc<Parts>, PackageError>;

struct UnderWay {
    since: Instant,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// Fetches, believes and keeps components.
pub struct Packages {
    client: Arc<Client>,
    rules: Rules,
    trust: Arc<Trust>,
    kept: Arc<Kept>,
    metrics: Arc<Metrics>,
    patience: Patience,
    max: usize,
    under_way: Mutex<HashMap<String, UnderWay>>,
    told: Mutex<HashSet<String>>,
}

impl std::fmt::Debug for Packages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packages").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl Packages {
    /// Reads the keys and opens the directory, which is made with mode 0700 where it is not there.
    ///
    /// # Errors
    /// In words for operators.
    pub fn open(
        settings: &PackageSettings,
        dir: &Path,
        client: Arc<Client>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, String> {
        let kept = Kept::open(dir, settings.keep.get(), Arc::clone(&metrics));
        Ok(Arc::new(Self {
            client,
            rules: Rules::new(&settings.registries)?,
            trust: Arc::new(Trust::open(settings)?),
            kept: Arc::new(kept.map_err(|e| format!("fetched components: {e}"))?),
            metrics,
            patience: Patience::new(settings.wait.get()),
            max: settings.max_component.as_usize(),
            under_way: Mutex::default(),
            told: Mutex::default(),
        }))
    }

    /// Whether files need a signature beside them.
    pub fn files_are_signed(&self) -> bool {
        self.trust.of_files()
    }

    /// Checks the signature of a file.
    ///
    /// # Errors
    /// [`PackageError`]: there is none, or it does not count.
    pub fn file(&self, path: &Path, bytes: &[u8], signature: Option<&[u8]>) -> Result<Signer, PackageError> {
        let judged = self.trust.file(path, bytes, signature);
        let digest = Digest::of(crate::sha256(bytes));
        self.tell(&digest, &path.display().to_string(), judged.as_ref().map(Some));
        judged
    }

    /// The component that a resource names.
    ///
    /// # Errors
    /// [`PackageError`]. [`PackageError::Pending`] is worth another try.
    pub async fn component(&self, oci: &Oci, credentials: Option<Credentials>) -> Result<Package, PackageError> {
        self.component_by(oci, credentials, false).await
    }

    /// The same for who has all the time in the world: never [`PackageError::Pending`].
    ///
    /// # Errors
    /// [`PackageError`].
    pub async fn component_at_last(
        &self,
        oci: &Oci,
        credentials: Option<Credentials>,
    ) -> Result<Package, PackageError> {
        self.component_by(oci, credentials, true).await
    }

    async fn component_by(
        &self,
        oci: &Oci,
        credentials: Option<Credentials>,
        at_last: bool,
    ) -> Result<Package, PackageError> {
        let reference = Reference::parse(&oci.reference)?;
        let digest = reference.digest().cloned().ok_or_else(|| PackageError::NoDigest(oci.reference.clone()))?;
        let (kept, wanted) = (Arc::clone(&self.kept), digest.clone());
        // A file may be on a slow disk, and hashing takes its time.
        let here = tokio::task::spawn_blocking(move || kept.get(&wanted)).await.ok().flatten();
        if let Some(parts) = &here
            && let Ok(package) = self.judge(&reference, &digest, parts)
        {
            self.tell_kept(&digest);
            return Ok(package);
        }
        // Not here, or signed since by a key that counts.
        let fetched = self.fetched(&reference, &digest, here.clone(), credentials, at_last).await;
        let judged = match fetched {
            Ok(parts) => self.judge(&reference, &digest, &parts),
            Err(PackageError::Pending(since)) => return Err(PackageError::Pending(since)),
            // What is wrong with what is here says more than that the registry is silent.
            Err(error) => Err(match here.map(|parts| self.judge(&reference, &digest, &parts)) {
                Some(Err(why)) => why,
                _ => error,
            }),
        };
        self.metrics.plugin_fetched(if judged.is_ok() { "fetched" } else { "failed" });
        self.tell(&digest, &reference.place(), judged.as_ref().map(|p| p.signer.as_ref()));
        judged
    }

    fn judge(&self, reference: &Reference, digest: &Digest, parts: &Parts) -> Result<Package, PackageError> {
        let signer = judge(&self.trust, reference, digest, &parts.manifest, &parts.signatures)?;
        Ok(Package { component: Arc::clone(&parts.component), digest: digest.clone(), signer })
    }

    async fn fetched(
        &self,
        reference: &Reference,
        digest: &Digest,
        here: Option<Parts>,
        credentials: Option<Credentials>,
        at_last: bool,
    ) -> Outcome {
        let key = format!("{}@{digest}", reference.place());
        let (since, mut outcome, joined) = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            // What nobody asked for again must not keep others out.
            under_way.retain(|other, fetch| *other == key || fetch.outcome.borrow().is_none());
            match under_way.get(&key) {
                Some(found) => (found.since, found.outcome.clone(), true),
                None if under_way.len() >= MAX_UNDER_WAY => return Err(PackageError::Busy),
                None => {
                    let (sender, outcome) = watch::channel(None);
                    let registry = Registry::new(Arc::clone(&self.client), &self.rules, reference, credentials)?;
                    let work = Work {
                        reference: reference.at(digest.clone()),
                        digest: digest.clone(),
                        trust: Arc::clone(&self.trust),
                        kept: Arc::clone(&self.kept),
                        max: self.max,
                    };
                    tokio::spawn(async move {
                        let done = work.run(registry, here).await;
                        let _ = sender.send(Some(done));
                    });
                    let since = Instant::now();
                    under_way.insert(key.clone(), UnderWay { since, outcome: outcome.clone() });
                    (since, outcome, false)
                }
            }
        };
        let ends = outcome.wait_for(Option::is_some);
        let waited = if at_last {
            Ok(ends.await)
        } else {
            let (patience, began) = (if joined { Duration::ZERO } else { self.patience.left() }, Instant::now());
            let waited = tokio::time::timeout(patience, ends).await;
            self.patience.spend(began.elapsed());
            waited
        };
        let done = match waited {
            Ok(Ok(done)) => done.clone(),
            // Whoever fetched it is gone without a word: it panicked.
            Ok(Err(_)) => Some(Err(PackageError::Layout("fetching it failed".to_owned()))),
            Err(_) => return Err(PackageError::Pending(since.elapsed())),
        };
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        done.unwrap_or(Err(PackageError::Busy))
    }

    /// Counts what was kept, once for each component.
    fn tell_kept(&self, digest: &Digest) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MAX_TOLD && told.insert(digest.to_string()) {
            self.metrics.plugin_fetched("kept");
            if self.trust.of_registries() {
                self.metrics.plugin_signature("verified");
            }
        }
    }

    /// Counts a verdict; a good one once for each component, with a line in the log: who signed what runs.
    fn tell(&self, digest: &Digest, what: &str, judged: Result<Option<&Signer>, &PackageError>) {
        match judged {
            Err(error) => {
                if let Some(word) = error.signature() {
                    self.metrics.plugin_signature(word);
                }
            }
            Ok(signer) => {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.len() < MAX_TOLD && told.insert(digest.to_string()) {
                    let key = signer.map_or("none", |s| &*s.name);
                    let fingerprint = signer.map_or("", |s| &*s.fingerprint);
                    tracing::info!(what, %digest, key, fingerprint, "a component was fetched and may be compiled");
                    self.metrics.plugin_signature("verified");
                }
            }
        }
    }
}

fn judge(
    trust: &Trust,
    reference: &Reference,
    digest: &Digest,
    manifest: &[u8],
    signatures: &[Signed],
) -> Result<Option<Signer>, PackageError> {
    if trust.of_registries() { trust.manifest(reference, digest, manifest, signatures).map(Some) } else { Ok(None) }
}

/// What is fetched, apart from who waits for it.
struct Work {
    reference: Reference,
    digest: Digest,
    trust: Arc<Trust>,
    kept: Arc<Kept>,
    max: usize,
}

impl Work {
    /// The manifest and its signatures first: nothing large is fetched, and nothing kept, that does not count.
    async fn run(self, mut registry: Registry, here: Option<Parts>) -> Outcome {
        let manifest = match &here {
            Some(parts) => parts.manifest.clone(),
            None => registry.manifest(&self.reference).await?.1,
        };
        let signatures = if self.trust.of_registries() { registry.signatures(&self.digest).await? } else { Vec::new() };
        judge(&self.trust, &self.reference, &self.digest, &manifest, &signatures)?;
        let component = match here {
            Some(parts) => parts.component,
            None => registry.component(&manifest, self.max).await?.into(),
        };
        let parts = Arc::new(Parts { manifest, component, signatures });
        let (kept, digest, keep) = (self.kept, self.digest, Arc::clone(&parts));
        let _ = tokio::task::spawn_blocking(move || kept.put(&digest, &keep)).await;
        Ok(parts)
    }
}
