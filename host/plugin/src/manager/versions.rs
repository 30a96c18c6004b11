//! Versions of plugins that were active, so that an operator can go back at once: which they were, and their bytes.
//!
//! A version is a component and the configuration of its resource. What it may do is never kept: a version that is gone back to
//! gets the grants of today. In a directory of the service's own (mode 0700): `lives.json`, and each component by its digest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_model::spec::Plugin as Spec;
use portcullis_package::MAX_COMPONENT;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::fetch::hex;

/// How many earlier versions of a plugin are kept.
pub const KEPT: usize = 3;

/// A version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Version {
    /// SHA-256 of its component, in hex.
    pub(super) digest: String,
    /// The configuration of its resource, as JSON text.
    pub(super) config: String,
}

/// A version that an operator went back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pin {
    pub(super) version: Version,
    /// What the resource said of source and configuration then; another one ends the pin.
    spec: String,
}

/// The versions of one plugin.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Life {
    pub(super) active: Option<Version>,
    /// Those before it, the newest first.
    pub(super) previous: Vec<Version>,
    pub(super) pin: Option<Pin>,
}

impl Life {
    /// Goes back to the version before the active one, until `resume` or until the resource says something else.
    pub(super) fn roll_back(&mut self, spec: &Spec) -> Option<Version> {
        let at = self.previous.iter().position(|earlier| Some(earlier) != self.active.as_ref())?;
        // The one that is left behind is not one to go back to, and neither are those that were left behind before.
        let version = self.previous.drain(..=at).next_back()?;
        self.pin = Some(Pin { version: version.clone(), spec: said(spec) });
        Some(version)
    }

    /// The version that is to serve in place of what the resource says. Ends the pin where the resource says something else.
    pub(super) fn pinned(&mut self, spec: &Spec) -> Option<&Version> {
        let now = said(spec);
        self.pin = self.pin.take().filter(|pin| pin.spec == now);
        self.pin.as_ref().map(|pin| &pin.version)
    }

    /// Another version is active now.
    pub(super) fn activated(&mut self, version: &Version) {
        if self.active.as_ref() == Some(version) {
            return;
        }
        let before = self.active.replace(version.clone());
        self.previous.retain(|earlier| earlier != version);
        // Who goes back does not want what is left behind.
        if let Some(before) = before.filter(|_| self.pin.is_none()) {
            self.previous.retain(|earlier| *earlier != before);
            self.previous.insert(0, before);
        }
        self.previous.truncate(KEPT);
    }

    fn versions(&self) -> impl Iterator<Item = &Version> {
        self.active.iter().chain(&self.previous).chain(self.pin.iter().map(|pin| &pin.version))
    }
}

/// What of a resource a version is made of.
fn said(spec: &Spec) -> String {
    let text = serde_json::to_vec(&(&spec.source, &spec.config)).unwrap_or_default();
    hex(&Sha256::digest(text))
}

/// The versions of all plugins, by tenant and name.
pub(super) struct Versions {
    dir: Option<PathBuf>,
    pub(super) lives: BTreeMap<String, Life>,
    /// Where there is no directory.
    bytes: HashMap<String, Arc<[u8]>>,
    written: String,
}

impl Versions {
    /// What was kept. What can't be read is told, and forgotten.
    pub(super) fn open(dir: Option<PathBuf>) -> Self {
        let mut versions = Self { dir, lives: BTreeMap::new(), bytes: HashMap::new(), written: String::new() };
        let Some(dir) = &versions.dir else { return versions };
        match private(dir).and_then(|()| read(&dir.join("lives.json"))) {
            Ok(Some(text)) => match serde_json::from_slice(&text) {
                Ok(lives) => versions.lives = lives,
                Err(error) => tracing::warn!(%error, dir = %dir.display(), "earlier versions of plugins can't be read"),
            },
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, dir = %dir.display(), "versions of plugins are kept in memory only");
                versions.dir = None;
            }
        }
        versions
    }

    /// Keeps the component of a version.
    pub(super) fn keep(&mut self, digest: &str, wasm: &Arc<[u8]>) {
        let Some(dir) = &self.dir else {
            self.bytes.insert(digest.to_owned(), Arc::clone(wasm));
            return;
        };
        let path = dir.join(format!("{digest}.wasm"));
        if !path.exists()
            && let Err(error) = write(dir, &path, wasm)
        {
            tracing::warn!(%error, path = %path.display(), "a version of a plugin can't be kept: nobody can go back to it");
        }
    }

    /// The component of a version.
    ///
    /// # Errors
    /// In words for operators, where it is gone or changed.
    pub(super) fn component(&self, digest: &str) -> Result<Arc<[u8]>, String> {
        let gone = || format!("the component {digest} of an earlier version is not kept any more");
        let Some(dir) = &self.dir else { return self.bytes.get(digest).cloned().ok_or_else(gone) };
        let bytes = read(&dir.join(format!("{digest}.wasm"))).ok().flatten().ok_or_else(gone)?;
        if hex(&Sha256::digest(&bytes)) != digest {
            return Err(format!("the component {digest} of an earlier version was changed on disk"));
        }
        Ok(Arc::from(bytes))
    }

    /// Writes down what changed, and lets go of components that belong to no version. `current` are plugins that there are.
    pub(super) fn save(&mut self, current: &BTreeSet<String>) {
        self.lives.retain(|name, _| current.contains(name));
        let wanted: BTreeSet<&str> = self.lives.values().flat_map(Life::versions).map(|v| v.digest.as_str()).collect();
        self.bytes.retain(|digest, _| wanted.contains(digest.as_str()));
        let Some(dir) = &self.dir else { return };
        let text = serde_json::to_string_pretty(&self.lives).unwrap_or_default();
        if text == self.written {
            return;
        }
        match write(dir, &dir.join("lives.json"), text.as_bytes()) {
            Ok(()) => self.written = text,
            Err(error) => tracing::warn!(%error, dir = %dir.display(), "versions of plugins can't be written down"),
        }
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let digest = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|e| e == "wasm") && !wanted.contains(digest) {
                // Next time, where it does not go now.
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Ours alone, or made so.
fn private(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let meta = fs::symlink_metadata(dir)?;
    let ours = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o077 == 0;
    if ours { Ok(()) } else { Err(io::Error::new(io::ErrorKind::PermissionDenied, "it must be ours with mode 0700")) }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_COMPONENT as u64 => Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large")),
        Ok(_) => fs::read(path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, and on disk before it counts.
fn write(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{}.{:x}", std::process::id(), getrandom::u64().unwrap_or(0)));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn version(n: u8) -> Version {
        Version { digest: hex(&[n; 32]), config: "{}".into() }
    }

    fn spec(path: &str) -> Spec {
        serde_json::from_value(json!({"source": {"file": {"path": path}}})).unwrap()
    }

    #[test]
    fn going_back_goes_further_back_each_time() {
        let mut life = Life::default();
        for n in 1..=6 {
            life.activated(&version(n));
        }
        assert_eq!(life.previous, [5, 4, 3].map(version), "and no more are kept");
        for n in [5, 4, 3] {
            let back = life.roll_back(&spec("a")).unwrap();
            assert_eq!(back, version(n));
            assert_eq!(life.pinned(&spec("a")), Some(&version(n)));
            life.activated(&back);
        }
        assert_eq!(life.roll_back(&spec("a")), None);
    }

    #[test]
    fn a_pin_holds_until_the_resource_says_another_version() {
        let mut life = Life::default();
        life.activated(&version(1));
        life.activated(&version(2));
        let back = life.roll_back(&spec("a")).unwrap();
        life.activated(&back);
        let mut other = spec("a");
        other.on_error = portcullis_model::spec::Failure::Allow;
        assert!(life.pinned(&other).is_some(), "what happens on errors is no version");
        assert!(life.pinned(&spec("b")).is_none());
        assert!(life.pinned(&spec("a")).is_none(), "and it does not come again");
        life.activated(&version(2));
        assert_eq!(life.previous, [version(1)], "forward again: the one before is there to go back to");
    }

    #[test]
    fn versions_survive_a_restart_and_changed_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("versions");
        let wasm: Arc<[u8]> = Arc::from(&b"component"[..]);
        let digest = hex(&Sha256::digest(&wasm));
        let mut versions = Versions::open(Some(place.clone()));
        versions.keep(&digest, &wasm);
        versions.keep(&hex(&[9; 32]), &wasm);
        let life = versions.lives.entry("default/p".into()).or_default();
        life.activated(&Version { digest: digest.clone(), config: "{}".into() });
        versions.save(&BTreeSet::from(["default/p".to_owned()]));

        let versions = Versions::open(Some(place.clone()));
        assert_eq!(versions.lives["default/p"].active.as_ref().unwrap().digest, digest);
        assert_eq!(versions.component(&digest).unwrap(), wasm);
        assert!(versions.component(&hex(&[9; 32])).is_err(), "what belongs to no version is not kept");
        fs::write(place.join(format!("{digest}.wasm")), "another").unwrap();
        assert!(versions.component(&digest).unwrap_err().contains("changed on disk"));
    }
}
