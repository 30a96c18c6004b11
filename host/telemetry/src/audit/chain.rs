//! The form of a record, and the check that a chain of them is whole.
//!
//! A line is `{"seq":N,"time":"..","prev":"HASH","event":{..},"hash":"HASH"}`, or has `"gap":{..}` in place of the event. A
//! hash is the SHA-256, in hexadecimal, of all bytes of the line before `,"hash"`; `prev` is the hash of the line before.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{AuditEvent, clock};

/// What stands before the hash.
const HASH_KEY: &str = ",\"hash\":\"";
/// `,"hash":"`, 64 digits, `"}`.
const TAIL: usize = HASH_KEY.len() + 64 + 2;
/// The longest line that a reader takes in.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// The end of a chain: what the next record builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    pub(crate) hash: String,
}

impl Head {
    /// Where nothing has been recorded yet.
    pub(crate) fn start() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}

/// Records that are missing, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Gap {
    /// How many; nothing where that can't be known.
    pub(crate) dropped: Option<u64>,
    /// `queue-full`, `write-failed`, `torn-line` or `damaged-file`.
    pub(crate) reason: String,
}

#[derive(Serialize)]
struct Body<'b> {
    seq: u64,
    time: &'b str,
    prev: &'b str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'b AuditEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<&'b Gap>,
}

#[derive(Deserialize)]
struct ReadBody {
    seq: u64,
    prev: String,
    #[serde(default)]
    event: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    gap: Option<Gap>,
}

/// Appends a record to `out` and moves the head on.
pub(crate) fn append(
    out: &mut Vec<u8>,
    head: &mut Head,
    time: std::time::Duration,
    event: Option<&AuditEvent>,
    gap: Option<&Gap>,
) -> std::io::Result<()> {
    let start = out.len();
    let seq = head.seq + 1;
    let time = clock::rfc3339(time);
    serde_json::to_writer(&mut *out, &Body { seq, time: &time, prev: &head.hash, event, gap })?;
    // The closing brace moves behind the hash.
    out.pop();
    let hash = hex(&Sha256::digest(&out[start..]));
    out.extend_from_slice(HASH_KEY.as_bytes());
    out.extend_from_slice(hash.as_bytes());
    out.extend_from_slice(b"\"}\n");
    *head = Head { seq, hash };
    Ok(())
}

/// A line that has been read and whose hash is right.
struct Line {
    head: Head,
    prev: String,
    gap: Option<Gap>,
}

/// Reads one line without its line break.
fn read_line(line: &[u8]) -> Result<Line, &'static str> {
    let split = line.len().checked_sub(TAIL).ok_or("the line is too short")?;
    let (body, tail) = line.split_at(split);
    let hash = tail
        .strip_prefix(HASH_KEY.as_bytes())
        .and_then(|t| t.strip_suffix(b"\"}"))
        .and_then(|h| std::str::from_utf8(h).ok())
        .ok_or("the line does not end in a hash")?;
    if hex(&Sha256::digest(body)) != hash {
        return Err("the record was changed: its hash is another");
    }
    let mut json = body.to_vec();
    json.push(b'}');
    let read: ReadBody = serde_json::from_slice(&json).map_err(|_| "the record can't be read")?;
    if read.event.is_some() == read.gap.is_some() {
        return Err("the record is neither event nor gap");
    }
    Ok(Line { head: Head { seq: read.seq, hash: hash.to_owned() }, prev: read.prev, gap: read.gap })
}

/// The head that a file's last line gives.
pub(crate) fn head_of(line: &[u8]) -> Result<Head, &'static str> {
    read_line(line).map(|l| l.head)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing into a string can't fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// A chain found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The number of the first record found; above 1 where older files were removed.
    pub first: u64,
    /// The number of the last record.
    pub last: u64,
    /// How many gap records there are.
    pub gaps: u64,
    /// How many records those say were dropped, as far as they know.
    pub dropped: u64,
    /// The last record's hash. Whoever keeps it elsewhere can show later that nothing before it was changed.
    pub head: String,
}

/// Where a chain is broken.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file can't be read.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A record is not what was written, or not where it was written.
    #[error("{path}, line {line}: {what}")]
    Broken {
        /// In which file.
        path: PathBuf,
        /// In which line, from 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// There is no record at all.
    #[error("{0} has no audit records")]
    Empty(PathBuf),
}

/// Checks the chain in a directory, over all its files; or in a single file. Does not need the gateway to be stopped: a last
/// line without line break is one that is being written.
///
/// # Errors
/// [`VerifyError::Broken`] at the first record that was changed, removed, put in or moved.
pub fn verify(path: &Path) -> Result<Verified, VerifyError> {
    let io = |path: &Path, error| VerifyError::Io { path: path.to_owned(), error };
    let files =
        if path.is_dir() { super::file::chain_files(path).map_err(|e| io(path, e))? } else { vec![path.to_owned()] };
    let mut found: Option<Verified> = None;
    for file in files {
        let mut reader = BufReader::new(File::open(&file).map_err(|e| io(&file, e))?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let broken = |what| VerifyError::Broken { path: file.clone(), line: number, what };
            let mut limited = std::io::Read::take(&mut reader, MAX_LINE as u64 + 1);
            limited.read_until(b'\n', &mut line).map_err(|e| io(&file, e))?;
            if line.len() > MAX_LINE {
                return Err(broken("the line is too long"));
            }
            if line.pop() != Some(b'\n') {
                break;
            }
            let read = read_line(&line).map_err(broken)?;
            match &found {
                Some(before) if read.head.seq != before.last + 1 => {
                    return Err(broken("a record is missing or out of order: its number does not follow"));
                }
                Some(before) if read.prev != before.head => {
                    return Err(broken("the chain is broken: the record before is another"));
                }
                None if read.head.seq == 1 && read.prev != Head::start().hash => {
                    return Err(broken("the first record does not start a chain"));
                }
                _ => {}
            }
            let verified = found.get_or_insert_with(|| Verified {
                first: read.head.seq,
                last: 0,
                gaps: 0,
                dropped: 0,
                head: String::new(),
            });
            verified.last = read.head.seq;
            verified.head = read.head.hash;
            if let Some(gap) = read.gap {
                verified.gaps += 1;
                verified.dropped += gap.dropped.unwrap_or(0);
            }
        }
    }
    found.ok_or_else(|| VerifyError::Empty(path.to_owned()))
}
