//! The streams of a session: what was sent, kept for a client that lost its connection and comes again.
//!
//! Whoever writes never waits. What is kept is bounded: the oldest goes first, and a reader that missed something is told so.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use crate::counters::Counters;

/// The stream that a client opens by GET.
pub(crate) const OUTSIDE: u64 = 0;
/// Streams that are remembered after they ended.
const MAX_STREAMS: usize = 256;

/// All streams of one session.
pub(crate) struct Log {
    streams: BTreeMap<u64, Stream>,
    /// What is kept, oldest first.
    order: VecDeque<(u64, u64)>,
    bytes: usize,
    next: u64,
    readers: u64,
    counters: Arc<Counters>,
}

struct Stream {
    events: VecDeque<(u64, Bytes)>,
    /// The number of the next event.
    next: u64,
    /// The last event that was given to a reader.
    read: u64,
    /// The last event that is no longer there.
    gone: u64,
    ended: bool,
    /// The id of the request that it answers, as JSON.
    request: Option<Box<str>>,
    /// Which reader reads; 0 = none.
    reader: u64,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// An event with this number.
    Event(u64, Bytes),
    /// Nothing yet.
    Wait,
    /// Nothing more: the stream ended, or somebody else reads it now.
    End,
    /// Something was there that is no longer kept, up to this event; of the request with this id.
    Lost(u64, Option<Box<str>>),
}

impl Log {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        let mut log =
            Self { streams: BTreeMap::new(), order: VecDeque::new(), bytes: 0, next: 0, readers: 0, counters };
        log.open(None);
        log
    }

    /// A new stream, for the answer to a request.
    pub(crate) fn open(&mut self, request: Option<Box<str>>) -> u64 {
        while self.streams.len() >= MAX_STREAMS {
            let ended = self.streams.iter().find(|(_, s)| s.ended && s.reader == 0).map(|(number, _)| *number);
            let Some(ended) = ended else { break };
            self.forget(ended);
        }
        let number = self.next;
        self.next += 1;
        let stream = Stream { events: VecDeque::new(), next: 1, read: 0, gone: 0, ended: false, request, reader: 0 };
        self.streams.insert(number, stream);
        number
    }

    fn forget(&mut self, number: u64) {
        let Some(stream) = self.streams.remove(&number) else { return };
        self.shrink(stream.events.iter().map(|(_, e)| e.len()).sum());
        self.order.retain(|(of, _)| *of != number);
    }

    fn shrink(&mut self, by: usize) {
        self.bytes -= by;
        self.counters.replay_bytes.add(-i64::try_from(by).unwrap_or(0));
    }

    /// Adds an event, and lets go of the oldest while there are more bytes than `budget`. The newest stays in any case.
    pub(crate) fn push(&mut self, number: u64, event: Bytes, budget: usize) {
        let Some(stream) = self.streams.get_mut(&number).filter(|s| !s.ended) else { return };
        self.bytes += event.len();
        self.counters.replay_bytes.add(i64::try_from(event.len()).unwrap_or(0));
        self.order.push_back((number, stream.next));
        stream.events.push_back((stream.next, event));
        stream.next += 1;
        while self.bytes > budget && self.order.len() > 1 {
            let Some((of, _)) = self.order.pop_front() else { break };
            let gone = self.streams.get_mut(&of).and_then(|s| {
                let (at, event) = s.events.pop_front()?;
                s.gone = at;
                Some(event.len())
            });
            self.shrink(gone.unwrap_or(0));
        }
    }

    /// Nothing more comes on a stream.
    pub(crate) fn end(&mut self, number: u64) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.ended = true;
        }
    }

    /// Nothing more comes on any.
    pub(crate) fn end_all(&mut self) {
        self.streams.values_mut().for_each(|s| s.ended = true);
    }

    /// A new reader of a stream, which takes the place of the one before. None where there is no such stream.
    pub(crate) fn attend(&mut self, number: u64) -> Option<u64> {
        let stream = self.streams.get_mut(&number)?;
        self.readers += 1;
        stream.reader = self.readers;
        Some(self.readers)
    }

    /// A reader is gone.
    pub(crate) fn leave(&mut self, number: u64, reader: u64) {
        if let Some(stream) = self.streams.get_mut(&number).filter(|s| s.reader == reader) {
            stream.reader = 0;
        }
    }

    /// Whether anybody reads it.
    pub(crate) fn is_read(&self, number: u64) -> bool {
        self.streams.get(&number).is_some_and(|s| s.reader != 0)
    }

    /// Whether there is an event of this number, or was.
    pub(crate) fn knows(&self, number: u64, event: u64) -> bool {
        self.streams.get(&number).is_some_and(|s| event < s.next)
    }

    /// The last event of a stream that any reader got.
    pub(crate) fn seen(&self, number: u64) -> u64 {
        self.streams.get(&number).map_or(0, |s| s.read)
    }

    /// What follows an event.
    pub(crate) fn read(&mut self, number: u64, reader: u64, after: u64) -> Read {
        let Some(stream) = self.streams.get_mut(&number).filter(|s| s.reader == reader) else { return Read::End };
        if after < stream.gone {
            return Read::Lost(stream.gone, stream.request.clone());
        }
        let first = stream.events.front().map_or(stream.next, |(at, _)| *at);
        let at = usize::try_from((after + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        match stream.events.get(at) {
            Some((at, event)) => {
                stream.read = stream.read.max(*at);
                Read::Event(*at, event.clone())
            }
            None if stream.ended => Read::End,
            None => Read::Wait,
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_reader_that_comes_again_gets_what_it_missed_and_no_more() {
        let counters = Arc::new(Counters::default());
        let mut log = Log::new(counters.clone());
        let a = log.open(Some("1".into()));
        let b = log.open(Some("2".into()));
        log.push(a, event("a1"), 1000);
        log.push(b, event("b1"), 1000);
        log.push(a, event("a2"), 1000);
        let first = log.attend(a).unwrap();
        assert_eq!(log.read(a, first, 0), Read::Event(1, event("a1")));
        let again = log.attend(a).unwrap();
        assert_eq!(log.read(a, first, 1), Read::End, "somebody else reads");
        assert_eq!(log.read(a, again, 1), Read::Event(2, event("a2")));
        assert_eq!(log.read(a, again, 2), Read::Wait);
        log.end(a);
        assert_eq!(log.read(a, again, 2), Read::End);
        assert!(log.knows(a, 2) && !log.knows(a, 3) && !log.knows(9, 0) && log.attend(9).is_none());
        assert_eq!(counters.replay_bytes.get(), 6);
        drop(log);
        assert_eq!(counters.replay_bytes.get(), 0);
    }

    #[test]
    fn the_oldest_goes_first_and_is_missed() {
        let mut log = Log::new(Arc::default());
        let a = log.open(Some("1".into()));
        for text in ["0123456789", "abcdefghij", "ABCDEFGHIJ"] {
            log.push(a, event(text), 20);
        }
        let reader = log.attend(a).unwrap();
        assert_eq!(log.read(a, reader, 0), Read::Lost(1, Some("1".into())));
        assert_eq!(log.read(a, reader, 1), Read::Event(2, event("abcdefghij")));
        // One that is larger than everything stays until the next comes.
        log.push(a, Bytes::from(vec![b'x'; 100]), 20);
        assert_eq!(log.read(a, reader, 3), Read::Event(4, Bytes::from(vec![b'x'; 100])));
    }

    #[test]
    fn streams_that_ended_are_forgotten_in_the_end() {
        let counters = Arc::new(Counters::default());
        let mut log = Log::new(counters.clone());
        for _ in 0..1000 {
            let stream = log.open(None);
            log.push(stream, event("x"), 1_000_000);
            log.end(stream);
        }
        assert!(log.streams.len() <= MAX_STREAMS && log.order.len() <= MAX_STREAMS);
        assert_eq!(counters.replay_bytes.get(), i64::try_from(log.bytes).unwrap());
        assert!(log.attend(OUTSIDE).is_some(), "the one outside calls lasts");
    }
}
