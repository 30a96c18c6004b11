//! A limit on failed authentications per client address, in a table that can't grow.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

/// How many failures an address may have.
#[derive(Clone, Debug)]
pub struct LimitOptions {
    /// So many at once.
    pub burst: u32,
    /// One more each time that this has passed.
    pub every: Duration,
    /// The most addresses that are remembered; the least used are forgotten.
    pub addresses: usize,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self { burst: 60, every: Duration::from_secs(1), addresses: 65_536 }
    }
}

/// Counts by the generic cell rate algorithm: per address one number, the time at which its failures are forgotten.
pub struct Failures {
    table: Cache<IpAddr, Arc<AtomicU64>>,
    every_ms: u64,
    burst_ms: u64,
    start: Instant,
}

impl std::fmt::Debug for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failures").field("addresses", &self.table.len()).finish_non_exhaustive()
    }
}

impl Failures {
    /// Nobody has failed yet.
    pub fn new(options: &LimitOptions) -> Self {
        let every_ms = crate::clock::millis(options.every).max(1);
        Self {
            table: Cache::new(options.addresses.max(1)),
            every_ms,
            burst_ms: every_ms.saturating_mul(u64::from(options.burst.max(1))),
            start: Instant::now(),
        }
    }

    /// How long an address has to wait, if it failed too often.
    pub fn wait(&self, address: IpAddr) -> Option<Duration> {
        let forgotten_at = self.table.get(&network(address))?.load(Ordering::Relaxed);
        let excess = forgotten_at.saturating_sub(self.now_ms()).saturating_add(self.every_ms);
        (excess > self.burst_ms).then(|| Duration::from_millis(excess - self.burst_ms))
    }

    /// Notes a failure.
    pub fn note(&self, address: IpAddr) {
        let address = network(address);
        let counter = self.table.get(&address).unwrap_or_else(|| {
            let counter = Arc::new(AtomicU64::new(0));
            self.table.insert(address, Arc::clone(&counter));
            counter
        });
        let now = self.now_ms();
        // Capped, so that who kept trying while limited does not wait for ever.
        let next = |at: u64| at.max(now).saturating_add(self.every_ms).min(now + self.burst_ms + self.every_ms);
        let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| Some(next(at)));
    }

    fn now_ms(&self) -> u64 {
        crate::clock::millis(self.start.elapsed())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

/// Whoever has an IPv6 address has at least 2^64 of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_failures_and_no_more() {
        let failures = Failures::new(&LimitOptions { burst: 3, every: Duration::from_secs(60), addresses: 100 });
        let address = "192.0.2.1".parse().unwrap();
        for _ in 0..3 {
            assert_eq!(failures.wait(address), None);
            failures.note(address);
        }
        let wait = failures.wait(address).unwrap();
        assert!(wait > Duration::from_secs(50) && wait <= Duration::from_secs(60), "{wait:?}");
        for _ in 0..1000 {
            failures.note(address);
        }
        assert!(failures.wait(address).unwrap() <= Duration::from_secs(120), "it ends");
        assert_eq!(failures.wait("192.0.2.2".parse().unwrap()), None);
        assert!(failures.wait("::ffff:192.0.2.1".parse().unwrap()).is_some(), "the same address otherwise written");
    }

    #[test]
    fn a_whole_ipv6_network_is_one() {
        let failures = Failures::new(&LimitOptions { burst: 1, every: Duration::from_secs(60), addresses: 100 });
        failures.note("2001:db8::1".parse().unwrap());
        assert!(failures.wait("2001:db8::ffff:1".parse().unwrap()).is_some());
        assert!(failures.wait("2001:db8:0:1::1".parse().unwrap()).is_none());
    }

    #[test]
    fn the_table_is_bounded() {
        let failures = Failures::new(&LimitOptions { addresses: 64, ..LimitOptions::default() });
        for i in 0..10_000_u32 {
            failures.note(IpAddr::V4(i.into()));
        }
        assert!(failures.len() <= 64 * 2, "{}", failures.len());
    }
}
