//! The embedded store: sled 0.34, with the revisions, the change log and the durability that it lacks.
//!
//! Writes go to one thread (`writer`), which gathers what waits, applies it as one atomic batch, flushes, and only then
//! answers. Reads run on tokio's blocking pool. Nothing here blocks a worker but [`SledStore::open`] and the drop.

mod disk;
pub(crate) mod fill;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::{BoxFuture, MAX_SCAN, Record, Revision, Store, StoreError, Watch, Write, group::fits};
use disk::Disk;
use writer::{Job, Writer};

/// How many batches may wait for the writer before writers have to wait themselves.
const QUEUE: usize = 1024;

/// How an embedded store is opened.
#[derive(Clone, Debug)]
pub struct SledOptions {
    /// The floor of free disk space in bytes. Below it writes are refused, because sled can't be opened again on a full disk.
    pub min_free: u64,
    /// Memory for sled's page cache, in bytes.
    pub cache: u64,
    /// How long to wait for the lock: right after a kill it may still be held.
    pub lock_patience: Duration,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { min_free: 64 << 20, cache: 32 << 20, lock_patience: Duration::from_secs(5) }
    }
}

/// What the store did since it was opened.
#[derive(Debug, Default)]
pub struct Stats {
    /// Batches written.
    pub batches: AtomicU64,
    /// Flushes to disk; fewer than batches where several waited.
    pub flushes: AtomicU64,
    /// Batches refused for lack of disk space.
    pub no_space: AtomicU64,
    /// Batches refused because a record was not as they supposed.
    pub conflicts: AtomicU64,
}

/// A store in a directory, for one process at a time.
#[derive(Debug)]
pub struct SledStore {
    disk: Arc<Disk>,
    directory: PathBuf,
    /// Taken when the store is dropped, so that the writer ends.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    stats: Arc<Stats>,
}

impl SledStore {
    /// Opens the store in a directory, which is created (mode 0700) where it is missing. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Locked`] where another process holds it for longer than the patience; [`StoreError::Corrupt`] where
    /// what is on disk is not what was acknowledged; [`StoreError::NoSpace`] on a full disk; else
    /// [`StoreError::Unavailable`].
    pub fn open(directory: &Path, options: SledOptions) -> Result<Arc<Self>, StoreError> {
        let disk = Arc::new(Disk::open(directory, &options)?);
        let stats = Arc::new(Stats::default());
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = Writer::new(Arc::clone(&disk), Arc::clone(&stats), options.min_free);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(jobs))
            .map_err(|e| StoreError::Unavailable(format!("no thread for the writer: {e}")))?;
        Ok(Arc::new(Self { disk, directory: directory.to_owned(), queue: Some(queue), writer: Some(writer), stats }))
    }

    /// What it did since it was opened.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Where it is kept.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Waits for the writer to finish what it was given, so that the directory can be opened again at once.
impl Drop for SledStore {
    fn drop(&mut self) {
        self.queue.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

/// Runs a read on the blocking pool.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(read).await.map_err(|e| StoreError::Unavailable(format!("the read failed: {e}")))?
}

impl Store for SledStore {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        let (disk, key) = (Arc::clone(&self.disk), key.to_owned());
        Box::pin(blocking(move || disk.get(&key)))
    }

    fn scan<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, StoreError>> {
        let (disk, prefix, after) = (Arc::clone(&self.disk), prefix.to_owned(), after.map(str::to_owned));
        Box::pin(blocking(move || disk.scan(&prefix, after.as_deref(), limit.min(MAX_SCAN))))
    }

    fn write(&self, batch: Vec<Write>) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            fits(&batch)?;
            let closed = || StoreError::Unavailable("its writer has ended".to_owned());
            let (answer, answered) = oneshot::channel();
            let queue = self.queue.as_ref().ok_or_else(closed)?;
            queue.send(Job { batch, answer }).await.map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        })
    }

    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.disk.log.watch(prefix, from)
    }

    fn revision(&self) -> Revision {
        self.disk.log.revision()
    }
}

/// Counts one more.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
