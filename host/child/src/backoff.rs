//! When a process that keeps ending may be started again.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);
/// Whoever ran for so long was healthy, and its end is a first one again.
const HEALTHY: Duration = Duration::from_secs(60);

/// The ends in a row of one server's process.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    /// A process ended that nobody asked to end.
    pub fn ended(&mut self, started: Instant, now: Instant) {
        if now.saturating_duration_since(started) >= HEALTHY {
            self.failures = 0;
        }
        let delay = FIRST.saturating_mul(2u32.saturating_pow(self.failures.min(10))).min(MOST);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + delay);
    }

    /// Somebody restarted it by hand.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// How long to wait for the next start.
    pub fn wait(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// How often in a row it ended.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_half_a_minute_and_forgets_after_a_healthy_one() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        assert_eq!(backoff.wait(now), Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..8 {
            backoff.ended(now, now);
            waits.push(backoff.wait(now).as_millis());
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        backoff.ended(now, now + HEALTHY);
        assert_eq!(backoff.wait(now + HEALTHY), FIRST);
        backoff.reset();
        assert_eq!((backoff.wait(now), backoff.failures()), (Duration::ZERO, 0));
    }
}
