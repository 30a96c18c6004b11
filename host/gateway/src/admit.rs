//! Phase 5, admit: rate and concurrency limits. Each refusal says when to come back.

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
    limiter: RateLimiter<u64, DashMapStateStore<u64>, DefaultClock>,
    checks: AtomicU32,
}

impl PrincipalRate {
    /// So many requests a second, and as many at once.
    pub fn new(per_second: u32) -> Option<Self> {
        let quota = Quota::per_second(NonZeroU32::new(per_second)?);
        Some(Self { limiter: RateLimiter::keyed(quota), checks: AtomicU32::new(0) })
    }

    /// Takes one request off the bucket of the principal whose digest this is.
    ///
    /// # Errors
    /// A fault of the caller with a retry hint when the bucket is empty.
    pub fn check(&self, principal: u64) -> Result<(), Fault> {
        // Forgetting is amortised over the checks, so that no timer is needed and the table stays bounded.
        if self.checks.fetch_add(1, Ordering::Relaxed) % 4096 == 4095 && self.limiter.len() > REMEMBERED {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&principal).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
            Fault::new(Side::Caller, "rate-limited", "too many requests by this caller at this gateway")
                .next(format!("Try again in {millis} ms"))
                .retry_after_ms(millis)
        })
    }
}

/// The calls in flight to one server, counted and bounded.
#[derive(Debug)]
pub struct Concurrency {
    most: u32,
    now: AtomicU32,
}

/// One call in flight; gives its place back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Concurrency>);

impl Concurrency {
    /// At most so many at once.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most, now: AtomicU32::new(0) })
    }

    /// Takes a place.
    ///
    /// # Errors
    /// A fault of the gateway with a retry hint when all are taken.
    pub fn enter(self: &Arc<Self>, server: &str) -> Result<Place, Fault> {
        if self.now.fetch_add(1, Ordering::Relaxed) < self.most {
            return Ok(Place(Arc::clone(self)));
        }
        self.now.fetch_sub(1, Ordering::Relaxed);
        Err(Fault::new(Side::Gateway, "server-busy", format!("{} calls to this server are in flight, its limit", self.most))
            .server(server)
            .next("Try again in 250 ms, or ask your operator to raise spec.traffic.maxConcurrent")
            .retry_after_ms(250))
    }

    /// How many are in flight.
    pub fn in_flight(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let two = Concurrency::new(2);
        let a = two.enter("s").expect("first");
        let _b = two.enter("s").expect("second");
        let full = two.enter("s").expect_err("full");
        assert_eq!((full.code, full.retry_after_ms), ("server-busy", Some(250)));
        drop(a);
        assert_eq!(two.in_flight(), 1);
        two.enter("s").expect("a place is free again");
    }

    #[test]
    fn a_principal_over_its_rate_waits_alone() {
        let rate = PrincipalRate::new(3).expect("above zero");
        for _ in 0..3 {
            rate.check(1).expect("within the burst");
        }
        let fault = rate.check(1).expect_err("over");
        assert!(fault.retry_after_ms.is_some_and(|ms| ms <= 400), "{fault}");
        rate.check(2).expect("another principal has its own bucket");
    }
}
