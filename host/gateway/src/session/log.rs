//! The events of one stream of a session: what its reader has yet to see, and what is kept for a reader that comes again.
//!
//! Bounded in both directions. While somebody reads, nothing unread is dropped and whoever writes has to wait; while nobody
//! does, the oldest go first, so that the answer, which comes last, stays.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use portcullis_telemetry::metrics::CounterHandle;

/// Events that wait for a reader before whoever writes waits too.
pub const UNREAD: usize = 16;
/// Events kept for a reader that comes again.
const KEPT_EVENTS: usize = 128;
/// Bytes kept for a reader that comes again.
const KEPT_BYTES: usize = 512 << 10;

/// Bytes kept in the whole process.
const KEPT_IN_ALL: usize = 64 << 20;

/// What all streams of the process keep together.
pub struct Replay {
    bytes: AtomicUsize,
    most: usize,
    /// Counts events that were not kept for it.
    dropped: CounterHandle,
}

impl Default for Replay {
    fn default() -> Self {
        Self::new(CounterHandle::default())
    }
}

impl Replay {
    /// Nothing yet.
    pub fn new(dropped: CounterHandle) -> Self {
        Self { bytes: AtomicUsize::new(0), most: KEPT_IN_ALL, dropped }
    }

    /// Bytes kept now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.bytes() > self.most
    }
}

/// One stream.
pub struct Log {
    replay: Arc<Replay>,
    /// Kept events; the last one has the number `next - 1`.
    events: VecDeque<Bytes>,
    bytes: usize,
    next: u64,
    /// The number of the first event that the reader has not seen.
    unread: u64,
    ended: bool,
    /// Which reader reads: each new one takes the place of the one before. 0 = none.
    reader: u64,
    /// The reader whose response ends once it has seen what there is; it may come again. 0 = none.
    let_go: u64,
    readers: u64,
    waker: Option<Waker>,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// An event with this number.
    Event(u64, Bytes),
    /// Nothing yet.
    Wait,
    /// Nothing more.
    End,
}

impl Log {
    /// An empty stream, one of those that keep no more than that together.
    pub fn new(replay: Arc<Replay>) -> Self {
        // Event 0 is the one that primes (2025-11-25, transports): it says nothing and gives an id to resume from.
        Self {
            replay,
            events: VecDeque::new(),
            bytes: 0,
            next: 1,
            unread: 1,
            ended: false,
            reader: 0,
            let_go: 0,
            readers: 0,
            waker: None,
        }
    }

    /// Appends an event. Gives it back where a reader has too many unread.
    pub fn push(&mut self, event: Bytes) -> Result<(), Bytes> {
        if self.ended {
            return Ok(());
        }
        let unread = self.next - self.unread;
        if self.reader != 0 && (unread >= UNREAD as u64 || (unread > 0 && self.replay.is_full())) {
            return Err(event);
        }
        self.bytes += event.len();
        self.replay.bytes.fetch_add(event.len(), Ordering::Relaxed);
        self.events.push_back(event);
        self.next += 1;
        self.trim();
        self.wake();
        Ok(())
    }

    /// Ends the stream; what is kept can still be read.
    pub fn end(&mut self) {
        self.ended = true;
        self.wake();
    }

    /// Ends the response of whoever reads now, not the stream: what comes later is for whoever comes again.
    pub fn let_go(&mut self) {
        self.let_go = self.reader;
        self.wake();
    }

    /// Whether it has ended.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether somebody reads.
    pub fn is_read(&self) -> bool {
        self.reader != 0
    }

    /// A reader of all events after `after`; whoever read before finds the end. None where some of them are gone.
    pub fn read(&mut self, after: u64) -> Option<u64> {
        let first = self.next - self.events.len() as u64;
        if after >= self.next || after + 1 < first {
            return None;
        }
        self.readers += 1;
        self.reader = self.readers;
        self.unread = after + 1;
        self.wake();
        Some(self.reader)
    }

    /// A reader of whatever is kept and not yet read.
    pub fn read_on(&mut self) -> u64 {
        let first = self.next - self.events.len() as u64;
        self.readers += 1;
        self.reader = self.readers;
        self.unread = self.unread.max(first);
        self.wake();
        self.reader
    }

    /// The next event for this reader; `waker` is woken when there is one.
    pub fn next(&mut self, reader: u64, waker: &Waker) -> Next {
        if self.reader != reader {
            return Next::End;
        }
        if self.unread < self.next {
            let first = self.next - self.events.len() as u64;
            let at = usize::try_from(self.unread.saturating_sub(first)).unwrap_or(usize::MAX);
            let number = self.unread;
            self.unread += 1;
            let event = self.events.get(at).cloned();
            self.trim();
            return event.map_or(Next::End, |event| Next::Event(number, event));
        }
        if self.ended || self.let_go == reader {
            return Next::End;
        }
        self.waker = Some(waker.clone());
        Next::Wait
    }

    /// The reader went away.
    pub fn leave(&mut self, reader: u64) {
        if self.reader == reader {
            self.reader = 0;
            self.waker = None;
            self.trim();
        }
    }

    fn trim(&mut self) {
        while self.events.len() > KEPT_EVENTS || self.bytes > KEPT_BYTES || self.replay.is_full() {
            let first = self.next - self.events.len() as u64;
            let unseen = first >= self.unread;
            if unseen && self.reader != 0 {
                return;
            }
            let Some(gone) = self.events.pop_front() else { return };
            if self.events.len() < KEPT_EVENTS && self.bytes <= KEPT_BYTES {
                self.replay.dropped.inc();
            }
            self.bytes -= gone.len();
            self.replay.bytes.fetch_sub(gone.len(), Ordering::Relaxed);
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.replay.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Default for Log {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> Bytes {
        Bytes::from(n.to_string())
    }

    #[test]
    fn a_reader_that_comes_again_misses_nothing() {
        let mut log = Log::default();
        let first = log.read(0).unwrap();
        for n in 1..=3 {
            log.push(event(n)).unwrap();
        }
        assert_eq!(log.next(first, Waker::noop()), Next::Event(1, event(1)));
        log.leave(first);
        log.push(event(4)).unwrap();
        log.end();
        let again = log.read(1).unwrap();
        for n in 2..=4 {
            assert_eq!(log.next(again, Waker::noop()), Next::Event(n as u64, event(n)));
        }
        assert_eq!(log.next(again, Waker::noop()), Next::End);
        let once_more = log.read(3).unwrap();
        assert_eq!(log.next(again, Waker::noop()), Next::End, "replaced");
        assert_eq!(log.next(once_more, Waker::noop()), Next::Event(4, event(4)));
        assert_eq!(log.read(9), None, "never sent");
    }

    #[test]
    fn a_reader_that_is_let_go_sees_what_there_is_and_the_next_one_the_rest() {
        let mut log = Log::default();
        let first = log.read(0).unwrap();
        log.push(event(1)).unwrap();
        log.let_go();
        assert_eq!(log.next(first, Waker::noop()), Next::Event(1, event(1)));
        assert_eq!(log.next(first, Waker::noop()), Next::End);
        log.leave(first);
        log.push(event(2)).unwrap();
        let again = log.read(1).unwrap();
        assert_eq!(log.next(again, Waker::noop()), Next::Event(2, event(2)));
        assert_eq!(log.next(again, Waker::noop()), Next::Wait, "let go once, not for ever");
        log.leave(again);
        log.let_go();
        let last = log.read(2).unwrap();
        assert_eq!(log.next(last, Waker::noop()), Next::Wait, "nobody was there to be let go");
    }

    #[test]
    fn a_slow_reader_makes_the_writer_wait_and_a_missing_one_loses_the_oldest() {
        let mut log = Log::default();
        let reader = log.read(0).unwrap();
        for n in 1..=UNREAD {
            log.push(event(n)).unwrap();
        }
        assert!(log.push(event(0)).is_err());
        assert_eq!(log.next(reader, Waker::noop()), Next::Event(1, event(1)));
        log.push(event(17)).unwrap();
        log.leave(reader);
        for n in 0..KEPT_EVENTS {
            log.push(event(n)).unwrap();
        }
        assert_eq!(log.read(1), None, "gone");
        assert!(log.events.len() == KEPT_EVENTS && log.next(log.reader, Waker::noop()) != Next::Wait);
        log.push(Bytes::from(vec![0; KEPT_BYTES + 1])).unwrap();
        assert_eq!(log.bytes, 0, "what is too large is not kept");
    }

    #[test]
    fn all_streams_together_keep_so_much_and_give_it_back() {
        let replay = Arc::new(Replay { most: 100, ..Replay::default() });
        let mut logs: Vec<Log> = (0..20).map(|_| Log::new(Arc::clone(&replay))).collect();
        for log in &mut logs {
            log.push(Bytes::from(vec![0; 10])).unwrap();
        }
        assert!(replay.bytes() <= 100 && replay.dropped.get() > 0, "{}", replay.bytes());
        // Whoever reads gets each event, one by one, and nothing is kept once it is read.
        let mut log = Log::new(Arc::clone(&replay));
        let reader = log.read(0).unwrap();
        replay.bytes.fetch_add(1_000, Ordering::Relaxed);
        log.push(event(1)).unwrap();
        assert!(log.push(event(2)).is_err(), "the writer waits");
        assert_eq!(log.next(reader, Waker::noop()), Next::Event(1, event(1)));
        log.push(event(2)).unwrap();
        assert_eq!(log.next(reader, Waker::noop()), Next::Event(2, event(2)));
        assert_eq!(log.bytes, 0);
        drop((log, logs));
        assert_eq!(replay.bytes(), 1_000);
    }
}
