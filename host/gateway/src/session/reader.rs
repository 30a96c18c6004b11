//! The body of a response that reads a session's stream.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use portcullis_protocol::sse;
use portcullis_telemetry::metrics::GaugeHandle;
use tokio::time::{Instant, Sleep};

use super::{
    live::Live,
    log::{Log, Next},
};

/// How long a stream may be silent before a comment keeps it open.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How soon a client should come back to a stream that broke, in milliseconds.
const RETRY_MS: u32 = 1000;

/// Reads a stream as server-sent events.
pub struct Reader {
    live: Arc<Live>,
    stream: u32,
    reader: u64,
    /// What goes out before any event.
    prime: Option<Bytes>,
    /// Whether events have ids, so that a client can come back to them.
    resumable: bool,
    silent: Pin<Box<Sleep>>,
    _open: Open,
}

/// Counts an open stream; given back when dropped.
pub struct Open(GaugeHandle);

impl Open {
    /// Counts one more.
    pub fn new(gauge: &GaugeHandle) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Reader {
    /// A reader that [`Live::read`] or [`Live::open_get`] let in.
    pub fn new(live: Arc<Live>, stream: u32, reader: u64, open: Open) -> Self {
        Self {
            live,
            stream,
            reader,
            prime: None,
            resumable: true,
            silent: Box::pin(tokio::time::sleep(KEEP_ALIVE)),
            _open: open,
        }
    }

    /// A stream of 2024-11-05, which can't be resumed and begins with this event.
    pub fn once(mut self, first: Bytes) -> Self {
        self.resumable = false;
        self.prime = Some(first);
        self
    }

    /// Sends an event with an id and nothing else first, so that a client can resume before anything was said
    /// (2025-11-25, transports). Clients of older revisions take it for a message.
    pub fn primed(mut self) -> Self {
        let id = self.live.event_id(self.stream, 0);
        self.prime = Some(Bytes::from(format!("id: {id}\nretry: {RETRY_MS}\ndata:\n\n")));
        self
    }

    fn encode(&self, number: u64, event: &[u8]) -> Bytes {
        let message = sse::encode_message(event);
        if !self.resumable {
            return message;
        }
        let id = self.live.event_id(self.stream, number);
        let mut out = BytesMut::with_capacity(message.len() + id.len() + 5);
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(b"\n");
        out.extend_from_slice(&message);
        out.freeze()
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(prime) = self.prime.take() {
            return Poll::Ready(Some(Ok(prime)));
        }
        let (stream, reader) = (self.stream, self.reader);
        match self.live.with(stream, |log: &mut Log| log.next(reader, cx.waker())) {
            Some(Next::Event(number, event)) => {
                self.silent.as_mut().reset(Instant::now() + KEEP_ALIVE);
                Poll::Ready(Some(Ok(self.encode(number, &event))))
            }
            Some(Next::End) | None => Poll::Ready(None),
            Some(Next::Wait) => match self.silent.as_mut().poll(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => {
                    self.silent.as_mut().reset(Instant::now() + KEEP_ALIVE);
                    Poll::Ready(Some(Ok(Bytes::from_static(sse::KEEP_ALIVE))))
                }
            },
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.live.with(self.stream, |log| log.leave(self.reader));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use portcullis_model::{Name, Principal};
    use portcullis_protocol::Version;

    use super::{super::live::GET, *};

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_kept_open_by_comments_and_counted_while_it_is_open() {
        let name = Name::default_tenant();
        let whose = Arc::new(Principal::anonymous(name.clone()));
        let live = Live::new([1; 12], Version::LATEST_LEGACY, (name.clone(), name), whose, Arc::default());
        let live = Arc::new(live);
        let (gauge, began) = (GaugeHandle::default(), Instant::now());
        let number = live.open_get();
        let mut reader = Reader::new(Arc::clone(&live), GET, number, Open::new(&gauge));
        for round in 1..=3 {
            assert_eq!(reader.next().await.unwrap().unwrap(), sse::KEEP_ALIVE);
            assert!(began.elapsed() >= KEEP_ALIVE * round && began.elapsed() < KEEP_ALIVE * round + KEEP_ALIVE / 2);
        }
        assert_eq!(gauge.get(), 1);
        drop(reader);
        assert_eq!(gauge.get(), 0);
    }
}
