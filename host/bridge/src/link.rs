//! One process that runs: a table says who waits for which id.
//!
//! Every id and progress token is ours on the way to the process and the client's again on the way back, so that clients that
//! choose the same can't get each other's. What carries none belongs to no call for certain: an [`Owner`] judges it.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use portcullis_model::{Fault, Side};
use portcullis_protocol::{
    Kind, Message, ParseLimits, parse, rpc,
    splice::{self, Raw, RequestEdit, ResponseEdit},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{counters::Counters, refuse};

/// Messages that wait to be written. A process that doesn't read makes callers wait here.
const OUTBOX: usize = 128;
/// Messages before the answer that wait for whoever passes them on; more are left out, as progress may be.
const BEFORE: usize = 64;
/// How long a call waits for a process that doesn't read.
const WRITE: Duration = Duration::from_secs(30);
/// A process's message is bounded where it is read.
pub(crate) const LIMITS: ParseLimits = ParseLimits { max_bytes: usize::MAX, max_depth: 512 };

/// Judges what a process says outside every call.
pub(crate) trait Owner: Send + Sync {
    /// A request of the process.
    fn asked(&self, link: &Link, request: &Message<'_>);
    /// A notification that names no call.
    fn told(&self, link: &Link, notification: &Message<'_>);
}

/// A process that runs.
pub(crate) struct Link {
    owner: Weak<dyn Owner>,
    ids: AtomicU64,
    outbox: mpsc::Sender<Bytes>,
    table: Mutex<Table>,
    closed: watch::Sender<bool>,
    /// Keeps the process; how it ended, once it has.
    control: Mutex<Option<OwnedFd>>,
    pub(crate) ended: watch::Sender<Option<String>>,
    counters: Arc<Counters>,
    most: usize,
}

struct Table {
    open: bool,
    waiting: HashMap<u64, Waiter>,
}

struct Waiter {
    who: Who,
    before: mpsc::Sender<Bytes>,
    answer: oneshot::Sender<Bytes>,
}

/// Whose call it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    /// The client's id, as JSON.
    pub(crate) id: Box<str>,
    /// The client's progress token, as JSON.
    pub(crate) token: Option<Box<str>>,
    /// The stream of its session that it is answered on.
    pub(crate) stream: u64,
    /// The least level of log messages that it wants; none where it wants none.
    pub(crate) level: Option<u8>,
    /// Whether its answer ends something that lasts, so that nothing else is told to it than what names it.
    pub(crate) lasting: bool,
    /// Whether it is the bridge's own.
    pub(crate) own: bool,
}

/// A call under way. Dropping it before its answer cancels it.
pub(crate) struct Call {
    link: Arc<Link>,
    number: u64,
    before: mpsc::Receiver<Bytes>,
    answer: oneshot::Receiver<Bytes>,
}

/// The newest call under way.
pub(crate) struct Newest {
    number: u64,
    /// The stream of its session.
    pub(crate) stream: u64,
    /// Whether there is no other.
    pub(crate) only: bool,
}

/// What comes of a call.
pub(crate) enum Next {
    /// Something before the answer.
    Before(Bytes),
    /// The answer.
    Answer(Bytes),
    /// The process ended.
    Lost,
}

impl Link {
    /// A link, and what has to be written to the process. Whoever reads hands each line to [`Link::take`].
    pub(crate) fn new(
        owner: Weak<dyn Owner>,
        control: OwnedFd,
        most: usize,
        counters: Arc<Counters>,
    ) -> (Arc<Self>, mpsc::Receiver<Bytes>) {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let link = Self {
            owner,
            ids: AtomicU64::new(1),
            outbox,
            table: Mutex::new(Table { open: true, waiting: HashMap::new() }),
            closed: watch::Sender::new(false),
            control: Mutex::new(Some(control)),
            ended: watch::Sender::new(None),
            counters,
            most,
        };
        (Arc::new(link), inbox)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.table().open
    }

    /// Waits until it is closed.
    pub(crate) async fn closing(&self) {
        // The sender lives as long as `self`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Ends the process; whoever waits is told.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut table = self.table();
            table.open = false;
            std::mem::take(&mut table.waiting)
        };
        self.counters.in_flight.add(-i64::try_from(waiting.len()).unwrap_or(0));
        drop(waiting);
        self.closed.send_replace(true);
        drop(self.control.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Sends a client's request on.
    ///
    /// # Errors
    /// Where the process is gone, does not read, or has as much to do as it may have.
    pub(crate) async fn call(self: &Arc<Self>, request: &Message<'_>, who: Who) -> Result<Call, Fault> {
        let (number, call) = self.enter(who)?;
        let id = Some(Raw::Number(number));
        let body = splice::request(request, &RequestEdit { id, progress_token: id, ..RequestEdit::default() });
        self.write(body).await?;
        self.counters.calls.inc();
        Ok(call)
    }

    /// Sends a request of the bridge's own. `params` is a JSON object.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub(crate) async fn own(self: &Arc<Self>, method: &str, params: &str) -> Result<Call, Fault> {
        let (number, call) = self.enter(Who { id: "0".into(), own: true, ..Who::default() })?;
        let method = splice::quote(method);
        self.write(format!(r#"{{"jsonrpc":"2.0","id":{number},"method":{method},"params":{params}}}"#).into()).await?;
        Ok(call)
    }

    fn enter(self: &Arc<Self>, who: Who) -> Result<(u64, Call), Fault> {
        let (sender, before) = mpsc::channel(BEFORE);
        let (answers, answer) = oneshot::channel();
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table();
        if !table.open {
            return Err(refuse::unreachable("it just ended", Some(Duration::from_secs(1))));
        }
        if !who.own && table.waiting.len() >= self.most {
            return Err(refuse::busy(
                "as many calls are under way as the process may have",
                "Call again in a moment, or raise the bridge's --max-in-flight.",
            ));
        }
        table.waiting.insert(number, Waiter { who, before: sender, answer: answers });
        drop(table);
        self.counters.in_flight.add(1);
        Ok((number, Call { link: self.clone(), number, before, answer }))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// Where the process is gone or does not read.
    pub(crate) async fn write(&self, body: Bytes) -> Result<(), Fault> {
        match tokio::time::timeout(WRITE, self.outbox.send(body)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(refuse::unreachable("it just ended", Some(Duration::from_secs(1)))),
            Err(_) => Err(refuse::busy("the process does not read what it is sent", "Restart the bridge.")),
        }
    }

    /// Sends one message that nobody waits for; left out where the process does not read.
    pub(crate) fn tell(&self, body: impl Into<Bytes>) {
        if self.outbox.try_send(body.into()).is_err() {
            self.counters.unplaced.inc();
        }
    }

    /// Takes a line of the process. Whether it was a message.
    pub(crate) fn take(&self, line: &Bytes) -> bool {
        let Ok(message) = parse(line, &LIMITS) else { return false };
        match message.kind {
            Kind::Response => self.deliver(&message),
            Kind::Request => {
                if let Some(owner) = self.owner.upgrade() {
                    owner.asked(self, &message);
                }
            }
            Kind::Notification => self.told(&message),
        }
        true
    }

    fn deliver(&self, message: &Message<'_>) {
        let number = message.id.and_then(|id| id.raw.parse::<u64>().ok());
        let waiter = number.and_then(|n| self.remove(n));
        let Some(waiter) = waiter else { return self.counters.unplaced.inc() };
        let mut body = splice::response(message, &ResponseEdit { id: &waiter.who.id, defaults: &[] });
        if waiter.who.lasting {
            body = relabelled(&body, &waiter.who.id).unwrap_or(body);
        }
        // A caller that went away in this moment needs no answer.
        let _ = waiter.answer.send(body);
    }

    /// An answer that was too large to be read.
    pub(crate) fn too_large(&self, number: u64, limit: usize) {
        let Some(waiter) = self.remove(number) else { return };
        let fault =
            Fault::new(Side::Server, "server-too-large", format!("the server's answer has more than {limit} bytes"))
                .next("Ask for less, or raise the bridge's --max-message.");
        let _ = waiter.answer.send(refuse::answer(&waiter.who.id, &fault));
    }

    fn told(&self, message: &Message<'_>) {
        if message.method() == "notifications/progress" {
            let token = message.params.as_ref().and_then(|p| p.progress_token);
            let number = token.and_then(|t| t.raw.parse::<u64>().ok());
            let placed = number.is_some_and(|number| {
                self.hand(number, |who| who.token.as_deref().map(|token| splice::notification(message, Some(token))))
            });
            if !placed {
                self.counters.unplaced.inc();
            }
            return;
        }
        let named = subscription(message.source).and_then(|id| id.get().parse::<u64>().ok());
        if let Some(number) = named {
            let placed = self.hand(number, |who| relabelled(message.source.as_bytes(), &who.id));
            if !placed {
                self.counters.unplaced.inc();
            }
            return;
        }
        if let Some(owner) = self.owner.upgrade() {
            owner.told(self, message);
        }
    }

    /// Hands a message before the answer to a call, if `make` makes one of it. Whether it had room.
    fn hand(&self, number: u64, make: impl FnOnce(&Who) -> Option<Bytes>) -> bool {
        let table = self.table();
        let Some(waiter) = table.waiting.get(&number) else { return false };
        make(&waiter.who).is_some_and(|body| waiter.before.try_send(body).is_ok())
    }

    /// Hands a message to the only call under way, where there is just one and it wants it.
    pub(crate) fn hand_to_only(&self, body: &[u8], wants: impl FnOnce(&Who) -> bool) -> bool {
        let newest = self.newest().filter(|n| n.only);
        newest.is_some_and(|n| self.hand(n.number, |who| wants(who).then(|| Bytes::copy_from_slice(body))))
    }

    /// The newest call of a client that is under way.
    pub(crate) fn newest(&self) -> Option<Newest> {
        let table = self.table();
        let clients = table.waiting.iter().filter(|(_, w)| !w.who.own && !w.who.lasting);
        let mut all = clients.map(|(number, w)| (*number, w.who.stream));
        let first = all.next()?;
        let other = all.max();
        let (number, stream) = other.map_or(first, |other| other.max(first));
        Some(Newest { number, stream, only: other.is_none() })
    }

    fn remove(&self, number: u64) -> Option<Waiter> {
        let waiter = self.table().waiting.remove(&number);
        if waiter.is_some() {
            self.counters.in_flight.add(-1);
        }
        waiter
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Call {
    /// What comes next.
    pub(crate) async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            Some(before) = self.before.recv() => Next::Before(before),
            answer = &mut self.answer => answer.map_or(Next::Lost, Next::Answer),
        }
    }

    /// The answer, without what comes before it; nothing where the process ended.
    pub(crate) async fn answered(&mut self) -> Option<Bytes> {
        loop {
            match self.next().await {
                Next::Before(_) => {}
                Next::Answer(answer) => return Some(answer),
                Next::Lost => return None,
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.link.remove(self.number).is_some() {
            let number = self.number;
            self.link.tell(format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the caller went away"}}}}"#
            ));
        }
    }
}

/// An answer of the bridge's own to a process that asks what nobody can be asked.
pub(crate) fn declined(request: &Message<'_>) -> Bytes {
    let id = request.id.map_or("null", |id| id.raw);
    match request.method() {
        "ping" => rpc::result(id, "{}"),
        _ => rpc::error(
            Some(id),
            rpc::METHOD_NOT_FOUND,
            "Method not found: this client advertised no such capability",
            None,
        ),
    }
}

/// The id of the `subscriptions/listen` that a message is of (2026-07-28, "Subscriptions").
fn subscription(source: &str) -> Option<&RawValue> {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(borrow, default)]
        params: Option<Holder<'a>>,
        #[serde(borrow, default)]
        result: Option<Holder<'a>>,
    }
    #[derive(Deserialize)]
    struct Holder<'a> {
        #[serde(borrow, default, rename = "_meta")]
        meta: Option<Tagged<'a>>,
    }
    #[derive(Deserialize)]
    struct Tagged<'a> {
        #[serde(borrow, default, rename = "io.modelcontextprotocol/subscriptionId")]
        id: Option<&'a RawValue>,
    }
    if !source.contains("subscriptionId") {
        return None;
    }
    let outer: Outer<'_> = serde_json::from_str(source).ok()?;
    outer.params.or(outer.result)?.meta?.id
}

/// The message with the client's id in place of ours, where it names the subscription.
fn relabelled(source: &[u8], id: &str) -> Option<Bytes> {
    let text = std::str::from_utf8(source).ok()?;
    let ours = subscription(text)?.get();
    // It is a part of the text, so where it begins is how far it is from the text's beginning.
    let at = (ours.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    Some(Bytes::from([text.get(..at)?, id, text.get(at + ours.len()..)?].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_the_clients_again() {
        let source = r#"{"method":"notifications/x","params":{"_meta":{"a":1, "io.modelcontextprotocol/subscriptionId" : 17 }, "b": 17}}"#;
        let made = relabelled(source.as_bytes(), "\"mine\"").unwrap();
        assert_eq!(
            std::str::from_utf8(&made).unwrap(),
            r#"{"method":"notifications/x","params":{"_meta":{"a":1, "io.modelcontextprotocol/subscriptionId" : "mine" }, "b": 17}}"#
        );
        let result = r#"{"id":1,"result":{"_meta":{"io.modelcontextprotocol/subscriptionId":2}}}"#;
        assert_eq!(subscription(result).map(RawValue::get), Some("2"));
        assert!(subscription(r#"{"params":{"name":"subscriptionId"}}"#).is_none());
    }
}
