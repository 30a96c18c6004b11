//! Counts the engine's epoch up while a guest runs, and sleeps while none does: an idle gateway wakes nobody.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, Thread},
    time::Duration,
};

use wasmtime::Engine;

use crate::error::LoadError;

/// The epoch's tick: the grain at which running guests are looked at.
const TICK: Duration = Duration::from_millis(1);
/// Ticks without a guest after which it sleeps. Waking it costs a call some microseconds, so not at every pause.
const QUIET: u32 = 100;

/// The thread that ticks, and who needs it.
#[derive(Debug)]
pub struct Ticker {
    needs: Arc<Needs>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct Needs {
    running: AtomicUsize,
    asleep: AtomicBool,
    over: AtomicBool,
}

/// Keeps the ticker awake until it is dropped.
#[derive(Debug)]
pub struct Awake<'a>(&'a Needs);

impl Ticker {
    /// Starts the thread; it ends with this, or with the engine.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn start(engine: &Engine) -> Result<Self, LoadError> {
        let needs = Arc::new(Needs::default());
        let (seen, weak) = (Arc::clone(&needs), engine.weak());
        let tick = move || match weak.upgrade() {
            Some(engine) => {
                engine.increment_epoch();
                true
            }
            None => false,
        };
        let thread = thread::Builder::new()
            .name("plugin-ticker".into())
            .spawn(move || seen.serve(tick))
            .map_err(|e| LoadError::Host(format!("no thread for the ticker: {e}")))?;
        Ok(Self { needs, thread: thread.thread().clone() })
    }

    /// To be held while a guest runs: without ticks its deadline would never come.
    pub fn awake(&self) -> Awake<'_> {
        self.needs.running.fetch_add(1, SeqCst);
        // In this order, as the thread says first that it sleeps and then looks again whether somebody runs: one of the two
        // sees the other.
        if self.needs.asleep.load(SeqCst) {
            self.thread.unpark();
        }
        Awake(&self.needs)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.needs.over.store(true, SeqCst);
        self.thread.unpark();
    }
}

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Needs {
    /// Ticks as long as `tick` says that there is something to tick for.
    fn serve(&self, tick: impl Fn() -> bool) {
        let mut quiet = 0;
        while !self.over.load(SeqCst) && tick() {
            quiet = if self.running.load(SeqCst) == 0 { quiet + 1 } else { 0 };
            if quiet < QUIET {
                thread::sleep(TICK);
                continue;
            }
            self.asleep.store(true, SeqCst);
            while self.running.load(SeqCst) == 0 && !self.over.load(SeqCst) {
                thread::park();
            }
            self.asleep.store(false, SeqCst);
            quiet = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicU64, time::Instant};

    use super::*;

    fn eventually(what: &str, done: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < until, "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn it_sleeps_while_nobody_runs_and_wakes_for_whoever_does() {
        let (needs, ticks) = (Arc::new(Needs::default()), Arc::new(AtomicU64::new(0)));
        let (seen, counted) = (Arc::clone(&needs), Arc::clone(&ticks));
        let spawned = thread::spawn(move || seen.serve(|| counted.fetch_add(1, SeqCst) < u64::MAX));
        let ticker = Ticker { needs, thread: spawned.thread().clone() };
        for _ in 0..3 {
            eventually("it falls asleep", || ticker.needs.asleep.load(SeqCst));
            let before = ticks.load(SeqCst);
            let awake = ticker.awake();
            eventually("it ticks while somebody runs, however long", || ticks.load(SeqCst) > before + u64::from(QUIET));
            assert!(!ticker.needs.asleep.load(SeqCst), "never asleep while somebody runs");
            drop(awake);
        }
        eventually("it falls asleep again", || ticker.needs.asleep.load(SeqCst));
        let before = ticks.load(SeqCst);
        // Whoever comes and goes at once must not leave it awake for ever, nor asleep for the next.
        for _ in 0..1_000 {
            drop(ticker.awake());
        }
        let awake = ticker.awake();
        eventually("it ticks after many came and went", || ticks.load(SeqCst) > before + 1);
        drop(awake);
        drop(ticker);
        eventually("it ends", || spawned.is_finished());
    }
}
