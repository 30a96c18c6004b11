//! How long to wait before a connection is tried again: longer each time, and never all at the same moment.

use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(50);
/// The longest.
const MOST: Duration = Duration::from_secs(2);

/// Pauses that grow.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// Something worked: begin with short pauses again.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// Waits between half and the whole of the pause, and makes the next one longer.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(MOST);
        let mut random = [0_u8; 1];
        // Without randomness they all wait the whole.
        let share = if getrandom::fill(&mut random).is_ok() { u32::from(random[0]) } else { 255 };
        whole / 2 + whole / 2 * share / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_again() {
        let mut backoff = Backoff::default();
        let mut pauses = Vec::new();
        for _ in 0..20 {
            pauses.push(backoff.next());
        }
        assert!(pauses[0] <= FIRST && pauses[0] >= FIRST / 2);
        assert!(pauses.iter().all(|p| *p <= MOST) && pauses[19] >= MOST / 2);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
