//! How long to wait before something that ended is begun again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// What lasted for as long as this was well, so that its end starts the waiting over.
const WELL: Duration = Duration::from_secs(30);

/// Waits that double from half a second to a minute for as long as nothing lasts.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    failures: u32,
}

impl Pause {
    /// Waits after something that lasted so long.
    pub(crate) async fn after(&mut self, lasted: Duration) {
        tokio::time::sleep(self.next(lasted)).await;
    }

    fn next(&mut self, lasted: Duration) -> Duration {
        self.failures = if lasted >= WELL { 0 } else { self.failures.saturating_add(1) };
        match self.failures {
            0 => FIRST,
            n => FIRST.saturating_mul(1 << n.saturating_sub(1).min(10)).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_a_minute_and_starts_over() {
        let mut pause = Pause::default();
        let waits: Vec<u128> = (0..9).map(|_| pause.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(pause.next(WELL), FIRST);
        assert_eq!(pause.next(Duration::ZERO), FIRST);
    }
}
