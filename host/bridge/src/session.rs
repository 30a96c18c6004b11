//! A session of the older era: its streams, its calls, and what it was asked.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_protocol::{Message, Version, rpc};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::{
    counters::Counters,
    link::{Link, Owner, declined},
    log::{Log, OUTSIDE},
    options::Options,
};

/// The most questions of a process that are open at once.
const MAX_QUESTIONS: usize = 64;
/// The most resources that a session may watch.
const MAX_URIS: usize = 256;
/// Log levels, least first (2025-11-25, "Logging").
pub(crate) const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The place of a log level among all.
pub(crate) fn rank(level: &str) -> Option<u8> {
    LEVELS.iter().position(|l| *l == level).and_then(|at| u8::try_from(at).ok())
}

/// What a session asked of the shared process.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) uris: HashSet<Box<str>>,
    pub(crate) level: Option<u8>,
}

/// A session.
pub(crate) struct Session {
    /// What its client names it by. Random, since whoever knows it may use it.
    pub(crate) id: Box<str>,
    /// A part of it, for logs.
    pub(crate) name: Box<str>,
    /// The process that is its own, with its place among all; none where it shares one.
    own: OnceLock<(Arc<Link>, OwnedSemaphorePermit)>,
    version: OnceLock<Version>,
    log: Mutex<Log>,
    changed: watch::Sender<u64>,
    calls: Mutex<HashMap<Box<str>, oneshot::Sender<()>>>,
    questions: Mutex<HashMap<Box<str>, u64>>,
    wishes: Mutex<Wishes>,
    used: Mutex<Instant>,
    readers: AtomicUsize,
    over: watch::Sender<bool>,
    options: Arc<Options>,
    counters: Arc<Counters>,
}

impl Session {
    /// A session that nobody knows yet. None without randomness.
    pub(crate) fn new(options: Arc<Options>, counters: Arc<Counters>) -> Option<Arc<Self>> {
        let mut random = [0u8; 24];
        getrandom::fill(&mut random).ok()?;
        let id: String = random.iter().map(|b| format!("{b:02x}")).collect();
        counters.sessions.add(1);
        Some(Arc::new(Self {
            name: id.get(..8).unwrap_or_default().into(),
            id: id.into(),
            own: OnceLock::new(),
            version: OnceLock::new(),
            log: Mutex::new(Log::new(counters.clone())),
            changed: watch::Sender::new(0),
            calls: Mutex::default(),
            questions: Mutex::default(),
            wishes: Mutex::default(),
            used: Mutex::new(Instant::now()),
            readers: AtomicUsize::new(0),
            over: watch::Sender::new(false),
            options,
            counters,
        }))
    }

    /// Gives it a process of its own. Once.
    pub(crate) fn settle(&self, link: Arc<Link>, place: OwnedSemaphorePermit) {
        let _ = self.own.set((link, place));
    }

    /// The revision that was agreed on. Once.
    pub(crate) fn agree(&self, version: Version) {
        let _ = self.version.set(version);
    }

    pub(crate) fn version(&self) -> Version {
        self.version.get().copied().unwrap_or(Version::LATEST_LEGACY)
    }

    /// Its own process; none where it shares one.
    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        self.own.get().map(|(link, _)| link)
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.own.get().is_none()
    }

    /// Whether its process is gone: what was answered can still be read, and nothing be asked.
    pub(crate) fn is_dead(&self) -> bool {
        self.link().is_some_and(|l| !l.is_open())
    }

    pub(crate) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// Since when nobody has used it; none while somebody does.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let used = self.readers.load(Ordering::Relaxed) > 0 || !lock(&self.calls).is_empty();
        (!used).then(|| lock(&self.used).elapsed())
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    pub(crate) fn wishes(&self) -> MutexGuard<'_, Wishes> {
        lock(&self.wishes)
    }

    /// Notes that it watches a resource. Whether it may.
    pub(crate) fn watch(&self, uri: &str) -> bool {
        let mut wishes = self.wishes();
        if wishes.uris.len() >= MAX_URIS && !wishes.uris.contains(uri) {
            return false;
        }
        wishes.uris.insert(uri.into());
        true
    }

    /// Tells whoever reads that there is something new.
    fn wake(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Adds a message to a stream.
    pub(crate) fn push(&self, stream: u64, message: Bytes) {
        // What may be kept is divided evenly, so that no session takes another's.
        let sessions = usize::try_from(self.counters.sessions.get().max(1)).unwrap_or(1);
        let budget = (self.options.max_replay / sessions).max(16 << 10);
        self.log().push(stream, message, budget);
        self.wake();
    }

    /// Nothing more comes on a stream.
    pub(crate) fn finish(&self, stream: u64) {
        self.log().end(stream);
        lock(&self.questions).retain(|_, of| *of != stream || stream == OUTSIDE);
        self.wake();
    }

    /// Begins a call: its stream, and how it is cancelled. None where the id is in use.
    pub(crate) fn begin(self: &Arc<Self>, id: &str) -> Option<(Begun, oneshot::Receiver<()>)> {
        let mut calls = lock(&self.calls);
        if calls.contains_key(id) {
            return None;
        }
        let (cancel, cancelled) = oneshot::channel();
        calls.insert(id.into(), cancel);
        drop(calls);
        let stream = self.log().open(Some(id.into()));
        Some((Begun { session: self.clone(), id: id.into(), stream }, cancelled))
    }

    /// The client gives a call up.
    pub(crate) fn cancel(&self, id: &str) {
        if let Some(cancel) = lock(&self.calls).remove(id) {
            // A call that ended in this moment can't be cancelled.
            let _ = cancel.send(());
        }
    }

    /// Whether an answer of the client is to a question that is open, which it closes.
    pub(crate) fn closes(&self, id: &str) -> bool {
        lock(&self.questions).remove(id).is_some()
    }

    /// Whoever reads is counted.
    pub(crate) fn reading(self: &Arc<Self>) -> Reading {
        self.readers.fetch_add(1, Ordering::Relaxed);
        Reading(self.clone())
    }

    /// Waits until it is over.
    pub(crate) async fn over(&self) {
        // The sender lives as long as `self`.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Ends it, with its process.
    pub(crate) fn end(&self) {
        self.over.send_replace(true);
        if let Some(link) = self.link() {
            link.close();
        }
        self.log().end_all();
        self.wake();
    }

    /// The stream for what belongs to no call for certain: all of them are the same client's.
    fn outside(&self, link: &Link) -> u64 {
        match link.newest() {
            Some(newest) if newest.only || !self.log().is_read(OUTSIDE) => newest.stream,
            _ => OUTSIDE,
        }
    }
}

impl Owner for Session {
    fn asked(&self, link: &Link, request: &Message<'_>) {
        let Some(id) = request.id else { return };
        if request.method() == "ping" {
            return link.tell(declined(request));
        }
        let stream = self.outside(link);
        {
            let mut questions = lock(&self.questions);
            if questions.contains_key(id.raw) {
                // Two answers to one id would be taken for each other.
                return self.counters.unplaced.inc();
            }
            if questions.len() >= MAX_QUESTIONS {
                let refusal = "too many requests of this server are open";
                return link.tell(rpc::error(Some(id.raw), rpc::INTERNAL_ERROR, refusal, None));
            }
            questions.insert(id.raw.into(), stream);
        }
        self.push(stream, Bytes::copy_from_slice(request.source.as_bytes()));
    }

    fn told(&self, link: &Link, notification: &Message<'_>) {
        let body = Bytes::copy_from_slice(notification.source.as_bytes());
        let stream = match notification.method() {
            // The question is withdrawn where it was asked.
            "notifications/cancelled" => {
                let id = notification.params.as_ref().and_then(|p| p.request_id);
                match id.and_then(|id| lock(&self.questions).remove(id.raw)) {
                    Some(stream) => stream,
                    None => return self.counters.unplaced.inc(),
                }
            }
            "notifications/message" => self.outside(link),
            _ => OUTSIDE,
        };
        self.push(stream, body);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.counters.sessions.add(-1);
        if let Some(link) = self.link() {
            link.close();
        }
    }
}

/// A call of a session: ends its stream when it is dropped.
pub(crate) struct Begun {
    pub(crate) session: Arc<Session>,
    pub(crate) id: Box<str>,
    pub(crate) stream: u64,
}

impl Drop for Begun {
    fn drop(&mut self) {
        lock(&self.session.calls).remove(&self.id);
        self.session.touch();
        self.session.finish(self.stream);
    }
}

/// A reader of a session.
pub(crate) struct Reading(Arc<Session>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
        self.0.touch();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
