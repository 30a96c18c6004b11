//! One channel to a server that everybody's messages share: a child's pipes, or a stream of events with an address to post
//! to (2024-11-05). A table says who waits for which id.
//!
//! What carries no id of ours belongs to no call for certain. On a link of one conversation, a server's request or log
//! message counts for the call under way where there is just one, else it goes to whoever listens, else to the newest call:
//! all of them are the same client's. On a shared link nobody gets it (security decision 16), but for changes of lists and
//! resources, and for the log of a modern server while the one call under way asked for it: there, a server that nobody
//! asked is silent.

mod call;
pub(crate) mod feed;
pub(crate) mod handshake;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use portcullis_protocol::{Era, Version};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    asking::{Asking, OUTSIDE, Verdict},
    error::{Sent, UpstreamError},
    facts::ServerFacts,
    launch,
    listen::{Changed, hub::Hub},
    message::{Message, MessageKind, refuse},
    target::TargetKey,
};
pub(crate) use call::{Call, Kind};

/// Messages that wait to be written. A server that doesn't read makes callers wait here, until their deadlines.
const OUTBOX: usize = 128;
/// Messages before the answer that wait for a slow caller; more are left out, as progress may be.
const BEFORE: usize = 64;
/// Messages that nobody waits for and that found the outbox full. More are left out: they are refusals and cancellations.
const MAX_ASIDE: usize = 256;

/// A link that stands.
pub(crate) struct Link {
    key: TargetKey,
    hub: Arc<Hub>,
    /// What may be asked on it; nothing on a shared one.
    asking: Option<Arc<Asking>>,
    ids: AtomicU64,
    facts: OnceLock<Arc<ServerFacts>>,
    outbox: mpsc::Sender<Bytes>,
    aside: AtomicUsize,
    table: Mutex<Table>,
    closed: watch::Sender<bool>,
    /// Keeps the other end.
    handle: Mutex<Option<Box<dyn launch::Child>>>,
    /// Nobody starts new calls here: it ends with its last call.
    leaving: AtomicBool,
}

/// Who waits.
struct Table {
    open: bool,
    waiting: HashMap<u64, Waiter>,
}

struct Waiter {
    answer: oneshot::Sender<Result<Message, UpstreamError>>,
    before: Option<mpsc::Sender<Message>>,
    kind: Kind,
}

impl Link {
    /// A link, and what has to be written to its other end. Whoever writes ends with the channel, whoever reads hands each
    /// message to [`Link::take`] and ends with [`Link::close`].
    pub(crate) fn new(
        key: TargetKey,
        hub: Arc<Hub>,
        asking: Option<Arc<Asking>>,
        handle: Box<dyn launch::Child>,
    ) -> (Arc<Self>, mpsc::Receiver<Bytes>) {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        if let Some(asking) = &asking {
            asking.clear();
        }
        let link = Arc::new(Self {
            key,
            hub,
            asking,
            ids: AtomicU64::new(1),
            facts: OnceLock::new(),
            outbox,
            aside: AtomicUsize::new(0),
            table: Mutex::new(Table { open: true, waiting: HashMap::new() }),
            closed: watch::Sender::new(false),
            handle: Mutex::new(Some(handle)),
            leaving: AtomicBool::new(false),
        });
        (link, inbox)
    }

    pub(crate) fn key(&self) -> &TargetKey {
        &self.key
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The revision settled on; before that, the newest.
    pub(crate) fn version(&self) -> Version {
        self.facts.get().map_or(Version::LATEST, |f| f.version)
    }

    pub(crate) fn settle(&self, facts: Arc<ServerFacts>) {
        // Settled once, by the handshake.
        let _ = self.facts.set(facts);
    }

    /// What the server said of itself in the handshake.
    pub(crate) fn facts(&self) -> Option<Arc<ServerFacts>> {
        self.facts.get().cloned()
    }

    /// Whether it takes new calls.
    pub(crate) fn is_open(&self) -> bool {
        !self.leaving.load(Ordering::Acquire) && self.table().open
    }

    /// How many requests it was ever used for; none while one is under way.
    pub(crate) fn in_use(&self) -> Option<u64> {
        self.table().idle().then(|| self.ids.load(Ordering::Relaxed))
    }

    /// Becomes true when it closes.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    pub(crate) fn ready(&self) {
        if let Some(handle) = &*self.handle.lock().unwrap_or_else(PoisonError::into_inner) {
            handle.ready();
        }
    }

    pub(crate) fn degraded(&self, reason: &str) {
        if let Some(handle) = &*self.handle.lock().unwrap_or_else(PoisonError::into_inner) {
            handle.degraded(reason);
        }
    }

    /// The other end closed by itself.
    pub(crate) fn lost(&self, reason: &str) {
        if self.table().open {
            self.degraded(reason);
        }
        self.close();
    }

    /// Sends a request and enters it in the table. Dropping the [`Call`] takes it out and cancels it.
    pub(crate) async fn call(
        self: &Arc<Self>,
        id: u64,
        body: Bytes,
        kind: Kind,
        deadline: Instant,
    ) -> Result<Call, UpstreamError> {
        let (answer, answered) = oneshot::channel();
        let (before, heard) = match kind.hears(self.asking.is_some()) {
            true => Some(mpsc::channel(BEFORE)).unzip(),
            false => (None, None),
        };
        {
            let mut table = self.table();
            if !table.open {
                return Err(UpstreamError::Closed { sent: Sent::No });
            }
            table.waiting.insert(id, Waiter { answer, before, kind });
        }
        let mut call = Call::new(self.clone(), id, answered, heard, deadline);
        self.write(body, deadline).await?;
        call.sent();
        Ok(call)
    }

    /// Sends one message.
    pub(crate) async fn write(&self, body: Bytes, deadline: Instant) -> Result<(), UpstreamError> {
        match tokio::time::timeout_at(deadline.into(), self.outbox.send(body)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(UpstreamError::Closed { sent: Sent::No }),
            Err(_) => Err(UpstreamError::Timeout { sent: Sent::No }),
        }
    }

    /// Hands the server what its client says outside any call; an answer only to a question that is open.
    pub(crate) async fn reply(&self, body: Bytes, deadline: Instant) -> Result<(), UpstreamError> {
        match &self.asking {
            Some(asking) if asking.closes(&body) => self.write(body, deadline).await,
            _ => Ok(()),
        }
    }

    /// Sends one message that nobody waits for.
    fn write_aside(self: &Arc<Self>, body: Vec<u8>) {
        let Err(mpsc::error::TrySendError::Full(body)) = self.outbox.try_send(body.into()) else {
            return;
        };
        // A server that asks and never reads must not fill our memory with answers.
        if self.aside.fetch_add(1, Ordering::Relaxed) >= MAX_ASIDE {
            self.aside.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let link = Arc::downgrade(self);
        let outbox = self.outbox.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = outbox.send(body).await;
                if let Some(link) = link.upgrade() {
                    link.aside.fetch_sub(1, Ordering::Relaxed);
                }
            });
        }
    }

    /// Ends the link: whoever waits is told that it closed.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut table = self.table();
            table.open = false;
            std::mem::take(&mut table.waiting)
        };
        drop(waiting);
        if let Some(asking) = &self.asking {
            asking.clear();
        }
        self.closed.send_replace(true);
        drop(self.handle.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends the link with its last call, at once if there is none.
    pub(crate) fn close_when_idle(&self) {
        self.leaving.store(true, Ordering::Release);
        if self.table().idle() {
            self.close();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call is over. Whether it still waited.
    fn forget(&self, id: u64) -> bool {
        let (was_there, last) = {
            let mut table = self.table();
            (table.waiting.remove(&id).is_some(), table.idle())
        };
        if let Some(asking) = &self.asking {
            asking.ended(id);
        }
        if last && self.leaving.load(Ordering::Acquire) {
            self.close();
        }
        was_there
    }

    /// Hands an answer to whoever waits for it.
    pub(crate) fn deliver(&self, id: u64, answer: Result<Message, UpstreamError>) {
        let waiter = self.table().waiting.remove(&id);
        match waiter {
            // A caller that went away in this moment needs no answer.
            Some(waiter) => drop(waiter.answer.send(answer)),
            // To a call that was cancelled, a second time, or to nobody.
            None => {
                tracing::debug!(target = %self.key, id, "left out an answer that nobody waits for")
            }
        }
    }

    /// Takes what may be a message. Returns whether it was one.
    pub(crate) fn take(self: &Arc<Self>, text: Bytes) -> bool {
        let Ok(message) = Message::parse(text) else {
            return false;
        };
        match message.kind {
            MessageKind::Result | MessageKind::Error => {
                if let Some(id) = message.our_id() {
                    self.deliver(id, Ok(message));
                }
            }
            MessageKind::Request => self.asked(&message),
            MessageKind::Progress => {
                // When the caller reads too slowly, the newest goes: the next one says more anyway.
                if let Some(token) = message.our_token() {
                    self.hand(token, message);
                }
            }
            MessageKind::Notification => self.told(message),
        }
        true
    }

    /// The server asks. In the modern era it may not, and no answer to it may be written either.
    fn asked(self: &Arc<Self>, request: &Message) {
        if self.facts.get().is_some_and(|f| f.version.era() == Era::Modern) {
            tracing::debug!(target = %self.key, "left out a request of a server, which its revision does not have");
            return;
        }
        let Some(asking) = &self.asking else { return self.write_aside(refuse(request)) };
        let (only, newest) = self.table().calls();
        match asking.judge(request, only.or(newest).unwrap_or(OUTSIDE)) {
            Verdict::Drop => {}
            Verdict::Answer(answer) => self.write_aside(answer),
            Verdict::Pass => {
                let heard = only.is_some_and(|id| self.hand(id, request.clone()))
                    || self.hub.dispatch(request)
                    || newest.is_some_and(|id| self.hand(id, request.clone()));
                if !heard {
                    asking.forget(request.id_text());
                    self.write_aside(refuse(request));
                }
            }
        }
    }

    /// The server tells something.
    fn told(&self, message: Message) {
        let method = message.method().unwrap_or_default();
        if &*method == "notifications/subscriptions/acknowledged" {
            let id = subscription(&message);
            drop(method);
            if let Some(id) = id {
                self.hand(id, message);
            }
            return;
        }
        let change = Changed::of(&method).is_some() || &*method == "notifications/resources/updated";
        let log = &*method == "notifications/message";
        let withdrawn = &*method == "notifications/cancelled";
        drop(method);
        let Some(asking) = &self.asking else {
            if change {
                self.hub.dispatch(&message);
            } else if log {
                // Looked up first: handing it over takes the table again.
                let logger = self.table().logger();
                if let Some(id) = logger {
                    self.hand(id, message);
                }
            }
            return;
        };
        if withdrawn {
            // The question is the server's, so it goes where the question went.
            let call = withdrawn_id(&message).and_then(|id| asking.call_of(&id).map(|call| (id, call)));
            if let Some((id, call)) = call {
                asking.forget(&id);
                let _ = self.hand(call, message.clone()) || self.hub.dispatch(&message);
            }
            return;
        }
        let (only, newest) = self.table().calls();
        let first = only.filter(|_| !change);
        let _ = first.is_some_and(|id| self.hand(id, message.clone()))
            || self.hub.dispatch(&message)
            || newest.is_some_and(|id| self.hand(id, message));
    }

    /// Hands a message before the answer to a call. Whether it had room for it.
    fn hand(&self, id: u64, message: Message) -> bool {
        let table = self.table();
        table.waiting.get(&id).and_then(|w| w.before.as_ref()).is_some_and(|before| before.try_send(message).is_ok())
    }
}

impl Table {
    /// The only call under way and the newest, of those that a caller waits for.
    fn calls(&self) -> (Option<u64>, Option<u64>) {
        let mut all = self.waiting.iter().filter(|(_, w)| w.kind.is_callers()).map(|(id, _)| *id);
        let Some(first) = all.next() else { return (None, None) };
        match all.max() {
            None => (Some(first), Some(first)),
            Some(other) => (None, Some(first.max(other))),
        }
    }

    /// The only call under way, if it asked for log messages.
    fn logger(&self) -> Option<u64> {
        let id = self.calls().0?;
        self.waiting.get(&id).filter(|w| w.kind.logs()).map(|_| id)
    }

    /// Whether nobody waits but those who wait for as long as the link stands.
    fn idle(&self) -> bool {
        self.waiting.values().all(|w| w.kind == Kind::Subscription)
    }
}

/// Waits until a flag is raised, or whoever would raise it is gone.
pub(crate) async fn raised(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|raised| *raised).await;
}

/// The id of ours that a message of a subscription carries.
fn subscription(message: &Message) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Params {
        #[serde(rename = "_meta")]
        meta: Meta,
    }
    #[derive(serde::Deserialize)]
    struct Meta {
        #[serde(rename = "io.modelcontextprotocol/subscriptionId")]
        id: u64,
    }
    serde_json::from_str::<Params>(message.payload_text()).ok().map(|p| p.meta.id)
}

/// The request that `notifications/cancelled` withdraws, as JSON text.
fn withdrawn_id(message: &Message) -> Option<Box<str>> {
    #[derive(serde::Deserialize)]
    struct Params<'a> {
        #[serde(borrow, rename = "requestId")]
        id: &'a serde_json::value::RawValue,
    }
    serde_json::from_str::<Params<'_>>(message.payload_text()).ok().map(|p| p.id.get().into())
}
