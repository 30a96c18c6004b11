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
    /// Of what it used beyond both so far, what the plugin's slack has let it.
    let_ns: u64,
    /// Whether it was let use more than its limit.
    pub(crate) overran: bool,
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
            let_ns: 0,
            overran: false,
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
        self.begin(Clock::Inline { first_tick_ns: None }, wall);
    }

    /// A call begins that may wait and move; its wall time is watched outside.
    pub(crate) fn begin_suspending(&mut self, wall: Duration, polls: Arc<PollMeter>) {
        self.begin(Clock::Suspending(polls), wall);
    }

    fn begin(&mut self, clock: Clock, wall: Duration) {
        self.clock = clock;
        self.wall_until = Instant::now() + wall;
        (self.stop, self.let_ns, self.overran) = (None, 0, false);
    }

    /// One tick of the engine's epoch has passed while the guest ran, whose plugin has `slack`.
    pub(crate) fn tick(&mut self, slack: &Slack) -> UpdateDeadline {
        let (used, go_on) = match &mut self.clock {
            Clock::Inline { first_tick_ns } => {
                let now = thread_cpu_ns();
                (now.saturating_sub(*first_tick_ns.get_or_insert(now)), UpdateDeadline::Continue(1))
            }
            Clock::Suspending(polls) => (polls.now(), UpdateDeadline::Yield(1)),
        };
        let limit = self.cpu_ns.saturating_add(self.more_ns);
        if used >= limit && !self.let_go_on(used - limit, slack) {
            self.stop = Some(Stop::Cpu);
        } else if Instant::now() >= self.wall_until {
            self.stop = Some(Stop::Wall);
        } else {
            return go_on;
        }
        UpdateDeadline::Interrupt
    }

    /// Whether a call that is so far beyond its limit goes on.
    fn let_go_on(&mut self, beyond_ns: u64, slack: &Slack) -> bool {
        let most = self.cpu_ns.saturating_mul(HARD_FACTOR - 1);
        // At least what brings it to the next tick.
        let wanted = (beyond_ns + TICK_NS).saturating_sub(self.let_ns);
        let may = beyond_ns < most && (wanted == 0 || slack.take(wanted));
        self.let_ns += if may { wanted } else { 0 };
        self.overran |= may;
        may
    }
}

/// How many times its limit the processor time of a single call may be, whatever its plugin has left.
const HARD_FACTOR: u64 = 10;
/// The engine's tick.
const TICK_NS: u64 = 1_000_000;
/// What calls of one plugin may use beyond their limits at once, in nanoseconds, ...
const SLACK_NS: u64 = 50_000_000;
/// ... and how much of it comes back in a second.
const SLACK_NS_A_SECOND: u64 = 10_000_000;

/// Processor time that the calls of one loaded plugin may use beyond their limits, together.
///
/// What a thread is charged is not what the guest did alone: a page that the kernel had to find first, or time in which the
/// hypervisor ran somebody else, are on the same clock. So an honest call is a millisecond or two over now and then, and would be
/// refused for it. A plugin that is always over uses this up at once.
#[derive(Debug)]
pub(crate) struct Slack {
    born: Instant,
    /// Given out, against the time since birth.
    used_ns: AtomicU64,
}

impl Slack {
    pub(crate) fn new() -> Self {
        Self { born: Instant::now(), used_ns: AtomicU64::new(0) }
    }

    fn take(&self, wanted_ns: u64) -> bool {
        let millis = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let earned = millis.saturating_mul(SLACK_NS_A_SECOND / 1000);
        let give = |used: u64| {
            let next = used.max(earned).saturating_add(wanted_ns);
            (next <= earned.saturating_add(SLACK_NS)).then_some(next)
        };
        self.used_ns.fetch_update(Relaxed, Relaxed, give).is_ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A call with a limit of 2 ms that has used so much.
    fn used(ms: u64) -> Meter {
        let polls = Arc::new(PollMeter::default());
        polls.enter();
        polls.spent_ns.store(ms * 1_000_000, Relaxed);
        let mut meter = Meter::new(Duration::from_millis(2));
        meter.begin_suspending(Duration::from_secs(60), polls);
        meter
    }

    fn goes_on(meter: &mut Meter, slack: &Slack) -> bool {
        !matches!(meter.tick(slack), UpdateDeadline::Interrupt)
    }

    #[test]
    fn a_call_may_be_over_its_limit_now_and_then_and_not_always() {
        let slack = Slack::new();
        let mut within = used(1);
        assert!(goes_on(&mut within, &slack) && !within.overran);
        let mut over = used(3);
        assert!(goes_on(&mut over, &slack) && over.overran, "the slack lets it");
        let ended = (0..1_000).find(|_| !goes_on(&mut used(5), &slack));
        let ended = ended.expect("the slack is not endless");
        // Each takes four milliseconds of fifty, and little comes back meanwhile.
        assert!((8..40).contains(&ended), "{ended}");
        assert!(goes_on(&mut used(1), &slack), "whoever keeps to the limit needs none");
    }

    #[test]
    fn no_single_call_uses_ten_times_its_limit() {
        let mut long = used(20);
        assert!(!goes_on(&mut long, &Slack::new()));
        assert_eq!(long.stop, Some(Stop::Cpu));
    }

    #[test]
    fn a_call_that_goes_on_pays_for_what_it_uses_and_once() {
        let slack = Slack::new();
        let mut call = used(3);
        for _ in 0..100 {
            assert!(goes_on(&mut call, &slack), "its clock stands still but for the test's own time");
        }
        assert!(call.let_ns < 20_000_000, "{}", call.let_ns);
    }

    #[test]
    fn slack_comes_back() {
        let slack = Slack::new();
        assert!(slack.take(SLACK_NS) && !slack.take(SLACK_NS_A_SECOND));
        let rested = Slack { born: Instant::now() - Duration::from_secs(2), used_ns: AtomicU64::new(SLACK_NS) };
        assert!(rested.take(SLACK_NS_A_SECOND), "of two seconds");
        assert!(!rested.take(2 * SLACK_NS_A_SECOND));
    }
}
