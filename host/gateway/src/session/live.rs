//! What one legacy session holds: streams, open questions, the log level that it wants.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use portcullis_model::{Name, Principal};
use portcullis_protocol::Version;
use portcullis_upstream::TargetKey;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    level::Level,
    log::{Log, Replay},
};
use crate::conversation::attend::Own;

/// Streams of one session, those of calls that are over included.
const MOST_STREAMS: usize = 64;
/// How long a stream that nobody reads is kept after its call is over.
const KEPT: Duration = Duration::from_secs(120);
/// Questions of servers that one session may have open.
const MOST_QUESTIONS: usize = 64;
/// Progress notifications of one question that wait to be handed on.
const PROGRESS: usize = 8;

/// Requests of one session of 2024-11-05 that are under way: their POSTs are answered before they are.
const MOST_RUNNING: usize = 64;

/// How long a question waits for a stream that it can go out on, and how often it looks.
const REACH: Duration = Duration::from_secs(10);
const REACH_AGAIN: Duration = Duration::from_millis(50);

/// The stream that a GET opens.
pub const GET: u32 = 0;

/// A session that holds something.
pub struct Live {
    /// The revision that was negotiated.
    pub version: Version,
    /// Tenant and gateway.
    pub at: (Name, Name),
    /// Whose it is.
    pub whose: Arc<Principal>,
    /// Its key in the table.
    pub nonce: [u8; 12],
    /// Fires when the session ends.
    pub over: CancellationToken,
    tag: Box<str>,
    replay: Arc<Replay>,
    state: Mutex<State>,
    /// Woken when a reader has read something.
    room: Notify,
    /// The number of the next question.
    questions: AtomicU64,
}

struct State {
    streams: HashMap<u32, Kept>,
    next_stream: u32,
    questions: HashMap<u64, Waiting>,
    level: Option<Level>,
    /// URIs that the client subscribed to, by what ends the subscription.
    subscriptions: HashMap<String, CancellationToken>,
    /// Sessions of its own with servers.
    own: HashMap<TargetKey, Arc<Own>>,
    /// The log level that servers were told.
    told: HashMap<TargetKey, Level>,
    /// Of a session of 2024-11-05, which has one stream for everything.
    old: Option<Old>,
    used: Instant,
}

/// What only a session of 2024-11-05 has.
struct Old {
    /// What the client can be asked, once it has said so.
    capabilities: Option<Arc<str>>,
    running: Arc<Semaphore>,
}

/// Who waits for a client's answer.
struct Waiting {
    answer: oneshot::Sender<Bytes>,
    progress: mpsc::Sender<Bytes>,
}

/// A question that is open.
pub struct Open {
    /// Its id towards the client.
    pub number: u64,
    /// The client's answer: the whole message.
    pub answer: oneshot::Receiver<Bytes>,
    /// The client's progress notifications.
    pub progress: mpsc::Receiver<Bytes>,
}

struct Kept {
    log: Log,
    /// When it ended, or its reader left.
    since: Instant,
}

/// Why a stream can't be opened or resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The session has as many as it may.
    #[error("the session has too many streams")]
    TooMany,
    /// The event is not this session's, or is not kept any more.
    #[error("the event is unknown or no longer kept")]
    Unknown,
}

impl Live {
    /// A session that holds nothing yet.
    pub fn new(
        nonce: [u8; 12],
        version: Version,
        at: (Name, Name),
        whose: Arc<Principal>,
        replay: Arc<Replay>,
    ) -> Self {
        Self {
            version,
            at,
            whose,
            nonce,
            replay,
            over: CancellationToken::new(),
            tag: URL_SAFE_NO_PAD.encode(&nonce[..6]).into(),
            state: Mutex::new(State {
                streams: HashMap::new(),
                next_stream: 1,
                questions: HashMap::new(),
                level: None,
                subscriptions: HashMap::new(),
                own: HashMap::new(),
                told: HashMap::new(),
                old: None,
                used: Instant::now(),
            }),
            room: Notify::new(),
            questions: AtomicU64::new(1),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used = Instant::now();
        state
    }

    /// Opens the stream of a call.
    ///
    /// # Errors
    /// [`StreamError::TooMany`].
    pub fn open(&self) -> Result<u32, StreamError> {
        let mut state = self.state();
        if state.streams.len() >= MOST_STREAMS {
            // The one that has been over for longest makes room.
            let over = state.streams.iter().filter(|(_, s)| s.log.ended() && !s.log.is_read());
            let oldest = over.min_by_key(|(_, s)| s.since).map(|(no, _)| *no).ok_or(StreamError::TooMany)?;
            state.streams.remove(&oldest);
        }
        let no = state.next_stream;
        state.next_stream = no.checked_add(1).ok_or(StreamError::TooMany)?;
        state.streams.insert(no, Kept { log: Log::new(Arc::clone(&self.replay)), since: Instant::now() });
        Ok(no)
    }

    /// Takes the GET stream over from whoever has it; its reader goes on where the last one stopped.
    pub fn open_get(&self) -> u64 {
        let mut state = self.state();
        let kept = state
            .streams
            .entry(GET)
            .or_insert_with(|| Kept { log: Log::new(Arc::clone(&self.replay)), since: Instant::now() });
        kept.log.read_on()
    }

    /// Begins to read a stream after one of its events.
    ///
    /// # Errors
    /// [`StreamError::Unknown`].
    pub fn read(&self, stream: u32, after: u64) -> Result<u64, StreamError> {
        let mut state = self.state();
        let kept = state.streams.get_mut(&stream).ok_or(StreamError::Unknown)?;
        kept.log.read(after).ok_or(StreamError::Unknown)
    }

    /// The stream and event that a `Last-Event-ID` of this session names.
    ///
    /// # Errors
    /// [`StreamError::Unknown`] for any other.
    pub fn event(&self, id: &str) -> Result<(u32, u64), StreamError> {
        let (tag, rest) = id.rsplit_once('.').ok_or(StreamError::Unknown)?;
        let (stream, event) = rest.split_once('-').ok_or(StreamError::Unknown)?;
        if tag != &*self.tag {
            return Err(StreamError::Unknown);
        }
        Ok((stream.parse().map_err(|_| StreamError::Unknown)?, event.parse().map_err(|_| StreamError::Unknown)?))
    }

    /// The id of an event.
    pub fn event_id(&self, stream: u32, event: u64) -> String {
        format!("{}.{stream}-{event}", self.tag)
    }

    /// Works on a stream that there is.
    pub fn with<T>(&self, stream: u32, work: impl FnOnce(&mut Log) -> T) -> Option<T> {
        let mut state = self.state();
        let kept = state.streams.get_mut(&stream)?;
        let done = work(&mut kept.log);
        kept.since = Instant::now();
        drop(state);
        self.room.notify_waiters();
        Some(done)
    }

    /// Appends an event to a stream; waits for a slow reader until the deadline. Whether the stream took it.
    pub async fn push(&self, stream: u32, mut event: Bytes, deadline: Instant) -> bool {
        loop {
            let room = self.room.notified();
            let pushed = {
                let mut state = self.state();
                match state.streams.get_mut(&stream) {
                    None => return false,
                    Some(kept) => kept.log.push(event),
                }
            };
            match pushed {
                Ok(()) => return true,
                Err(back) => event = back,
            }
            if tokio::time::timeout_at(deadline.into(), room).await.is_err() {
                return false;
            }
        }
    }

    /// Appends an event to the GET stream where somebody reads it and has room.
    pub fn tell(&self, event: Bytes) -> bool {
        let mut state = self.state();
        state.streams.get_mut(&GET).is_some_and(|kept| kept.log.is_read() && kept.log.push(event).is_ok())
    }

    /// Whether a question is open.
    pub fn is_asked(&self) -> bool {
        !self.state().questions.is_empty()
    }

    /// Appends an event to the GET stream, or to the stream of a call where nobody reads that: somebody has to hear it. Waits
    /// a while for either.
    pub async fn reach(&self, event: Bytes, until: Instant) -> bool {
        let until = until.min(Instant::now() + REACH);
        loop {
            if self.tell(event.clone()) || self.tell_any(&event) {
                return true;
            }
            if Instant::now() >= until || self.over.is_cancelled() {
                return false;
            }
            tokio::time::sleep(REACH_AGAIN).await;
        }
    }

    fn tell_any(&self, event: &Bytes) -> bool {
        let mut state = self.state();
        state.streams.values_mut().any(|s| s.log.is_read() && !s.log.ended() && s.log.push(event.clone()).is_ok())
    }

    /// Notes a question. None where too many are open.
    pub fn question(&self) -> Option<Open> {
        let (sender, receiver) = oneshot::channel();
        let (progress, progresses) = mpsc::channel(PROGRESS);
        let mut state = self.state();
        if state.questions.len() >= MOST_QUESTIONS {
            return None;
        }
        let number = self.questions.fetch_add(1, Ordering::Relaxed);
        state.questions.insert(number, Waiting { answer: sender, progress });
        Some(Open { number, answer: receiver, progress: progresses })
    }

    /// Hands on the client's answer to a question; whether it was open.
    pub fn answered(&self, question: u64, answer: Bytes) -> bool {
        let waiting = self.state().questions.remove(&question);
        waiting.is_some_and(|waiting| waiting.answer.send(answer).is_ok())
    }

    /// Hands on the client's progress with a question; what comes too fast is left out.
    pub fn progressed(&self, question: u64, progress: Bytes) -> bool {
        self.state().questions.get(&question).is_some_and(|waiting| waiting.progress.try_send(progress).is_ok())
    }

    /// Nobody waits for the answer any more.
    pub fn forget(&self, question: u64) {
        self.state().questions.remove(&question);
    }

    /// The log level that the client wants.
    pub fn level(&self) -> Option<Level> {
        self.state().level
    }

    /// Notes the log level that the client wants.
    pub fn set_level(&self, level: Level) {
        self.state().level = Some(level);
    }

    /// Notes a subscription; what was noted for the URI before ends. None where there are too many.
    pub fn subscribe(&self, uri: &str, most: usize) -> Option<CancellationToken> {
        let mut state = self.state();
        if state.subscriptions.len() >= most && !state.subscriptions.contains_key(uri) {
            return None;
        }
        let token = self.over.child_token();
        if let Some(former) = state.subscriptions.insert(uri.to_owned(), token.clone()) {
            former.cancel();
        }
        Some(token)
    }

    /// Ends a subscription; whether there was one.
    pub fn unsubscribe(&self, uri: &str) -> bool {
        let token = self.state().subscriptions.remove(uri);
        token.map(|t| t.cancel()).is_some()
    }

    /// Notes a session of its own with a server; whether it is new.
    pub fn own_peer(&self, key: &TargetKey, own: impl FnOnce() -> Own) -> Option<Arc<Own>> {
        let mut state = self.state();
        if state.own.get(key).is_some_and(|own| own.peer.strong_count() > 0) {
            return None;
        }
        let own = Arc::new(own());
        state.own.insert(key.clone(), Arc::clone(&own));
        state.told.remove(key);
        Some(own)
    }

    /// Its sessions of its own with servers.
    pub fn own_peers(&self) -> Vec<Arc<Own>> {
        self.state().own.values().cloned().collect()
    }

    /// Forgets one of them.
    pub fn forget_own_peer(&self, key: &TargetKey) {
        self.state().own.remove(key);
    }

    /// Forgets its sessions of its own with servers, and gives their keys.
    pub fn take_own_peers(&self) -> Vec<TargetKey> {
        std::mem::take(&mut self.state().own).into_keys().collect()
    }

    /// The level that this server has yet to be told, if any; noted as told.
    pub fn tells_level(&self, key: &TargetKey) -> Option<Level> {
        let mut state = self.state();
        let level = state.level?;
        (state.told.insert(key.clone(), level) != Some(level)).then_some(level)
    }

    /// Makes it a session of 2024-11-05: all that it is told, answers too, goes out on its GET stream.
    pub fn make_old(&self) {
        let running = Arc::new(Semaphore::new(MOST_RUNNING));
        self.state().old = Some(Old { capabilities: None, running });
    }

    /// What the client of a session of 2024-11-05 can be asked, nothing before it said so; none for any other session.
    pub fn old_capabilities(&self) -> Option<Option<Arc<str>>> {
        self.state().old.as_ref().map(|old| old.capabilities.clone())
    }

    /// Notes what the client of a session of 2024-11-05 can be asked.
    pub fn note_capabilities(&self, capabilities: Arc<str>) {
        if let Some(old) = &mut self.state().old {
            old.capabilities = Some(capabilities);
        }
    }

    /// A place for a request of a session of 2024-11-05; none where it has too many under way.
    pub fn run(&self) -> Option<OwnedSemaphorePermit> {
        let running = Arc::clone(&self.state().old.as_ref()?.running);
        running.try_acquire_owned().ok()
    }

    /// Ends its streams; the session goes on.
    pub fn end_streams(&self) {
        self.state().streams.values_mut().for_each(|kept| kept.log.end());
    }

    /// Ends everything.
    pub fn end(&self) {
        self.over.cancel();
        let mut state = self.state();
        for kept in state.streams.values_mut() {
            kept.log.end();
        }
        state.questions.clear();
        state.subscriptions.clear();
    }

    /// Forgets streams that are over; whether nothing is left that has to be kept.
    pub fn sweep(&self, idle: Duration) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.streams.retain(|no, kept| {
            kept.log.is_read() || (kept.since.elapsed() < KEPT) || (*no != GET && !kept.log.ended())
        });
        let nothing = state.streams.is_empty()
            && state.questions.is_empty()
            && state.subscriptions.is_empty()
            && state.level.is_none();
        (nothing && state.used.elapsed() > KEPT) || (state.streams.is_empty() && state.used.elapsed() > idle)
    }

    /// Whether nobody has used it for so long.
    pub fn idles_for(&self, long: Duration) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).used.elapsed() > long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(n: u8) -> Live {
        let name = Name::default_tenant();
        let whose = Arc::new(Principal::anonymous(name.clone()));
        Live::new([n; 12], Version::LATEST_LEGACY, (name.clone(), name), whose, Arc::default())
    }

    #[test]
    fn an_event_belongs_to_its_session() {
        let (one, other) = (live(1), live(2));
        let id = one.event_id(7, 42);
        assert_eq!(one.event(&id), Ok((7, 42)));
        assert_eq!(other.event(&id), Err(StreamError::Unknown));
        for bad in ["", "7-42", ".7-42", "x.7", "é.1-1"] {
            assert_eq!(one.event(bad), Err(StreamError::Unknown), "{bad}");
        }
    }

    #[test]
    fn questions_are_answered_once_and_bounded() {
        let live = self::live(1);
        let Open { number, mut answer, .. } = live.question().unwrap();
        assert!(live.answered(number, Bytes::from_static(b"yes")));
        assert_eq!(answer.try_recv().unwrap(), "yes");
        assert!(!live.answered(number, Bytes::from_static(b"twice")));
        assert!(!live.answered(999, Bytes::new()), "never asked");
        let open: Vec<_> = std::iter::from_fn(|| live.question()).take(1000).collect();
        assert_eq!(open.len(), MOST_QUESTIONS);
    }

    #[test]
    fn streams_are_bounded_and_the_oldest_ended_one_makes_room() {
        let live = self::live(1);
        let first = live.open().unwrap();
        for _ in 1..MOST_STREAMS {
            live.open().unwrap();
        }
        assert_eq!(live.open(), Err(StreamError::TooMany));
        live.with(first, Log::end);
        assert!(live.open().is_ok());
        assert_eq!(live.read(first, 0), Err(StreamError::Unknown));
    }
}
