//! How much one call has used, and who stopped it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{ResourceLimiter, UpdateDeadline};

/// Why the host stopped a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its CPU time ran out.
    Cpu,
    /// Its wall time ran out.
    Wall,
    /// It did what no plugin may; the text says what.
    Forbidden(&'static str),
}

/// CPU time of this thread, in nanoseconds.
pub(crate) fn thread_cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}

/// CPU time of a call that moves between threads, charged poll by poll.
#[derive(Debug, Default)]
pub(crate) struct PollMeter {
    spent_ns: AtomicU64,
    poll_started_ns: AtomicU64,
}

impl PollMeter {
    /// A poll begins on this thread.
    pub(crate) fn enter(&self) {
        self.poll_started_ns.store(thread_cpu_ns(), Relaxed);
    }

    /// The poll ends, on the thread where it began.
    pub(crate) fn leave(&self) {
        self.spent_ns.store(self.now(), Relaxed);
    }

    fn now(&self) -> u64 {
        self.spent_ns.load(Relaxed) + thread_cpu_ns().saturating_sub(self.poll_started_ns.load(Relaxed))
    }
}

/// The clock that a call is charged by.
#[derive(Debug)]
enum Clock {
    /// On one thread from start to end. Read first at the first tick: reading costs a system call, and most calls are
    /// over before it, so a call may use up to one tick (1 ms) more than its limit.
    Inline { first_tick_ns: Option<u64> },
    /// In polls on any thread.
    Suspending(Arc<PollMeter>),
}

/// The limits of the call that runs in a store, looked at each tick.
#[derive(Debug)]
pub(crate) struct Meter {
    clock: Clock,
    cpu_ns: u64,
    /// What this call may use beyond that.
    more_ns: u64,
    wall_until: Instant,
    pub(crate) stop: Option<Stop>,
}

impl Meter {
    pub(crate) fn new(cpu: Duration) -> Self {
        let cpu_ns = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        Self {
            clock: Clock::Inline { first_tick_ns: None },
            cpu_ns,
            more_ns: 0,
            wall_until: Instant::now(),
            stop: None,
        }
    }

    /// The call that begins now may use so much more CPU time than others: its input is that much larger.
    pub(crate) fn allow_more(&mut self, more: Duration) {
        self.more_ns = u64::try_from(more.as_nanos()).unwrap_or(u64::MAX);
    }

    /// A call begins that stays on this thread.
    pub(crate) fn begin_inline(&mut self, wall: Duration) {
        self.clock = Clock::Inline { first_tick_ns: None };
        self.wall_until = Instant::now() + wall;
        self.stop = None;
    }

    /// A call begins that may wait and move; its wall time is watched outside.
    pub(crate) fn begin_suspending(&mut self, wall: Duration, polls: Arc<PollMeter>) {
        self.clock = Clock::Suspending(polls);
        self.wall_until = Instant::now() + wall;
        self.stop = None;
    }

    /// One tick of the engine's epoch has passed while the guest ran.
    pub(crate) fn tick(&mut self) -> UpdateDeadline {
        let (used, go_on) = match &mut self.clock {
            Clock::Inline { first_tick_ns } => {
                let now = thread_cpu_ns();
                (now.saturating_sub(*first_tick_ns.get_or_insert(now)), UpdateDeadline::Continue(1))
            }
            Clock::Suspending(polls) => (polls.now(), UpdateDeadline::Yield(1)),
        };
        if used >= self.cpu_ns.saturating_add(self.more_ns) {
            self.stop = Some(Stop::Cpu);
        } else if Instant::now() >= self.wall_until {
            self.stop = Some(Stop::Wall);
        } else {
            return go_on;
        }
        UpdateDeadline::Interrupt
    }
}

/// Holds a store to its memory.
#[derive(Debug)]
pub(crate) struct Limiter {
    max_memory: usize,
    /// The guest asked for more than it may have.
    pub(crate) hit: bool,
    /// The most that it had.
    pub(crate) high: usize,
}

impl Limiter {
    pub(crate) fn new(max_memory: usize) -> Self {
        Self { max_memory, hit: false, high: 0 }
    }
}

/// Entries of one table: function pointers of a guest, so far more than any honest one has.
const MAX_TABLE: usize = 100_000;

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _now: usize, wanted: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        if wanted > self.max_memory {
            self.hit = true;
            // An error and not `false`: the guest would abort, and that looks like any other panic.
            return Err(wasmtime::Error::msg("memory limit"));
        }
        self.high = self.high.max(wanted);
        Ok(true)
    }

    fn table_growing(&mut self, _now: usize, wanted: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        if wanted > MAX_TABLE {
            self.hit = true;
            return Err(wasmtime::Error::msg("table limit"));
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        32
    }
    fn tables(&self) -> usize {
        16
    }
    fn memories(&self) -> usize {
        2
    }
}

/// A bucket of log lines: so many at once, so many a second.
#[derive(Debug)]
pub(crate) struct LogBudget {
    born: Instant,
    /// Lines given out, against the time since birth.
    used: AtomicU64,
    dropping: AtomicBool,
}

const LINES_AT_ONCE: u64 = 100;
const LINES_A_SECOND: u64 = 20;

impl LogBudget {
    pub(crate) fn new() -> Self {
        Self { born: Instant::now(), used: AtomicU64::new(0), dropping: AtomicBool::new(false) }
    }

    /// Whether one more line may be written; `Some(true)` for the first that may not.
    pub(crate) fn take(&self) -> Result<(), bool> {
        let earned = self.born.elapsed().as_millis() as u64 * LINES_A_SECOND / 1000;
        let used = self.used.load(Relaxed).max(earned);
        if used >= earned + LINES_AT_ONCE {
            return Err(!self.dropping.swap(true, Relaxed));
        }
        // Lost updates under contention give out a few lines more: harmless.
        self.used.store(used + 1, Relaxed);
        self.dropping.store(false, Relaxed);
        Ok(())
    }
}
