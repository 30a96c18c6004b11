//! Turns at fetching documents that strangers name. Bounded in all, for each tenant that they are named to, and for each address that
//! they are named from: so that nobody keeps the others waiting by naming slow ones.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use portcullis_model::Name;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::authenticator::network;

/// The most that are fetched at once.
const ALL: usize = 16;
/// The most for one tenant.
const PER_TENANT: usize = 8;
/// The most for one address.
const PER_ADDRESS: usize = 3;
/// How many parties are remembered before those are forgotten of whom nobody fetches or waits.
const PARTIES: usize = 256;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Party {
    Tenant(Name),
    Address(IpAddr),
}

/// The turns.
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    parties: Mutex<HashMap<Party, Weak<Semaphore>>>,
}

/// A turn, until it is dropped.
pub(crate) struct Turn {
    _held: [Option<OwnedSemaphorePermit>; 3],
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL)), parties: Mutex::default() }
    }

    /// Waits for a turn, for as long as the caller lets it. Whoever waits for its own address holds nothing of others.
    pub(crate) async fn wait(&self, tenant: &Name, from: Option<IpAddr>) -> Option<Turn> {
        let address = match from {
            Some(from) => Some(self.of(Party::Address(network(from)), PER_ADDRESS).acquire_owned().await.ok()?),
            None => None,
        };
        let tenant = self.of(Party::Tenant(tenant.clone()), PER_TENANT).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _held: [address, Some(tenant), Some(all)] })
    }

    /// A party's own turns; there for as long as somebody holds one or waits.
    fn of(&self, party: Party, turns: usize) -> Arc<Semaphore> {
        let mut parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = parties.get(&party).and_then(Weak::upgrade) {
            return known;
        }
        if parties.len() >= PARTIES {
            parties.retain(|_, known| known.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(turns));
        parties.insert(party, Arc::downgrade(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_address_and_one_tenant_leave_turns_to_others() {
        let turns = Turns::new();
        let (acme, other): (Name, Name) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let from = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        // Without waiting.
        let now = async |tenant: &Name, from| {
            tokio::time::timeout(Duration::ZERO, turns.wait(tenant, from)).await.ok().flatten()
        };
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(now(&acme, from(1)).await.unwrap());
        }
        assert!(now(&acme, from(1)).await.is_none() && now(&other, from(1)).await.is_none(), "an address has three");
        for n in 0..5 {
            held.push(now(&acme, from(2 + n)).await.unwrap());
        }
        assert!(now(&acme, from(9)).await.is_none(), "a tenant has eight");
        for n in 0..8 {
            held.push(now(&other, from(20 + n)).await.unwrap());
        }
        let third: Name = "third".parse().unwrap();
        assert!(now(&third, from(40)).await.is_none(), "sixteen in all");
        held.pop();
        assert!(now(&third, from(40)).await.is_some());
        drop(held);
        for n in 0..1000_u32 {
            assert!(now(&acme, Some(IpAddr::from(n.to_be_bytes()))).await.is_some());
        }
        assert!(turns.parties.lock().unwrap().len() <= PARTIES);
    }
}
