//! A token bucket as one number: the time at which it would be full again (the generic cell rate algorithm, ITU-T I.371).

use std::time::Duration;

/// How often something may happen.
pub(crate) struct Bucket {
    /// Microseconds that one token takes to come back.
    step_us: u64,
    /// How many there are when it is full.
    burst: u64,
}

impl Bucket {
    /// `limit` tokens come back in each `every`; `burst` fit in.
    pub(crate) fn new(limit: u32, every: Duration, burst: u32) -> Self {
        let every = u64::try_from(every.as_micros()).unwrap_or(u64::MAX);
        Self { step_us: (every / u64::from(limit.max(1))).max(1), burst: burst.max(1).into() }
    }

    /// When it is full again after the last token was taken, at the latest.
    pub(crate) fn full_after(&self) -> Duration {
        Duration::from_micros(self.step_us.saturating_mul(self.burst).saturating_add(1_000))
    }

    /// Takes a token of a bucket that will be full at `full_us`; gives when it is now.
    ///
    /// # Errors
    /// How long it takes until there is a token.
    pub(crate) fn take(&self, full_us: Option<u64>, now_us: u64) -> Result<u64, Duration> {
        // A clock that went back leaves a time far ahead: nobody waits for more than one whole bucket.
        let most = now_us.saturating_add(self.step_us.saturating_mul(self.burst));
        let full = full_us.unwrap_or(now_us).clamp(now_us, most);
        let after = full.saturating_add(self.step_us);
        if after > most { Err(Duration::from_micros(after - most)) } else { Ok(after) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Bucket;

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let bucket = Bucket::new(10, Duration::from_secs(10), 3);
        let mut full = None;
        for _ in 0..3 {
            full = Some(bucket.take(full, 1_000_000).unwrap());
        }
        assert_eq!(bucket.take(full, 1_000_000), Err(Duration::from_secs(1)));
        assert_eq!(bucket.take(full, 1_400_000), Err(Duration::from_millis(600)));
        let full = Some(bucket.take(full, 2_000_000).unwrap());
        assert!(bucket.take(full, 2_000_000).is_err());
        assert!(bucket.take(full, 900_000_000).is_ok());
    }

    #[test]
    fn a_clock_that_went_back_locks_nobody_out() {
        let bucket = Bucket::new(1, Duration::from_secs(60), 2);
        assert_eq!(bucket.take(Some(u64::MAX), 1_000_000), Err(Duration::from_secs(60)));
    }
}
