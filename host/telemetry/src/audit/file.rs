//! The files of the chain: opened, resumed after a crash, synced, rotated.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{
    AuditOptions,
    chain::{self, Gap, Head, MAX_LINE},
    clock,
};

const CURRENT: &str = "audit.jsonl";

/// The current file, and the end of the chain in it.
pub(crate) struct ChainFile {
    options: AuditOptions,
    file: File,
    /// How many bytes are known to be whole records.
    len: u64,
    head: Head,
    /// Something may stand after `len` that a failed write left there.
    dirty: bool,
    /// A gap to record before anything else.
    pending_gap: Option<Gap>,
}

/// The closed files of a directory from the oldest on, and the current one.
pub(crate) fn chain_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = closed_files(dir)?;
    let current = dir.join(CURRENT);
    if current.exists() {
        files.push(current);
    }
    Ok(files)
}

/// `audit.00000000000000000042.jsonl`, named by the first record in them, so that names order as records do.
fn closed_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let number = name.strip_prefix("audit.").and_then(|n| n.strip_suffix(".jsonl"));
        if number.is_some_and(|n| n.len() == 20 && n.bytes().all(|b| b.is_ascii_digit())) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl ChainFile {
    pub(crate) fn open(options: AuditOptions) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&options.dir)?;
        let path = options.dir.join(CURRENT);
        let mut file = open_file(&path)?;
        let found = resume(&mut file)?;
        let (len, head, pending_gap) = match found {
            Resumed::Empty => (0, last_closed_head(&options.dir)?, None),
            Resumed::Whole(len, head) => (len, head, None),
            Resumed::Torn(len, head) => {
                file.set_len(len)?;
                file.sync_all()?;
                let head = if len == 0 { last_closed_head(&options.dir)? } else { head };
                (len, head, Some(Gap { dropped: None, reason: "torn-line".to_owned() }))
            }
            Resumed::Damaged => {
                let aside = options.dir.join(format!("audit.damaged-{}.jsonl", clock::now().as_micros()));
                fs::rename(&path, aside)?;
                put_aside_closed(&options.dir)?;
                file = open_file(&path)?;
                (0, Head::start(), Some(Gap { dropped: None, reason: "damaged-file".to_owned() }))
            }
        };
        sync_dir(&options.dir)?;
        Ok(Self { options, file, len, head, dirty: false, pending_gap })
    }

    /// Notes a gap, to be recorded before the next event.
    pub(crate) fn note_gap(&mut self, dropped: u64, reason: &str) {
        let before = self.pending_gap.as_ref().and_then(|g| g.dropped).unwrap_or(0);
        // One record tells of both where the first could not be written either.
        let reason = self.pending_gap.take().map_or_else(|| reason.to_owned(), |g| g.reason);
        self.pending_gap = Some(Gap { dropped: Some(before + dropped), reason });
    }

    pub(crate) fn has_gap(&self) -> bool {
        self.pending_gap.is_some()
    }

    /// Writes records and returns once they are on disk. After an error none of them counts as written.
    pub(crate) fn write<'e>(
        &mut self,
        events: impl Iterator<Item = (std::time::Duration, &'e super::AuditEvent)>,
    ) -> io::Result<u64> {
        let mut head = self.head.clone();
        let mut out = Vec::with_capacity(4096);
        if let Some(gap) = &self.pending_gap {
            chain::append(&mut out, &mut head, clock::now(), None, Some(gap))?;
        }
        for (time, event) in events {
            chain::append(&mut out, &mut head, time, Some(event), None)?;
        }
        if out.is_empty() {
            return Ok(0);
        }
        if self.dirty {
            // A half-written record must not stand between two whole ones.
            self.file.set_len(self.len)?;
        }
        self.dirty = true;
        let written = self.file.write_all(&out).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // None of it counts as written, so none of it may stay, even what reached the disk.
            self.dirty = self.file.set_len(self.len).is_err();
            return Err(error);
        }
        self.dirty = false;
        let count = head.seq - self.head.seq;
        self.len += out.len() as u64;
        self.head = head;
        self.pending_gap = None;
        if self.len >= self.options.max_file_bytes
            && let Err(error) = self.rotate()
        {
            // What was written is written; a file that grows too large is the smaller evil.
            tracing::error!(%error, "the audit file could not be rotated");
        }
        Ok(count)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let dir = self.options.dir.clone();
        let path = dir.join(CURRENT);
        let first = first_seq(&path)?;
        let closed = dir.join(format!("audit.{first:020}.jsonl"));
        fs::rename(&path, &closed)?;
        self.file = match open_file(&path) {
            Ok(file) => file,
            Err(error) => {
                fs::rename(&closed, &path)?;
                return Err(error);
            }
        };
        self.len = 0;
        sync_dir(&dir)?;
        let closed = closed_files(&dir)?;
        for old in closed.iter().take(closed.len().saturating_sub(self.options.max_files)) {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// A chain that starts anew must not follow files of the old one: a reader would take the break for tampering.
fn put_aside_closed(dir: &Path) -> io::Result<()> {
    for (i, path) in closed_files(dir)?.into_iter().enumerate() {
        fs::rename(&path, dir.join(format!("audit.damaged-{}-{i}.jsonl", clock::now().as_micros())))?;
    }
    Ok(())
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// How a file ended.
enum Resumed {
    Empty,
    /// This long, with this head.
    Whole(u64, Head),
    /// The same up to the last line break; something torn stands after it.
    Torn(u64, Head),
    Damaged,
}

fn resume(file: &mut File) -> io::Result<Resumed> {
    let size = file.metadata()?.len();
    if size == 0 {
        return Ok(Resumed::Empty);
    }
    // The last two lines are all that is needed: a torn one, and the one before it.
    let window = size.min(2 * MAX_LINE as u64);
    file.seek(SeekFrom::Start(size - window))?;
    let mut tail = Vec::new();
    file.take(window).read_to_end(&mut tail)?;
    let Some(last_break) = tail.iter().rposition(|b| *b == b'\n') else {
        // No whole line: a first record that was torn, unless it is longer than a record can be.
        return Ok(if window == size { Resumed::Torn(0, Head::start()) } else { Resumed::Damaged });
    };
    let line_start = tail[..last_break].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let whole = size - (tail.len() - last_break - 1) as u64;
    Ok(match chain::head_of(&tail[line_start..last_break]) {
        Ok(head) if whole == size => Resumed::Whole(whole, head),
        Ok(head) => Resumed::Torn(whole, head),
        Err(_) => Resumed::Damaged,
    })
}

/// The head of the newest closed file: a crash between renaming and the first record leaves the current one empty.
fn last_closed_head(dir: &Path) -> io::Result<Head> {
    let Some(path) = closed_files(dir)?.pop() else {
        return Ok(Head::start());
    };
    match resume(&mut File::open(path)?)? {
        Resumed::Whole(_, head) => Ok(head),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the newest closed audit file does not end in a whole record",
        )),
    }
}

fn first_seq(path: &Path) -> io::Result<u64> {
    let mut line = Vec::new();
    io::BufRead::read_until(&mut io::BufReader::new(File::open(path)?.take(MAX_LINE as u64)), b'\n', &mut line)?;
    line.pop();
    chain::head_of(&line).map(|h| h.seq).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
}
