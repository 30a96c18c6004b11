//! The layout on disk, reading it, and finding out on opening whether it is whole.
//!
//! One sled tree, so that one `apply_batch` is atomic: `d` + key holds revision (8 bytes, big endian) and value; `l` +
//! revision + position (4 bytes) holds a change (one byte: 1 put, 0 deleted; then the key); `m` + name holds facts about the
//! whole. Beside it lies the file `head` with the last acknowledged revision: sled repairs a damaged log by forgetting its
//! end, and only a witness outside can tell that from a store that never had it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use sled::IVec;

use crate::{Change, Record, Revision, SledOptions, StoreError, watch::Log};

/// The layout described above.
const FORMAT: &[u8] = b"portcullis-store 1";
const META_FORMAT: &[u8] = b"mformat";
/// Revision and number of records.
pub(super) const META_HEAD: &[u8] = b"mhead";

/// An open store, for reading and for the one writer.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) tree: sled::Tree,
    pub(super) log: Arc<Log>,
    db: sled::Db,
    directory: PathBuf,
    witness: File,
    /// Records that there were when it was opened; the writer counts on from there.
    pub(super) records: u64,
}

/// The key of a record in the tree.
pub(super) fn data_key(key: &str) -> Vec<u8> {
    [b"d", key.as_bytes()].concat()
}

/// The key of a change in the tree.
pub(super) fn log_key(revision: Revision, position: u32) -> [u8; 13] {
    let mut key = [b'l'; 13];
    key[1..9].copy_from_slice(&revision.0.to_be_bytes());
    key[9..].copy_from_slice(&position.to_be_bytes());
    key
}

/// A record as the tree holds it.
pub(super) fn data_value(revision: Revision, value: &[u8]) -> Vec<u8> {
    [&revision.0.to_be_bytes(), value].concat()
}

/// The head as the tree holds it.
pub(super) fn head_value(revision: Revision, records: u64) -> Vec<u8> {
    [revision.0.to_be_bytes(), records.to_be_bytes()].concat()
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// An error of sled, sorted.
pub(super) fn sort(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(e) if e.kind() == io::ErrorKind::StorageFull => StoreError::NoSpace,
        sled::Error::Io(e) if e.to_string().contains("could not acquire lock") => StoreError::Locked,
        sled::Error::Corruption { .. } => StoreError::Corrupt("a checksum does not match".to_owned()),
        other => StoreError::Unavailable(other.to_string()),
    }
}

impl Disk {
    pub(super) fn open(directory: &Path, options: &SledOptions) -> Result<Self, StoreError> {
        let at = |e: io::Error| StoreError::Unavailable(format!("{}: {e}", directory.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let db = open_patiently(directory, options)?;
        let whole = |e: StoreError| match e {
            StoreError::Corrupt(what) => corrupt(directory, &what),
            other => other,
        };
        let tree = db.open_tree("records").map_err(|e| whole(sort(e)))?;
        let (revision, records, changes, floor) = read_all(&tree).map_err(whole)?;
        let witness = open_witness(&directory.join("head")).map_err(at)?;
        if let Some(acknowledged) = read_witness(&witness).map_err(at)?
            && acknowledged > revision
        {
            return Err(corrupt(
                directory,
                &format!("revision {acknowledged} was acknowledged, but the data ends at revision {revision}"),
            ));
        }
        let log = Log::new(floor, revision, changes);
        Ok(Self { tree, log, db, directory: directory.to_owned(), witness, records })
    }

    /// Makes everything that was applied durable.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(sort)?;
        Ok(())
    }

    /// Notes what is about to be acknowledged. Not flushed: it guards against damaged files, not against a loss of power, and
    /// a witness that lags behind accuses nobody.
    pub(super) fn witness(&self, revision: Revision) {
        let line = [revision.0.to_be_bytes(), (!revision.0).to_be_bytes()].concat();
        if let Err(error) = self.witness.write_all_at(&line, 0) {
            tracing::warn!(%error, "the store's head could not be noted");
        }
    }

    /// Free bytes of the file system, for whoever is not root.
    pub(super) fn free(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(&self.directory)
            .map_err(|e| StoreError::Unavailable(format!("free space can't be read: {e}")))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        let Some(value) = self.tree.get(data_key(key)).map_err(sort)? else {
            return Ok(None);
        };
        record(key, &value).map(Some)
    }

    pub(super) fn revision_of(&self, key: &str) -> Result<Option<Revision>, StoreError> {
        let Some(value) = self.tree.get(data_key(key)).map_err(sort)? else {
            return Ok(None);
        };
        let revision = number(&value, 0).ok_or_else(|| StoreError::Corrupt(format!("the record {key} is cut off")))?;
        Ok(Some(Revision(revision)))
    }

    pub(super) fn scan(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Record>, StoreError> {
        let prefix = data_key(prefix);
        let start = match after.map(data_key) {
            // The first key that sorts after another is that one with a zero behind it.
            Some(mut after) if after >= prefix => {
                after.push(0);
                after
            }
            _ => prefix.clone(),
        };
        let mut found = Vec::new();
        for entry in self.tree.range(start..) {
            let (key, value) = entry.map_err(sort)?;
            if found.len() == limit || !key.starts_with(&prefix) {
                break;
            }
            found.push(record(text(&key[1..])?, &value)?);
        }
        Ok(found)
    }
}

fn text(bytes: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(bytes).map_err(|_| StoreError::Corrupt("a key is no text".to_owned()))
}

fn record(key: &str, value: &IVec) -> Result<Record, StoreError> {
    let revision = number(value, 0).ok_or_else(|| StoreError::Corrupt(format!("the record {key} is cut off")))?;
    Ok(Record { key: key.into(), value: Bytes::copy_from_slice(&value[8..]), revision: Revision(revision) })
}

fn corrupt(directory: &Path, what: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "{what}. Nothing in {} was changed; put a backup in its place, or move it away to begin with an empty one",
        directory.display()
    ))
}

/// Opens sled, waiting while another process holds its lock. sled panics over some damaged files.
fn open_patiently(directory: &Path, options: &SledOptions) -> Result<sled::Db, StoreError> {
    let config = sled::Config::new()
        .path(directory.join("sled"))
        .cache_capacity(options.cache)
        // The writer flushes; a second flusher would only take its time.
        .flush_every_ms(None);
    let deadline = Instant::now() + options.lock_patience;
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| corrupt(directory, "it can't be read"))?
            .map_err(sort);
        match opened {
            Err(StoreError::Locked) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Err(StoreError::Corrupt(what)) => return Err(corrupt(directory, &what)),
            other => return other,
        }
    }
}

/// Reads everything once: a store that is damaged shall say so now, not when a record is wanted.
#[allow(clippy::type_complexity, reason = "used once, named where it is taken apart")]
fn read_all(tree: &sled::Tree) -> Result<(Revision, u64, Vec<Change>, Revision), StoreError> {
    let wrong = |what: &str| Err(StoreError::Corrupt(what.to_owned()));
    match tree.get(META_FORMAT).map_err(sort)? {
        Some(format) if format == FORMAT => {}
        Some(_) => return wrong("it was written by another version of Portcullis"),
        None if tree.is_empty() => {
            tree.insert(META_FORMAT, FORMAT).map_err(sort)?;
            tree.flush().map_err(sort)?;
        }
        None => return wrong("its format is not noted"),
    }
    let (head, expected) = match tree.get(META_HEAD).map_err(sort)? {
        None => (Revision(0), 0),
        Some(value) => match (number(&value, 0), number(&value, 8)) {
            (Some(revision), Some(records)) => (Revision(revision), records),
            _ => return wrong("its head is cut off"),
        },
    };
    let mut records = 0;
    for entry in tree.scan_prefix(b"d") {
        let (key, value) = entry.map_err(sort)?;
        let record = record(text(&key[1..])?, &value)?;
        if record.revision > head {
            return wrong("a record is younger than the store");
        }
        records += 1;
    }
    if records != expected {
        return wrong(&format!("it should hold {expected} records, and holds {records}"));
    }
    let (changes, floor) = read_log(tree, head)?;
    Ok((head, records, changes, floor))
}

/// The change log, without changes that a later one of the same key overtook: their values are gone.
fn read_log(tree: &sled::Tree, head: Revision) -> Result<(Vec<Change>, Revision), StoreError> {
    let mut changes = Vec::new();
    let mut floor = None;
    for entry in tree.scan_prefix(b"l") {
        let (at, what) = entry.map_err(sort)?;
        let cut_off = || StoreError::Corrupt("the change log is cut off".to_owned());
        let revision = Revision(number(&at, 1).ok_or_else(cut_off)?);
        floor.get_or_insert(Revision(revision.0.saturating_sub(1)));
        let (op, key) = what.split_first().ok_or_else(cut_off)?;
        let key = text(key)?;
        let now = tree.get(data_key(key)).map_err(sort)?.map(|value| record(key, &value)).transpose()?;
        match (op, now) {
            (1, Some(record)) if record.revision == revision => changes.push(Change::Put(record)),
            (0, None) => changes.push(Change::Deleted { key: key.into(), revision }),
            _ => {}
        }
    }
    Ok((changes, floor.unwrap_or(head)))
}

fn open_witness(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn read_witness(file: &File) -> io::Result<Option<Revision>> {
    let mut line = Vec::new();
    file.take(16).read_to_end(&mut line)?;
    // A line that is torn or not there yet says nothing.
    Ok(match (number(&line, 0), number(&line, 8)) {
        (Some(revision), Some(check)) if check == !revision => Some(Revision(revision)),
        _ => None,
    })
}
