//! How a call that goes on speaks with its client: on the stream of a legacy session, or by the answers to one request after
//! another of a modern client.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use portcullis_model::{Name, Principal};
use portcullis_protocol::Version;
use portcullis_upstream::{LetGo, Message};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::question::renumbered;
use crate::{
    asked::{self, Client},
    gateways::Gateways,
    held::HeldCall,
    session::{Live, get, live::GET, log::Log},
};

/// How long a message that nobody waits for may take.
pub const ASIDE: Duration = Duration::from_secs(5);
/// How long an answer waits for a client that reads slowly.
const SLOW: Duration = Duration::from_secs(60);

/// A call's way to its client.
pub struct Line {
    gateways: Arc<Gateways>,
    kind: Kind,
    /// Questions that wait for the client.
    open: AtomicUsize,
}

enum Kind {
    /// The stream of a legacy client's POST, opened when there is something to say.
    Stream(Box<Stream>),
    /// The GET stream of a legacy session.
    Get(Arc<Live>),
    /// The one stream of a session of 2024-11-05.
    Old(Arc<Live>),
    /// The answers to a modern client's requests.
    Held(Arc<HeldCall>),
}

struct Stream {
    client: Client,
    at: (Name, Name),
    whose: Arc<Principal>,
    /// Whether the client takes events.
    takes_events: bool,
    open: OnceLock<Option<(Arc<Live>, u32)>>,
    /// Told the response once the stream is open.
    opened: Mutex<Option<oneshot::Sender<Response>>>,
}

impl Line {
    /// That of a legacy client's request; the response comes out of the receiver if there is anything to say before the
    /// answer.
    pub fn stream(gateways: &Arc<Gateways>, asked: &asked::Asked<'_>) -> (Self, oneshot::Receiver<Response>) {
        let (opened, receiver) = oneshot::channel();
        let old = || gateways.sessions.get(asked.client.session.as_ref()?);
        if asked.client.over_sse
            && let Some(live) = old()
        {
            let line = Self { gateways: Arc::clone(gateways), kind: Kind::Old(live), open: AtomicUsize::new(0) };
            return (line, receiver);
        }
        let stream = Stream {
            client: asked.client.clone(),
            at: (asked.view.tenant.clone(), asked.view.name.clone()),
            whose: Arc::clone(asked.principal),
            takes_events: get::accepts_events(asked.headers),
            open: OnceLock::new(),
            opened: Mutex::new(Some(opened)),
        };
        (
            Self { gateways: Arc::clone(gateways), kind: Kind::Stream(Box::new(stream)), open: AtomicUsize::new(0) },
            receiver,
        )
    }

    /// That of what belongs to no call of a session.
    pub fn get(gateways: &Arc<Gateways>, live: Arc<Live>) -> Self {
        Self { gateways: Arc::clone(gateways), kind: Kind::Get(live), open: AtomicUsize::new(0) }
    }

    /// That of a modern client's call.
    pub fn held(gateways: &Arc<Gateways>, call: Arc<HeldCall>) -> Self {
        Self { gateways: Arc::clone(gateways), kind: Kind::Held(call), open: AtomicUsize::new(0) }
    }

    /// All gateways.
    pub fn gateways(&self) -> &Arc<Gateways> {
        &self.gateways
    }

    /// Notes whose server the call goes to.
    pub fn serves(&self, server: &Name) {
        if let Kind::Held(call) = &self.kind {
            // Said once: a call goes to one server.
            let _ = call.server.set(server.clone());
        }
    }

    /// Counts a question that ended.
    pub fn count(&self, outcome: &'static str) {
        self.gateways.metrics.question(outcome);
    }

    /// Opens the stream, so that a client whose connection breaks can come back to it.
    pub fn open(&self) {
        if let Kind::Stream(stream) = &self.kind {
            self.opened(stream);
        }
    }

    fn opened<'s>(&self, stream: &'s Stream) -> Option<&'s (Arc<Live>, u32)> {
        stream
            .open
            .get_or_init(|| {
                if !stream.takes_events {
                    return None;
                }
                let (client, at) = (&stream.client, (&stream.at.0, &stream.at.1));
                let live = self.gateways.open_session(client.session?, client.version, at, &stream.whose).ok()?;
                let number = live.open().ok()?;
                let reader = live.read(number, 0).ok()?;
                let response = get::body(&self.gateways, &live, number, reader, true);
                let opened = stream.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(opened) = opened {
                    // A client that has gone away may come back to the stream.
                    let _ = opened.send(response);
                }
                Some((live, number))
            })
            .as_ref()
    }

    /// Sends the client a message before the answer. It may get lost where the client takes none.
    pub async fn say(&self, message: Bytes, until: Instant) {
        match &self.kind {
            Kind::Stream(stream) => {
                if let Some((live, number)) = self.opened(stream) {
                    live.push(*number, message, until).await;
                }
            }
            Kind::Get(live) => {
                live.tell(message);
            }
            Kind::Old(live) => {
                live.push(GET, message, until).await;
            }
            Kind::Held(call) => call.say(message, until).await,
        }
    }

    /// Whether there is a way to ask the client anything before the answer.
    pub fn reaches(&self) -> bool {
        match &self.kind {
            Kind::Stream(stream) => stream.takes_events,
            Kind::Get(_) | Kind::Old(_) | Kind::Held(_) => true,
        }
    }

    /// Whether the client is being asked something, by this call or beside it.
    pub fn is_asking(&self) -> bool {
        let beside = match &self.kind {
            Kind::Stream(stream) => stream
                .client
                .session
                .and_then(|session| self.gateways.sessions.get(&session))
                .is_some_and(|live| live.is_asked()),
            Kind::Get(live) | Kind::Old(live) => live.is_asked(),
            Kind::Held(_) => false,
        };
        beside || self.open.load(Ordering::Relaxed) > 0
    }

    /// Asks the client and waits for its answer, a whole response: until then, and no longer than a client may take for
    /// one question (`answerWithin`). `withdrawn` fires when nobody wants it any more.
    ///
    /// # Errors
    /// Why there is no answer, in words for the server.
    pub async fn ask<F: Future<Output = ()>>(
        &self,
        request: &Message,
        until: Instant,
        withdrawn: &CancellationToken,
        progressed: impl Fn(Bytes) -> F,
    ) -> Result<Bytes, &'static str> {
        let _open = Opened::new(&self.open);
        let until = until.min(Instant::now() + self.gateways.settings.answer_within);
        let (live, number) = match &self.kind {
            Kind::Held(call) => return call.ask(&self.gateways, request, until, withdrawn).await,
            Kind::Stream(stream) => match self.opened(stream) {
                Some((live, number)) => (live, Some(*number)),
                None => return Err("the client has no stream to be asked on"),
            },
            Kind::Get(live) => (live, None),
            Kind::Old(live) => (live, Some(GET)),
        };
        let mut open = live.question().ok_or("the client is asked too much at once")?;
        let _asked = Asked { live, number: open.number };
        let message = renumbered(request, open.number);
        let sent = match number {
            Some(stream) => live.push(stream, message, until).await,
            None => live.reach(message, until).await,
        };
        if !sent {
            return Err("the client can't be reached");
        }
        loop {
            tokio::select! {
                answer = &mut open.answer => return answer.map_err(|_| "the client's session ended"),
                Some(progress) = open.progress.recv() => progressed(progress).await,
                () = withdrawn.cancelled() => {
                    self.withdraw(open.number).await;
                    return Err("withdrawn");
                }
                () = tokio::time::sleep_until(until.into()) => {
                    self.withdraw(open.number).await;
                    return Err("the client did not answer in time");
                }
            }
        }
    }

    async fn withdraw(&self, number: u64) {
        let message = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"no answer is needed any more"}}}}"#
        );
        self.say(Bytes::from(message), Instant::now() + ASIDE).await;
    }

    /// The call is over: its answer goes the way that is open. Gives it back where it is the whole response.
    pub async fn finish(&self, response: Response) -> Option<Response> {
        match &self.kind {
            Kind::Get(_) => None,
            // Whoever took the request puts its answer on the stream.
            Kind::Old(_) => Some(response),
            Kind::Held(call) => {
                call.finish(&self.gateways, response).await;
                None
            }
            Kind::Stream(stream) => {
                let Some((live, number)) = stream.open.get().and_then(Option::as_ref) else { return Some(response) };
                let body = whole(response).await;
                if !body.is_empty() {
                    live.push(*number, body, Instant::now() + SLOW).await;
                }
                live.with(*number, Log::end);
                None
            }
        }
    }
}

/// The client polls as the server does: its response ends, and its stream can be resumed. Older revisions know no such thing,
/// so their clients' responses stay open.
impl LetGo for Line {
    fn let_go(&self) {
        if let Kind::Stream(stream) = &self.kind
            && stream.client.version >= Version::V2025_11_25
            && let Some((live, number)) = self.opened(stream)
        {
            live.with(*number, Log::let_go);
        }
    }
}

/// The body of a response that we made ourselves.
pub async fn whole(response: Response) -> Bytes {
    response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

/// Counts a question that waits for the client.
struct Opened<'l>(&'l AtomicUsize);

impl<'l> Opened<'l> {
    fn new(open: &'l AtomicUsize) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A question that is open; forgotten when dropped.
struct Asked<'l> {
    live: &'l Live,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.live.forget(self.number);
    }
}
