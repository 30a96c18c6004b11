//! Phase 5, admit: how often a principal may call. The refusal says when to come back. (How many calls a server takes at
//! once is counted where all gateways meet, in `upstream`.)

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::DashMapStateStore,
};
use portcullis_model::{Fault, Side};

/// How many principals a limiter remembers before those that are quiet are forgotten.
const REMEMBERED: usize = 50_000;

/// A token bucket for each principal of a gateway.
pub struct PrincipalRate {
    limiter: RateLimiter<Arc<str>, DashMapStateStore<Arc<str>>, DefaultClock>,
    checks: AtomicU32,
}

impl PrincipalRate {
    /// So many requests a second, and as many at once.
    pub fn new(per_second: u32) -> Option<Self> {
        let quota = Quota::per_second(NonZeroU32::new(per_second)?);
        Some(Self { limiter: RateLimiter::keyed(quota), checks: AtomicU32::new(0) })
    }

    /// Takes one request off the bucket of this principal.
    ///
    /// # Errors
    /// A fault of the caller with a retry hint when the bucket is empty.
    pub fn check(&self, principal: &Arc<str>) -> Result<(), Fault> {
        // Forgetting is amortised over the checks, so that no timer is needed and the table stays bounded.
        if self.checks.fetch_add(1, Ordering::Relaxed) % 4096 == 4095 && self.limiter.len() > REMEMBERED {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(principal).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
            Fault::new(Side::Caller, "rate-limited", "too many requests by this caller at this gateway")
                .next(format!("Try again in {millis} ms"))
                .retry_after_ms(millis)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_over_its_rate_waits_alone() {
        let rate = PrincipalRate::new(3).expect("above zero");
        let (one, other) = (Arc::from("user:one"), Arc::from("user:other"));
        for _ in 0..3 {
            rate.check(&one).expect("within the burst");
        }
        let fault = rate.check(&one).expect_err("over");
        assert!(fault.retry_after_ms.is_some_and(|ms| ms <= 400), "{fault}");
        rate.check(&other).expect("another principal has its own bucket");
    }
}
