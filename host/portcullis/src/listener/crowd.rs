//! How many connections one address has, so that nobody takes them all.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;

/// Connections, counted by the network that they come from. It holds an entry for each network that is connected now, and
/// no other, so it grows no further than the connections do.
pub(super) struct Crowd {
    most: usize,
    trusted: Vec<IpNet>,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place. Dropping it gives the place back.
pub(super) struct Seat {
    crowd: Arc<Crowd>,
    of: Option<IpAddr>,
}

impl Crowd {
    /// At most so many of one network. Proxies that speak for many, `trusted`, may have any number.
    pub(super) fn new(most: usize, trusted: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), trusted, counts: Mutex::default() })
    }

    /// A place for a connection from this address, if there is one.
    pub(super) fn seat(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = address.to_canonical();
        if self.trusted.iter().any(|net| net.contains(&address)) {
            return Some(Seat { crowd: Arc::clone(self), of: None });
        }
        let of = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(of).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Seat { crowd: Arc::clone(self), of: Some(of) })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(of) = self.of else { return };
        let mut counts = self.crowd.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&of);
            }
        }
    }
}

/// Whoever has an IPv6 address has at least 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn nobody_takes_them_all_and_places_come_back() {
        let crowd = Crowd::new(2, vec!["10.0.0.0/8".parse().unwrap()]);
        let first = crowd.seat(at("192.0.2.1")).unwrap();
        let _second = crowd.seat(at("::ffff:192.0.2.1")).unwrap();
        assert!(crowd.seat(at("192.0.2.1")).is_none());
        let _neighbour = crowd.seat(at("192.0.2.2")).unwrap();
        drop(first);
        let _again = crowd.seat(at("192.0.2.1")).unwrap();

        let _six = [crowd.seat(at("2001:db8::1")).unwrap(), crowd.seat(at("2001:db8::2")).unwrap()];
        assert!(crowd.seat(at("2001:db8::3")).is_none(), "a whole network is one");
        let proxied: Vec<_> = (0..50).map(|_| crowd.seat(at("10.1.2.3")).unwrap()).collect();
        drop(proxied);
    }

    #[test]
    fn it_holds_nobody_who_is_gone() {
        let crowd = Crowd::new(8, Vec::new());
        let seats: Vec<_> = (0..1000_u32).map(|n| crowd.seat(IpAddr::V4(n.into())).unwrap()).collect();
        assert_eq!(crowd.counts.lock().unwrap().len(), 1000);
        drop(seats);
        assert!(crowd.counts.lock().unwrap().is_empty());
    }
}
