//! What a process writes to standard error: into the log, bounded, whatever it writes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::counters::Counters;

/// Longer lines are cut.
const MAX_LINE: usize = 8 << 10;
/// Lines a second, all in all.
const RATE: u32 = 200;

/// Reads a stream until it ends.
pub(crate) async fn log<R: AsyncRead + Unpin>(mut stream: R, name: String, counters: Arc<Counters>) {
    let mut buffer = vec![0u8; 8 << 10];
    let mut line: Vec<u8> = Vec::new();
    let (mut since, mut written, mut dropped) = (Instant::now(), 0u32, 0u64);
    let mut tell = |line: &mut Vec<u8>| {
        if since.elapsed() >= Duration::from_secs(1) {
            if dropped > 0 {
                tracing::warn!(of = name, dropped, "lines of standard error came too fast");
            }
            (since, written, dropped) = (Instant::now(), 0, 0);
        }
        written = written.saturating_add(1);
        if written > RATE {
            dropped += 1;
            counters.log_lines_dropped.inc();
        } else {
            // What moves a terminal's cursor is not passed on.
            let text: String =
                String::from_utf8_lossy(line).chars().filter(|c| *c == '\t' || !c.is_control()).collect();
            tracing::info!(target: "server", of = name, "{text}");
        }
        line.clear();
    };
    loop {
        let read = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for part in buffer[..read].split_inclusive(|b| *b == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = MAX_LINE.saturating_sub(line.len()).min(text.len());
            line.extend_from_slice(&text[..room]);
            if part.len() > text.len() {
                tell(&mut line);
            }
        }
    }
    if !line.is_empty() {
        tell(&mut line);
    }
}
