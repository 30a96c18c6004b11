//! How long callers wait for fetches, all together: whoever loads many components one after another, from a registry that does not
//! answer, waits once and not for each.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many times the patience later, there is as much of it again.
const AGAIN: u32 = 3;

/// A budget of waiting.
pub(crate) struct Patience {
    whole: Duration,
    left: Mutex<(Duration, Instant)>,
}

impl Patience {
    /// So long at once, and a third of the time in the long run.
    pub(crate) fn new(whole: Duration) -> Self {
        Self { whole, left: Mutex::new((whole, Instant::now())) }
    }

    /// What may be waited now.
    pub(crate) fn left(&self) -> Duration {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.0 < self.whole && left.1.elapsed() >= self.whole * AGAIN {
            left.0 = self.whole;
        }
        left.0
    }

    /// So long was waited.
    pub(crate) fn spend(&self, waited: Duration) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.0 == self.whole {
            left.1 = Instant::now();
        }
        left.0 = left.0.saturating_sub(waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wait_as_long_as_one() {
        let patience = Patience::new(Duration::from_millis(20));
        assert_eq!(patience.left(), Duration::from_millis(20));
        patience.spend(Duration::from_millis(15));
        assert!(patience.left() <= Duration::from_millis(5));
        patience.spend(Duration::from_secs(1));
        assert_eq!(patience.left(), Duration::ZERO);
        let began = Instant::now();
        while patience.left().is_zero() {
            std::thread::yield_now();
        }
        assert!(began.elapsed() >= Duration::from_millis(40), "there is as much again only after a while");
    }
}
