//! What servers write to standard error: the last of it, bounded, whatever they write.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use portcullis_model::Secret;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::watch,
};

/// The most lines kept for a server.
const MAX_LINES: usize = 2_000;
/// The most bytes kept for a server.
const MAX_BYTES: usize = 1 << 20;
/// Longer lines are cut.
const MAX_LINE: usize = 8 << 10;
/// Lines a second that are kept in the long run, and at once.
const RATE: f64 = 500.0;
const BURST: f64 = 2_000.0;
/// Shorter secrets would black out half the log, and protect nothing.
const MIN_REDACTED: usize = 6;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its number: grows by one with each line of the server.
    pub number: u64,
    /// When it was read.
    pub time: SystemTime,
    /// What it says, without the line break.
    pub text: String,
}

/// The last lines of one server's processes.
pub struct LogRing {
    inner: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
    next: u64,
    allowance: f64,
    refilled: Instant,
    dropped: u64,
}

impl Default for LogRing {
    fn default() -> Self {
        let inner =
            Ring { lines: VecDeque::new(), bytes: 0, next: 1, allowance: BURST, refilled: Instant::now(), dropped: 0 };
        Self { inner: Mutex::new(inner), newest: watch::channel(0).0 }
    }
}

impl LogRing {
    /// The last `count` lines, oldest first.
    pub fn tail(&self, count: usize) -> Vec<LogLine> {
        let ring = self.ring();
        ring.lines.iter().skip(ring.lines.len().saturating_sub(count)).cloned().collect()
    }

    /// The lines after number `after`, as far as they are still kept.
    pub fn since(&self, after: u64) -> Vec<LogLine> {
        self.ring().lines.iter().filter(|l| l.number > after).cloned().collect()
    }

    /// Waits for lines after number `after` and gives them: call it in a loop to follow the log.
    pub async fn follow(&self, after: u64) -> Vec<LogLine> {
        let mut newest = self.newest.subscribe();
        // The sender lives as long as this ring.
        let _ = newest.wait_for(|n| *n > after).await;
        self.since(after)
    }

    /// Adds a line, unless lines come too fast: then the next one that is kept says how many were left out.
    pub(crate) fn push(&self, text: String) {
        let newest = {
            let mut ring = self.ring();
            let now = Instant::now();
            let refill = now.saturating_duration_since(ring.refilled).as_secs_f64() * RATE;
            ring.allowance = (ring.allowance + refill).min(BURST);
            ring.refilled = now;
            if ring.allowance < 1.0 {
                ring.dropped += 1;
                return;
            }
            ring.allowance -= 1.0;
            ring.note_dropped();
            ring.add(text);
            ring.next - 1
        };
        self.newest.send_replace(newest);
    }

    /// Adds a line of Portcullis's own, however fast lines come.
    pub(crate) fn note(&self, text: String) {
        let newest = {
            let mut ring = self.ring();
            ring.note_dropped();
            ring.add(text);
            ring.next - 1
        };
        self.newest.send_replace(newest);
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn note_dropped(&mut self) {
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            self.add(format!("[portcullis: {dropped} lines left out, they came too fast]"));
        }
    }

    fn add(&mut self, text: String) {
        self.bytes += text.len();
        self.lines.push_back(LogLine { number: self.next, time: SystemTime::now(), text });
        self.next += 1;
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let Some(gone) = self.lines.pop_front() else { break };
            self.bytes -= gone.text.len();
        }
    }
}

/// Reads a stream into the ring until it ends. Lines that are too long are cut, and values in `secrets` are blacked out.
pub(crate) async fn collect<R: AsyncRead + Unpin>(stream: R, ring: &LogRing, secrets: &[Secret]) {
    collect_as(stream, ring, secrets, "").await;
}

/// The same, with a word before each line.
pub(crate) async fn collect_as<R: AsyncRead + Unpin>(mut stream: R, ring: &LogRing, secrets: &[Secret], word: &str) {
    let mut buffer = vec![0u8; 16 << 10];
    let mut line: Vec<u8> = Vec::new();
    let mut cut = 0usize;
    loop {
        let read = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == b'\n');
            let part = &rest[..end.unwrap_or(rest.len())];
            let room = MAX_LINE.saturating_sub(line.len()).min(part.len());
            line.extend_from_slice(&part[..room]);
            cut += part.len() - room;
            if end.is_some() {
                ring.push(format!("{word}{}", finish(&mut line, &mut cut, secrets)));
            }
            rest = end.map_or(&[], |end| &rest[end + 1..]);
        }
    }
    if !line.is_empty() {
        ring.push(format!("{word}{}", finish(&mut line, &mut cut, secrets)));
    }
}

/// A text with values in `secrets` blacked out.
pub(crate) fn blacken(text: &str, secrets: &[Secret]) -> String {
    finish(&mut text.as_bytes().to_vec(), &mut 0, secrets)
}

fn finish(line: &mut Vec<u8>, cut: &mut usize, secrets: &[Secret]) -> String {
    for secret in secrets.iter().filter(|s| s.len() >= MIN_REDACTED) {
        redact(line, secret.expose());
    }
    let mut text = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
    if *cut > 0 {
        text.push_str(&format!(" [portcullis: {cut} more bytes]"));
    }
    line.clear();
    *cut = 0;
    text
}

fn redact(line: &mut Vec<u8>, secret: &[u8]) {
    while let Some(at) = line.windows(secret.len()).position(|w| w == secret) {
        line.splice(at..at + secret.len(), *b"[..]");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bounds_lines_bytes_and_rate() {
        let ring = LogRing::default();
        let mut input = vec![b'x'; 1 << 20];
        input.push(b'\n');
        for n in 0..10_000 {
            input.extend_from_slice(format!("line {n}\n").as_bytes());
        }
        collect(&input[..], &ring, &[]).await;
        let first = &ring.since(0)[0];
        assert!(ring.tail(usize::MAX).len() <= MAX_LINES, "{}", first.number);
        ring.note("after".to_owned());
        let tail = ring.tail(2);
        assert!(tail[0].text.contains("lines left out"), "{}", tail[0].text);
        assert_eq!(tail[1].text, "after");
    }

    #[tokio::test]
    async fn cuts_long_lines_and_blacks_secrets_out() {
        let ring = LogRing::default();
        let long = "y".repeat(MAX_LINE + 5);
        let input = format!("token hunter2hunter2 and hunter2hunter2\r\n{long}\nlast");
        collect(input.as_bytes(), &ring, &[Secret::new("hunter2hunter2"), Secret::new("and")]).await;
        let lines: Vec<String> = ring.tail(10).into_iter().map(|l| l.text).collect();
        assert_eq!(lines[0], "token [..] and [..]");
        assert!(lines[1].ends_with("y [portcullis: 5 more bytes]"));
        assert_eq!(lines[2], "last");
    }

    #[tokio::test]
    async fn can_be_followed() {
        let ring = std::sync::Arc::new(LogRing::default());
        ring.note("one".to_owned());
        let follower = tokio::spawn({
            let ring = ring.clone();
            async move { ring.follow(1).await }
        });
        ring.note("two".to_owned());
        let lines = follower.await.unwrap();
        assert_eq!(lines.iter().map(|l| (l.number, l.text.as_str())).collect::<Vec<_>>(), [(2, "two")]);
    }
}
