//! Which files there are, and what is in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::documents::MAX_FILE;

/// The most files of all paths together.
pub(super) const MAX_FILES: usize = 10_000;
/// How deep directories are followed; links could go round in circles.
const MAX_DEPTH: usize = 8;

/// What was found on disk.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Bytes of each file, or why it can't be read.
    pub(super) files: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
    /// Configured paths and directories that can't be read, with the reason: nothing is deleted because of them.
    pub(super) blind: BTreeMap<PathBuf, String>,
    /// Directories to watch.
    pub(super) directories: BTreeSet<PathBuf>,
}

pub(super) fn scan(paths: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for path in paths {
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => directory(path, 0, &mut found),
            Ok(_) => {
                // The directory is watched, not the file: editors put a new file in the old one's place.
                if let Some(parent) = path.parent() {
                    found.directories.insert(or_here(parent));
                }
                found.files.insert(path.clone(), bytes(path));
            }
            // A file that was named and is gone has disappeared; a directory that is gone may be unmounted.
            Err(error) if error.kind() == io::ErrorKind::NotFound && is_document(path) => {
                if let Some(parent) = path.parent().map(or_here).filter(|p| p.is_dir()) {
                    found.directories.insert(parent);
                } else {
                    found.blind.insert(path.clone(), error.to_string());
                }
            }
            Err(error) => {
                found.blind.insert(path.clone(), error.to_string());
            }
        }
    }
    found
}

fn or_here(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }
}

/// Whether a name is one of those that are read.
fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}

fn directory(path: &Path, depth: usize, found: &mut Found) {
    found.directories.insert(path.to_owned());
    let entries = match fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) => {
            found.blind.insert(path.to_owned(), error.to_string());
            return;
        }
    };
    for entry in entries {
        let name = entry.file_name();
        // `..data` and `..2026_11_21` are how Kubernetes swaps a ConfigMap; the links beside them are what is meant.
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                if depth < MAX_DEPTH {
                    directory(&path, depth + 1, found);
                }
            }
            Ok(_) if is_document(&path) => {
                if found.files.len() >= MAX_FILES {
                    found.blind.insert(path, format!("there are more than {MAX_FILES} files"));
                    return;
                }
                let bytes = bytes(&path);
                found.files.insert(path, bytes);
            }
            Ok(_) => {}
            Err(error) if is_document(&path) => {
                found.files.insert(path, Err(format!("can't be read: {error}")));
            }
            Err(_) => {}
        }
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let file = fs::File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|e| format!("can't be read: {e}"))
}

/// What tells whether a file changed without reading it: identity, size and time. A link is followed, so that a swapped one
/// is seen.
pub(super) fn stamp(path: &Path) -> Option<(u64, u64, u64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
    ))
}

/// Which directory a name means just now.
pub(super) type Identity = Option<(u64, u64)>;

pub(super) fn identity(path: &Path) -> Identity {
    stamp(path).map(|(device, inode, ..)| (device, inode))
}
