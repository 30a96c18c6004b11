//! The audit stream: who did what, under whose account, decided by whom. Hash-chained JSON lines; `docs/audit.md`.

use std::{
    borrow::Cow,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::metrics::Metrics;

mod chain;
mod clock;
mod file;
mod queue;

pub use chain::{Verified, VerifyError, verify};
pub(crate) use clock::rfc3339;
use queue::Queue;

/// One thing that happened. Holds no secret, and nothing that a server or plugin printed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditEvent {
    /// What sort: `call`, `denial`, `monitored`, `grant`, `reveal`, `passthrough`, `borrowed-connection`, `administration`,
    /// `session`, `revocation`, `registration`.
    pub kind: Cow<'static, str>,
    /// The request's id, as in the answer and the logs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The trace's id (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Arc<str>>,
    /// The gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    /// The principal, such as `user:alice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Arc<str>>,
    /// The id (never the text) of the token of ours that the caller came with, got, or gave back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Arc<str>>,
    /// The MCP method, or the verb of an administrator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Cow<'static, str>>,
    /// The `McpServer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Arc<str>>,
    /// The tool as the client named it, the resource that an administrator touched, or the OAuth client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<Arc<str>>,
    /// The policy whose answer this is, of what only watches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Arc<str>>,
    /// What was decided: `allow`, `deny`, `modify`, `require-approval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Cow<'static, str>>,
    /// The code of the refusal or of the policy's reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// Under whose account the call ran, such as `user:alice`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executed_as: Option<Arc<str>>,
    /// The connection that it ran under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<Arc<str>>,
    /// How it ended; see [`crate::Outcome`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Cow<'static, str>>,
    /// How long it took, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// Where a change came in that nobody asked the admin API for: `file:PATH` or `kubernetes:NAMESPACE/PLURAL/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub door: Option<Arc<str>>,
    /// The revision that a changed resource had before; none of one that is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_revision: Option<u64>,
    /// The revision that it has now; none of one that is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_revision: Option<u64>,
    /// What policies noted of the request, by name: at most 16, 1 KiB each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<serde_json::Map<String, serde_json::Value>>,
}

impl AuditEvent {
    /// An event of this sort with nothing else said.
    pub fn new(kind: &'static str) -> Self {
        Self { kind: Cow::Borrowed(kind), ..Self::default() }
    }
}

/// Where and how audit records are kept.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// The directory; the current file in it is `audit.jsonl`.
    pub dir: PathBuf,
    /// The size in bytes at which a file is closed as `audit.NUMBER.jsonl`.
    pub max_file_bytes: u64,
    /// How many closed files are kept; the oldest go first.
    pub max_files: usize,
    /// How many records may wait to be written.
    pub queue: usize,
}

impl AuditOptions {
    /// 64 MiB a file, 64 files, 65,536 records waiting.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), max_file_bytes: 64 << 20, max_files: 64, queue: 1 << 16 }
    }
}

/// Why a record was not made durable, or the stream could not be opened.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system refused.
    #[error("the audit file can't be written: {0}")]
    Io(Arc<std::io::Error>),
    /// Too many records wait.
    #[error("too many audit records are waiting to be written")]
    Full,
    /// The stream is closed.
    #[error("the audit stream is closed")]
    Closed,
}

impl From<std::io::Error> for AuditError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// The way into the audit stream. Dropping it writes and syncs what is waiting.
#[derive(Debug)]
pub struct Audit {
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Opens the stream in a directory (made if missing, 0700; files 0600) and goes on with the chain found there.
    ///
    /// A last line torn by a crash was never acknowledged: it is cut off and leaves a gap record. A file whose last line
    /// can't be read otherwise is put aside as `audit.damaged-TIME.jsonl`, never deleted, and a new chain starts with a gap
    /// record.
    ///
    /// # Errors
    /// If the directory or file can't be read or written.
    pub fn open(options: AuditOptions, metrics: Arc<Metrics>) -> Result<Arc<Self>, AuditError> {
        let queue = Arc::new(Queue::new(options.queue, Arc::clone(&metrics)));
        let file = file::ChainFile::open(options)?;
        let ours = Arc::clone(&queue);
        let writer = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || queue::write_all(&ours, file, &metrics))?;
        Ok(Arc::new(Self { queue, writer: Mutex::new(Some(writer)) }))
    }

    /// A stream that keeps nothing and acknowledges everything: for tests, and where an operator switched auditing off.
    pub fn discard() -> Arc<Self> {
        Arc::new(Self { queue: Arc::new(Queue::discarding()), writer: Mutex::new(None) })
    }

    /// Records an event within a second, on nobody's time. If too many wait it is dropped, which leaves a gap record.
    pub fn record(&self, event: AuditEvent) {
        self.queue.push(event);
    }

    /// Records an event and returns once it is on disk: denials, grants, reveals, passthrough, use of another's connection,
    /// administration. Those that wait together are synced together.
    ///
    /// # Errors
    /// If the record could not be kept. What was asked for must then be refused.
    pub async fn record_durable(&self, event: AuditEvent) -> Result<(), AuditError> {
        match self.queue.push_durable(event)? {
            Some(done) => done.await.unwrap_or(Err(AuditError::Closed)),
            None => Ok(()),
        }
    }

    /// Returns once everything recorded before is on disk.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn flush(&self) -> Result<(), AuditError> {
        match self.queue.push_barrier()? {
            Some(done) => done.await.unwrap_or(Err(AuditError::Closed)),
            None => Ok(()),
        }
    }

    /// Writes what is waiting and ends the stream. Blocks; called when the process ends, and by `drop`.
    pub fn close(&self) {
        self.queue.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a durable record waits for.
pub(crate) type Done = oneshot::Sender<Result<(), AuditError>>;
