//! The listeners of one peer: each hears what it asked for, through a queue of its own, and whoever reads too slowly is cut
//! without anybody else noticing.
//!
//! The hub outlives sessions and children. Whoever feeds it (`link/feed.rs`, `http/feed.rs`) reads what is
//! wanted in all, gets it from the server, and says so by [`Hub::serve`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderName, HeaderValue};
use portcullis_protocol::ParseLimits;
use tokio::sync::{broadcast, mpsc, watch};

use crate::{
    error::{Sent, UpstreamError},
    facts::Announces,
    listen::{Change, Changed, Listen},
    message::{Message, MessageKind},
    meter::Opened,
    server::{Announcing, Server},
    target::TargetKey,
};

/// The most messages that wait for one listener.
const QUEUE: usize = 256;
/// The most listeners of one peer.
const MAX_LISTENERS: usize = 20_000;
/// The most URIs of one listener, and the longest.
const MAX_URIS: usize = 1_000;
const MAX_URI: usize = 8 << 10;
/// The most different URIs of one peer.
const MAX_WANTED: usize = 20_000;
/// `notifications/resources/updated`.
const UPDATED: &str = "notifications/resources/updated";

/// Headers that carry a credential.
pub(crate) type Headers = Arc<[(HeaderName, HeaderValue)]>;

/// What all listeners want together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) tools: bool,
    pub(crate) prompts: bool,
    pub(crate) resources: bool,
    pub(crate) uris: BTreeSet<Arc<str>>,
    /// Grows with each change.
    pub(crate) generation: u64,
}

/// The listeners of one peer.
pub(crate) struct Hub {
    key: TargetKey,
    server: Arc<Server>,
    changes: broadcast::Sender<Change>,
    /// The most bytes that wait for one listener.
    limit: usize,
    state: Mutex<State>,
    wanted: watch::Sender<u64>,
    served: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    listeners: BTreeMap<u64, Entry>,
    /// How many listeners want each resource.
    uris: HashMap<Arc<str>, usize>,
    next: u64,
    headers: Option<Headers>,
    /// Whether somebody feeds the hub for as long as there are listeners.
    fed: bool,
    /// Changes of lists that are heard for [`crate::Upstreams::changes`], without a listener.
    kept: Option<(Announces, Announcing)>,
    /// Whether that was tried and the server would not.
    declined: bool,
    closed: bool,
}

struct Entry {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: HashSet<Arc<str>>,
    sender: mpsc::Sender<Message>,
    queued: Arc<AtomicUsize>,
    end: Arc<OnceLock<UpstreamError>>,
}

/// One listener's end. Dropping it leaves.
pub(crate) struct Listener {
    hub: Arc<Hub>,
    id: u64,
    generation: u64,
    receiver: mpsc::Receiver<Message>,
    queued: Arc<AtomicUsize>,
    end: Arc<OnceLock<UpstreamError>>,
}

impl Hub {
    pub(crate) fn new(
        key: TargetKey,
        server: Arc<Server>,
        changes: broadcast::Sender<Change>,
        limit: usize,
    ) -> Arc<Self> {
        let (wanted, served) = (watch::Sender::new(0), watch::Sender::new(0));
        Arc::new(Self { key, server, changes, limit, state: Mutex::default(), wanted, served })
    }

    /// A new listener. Whether somebody has to be found to feed the hub stands beside it.
    pub(crate) fn join(
        self: &Arc<Self>,
        listen: &Listen<'_>,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<(Listener, bool), UpstreamError> {
        let too_many = UpstreamError::Busy { retry_after: Duration::from_secs(5) };
        if listen.uris.len() > MAX_URIS || listen.uris.iter().any(|u| u.len() > MAX_URI) {
            return Err(too_many);
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (queued, end) = (Arc::new(AtomicUsize::new(0)), Arc::new(OnceLock::new()));
        let mut state = self.state();
        if state.closed {
            return Err(UpstreamError::ShuttingDown);
        }
        if state.listeners.len() >= MAX_LISTENERS {
            return Err(too_many);
        }
        let uris: HashSet<Arc<str>> = listen.uris.iter().map(|u| Arc::from(*u)).collect();
        if state.uris.len() + uris.iter().filter(|u| !state.uris.contains_key(*u)).count() > MAX_WANTED {
            return Err(too_many);
        }
        for uri in &uris {
            *state.uris.entry(uri.clone()).or_default() += 1;
        }
        state.next += 1;
        let id = state.next;
        let entry = Entry {
            tools: listen.tools,
            prompts: listen.prompts,
            resources: listen.resources,
            uris,
            sender,
            queued: queued.clone(),
            end: end.clone(),
        };
        state.listeners.insert(id, entry);
        state.headers = Some(headers.into());
        let starts = !std::mem::replace(&mut state.fed, true);
        drop(state);
        let mut generation = 0;
        self.wanted.send_modify(|g| {
            *g += 1;
            generation = *g;
        });
        Ok((Listener { hub: self.clone(), id, generation, receiver, queued, end }, starts))
    }

    /// Hears of changes of these lists from now on, for whoever keeps them. Whether somebody has to be found to feed the hub.
    /// Only so many accounts of a server are heard, and none again that would not.
    pub(crate) fn keep(&self, announced: Announces, headers: &[(HeaderName, HeaderValue)]) -> bool {
        let mut state = self.state();
        if state.closed || state.declined || state.kept.is_some() {
            return false;
        }
        let Some(place) = self.server.announcing() else { return false };
        state.kept = Some((announced, place));
        state.headers.get_or_insert_with(|| headers.into());
        let starts = !std::mem::replace(&mut state.fed, true);
        drop(state);
        self.bump();
        starts
    }

    /// What all listeners want now.
    pub(crate) fn wanted(&self) -> Wanted {
        // Read first: what comes in between is served twice rather than not at all.
        let generation = *self.wanted.borrow();
        let state = self.state();
        let mut all = Wanted { generation, uris: state.uris.keys().cloned().collect(), ..Wanted::default() };
        if let Some((kept, _)) = &state.kept {
            (all.tools, all.prompts, all.resources) = (kept.tools, kept.prompts, kept.resources);
        }
        for entry in state.listeners.values() {
            all.tools |= entry.tools;
            all.prompts |= entry.prompts;
            all.resources |= entry.resources;
        }
        all
    }

    /// Tells when what is wanted has changed.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    /// Waits until there is nothing to hear.
    pub(crate) async fn emptied(&self) {
        let nothing = || {
            let state = self.state();
            state.listeners.is_empty() && state.kept.is_none()
        };
        let mut wanted = self.watch();
        while !nothing() {
            if wanted.changed().await.is_err() {
                return;
            }
        }
    }

    /// The credential of whoever began to listen last.
    pub(crate) fn headers(&self) -> Headers {
        self.state().headers.clone().unwrap_or_else(|| Arc::from([]))
    }

    /// What was wanted up to this generation is heard from here on.
    pub(crate) fn serve(&self, generation: u64) {
        self.served.send_if_modified(|g| generation > std::mem::replace(g, generation.max(*g)));
    }

    /// Nothing is heard any more: the session or child is gone.
    pub(crate) fn unserve(&self) {
        self.served.send_replace(0);
    }

    /// Whether there is nothing to hear; then whoever feeds the hub is released from it.
    pub(crate) fn retire(&self) -> bool {
        let mut state = self.state();
        let empty = state.listeners.is_empty() && state.kept.is_none();
        if empty {
            state.fed = false;
        }
        empty
    }

    /// Whether nobody listens.
    pub(crate) fn is_empty(&self) -> bool {
        self.state().listeners.is_empty()
    }

    /// Ends all listeners.
    pub(crate) fn end_all(&self, error: &UpstreamError) {
        let gone = {
            let mut state = self.state();
            state.uris.clear();
            state.declined |= state.kept.take().is_some();
            std::mem::take(&mut state.listeners)
        };
        for entry in gone.values() {
            // Set once: the first reason is the true one.
            let _ = entry.end.set(error.clone());
        }
        self.unserve();
        self.bump();
    }

    /// Ends those listeners that want a resource which the server does not let anybody subscribe to.
    pub(crate) fn end_uri(&self, uri: &str, error: &UpstreamError) {
        self.drop_where(|entry| {
            let gone = entry.uris.contains(uri);
            if gone {
                let _ = entry.end.set(error.clone());
            }
            gone
        });
        self.bump();
    }

    /// The peer leaves the pool: nobody listens any more, and nobody will.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.end_all(&UpstreamError::ShuttingDown);
    }

    /// Tells whoever keeps lists that one has changed.
    pub(crate) fn changed(&self, what: Changed) {
        // Nobody may be interested.
        let _ = self.changes.send(Change { key: self.key.clone(), what });
    }

    /// Hands a message to whoever wants to hear it: a request to one listener, a notification to all. Whether anybody
    /// did.
    pub(crate) fn dispatch(&self, message: &Message) -> bool {
        let method = message.method().unwrap_or_default();
        let changed = Changed::of(&method);
        if let Some(what) = changed {
            self.changed(what);
        }
        let conversing = self.key.conversation.is_some();
        let updated = method == UPDATED;
        if changed.is_none() && !updated && !conversing {
            return false;
        }
        let uri = if updated { uri(message) } else { None };
        let wants = |entry: &Entry| match changed {
            Some(Changed::Tools) => entry.tools,
            Some(Changed::Prompts) => entry.prompts,
            Some(Changed::Resources) => entry.resources,
            None if updated => uri.as_deref().is_some_and(|uri| covers(&entry.uris, uri)),
            None => true,
        };
        let once = message.kind == MessageKind::Request;
        let (mut heard, mut cut) = (false, 0);
        self.drop_where(|entry| {
            if (once && heard) || !wants(entry) {
                return false;
            }
            let kept = self.hand(entry, message);
            heard |= kept;
            cut += usize::from(!kept);
            !kept
        });
        for _ in 0..cut {
            self.server.meter.opened(Opened::ListenerCut);
        }
        if cut > 0 {
            tracing::warn!(target = %self.key, listeners = cut, "cut off from a server that says more than they take");
            self.bump();
        }
        heard
    }

    /// Puts a message into a listener's queue. A queue that is full ends it.
    fn hand(&self, entry: &Entry, message: &Message) -> bool {
        let size = message.body.len();
        let queued = entry.queued.fetch_add(size, Ordering::Relaxed);
        // One message may always wait, however large: what it may have is bounded where it is read.
        if (queued == 0 || queued + size <= self.limit) && entry.sender.try_send(message.clone()).is_ok() {
            return true;
        }
        let _ = entry.end.set(UpstreamError::Flooded);
        false
    }

    /// Takes listeners out, and what only they wanted.
    fn drop_where(&self, mut gone: impl FnMut(&Entry) -> bool) {
        let mut state = self.state();
        let State { listeners, uris, .. } = &mut *state;
        listeners.retain(|_, entry| {
            let gone = gone(entry);
            if gone {
                release(uris, entry);
            }
            !gone
        });
    }

    fn bump(&self) {
        self.wanted.send_modify(|g| *g += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Waits until the server says what this listener wants to hear.
    pub(crate) async fn served(&self, deadline: Instant) -> Result<(), UpstreamError> {
        let mut served = self.hub.served.subscribe();
        let ready = async {
            loop {
                if *served.borrow_and_update() >= self.generation {
                    return Ok(());
                }
                tokio::select! {
                    changed = served.changed() => if changed.is_err() {
                        return Err(UpstreamError::ShuttingDown);
                    },
                    () = self.ended() => {}
                }
                if let Some(error) = self.end.get() {
                    return Err(error.clone());
                }
            }
        };
        match tokio::time::timeout_at(deadline.into(), ready).await {
            Ok(ready) => ready,
            Err(_) => Err(UpstreamError::Timeout { sent: Sent::Maybe }),
        }
    }

    /// Waits until what is wanted changes, which is also how a listener's end shows.
    async fn ended(&self) {
        let mut wanted = self.hub.watch();
        while self.end.get().is_none() {
            if wanted.changed().await.is_err() {
                return;
            }
        }
    }

    /// The next message. An error is the last thing that comes.
    pub(crate) async fn next(&mut self) -> Result<Message, UpstreamError> {
        match self.receiver.recv().await {
            Some(message) => {
                self.queued.fetch_sub(message.body.len(), Ordering::Relaxed);
                Ok(message)
            }
            None => Err(self.end.get().cloned().unwrap_or(UpstreamError::Closed { sent: Sent::No })),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let was_there = {
            let mut state = self.hub.state();
            let entry = state.listeners.remove(&self.id);
            entry.inspect(|entry| release(&mut state.uris, entry)).is_some()
        };
        if was_there {
            self.hub.bump();
        }
    }
}

/// One listener less wants these.
fn release(uris: &mut HashMap<Arc<str>, usize>, entry: &Entry) {
    for uri in &entry.uris {
        if let Some(count) = uris.get_mut(uri) {
            *count -= 1;
            if *count == 0 {
                uris.remove(uri);
            }
        }
    }
}

/// The resource that a notification tells of.
fn uri(message: &Message) -> Option<String> {
    let limits = ParseLimits { max_bytes: usize::MAX, max_depth: 512 };
    let message = portcullis_protocol::parse(&message.body, &limits).ok()?;
    Some(message.params?.uri?.value.into_owned())
}

/// Whether a resource is among these, or lies below one of them (2025-11-25, "Resources": the URI of an update may be a
/// sub-resource of the one subscribed to).
fn covers(uris: &HashSet<Arc<str>>, uri: &str) -> bool {
    uris.contains(uri)
        || uri
            .char_indices()
            .any(|(at, c)| matches!(c, '/' | '?' | '#') && (uris.contains(&uri[..at]) || uris.contains(&uri[..=at])))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use portcullis_telemetry::Metrics;

    use super::*;
    use crate::{meter::Meter, target::Account};

    fn hub(conversing: bool) -> (Arc<Hub>, broadcast::Receiver<Change>) {
        let conversation =
            conversing.then(|| Arc::new(crate::Conversation { id: "c".into(), capabilities: "{}".into() }));
        let key = TargetKey {
            tenant: "t".parse().unwrap(),
            server: "s".parse().unwrap(),
            generation: 1,
            account: Account::None,
            conversation,
            era: None,
        };
        let (changes, heard) = broadcast::channel(8);
        let server = Arc::new(Server::new(1, Meter::new(Metrics::new(), "t", "s")));
        (Hub::new(key, server, changes, 1000), heard)
    }

    fn note(method: &str, params: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{{params}}}}}"#);
        Message::parse(Bytes::from(text)).unwrap()
    }

    async fn got(listener: &mut Listener) -> String {
        listener.next().await.unwrap().method().unwrap().into_owned()
    }

    #[tokio::test]
    async fn each_hears_what_it_asked_for() {
        let (hub, mut changes) = hub(false);
        let (mut one, starts) = hub.join(&Listen { tools: true, ..Listen::default() }, &[]).unwrap();
        let (mut two, again) = hub.join(&Listen { uris: &["file:///a", "x://d/"], ..Listen::default() }, &[]).unwrap();
        assert!(starts && !again);
        for (method, params) in [
            ("notifications/tools/list_changed", ""),
            ("notifications/resources/updated", r#""uri":"file:///ab""#),
            ("notifications/resources/updated", r#""uri":"file:///a/b""#),
            ("notifications/resources/updated", r#""uri":"x://d/e""#),
            ("notifications/message", ""),
        ] {
            hub.dispatch(&note(method, params));
        }
        assert_eq!(got(&mut one).await, "notifications/tools/list_changed");
        for _ in 0..2 {
            assert_eq!(got(&mut two).await, "notifications/resources/updated");
        }
        assert!(one.receiver.try_recv().is_err() && two.receiver.try_recv().is_err(), "and nothing else");
        assert_eq!(changes.try_recv().unwrap().what, Changed::Tools);
        assert_eq!(hub.wanted().uris.len(), 2);
        drop((one, two));
        assert!(hub.retire() && hub.wanted().uris.is_empty());
    }

    #[tokio::test]
    async fn a_slow_listener_is_cut_alone() {
        let (hub, _changes) = hub(true);
        let (mut slow, _) = hub.join(&Listen::default(), &[]).unwrap();
        let (mut quick, _) = hub.join(&Listen::default(), &[]).unwrap();
        for _ in 0..100 {
            hub.dispatch(&note("notifications/message", ""));
            got(&mut quick).await;
        }
        let mut heard = 0;
        let error = loop {
            match slow.next().await {
                Ok(_) => heard += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, UpstreamError::Flooded), "{error}");
        assert!((1..100).contains(&heard), "{heard} within the bound of bytes");
    }

    #[tokio::test]
    async fn a_question_goes_to_one_and_waiting_ends_with_the_reason() {
        let (hub, _changes) = hub(true);
        let (mut one, _) = hub.join(&Listen::default(), &[]).unwrap();
        let (two, _) = hub.join(&Listen { uris: &["a"], ..Listen::default() }, &[]).unwrap();
        let ask = Message::parse(Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#)).unwrap();
        assert!(hub.dispatch(&ask));
        assert_eq!(got(&mut one).await, "roots/list");
        assert_eq!(two.queued.load(Ordering::Relaxed), 0);
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(matches!(two.served(soon).await, Err(UpstreamError::Timeout { .. })));
        hub.serve(two.generation);
        two.served(soon).await.unwrap();
        hub.unserve();
        let later = Instant::now() + Duration::from_secs(5);
        let (refused, ()) = tokio::join!(two.served(later), async {
            tokio::task::yield_now().await;
            hub.end_uri("a", &UpstreamError::Refused { code: -32602 });
        });
        assert!(matches!(refused, Err(UpstreamError::Refused { code: -32602 })));
        assert!(one.receiver.try_recv().is_err(), "the other one still listens");
        hub.close();
        assert!(matches!(one.next().await, Err(UpstreamError::ShuttingDown)));
        assert!(hub.join(&Listen::default(), &[]).is_err());
    }
}
