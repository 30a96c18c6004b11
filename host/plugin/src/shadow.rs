//! Where candidates run beside the active version: on a thread of their own, one at a time, and never on a caller's.
//!
//! What waits is bounded by number and by the bytes that it keeps alive; what finds no room is not run.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The most runs that wait.
const WAITING: usize = 256;
/// The most that they keep alive together, in kibibytes: 16 MiB.
const KIBIBYTES: usize = 16 << 10;
/// How much less of a busy machine its thread gets than those of callers.
const NICE: i32 = 10;

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The thread, started when first needed; it ends with this.
#[derive(Default)]
pub(crate) struct Shadows(OnceLock<Option<Runner>>);

struct Runner {
    queue: mpsc::Sender<(Job, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// Room for one run.
pub(crate) struct Room {
    queue: mpsc::OwnedPermit<(Job, OwnedSemaphorePermit)>,
    bytes: OwnedSemaphorePermit,
}

impl Shadows {
    /// Room for a run that keeps so many bytes alive; none where too much waits already.
    pub(crate) fn room(&self, bytes: usize) -> Option<Room> {
        let runner = self.0.get_or_init(start).as_ref()?;
        let kibibytes = u32::try_from(bytes >> 10).ok()?.saturating_add(1);
        Some(Room {
            bytes: Arc::clone(&runner.room).try_acquire_many_owned(kibibytes).ok()?,
            queue: runner.queue.clone().try_reserve_owned().ok()?,
        })
    }
}

impl Room {
    /// Runs it, sometime.
    pub(crate) fn run<F>(self, job: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let job: Job = Box::new(move || Box::pin(job()));
        self.queue.send((job, self.bytes));
    }
}

fn start() -> Option<Runner> {
    let (queue, mut jobs) = mpsc::channel::<(Job, OwnedSemaphorePermit)>(WAITING);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let started = runtime.and_then(|runtime| {
        let serve = move || {
            // Of this thread alone: Linux has a nice value for each. Without it the thread is as good as any.
            let _ = rustix::process::setpriority_process(None, NICE);
            runtime.block_on(async {
                while let Some((job, bytes)) = jobs.recv().await {
                    job().await;
                    drop(bytes);
                }
            });
        };
        std::thread::Builder::new().name("plugin-shadow".into()).spawn(serve)
    });
    match started {
        Ok(_) => Some(Runner { queue, room: Arc::new(Semaphore::new(KIBIBYTES)) }),
        Err(error) => {
            tracing::error!(%error, "no thread for candidates of plugins; they are not compared");
            None
        }
    }
}
