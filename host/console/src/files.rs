//! The file door: watched YAML files in, resources out.
//!
//! A file that is wrong is refused whole, with file, line and reason in the log, in a metric and in the status; what it
//! brought before goes on serving, and so does every other file. A file that disappears takes its resources with it; a
//! directory that can't be read takes nothing, because an unmounted volume is no wish to delete.

mod scan;
mod sync;
mod watch;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use portcullis_store::Registry;
use portcullis_telemetry::{Audit, Metrics};
use tokio::{sync::watch as signal, task::JoinHandle};

use crate::{api::FileStatus, recorded::Recorded};

/// What the file door watches, and how often.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Files and directories. Of a directory, `*.yaml`, `*.yml` and `*.json` are read, in directories below it too; names
    /// that begin with a dot are left alone.
    pub paths: Vec<PathBuf>,
    /// How long to wait after a change for further ones: editors and volume mounts change files in several steps.
    pub settle: Duration,
    /// How often to look where no change was told: network file systems tell none.
    pub rescan: Duration,
}

impl FileOptions {
    /// Those paths, with the usual times.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, settle: Duration::from_millis(150), rescan: Duration::from_secs(15) }
    }
}

/// The file door. Dropping it stops watching; what it brought stays.
pub struct FileDoor {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    registry: Arc<Registry>,
    recorded: Recorded,
    metrics: Arc<Metrics>,
    options: FileOptions,
    status: Mutex<Vec<FileStatus>>,
    /// Files that resources refer to, such as components of plugins: watched as well.
    also: Mutex<BTreeSet<PathBuf>>,
    wake: tokio::sync::Notify,
    rounds: signal::Sender<u64>,
    referred: signal::Sender<u64>,
}

impl FileDoor {
    /// Reads all files once and watches them from there. When this answers, what could be taken is taken.
    pub async fn open(registry: Arc<Registry>, metrics: Arc<Metrics>, audit: Arc<Audit>, options: FileOptions) -> Self {
        let shared = Arc::new(Shared {
            recorded: Recorded::new(Arc::clone(&registry), audit),
            registry,
            metrics,
            options,
            status: Mutex::new(Vec::new()),
            also: Mutex::new(BTreeSet::new()),
            wake: tokio::sync::Notify::new(),
            rounds: signal::Sender::new(0),
            referred: signal::Sender::new(0),
        });
        let mut memory = sync::Memory::default();
        sync::round(&shared, &mut memory).await;
        let task = tokio::spawn(watch::run(Arc::clone(&shared), memory));
        Self { shared, task }
    }

    /// How each file is now.
    pub fn status(&self) -> Vec<FileStatus> {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the rounds of reading; a change of it means that [`FileDoor::status`] was brought up to date.
    pub fn rounds(&self) -> signal::Receiver<u64> {
        self.shared.rounds.subscribe()
    }

    /// Says which files besides should be watched: the components that `Plugin` resources name.
    pub fn also_watch(&self, files: BTreeSet<PathBuf>) {
        let changed = {
            let mut also = self.shared.also.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = *also != files;
            *also = files;
            changed
        };
        if changed {
            self.shared.wake.notify_one();
        }
    }

    /// Changes when one of the files of [`FileDoor::also_watch`] did.
    pub fn referred(&self) -> signal::Receiver<u64> {
        self.shared.referred.subscribe()
    }

    /// Looks at once instead of at the next change.
    pub fn look(&self) {
        self.shared.wake.notify_one();
    }
}

impl Drop for FileDoor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for FileDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileDoor").field("paths", &self.shared.options.paths).finish_non_exhaustive()
    }
}
