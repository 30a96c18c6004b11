//! Work beside the rounds: one task for each thing that is fetched or loaded, however many rounds ask for it. A round waits for it a
//! while where it began it, and goes on without it otherwise; when it is done later, the next round is told. What was late and came to
//! nothing is not waited for when it is tried again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use portcullis_telemetry::Metrics;
use tokio::{
    sync::{Semaphore, watch},
    task::AbortHandle,
};

use super::Stage;

/// How much is done at once, of each stage; what is compiled at once is bounded by the host.
const AT_ONCE: usize = 8;

/// How long a round waits for what it begins.
#[derive(Clone)]
pub(super) struct Wait {
    /// Which round it is.
    pub(super) round: u64,
    /// True when it has waited enough.
    pub(super) over: watch::Receiver<bool>,
}

impl Wait {
    /// Waits for an outcome, for as long as this round waits.
    async fn until<T>(&self, outcome: &mut watch::Receiver<Option<T>>) {
        let mut over = self.over.clone();
        tokio::select! {
            biased;
            _ = outcome.wait_for(Option::is_some) => {}
            _ = over.wait_for(|over| *over) => {}
        }
    }
}

/// What work came to.
pub(super) enum Progress<T, E> {
    /// It is done. `late`: another round began it.
    Done { value: Result<T, E>, late: bool },
    /// It goes on.
    UnderWay,
    /// It ended without a word: it panicked.
    Lost,
}

/// All work of one stage.
pub(super) struct Works<T, E> {
    stage: Stage,
    all: Mutex<All<T, E>>,
    room: Arc<Semaphore>,
    /// Tells that something is done that a round went on without.
    told: Arc<watch::Sender<u64>>,
    going: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

struct All<T, E> {
    under_way: HashMap<String, Work<T, E>>,
    /// What some round went on without, with the last round that asked for it.
    late: HashMap<String, u64>,
}

struct Work<T, E> {
    /// The last round that asked for it.
    round: u64,
    outcome: watch::Receiver<Option<Result<T, E>>>,
    /// Whether a round went on without it.
    missed: Arc<AtomicBool>,
    task: AbortHandle,
}

impl<T, E> Drop for Work<T, E> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T, E> Works<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    pub(super) fn new(stage: Stage, told: Arc<watch::Sender<u64>>, metrics: Arc<Metrics>) -> Self {
        let all = Mutex::new(All { under_way: HashMap::new(), late: HashMap::new() });
        let (room, going) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::default());
        Self { stage, all, room, told, going, metrics }
    }

    /// What work under this key came to; `work` begins it where nobody did.
    pub(super) async fn get<F>(&self, key: &str, wait: &Wait, work: impl FnOnce() -> F) -> Progress<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (mut outcome, missed, begun_now, waits) = {
            let mut all = self.all();
            let begun_now = !all.under_way.contains_key(key);
            if begun_now {
                all.under_way.insert(key.to_owned(), self.begin(work()));
            }
            let late = all.late.get_mut(key).map(|round| *round = wait.round).is_some();
            let Some(found) = all.under_way.get_mut(key) else { return Progress::Lost };
            found.round = wait.round;
            (found.outcome.clone(), Arc::clone(&found.missed), begun_now, begun_now && !late)
        };
        if waits {
            wait.until(&mut outcome).await;
        }
        let mut ended = looked(&outcome);
        if ended.is_none() {
            // First this, then another look: the work looks the other way round when it is done.
            missed.store(true, SeqCst);
            ended = looked(&outcome);
        }
        let mut all = self.all();
        let progress = match ended {
            Some(Some(value)) => Progress::Done { value, late: !begun_now },
            Some(None) => Progress::Lost,
            None => {
                all.late.insert(key.to_owned(), wait.round);
                return Progress::UnderWay;
            }
        };
        if matches!(progress, Progress::Done { value: Ok(_), .. }) {
            all.late.remove(key);
        }
        all.under_way.remove(key);
        progress
    }

    fn begin(&self, work: impl Future<Output = Result<T, E>> + Send + 'static) -> Work<T, E> {
        let (sender, outcome) = watch::channel(None);
        let missed = Arc::new(AtomicBool::new(false));
        let going = Going::new(self.stage, &self.going, &self.metrics);
        let (room, told, unseen) = (Arc::clone(&self.room), Arc::clone(&self.told), Arc::clone(&missed));
        let task = tokio::spawn(async move {
            let _going = going;
            let Ok(_permit) = room.acquire_owned().await else { return };
            let tell = Tell { told, unseen };
            let _ = sender.send(Some(work.await));
            drop(tell);
        });
        Work { round: 0, outcome, missed, task: task.abort_handle() }
    }

    /// Keeps what goes on under keys that begin so, though this round can't ask for it: what comes before it is not there yet.
    pub(super) fn keep(&self, beginning: &str, round: u64) {
        let mut all = self.all();
        all.under_way.iter_mut().filter(|(key, _)| key.starts_with(beginning)).for_each(|(_, work)| work.round = round);
        all.late.iter_mut().filter(|(key, _)| key.starts_with(beginning)).for_each(|(_, asked)| *asked = round);
    }

    /// Gives up what this round neither asked for nor keeps.
    pub(super) fn sweep(&self, round: u64) {
        let mut all = self.all();
        all.under_way.retain(|_, work| work.round == round);
        all.late.retain(|_, asked| *asked == round);
    }

    fn all(&self) -> MutexGuard<'_, All<T, E>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of work that has ended: nothing where it ended without a word. None while it goes on.
fn looked<T: Clone>(outcome: &watch::Receiver<Option<T>>) -> Option<Option<T>> {
    let gone = outcome.has_changed().is_err();
    let value = outcome.borrow().clone();
    if gone || value.is_some() { Some(value) } else { None }
}

/// Counts as work under way until it is dropped.
struct Going {
    stage: Stage,
    going: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Going {
    fn new(stage: Stage, going: &Arc<AtomicUsize>, metrics: &Arc<Metrics>) -> Self {
        metrics.plugin_under_way(stage.as_str(), going.fetch_add(1, SeqCst) + 1);
        Self { stage, going: Arc::clone(going), metrics: Arc::clone(metrics) }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.metrics.plugin_under_way(self.stage.as_str(), self.going.fetch_sub(1, SeqCst) - 1);
    }
}

/// Tells the next round when it is dropped, however the work ended, if a round went on without it.
struct Tell {
    told: Arc<watch::Sender<u64>>,
    unseen: Arc<AtomicBool>,
}

impl Drop for Tell {
    fn drop(&mut self) {
        if self.unseen.load(SeqCst) {
            self.told.send_modify(|told| *told += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Bench {
        works: Works<u32, ()>,
        hears: watch::Receiver<u64>,
        over: watch::Sender<bool>,
    }

    impl Bench {
        fn new() -> Self {
            let (told, hears) = watch::channel(0);
            let works = Works::new(Stage::Fetching, Arc::new(told), Metrics::new());
            Self { works, hears, over: watch::Sender::new(false) }
        }

        /// A round that waits for as long as it takes, or not at all.
        fn round(&self, round: u64, waits: bool) -> Wait {
            self.over.send_replace(!waits);
            Wait { round, over: self.over.subscribe() }
        }

        async fn told(&mut self) {
            tokio::time::timeout(Duration::from_secs(10), self.hears.changed()).await.expect("told").unwrap();
        }
    }

    async fn never() -> Result<u32, ()> {
        std::future::pending().await
    }

    #[tokio::test]
    async fn what_is_done_in_time_is_had_at_once_and_tells_nobody() {
        let bench = Bench::new();
        let got = bench.works.get("k", &bench.round(1, true), || async { Ok(7) }).await;
        assert!(matches!(got, Progress::Done { value: Ok(7), late: false }));
        while bench.works.going.load(SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!bench.hears.has_changed().unwrap(), "no further round for what was had");
        assert!(bench.works.all().under_way.is_empty());
    }

    #[tokio::test]
    async fn what_a_round_went_on_without_is_there_for_the_next_one() {
        let mut bench = Bench::new();
        let (go, mut gone) = watch::channel(false);
        let work = async move {
            let _ = gone.wait_for(|go| *go).await;
            Ok(7)
        };
        assert!(matches!(bench.works.get("k", &bench.round(1, false), || work).await, Progress::UnderWay));
        let joined = bench.works.get("k", &bench.round(2, true), never).await;
        assert!(matches!(joined, Progress::UnderWay), "and is not waited for a second time");
        bench.works.sweep(2);
        go.send(true).unwrap();
        bench.told().await;
        let third = bench.works.get("k", &bench.round(3, false), never).await;
        assert!(matches!(third, Progress::Done { value: Ok(7), late: true }));
    }

    #[tokio::test]
    async fn what_nobody_asks_for_any_more_is_given_up() {
        let bench = Bench::new();
        assert!(matches!(bench.works.get("k", &bench.round(1, false), never).await, Progress::UnderWay));
        assert_eq!(bench.works.going.load(SeqCst), 1);
        bench.works.keep("k", 2);
        bench.works.keep("other", 3);
        bench.works.sweep(2);
        assert_eq!(bench.works.all().under_way.len(), 1, "a round may not be able to ask for it");
        bench.works.sweep(3);
        let gone = async {
            while bench.works.going.load(SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("it ends, and is counted no more");
    }

    #[tokio::test]
    async fn what_was_late_and_failed_is_tried_again_without_a_wait() {
        let mut bench = Bench::new();
        let (go, mut gone) = watch::channel(false);
        let work = async move {
            let _ = gone.wait_for(|go| *go).await;
            Err(())
        };
        assert!(matches!(bench.works.get("k", &bench.round(1, false), || work).await, Progress::UnderWay));
        bench.works.sweep(1);
        go.send(true).unwrap();
        bench.told().await;
        let failed = bench.works.get("k", &bench.round(2, true), never).await;
        assert!(matches!(failed, Progress::Done { value: Err(()), late: true }));
        bench.works.sweep(2);
        assert!(matches!(bench.works.get("k", &bench.round(3, true), never).await, Progress::UnderWay));
        // Nobody asked for it in a round: it is new again.
        bench.works.sweep(4);
        let anew = bench.works.get("k", &bench.round(9, true), || async { Ok(7) }).await;
        assert!(matches!(anew, Progress::Done { value: Ok(7), late: false }));
    }

    #[tokio::test]
    async fn a_panic_is_an_end_as_well() {
        let bench = Bench::new();
        let got = bench.works.get("k", &bench.round(1, true), || async { panic!("on purpose") }).await;
        assert!(matches!(got, Progress::Lost));
        let again = bench.works.get("k", &bench.round(2, true), || async { Ok(7) }).await;
        assert!(matches!(again, Progress::Done { value: Ok(7), late: false }));
    }
}
