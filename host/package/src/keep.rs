//! What was fetched once, so that the next start needs no registry: a directory for each manifest, named by its digest.
//!
//! What is read is hashed again, so bytes that changed on the disk are as good as absent. Signatures are judged at each use, by the
//! keys that are trusted then.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use portcullis_model::oci::Digest;
use portcullis_telemetry::Metrics;

use crate::{MAX_COMPONENT, MAX_SIGNATURES, Signed, dirs::private_dir, layout, sha256, signature::MAX_PAYLOAD};

const MANIFEST: &str = "manifest.json";
const COMPONENT: &str = "component.wasm";
const SIGNATURES: &str = "signatures.json";

/// A component with all that says what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// The manifest's bytes.
    pub(crate) manifest: Vec<u8>,
    /// The component.
    pub(crate) component: Arc<[u8]>,
    /// Signatures that the registry had, good or not.
    pub(crate) signatures: Vec<Signed>,
}

/// The directory.
pub(crate) struct Kept {
    dir: PathBuf,
    max: u64,
    metrics: Arc<Metrics>,
}

impl Kept {
    /// Opens it, or makes it with mode 0700.
    pub(crate) fn open(dir: &Path, max: u64, metrics: Arc<Metrics>) -> io::Result<Self> {
        private_dir(dir)?;
        let kept = Self { dir: dir.to_owned(), max, metrics };
        kept.tidy(None);
        Ok(kept)
    }

    /// What is kept under a digest, if it is still what the digest says.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Parts> {
        let dir = self.dir.join(digest.hex());
        let parts = read(&dir, digest);
        if parts.is_none() && dir.exists() {
            tracing::warn!(%digest, "a kept component is not what its digest says; it is fetched again");
            let _ = fs::remove_dir_all(&dir);
        }
        if parts.is_some()
            && let Ok(file) = fs::File::open(dir.join(MANIFEST))
        {
            // What is used last is given up last.
            let _ = file.set_modified(SystemTime::now());
        }
        parts
    }

    /// Keeps it. What can't be kept is fetched again at the next start, nothing else.
    pub(crate) fn put(&self, digest: &Digest, parts: &Parts) {
        let random = getrandom::u64().unwrap_or(0);
        let aside = self.dir.join(format!(".{}.{}.{random:x}", digest.hex(), std::process::id()));
        let place = self.dir.join(digest.hex());
        let written = write(&aside, parts).and_then(|()| {
            // A directory takes another one's place only where that one is empty.
            let _ = fs::remove_dir_all(&place);
            fs::rename(&aside, &place)
        });
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&aside);
            tracing::warn!(dir = %self.dir.display(), %error, "a fetched component could not be kept; the next start needs its registry");
        }
        self.tidy(Some(digest));
    }

    /// Gives up what was used longest ago, until the rest is within the bound; and what a killed process left behind.
    fn tidy(&self, but: Option<&Digest>) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let mut all: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") && but.is_none() {
                let _ = fs::remove_dir_all(&path);
                continue;
            }
            let size = fs::read_dir(&path)
                .map_or(0, |files| files.flatten().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum());
            let used = fs::metadata(path.join(MANIFEST)).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            all.push((used, size, path));
        }
        all.sort();
        let mut total: u64 = all.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in &all {
            if total <= self.max {
                break;
            }
            if but.is_some_and(|digest| path.ends_with(digest.hex())) {
                continue;
            }
            if fs::remove_dir_all(path).is_ok() {
                tracing::info!(path = %path.display(), "a kept component was given up: more are kept than `plugins.keep` allows");
                total -= size;
            }
        }
        self.metrics.plugin_disk("components", total);
    }
}

fn read(dir: &Path, digest: &Digest) -> Option<Parts> {
    let bounded = |name: &str, max: usize| {
        let mut bytes = Vec::new();
        let file = OpenOptions::new().read(true).custom_flags(nofollow()).open(dir.join(name)).ok()?;
        file.take(max as u64 + 1).read_to_end(&mut bytes).ok()?;
        (bytes.len() <= max).then_some(bytes)
    };
    let manifest = bounded(MANIFEST, layout::MAX_MANIFEST)?;
    if Digest::of(sha256(&manifest)) != *digest {
        return None;
    }
    let (wanted, size) = layout::component(&manifest).ok()?.bounded("the component", MAX_COMPONENT).ok()?;
    let component = bounded(COMPONENT, size)?;
    if Digest::of(sha256(&component)) != wanted {
        return None;
    }
    let signatures = bounded(SIGNATURES, 2 * MAX_SIGNATURES * MAX_PAYLOAD)?;
    let signatures = serde_json::from_slice(&signatures).ok()?;
    Some(Parts { manifest, component: component.into(), signatures })
}

fn nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

fn write(dir: &Path, parts: &Parts) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    let file = |name: &str, bytes: &[u8]| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    file(COMPONENT, &parts.component)?;
    file(SIGNATURES, &serde_json::to_vec(&parts.signatures)?)?;
    file(MANIFEST, &parts.manifest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::layout::Artifact;

    /// A component that differs by its note.
    fn parts(note: u8) -> (Digest, Parts) {
        let component = [&b"\0asm\x0d\0\x01\0\0\x03\x01n"[..], &[note]].concat();
        let artifact = Artifact::of(&component, BTreeMap::new()).unwrap();
        (artifact.digest(), Parts { manifest: artifact.manifest, component: component.into(), signatures: Vec::new() })
    }

    fn open(dir: &Path, max: u64) -> Kept {
        Kept::open(dir, max, Metrics::new()).unwrap()
    }

    #[test]
    fn what_was_kept_is_there_until_somebody_alters_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("kept");
        let (digest, wanted) = parts(1);
        open(&dir, 1 << 20).put(&digest, &wanted);
        assert_eq!(open(&dir, 1 << 20).get(&digest), Some(wanted.clone()));
        for file in [COMPONENT, MANIFEST, SIGNATURES] {
            let kept = open(&dir, 1 << 20);
            kept.put(&digest, &wanted);
            let path = dir.join(digest.hex()).join(file);
            let mut bytes = fs::read(&path).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert_eq!(kept.get(&digest), None, "{file}");
            assert!(!dir.join(digest.hex()).exists());
        }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("kept");
        let all: Vec<_> = (1..=3).map(parts).collect();
        let one: u64 = all[0].1.manifest.len() as u64 + all[0].1.component.len() as u64 + 2;
        let kept = open(&dir, 2 * one);
        kept.put(&all[0].0, &all[0].1);
        kept.put(&all[1].0, &all[1].1);
        let old = SystemTime::UNIX_EPOCH;
        fs::File::open(dir.join(all[1].0.hex()).join(MANIFEST)).unwrap().set_modified(old).unwrap();
        kept.put(&all[2].0, &all[2].1);
        assert!(kept.get(&all[0].0).is_some() && kept.get(&all[2].0).is_some());
        assert_eq!(kept.get(&all[1].0), None);
    }
}
