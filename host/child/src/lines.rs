//! Lines of a child: of its output, with a bound that a flood without a line break can't pass, and to its input.

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

/// How much of a line that is too long is kept at either end, to find out whose answer it was.
const EDGE: usize = 256;
/// So many bytes of output without a single message, and the child is no MCP server.
pub const MAX_GARBAGE: usize = 16 << 20;
/// How many times the bound a line may be skipped over before the child is given up.
const SKIP_FACTOR: usize = 16;
const CHUNK: usize = 32 << 10;

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A line without its line break.
    Text(Bytes),
    /// A line longer than the bound, skipped over: its first and last bytes.
    TooLong {
        /// Its first bytes.
        head: Bytes,
        /// Its last bytes.
        tail: Bytes,
    },
}

/// Reads lines.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no line break.
    scanned: usize,
    limit: usize,
    /// The start of a line that is being skipped over, and how much of it has gone.
    skipping: Option<(Bytes, usize)>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// A reader of lines of at most `limit` bytes.
    pub fn new(reader: R, limit: usize) -> Self {
        Self { reader, buffer: BytesMut::with_capacity(CHUNK), scanned: 0, limit: limit.max(EDGE * 2), skipping: None }
    }

    /// The next line; `None` at the end, and when a line has no end.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') {
                let mut line = self.buffer.split_to(self.scanned + at + 1);
                self.scanned = 0;
                line.truncate(line.len() - 1);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                // A line that came at once is held to the bound as well, or whether it passes would depend on how it was sent.
                let whole = (line.len() > self.limit).then(|| (Bytes::copy_from_slice(&line[..EDGE]), 0));
                if let Some((head, _)) = self.skipping.take().or(whole) {
                    let tail = Bytes::copy_from_slice(&line[line.len().saturating_sub(EDGE)..]);
                    return Some(Line::TooLong { head, tail });
                }
                return Some(Line::Text(line.freeze()));
            }
            self.scanned = self.buffer.len();
            let gone = self.skipping.as_ref().map_or(0, |(_, gone)| *gone);
            if gone + self.buffer.len() > self.limit {
                if gone > self.limit.saturating_mul(SKIP_FACTOR) {
                    return None;
                }
                let head = match self.skipping.take() {
                    Some((head, _)) => head,
                    None => Bytes::copy_from_slice(&self.buffer[..EDGE]),
                };
                // The last bytes stay, because the line may end right after them.
                let cut = self.buffer.len().saturating_sub(EDGE);
                let kept = BytesMut::from(&self.buffer[cut..]);
                self.buffer = BytesMut::with_capacity(CHUNK);
                self.buffer.extend_from_slice(&kept);
                self.scanned = self.buffer.len();
                self.skipping = Some((head, gone + cut));
            }
            self.buffer.reserve(CHUNK);
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// Finds the id of an answer of which only both ends are known. Most servers write `id` either before the result or as
/// the last member; whose id stands elsewhere waits until its deadline.
pub fn id_of(head: &[u8], tail: &[u8]) -> Option<u64> {
    let head = String::from_utf8_lossy(head);
    let before_payload = head.split("\"result\"").next().unwrap_or_default();
    if before_payload.len() < head.len()
        && let Some((_, rest)) = before_payload.split_once("\"id\"")
        && let Some(value) = rest.trim_start().strip_prefix(':')
        && let Some((id, _)) = number(value)
    {
        return Some(id);
    }
    let tail = String::from_utf8_lossy(tail);
    let (_, rest) = tail.rsplit_once("\"id\"")?;
    let (id, rest) = number(rest.trim_start().strip_prefix(':')?)?;
    // The member has to be the last of the outermost object.
    (rest.trim() == "}").then_some(id)
}

/// Writes messages as lines, until nobody sends any more or the child reads no more.
pub async fn write_all(mut stdin: impl AsyncWrite + Unpin, mut inbox: mpsc::Receiver<Bytes>) {
    while let Some(body) = inbox.recv().await {
        let wrote = async {
            stdin.write_all(&one_line(body)).await?;
            stdin.write_all(b"\n").await?;
            stdin.flush().await
        };
        if wrote.await.is_err() {
            return;
        }
    }
}

/// A message as one line: messages are framed by lines. A line break in JSON is white space, since strings can't hold one.
fn one_line(body: Bytes) -> Bytes {
    if !body.iter().any(|b| matches!(b, b'\n' | b'\r')) {
        return body;
    }
    body.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }).collect()
}

/// The number that a text starts with, and the rest.
fn number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim_start();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &[u8], limit: usize) -> Vec<Line> {
        let mut lines = Lines::new(text, limit);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn reads_lines_of_both_kinds() {
        let text = |s: &'static str| Line::Text(Bytes::from_static(s.as_bytes()));
        assert_eq!(read(b"a\nb\r\n\nlost", 100).await, [text("a"), text("b"), text("")]);
    }

    #[tokio::test]
    async fn skips_a_line_that_is_too_long_and_goes_on() {
        let mut input = br#"{"jsonrpc":"2.0","id":7,"result":""#.to_vec();
        input.extend(std::iter::repeat_n(b'x', 100_000));
        input.extend_from_slice(b"\"}\n{}\n");
        let lines = read(&input, 10_000).await;
        assert!(matches!(&lines[0], Line::TooLong { head, tail } if id_of(head, tail) == Some(7)), "{:?}", lines[0]);
        assert_eq!(lines[1], Line::Text(Bytes::from_static(b"{}")));
    }

    #[tokio::test]
    async fn a_line_that_comes_at_once_has_the_same_bound() {
        let long = |bytes: usize| [vec![b'x'; bytes], b"\n{}\n".to_vec()].concat();
        assert!(matches!(read(&long(1_000), 1_000).await[..], [Line::Text(_), Line::Text(_)]));
        assert!(matches!(read(&long(1_001), 1_000).await[..], [Line::TooLong { .. }, Line::Text(_)]));
    }

    #[tokio::test]
    async fn gives_up_a_line_without_an_end() {
        assert_eq!(read(&vec![b'x'; 200_000], 1_000).await, []);
    }

    #[test]
    fn finds_whose_answer_it_was() {
        assert_eq!(id_of(br#"{"jsonrpc":"2.0","id": 12 ,"result":{"id":9"#, b"xx"), Some(12));
        assert_eq!(id_of(br#"{"result":{"id":9,"#, br#"xx"},"jsonrpc":"2.0","id":34}"#), Some(34));
        assert_eq!(id_of(br#"{"result":{"id":9,"#, br#""id":34}}"#), None);
        assert_eq!(id_of(b"xxxx", b"xxxx"), None);
    }
}
