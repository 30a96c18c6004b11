//! The threads that carry calls, one for each core.
//!
//! Each lane is a runtime of a single thread. A connection stays on the lane that it was given to, and the servers that its calls
//! go to are reached over connections of that lane (`portcullis_upstream::lane`), so a call wakes no other thread on its way
//! (docs/decisions/0011-a-call-stays-on-its-thread.md).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{runtime::Builder, sync::mpsc, time::Instant};

/// Connections that wait until their lane looks at them.
const WAITING: usize = 4096;

/// What a lane is given: started on its thread, within its runtime.
type Job = Box<dyn FnOnce() + Send>;

/// All lanes.
pub struct Lanes(Vec<Lane>);

struct Lane {
    jobs: mpsc::Sender<Job>,
    load: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

/// Counts a connection on its lane for as long as it lives.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    /// Starts so many.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(count: usize) -> io::Result<Self> {
        (0..count.max(1)).map(|number| Lane::start(number + 1)).collect::<io::Result<_>>().map(Self)
    }

    /// Runs what `make` makes on the lane that has the least to do. How much is under way at once is for the caller to bound.
    pub fn run<F: Future<Output = ()> + Send + 'static>(&self, make: impl FnOnce() -> F + Send + 'static) {
        let Some(lane) = self.0.iter().min_by_key(|lane| lane.load.load(Ordering::Relaxed)) else { return };
        lane.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&lane.load));
        let job: Job = Box::new(move || {
            let task = make();
            tokio::spawn(async move {
                task.await;
                drop(load);
            });
        });
        // What a lane that is ending or hopelessly behind can't take is dropped, which closes the connection.
        if lane.jobs.try_send(job).is_err() {
            tracing::warn!("a connection was closed: its thread takes no more");
        }
    }

    /// Ends all lanes, and what is still under way on them; waits for so long at most.
    pub async fn end(self, patience: Duration) {
        let until = Instant::now() + patience;
        let threads: Vec<JoinHandle<()>> = self.0.into_iter().map(|lane| lane.thread).collect();
        while Instant::now() < until && !threads.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Lane {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (jobs, mut given) = mpsc::channel::<Job>(WAITING);
        let thread = thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
            portcullis_upstream::lane::enter();
            runtime.block_on(async {
                while let Some(job) = given.recv().await {
                    job();
                }
            });
            // What blocks, such as looking up a name, must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Self { jobs, load: Arc::default(), thread })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_is_spread_and_stays_where_it_is() {
        let lanes = Lanes::start(2).unwrap();
        let mut held = Vec::new();
        let mut names = Vec::new();
        for _ in 0..4 {
            let (name, named) = oneshot::channel();
            let (hold, released) = oneshot::channel::<()>();
            lanes.run(|| async move {
                let before = thread::current().name().map(str::to_owned);
                tokio::task::yield_now().await;
                assert_eq!(before.as_deref(), thread::current().name());
                let _ = name.send(before);
                let _ = released.await;
            });
            names.push(named.await.unwrap().unwrap());
            held.push(hold);
        }
        names.sort();
        assert_eq!(names, ["lane-1", "lane-1", "lane-2", "lane-2"]);
        // One that panics takes nobody with it.
        let (tell, told) = oneshot::channel();
        lanes.run(|| async { panic!("on purpose") });
        lanes.run(|| async move {
            let _ = tell.send(());
        });
        told.await.unwrap();
        lanes.end(Duration::from_secs(10)).await;
        assert!(held.iter().all(oneshot::Sender::is_closed), "what was under way ends with its lane");
    }
}
