//! A running child: one task writes, one reads, a table says who waits for which id.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use portcullis_protocol::Version;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{broadcast, mpsc, oneshot},
};

use crate::{
    error::{Sent, UpstreamError},
    facts::ServerFacts,
    launch::{self, Pipes},
    listen::{Change, Changed},
    message::{Message, MessageKind, cancelled, refuse},
    stdio::lines::{Line, Lines, id_of},
    target::TargetKey,
};

/// Messages that wait to be written. A child that doesn't read makes callers wait here, until their deadlines.
const OUTBOX: usize = 128;
/// Progress notifications that wait for a slow caller; more are left out, as progress may be.
const PROGRESS: usize = 64;
/// So many bytes of output without a single message, and the child is no MCP server.
const MAX_GARBAGE: usize = 16 << 20;

/// A child that speaks.
pub(crate) struct Child {
    key: TargetKey,
    ids: AtomicU64,
    facts: OnceLock<Arc<ServerFacts>>,
    outbox: mpsc::Sender<Bytes>,
    table: Mutex<Table>,
    limit: usize,
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
    progress: Option<mpsc::Sender<Message>>,
}

impl Child {
    /// Starts the two tasks. They end with the child's output, or when it is closed.
    pub(crate) fn run(key: TargetKey, pipes: Pipes, limit: usize, changes: broadcast::Sender<Change>) -> Arc<Self> {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let child = Arc::new(Self {
            key,
            ids: AtomicU64::new(1),
            facts: OnceLock::new(),
            outbox,
            table: Mutex::new(Table { open: true, waiting: HashMap::new() }),
            limit,
            handle: Mutex::new(Some(pipes.child)),
            leaving: AtomicBool::new(false),
        });
        tokio::spawn(write_all(pipes.stdin, inbox));
        let leaver = Arc::downgrade(&child);
        let leave = pipes.leave;
        tokio::spawn(async move {
            if leave.await.is_ok()
                && let Some(child) = leaver.upgrade()
            {
                child.close_when_idle();
            }
        });
        tokio::spawn(read_all(Arc::downgrade(&child), Lines::new(pipes.stdout, limit), changes));
        child
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

    /// What the child said of itself in the handshake.
    pub(crate) fn facts(&self) -> Option<Arc<ServerFacts>> {
        self.facts.get().cloned()
    }

    /// Whether it takes new calls.
    pub(crate) fn is_open(&self) -> bool {
        !self.leaving.load(Ordering::Acquire) && self.table().open
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

    /// Sends a request and enters it in the table. Dropping the [`Call`] takes it out and cancels it.
    pub(crate) async fn call(
        self: &Arc<Self>,
        id: u64,
        body: Bytes,
        progress: bool,
        deadline: Instant,
    ) -> Result<Call, UpstreamError> {
        let (answer, answered) = oneshot::channel();
        let (sender, progress) = if progress {
            let (sender, receiver) = mpsc::channel(PROGRESS);
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        {
            let mut table = self.table();
            if !table.open {
                return Err(UpstreamError::Closed { sent: Sent::No });
            }
            table.waiting.insert(id, Waiter { answer, progress: sender });
        }
        let mut call = Call { child: self.clone(), id, answered, progress, deadline, sent: false, done: false };
        self.write(body, deadline).await?;
        call.sent = true;
        Ok(call)
    }

    /// Sends one message.
    pub(crate) async fn write(&self, body: Bytes, deadline: Instant) -> Result<(), UpstreamError> {
        match tokio::time::timeout_at(deadline.into(), self.outbox.send(one_line(body))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(UpstreamError::Closed { sent: Sent::No }),
            Err(_) => Err(UpstreamError::Timeout { sent: Sent::No }),
        }
    }

    /// Sends one message that nobody waits for.
    fn write_aside(&self, body: Vec<u8>) {
        match self.outbox.try_send(body.into()) {
            Err(mpsc::error::TrySendError::Full(body)) => {
                let outbox = self.outbox.clone();
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move { outbox.send(body).await });
                }
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    /// Ends the child: whoever waits is told that it closed.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut table = self.table();
            table.open = false;
            std::mem::take(&mut table.waiting)
        };
        drop(waiting);
        drop(self.handle.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends the child with its last call, at once if there is none.
    pub(crate) fn close_when_idle(&self) {
        self.leaving.store(true, Ordering::Release);
        if self.table().waiting.is_empty() {
            self.close();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, id: u64) -> bool {
        let (was_there, last) = {
            let mut table = self.table();
            (table.waiting.remove(&id).is_some(), table.waiting.is_empty())
        };
        if last && self.leaving.load(Ordering::Acquire) {
            self.close();
        }
        was_there
    }

    fn deliver(&self, id: u64, answer: Result<Message, UpstreamError>) {
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

    /// Takes a line of output. Returns whether it was a message.
    fn take(&self, line: Bytes, changes: &broadcast::Sender<Change>) -> bool {
        let Ok(message) = Message::parse(line) else {
            return false;
        };
        match message.kind {
            MessageKind::Result | MessageKind::Error => {
                if let Some(id) = message.our_id() {
                    self.deliver(id, Ok(message));
                }
            }
            MessageKind::Request => self.write_aside(refuse(&message)),
            MessageKind::Progress => {
                let Some(token) = message.our_token() else {
                    return true;
                };
                if let Some(progress) = self.table().waiting.get(&token).and_then(|w| w.progress.as_ref()) {
                    // When the caller reads too slowly, the newest goes: the next one says more anyway.
                    let _ = progress.try_send(message);
                }
            }
            MessageKind::Notification => {
                if let Some(what) = message.method().and_then(|m| Changed::of(&m)) {
                    // Nobody may be listening.
                    let _ = changes.send(Change { key: self.key.clone(), what });
                }
            }
        }
        true
    }
}

async fn write_all(mut stdin: Box<dyn AsyncWrite + Send + Unpin>, mut inbox: mpsc::Receiver<Bytes>) {
    while let Some(body) = inbox.recv().await {
        let wrote = async {
            stdin.write_all(&body).await?;
            stdin.write_all(b"\n").await?;
            stdin.flush().await
        };
        if wrote.await.is_err() {
            return;
        }
    }
}

async fn read_all<R: tokio::io::AsyncRead + Unpin>(
    child: Weak<Child>,
    mut lines: Lines<R>,
    changes: broadcast::Sender<Change>,
) {
    let mut garbage = 0usize;
    while let Some(line) = lines.next().await {
        let Some(child) = child.upgrade() else { return };
        match line {
            Line::Text(line) if line.is_empty() => {}
            Line::Text(line) => {
                let size = line.len();
                if child.take(line, &changes) {
                    garbage = 0;
                } else {
                    garbage = garbage.saturating_add(size + 1);
                    tracing::debug!(target = %child.key, "left out a line of output that is no JSON-RPC message");
                    if garbage > MAX_GARBAGE {
                        child.degraded("it floods its standard output with what is no JSON-RPC message");
                        break;
                    }
                }
            }
            Line::TooLong { head, tail } => {
                let limit = child.limit as u64;
                tracing::warn!(target = %child.key, limit, "skipped a message that is too large");
                if let Some(id) = id_of(&head, &tail) {
                    child.deliver(id, Err(UpstreamError::TooLarge { limit }));
                }
            }
        }
    }
    if let Some(child) = child.upgrade() {
        if child.table().open {
            child.degraded("it closed its standard output");
        }
        child.close();
    }
}

/// Messages are framed by lines. A line break in JSON is white space, since strings can't hold one.
fn one_line(body: Bytes) -> Bytes {
    if !body.iter().any(|b| matches!(b, b'\n' | b'\r')) {
        return body;
    }
    body.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }).collect()
}

/// A call in flight on a child.
pub(crate) struct Call {
    child: Arc<Child>,
    id: u64,
    answered: oneshot::Receiver<Result<Message, UpstreamError>>,
    progress: Option<mpsc::Receiver<Message>>,
    deadline: Instant,
    sent: bool,
    done: bool,
}

impl Call {
    /// The next message: progress, then the answer.
    pub(crate) async fn next(&mut self) -> Result<Message, UpstreamError> {
        let closed = UpstreamError::Closed { sent: Sent::Maybe };
        let next = async {
            if let Some(progress) = &mut self.progress {
                tokio::select! {
                    biased;
                    Some(message) = progress.recv() => return (false, Ok(message)),
                    answer = &mut self.answered => return (true, answer.unwrap_or(Err(closed))),
                }
            }
            (true, (&mut self.answered).await.unwrap_or(Err(closed)))
        };
        let (last, message) = match tokio::time::timeout_at(self.deadline.into(), next).await {
            Ok(next) => next,
            Err(_) => (false, Err(UpstreamError::Timeout { sent: Sent::Maybe })),
        };
        self.done |= last;
        message
    }

    /// The answer, without what comes before it.
    pub(crate) async fn answer(&mut self) -> Result<Message, UpstreamError> {
        loop {
            let message = self.next().await?;
            if message.is_answer() {
                return Ok(message);
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let waited = self.child.forget(self.id);
        if waited && self.sent && !self.done {
            self.child.write_aside(cancelled(self.id));
        }
    }
}
