//! Whether what is served is up to date, where several gateways share a store.
//!
//! A revocation elsewhere is known here as soon as the store's watch tells it. A watch that was silent for two seconds may have
//! something to tell, so the store is asked at each call (security decision 9); one that can't be reached for too long leaves
//! nothing that could be served with a good conscience.

use std::{sync::Arc, time::Duration};

use portcullis_model::{Fault, Side};
use portcullis_store::Store;

/// How old what is known may be without a question.
const FRESH: Duration = Duration::from_secs(2);

/// The store, and for how long calls go on without it.
#[derive(Clone)]
pub struct Currency {
    store: Arc<dyn Store>,
    stale_for: Duration,
}

impl Currency {
    /// Of a store that may be out of reach for so long.
    pub fn new(store: Arc<dyn Store>, stale_for: Duration) -> Self {
        Self { store, stale_for }
    }

    /// Sees to it that what is known is no older than it may be. Costs a look at a number where the store was heard of just now.
    ///
    /// # Errors
    /// A fault where the store was out of reach for too long.
    pub async fn check(&self) -> Result<(), Fault> {
        if self.store.age() <= FRESH {
            return Ok(());
        }
        let age = self.store.current().await;
        if age <= FRESH.max(self.stale_for) {
            return Ok(());
        }
        Err(Fault::new(
            Side::Gateway,
            "store-unreachable",
            "this gateway has not reached its store for too long to know who may do what",
        )
        .next("Try again; another gateway may answer")
        .retry_after_ms(2_000))
    }

    /// Whether calls are refused, because the store is out of reach for too long.
    pub fn is_over(&self) -> bool {
        self.store.age() > FRESH.max(self.stale_for)
    }

    /// Why the store can't be reached just now, if it can't.
    pub fn trouble(&self) -> Option<String> {
        self.store.trouble()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use portcullis_store::{BoxFuture, Record, Revision, StoreError, Watch, Write};

    use super::*;

    /// A FAKE store that is as old as it is told, and counts who asks.
    #[derive(Default)]
    struct Told {
        age_ms: AtomicU64,
        after_asking_ms: AtomicU64,
        asked: AtomicUsize,
    }

    impl Store for Told {
        fn get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
            Box::pin(async { Ok(None) })
        }

        fn scan<'a>(
            &'a self,
            _: &'a str,
            _: Option<&'a str>,
            _: usize,
        ) -> BoxFuture<'a, Result<Vec<Record>, StoreError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn write(&self, _: Vec<Write>) -> BoxFuture<'_, Result<Revision, StoreError>> {
            Box::pin(async { Err(StoreError::TooLarge) })
        }

        fn watch(&self, _: &str, _: Revision) -> Result<Watch, StoreError> {
            Err(StoreError::TooOld)
        }

        fn revision(&self) -> Revision {
            Revision(0)
        }

        fn age(&self) -> Duration {
            Duration::from_millis(self.age_ms.load(Ordering::Relaxed))
        }

        fn current(&self) -> BoxFuture<'_, Duration> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.age_ms.store(self.after_asking_ms.load(Ordering::Relaxed), Ordering::Relaxed);
            Box::pin(async { self.age() })
        }
    }

    #[tokio::test]
    async fn a_silent_store_is_asked_and_one_out_of_reach_ends_calls_after_a_while() {
        let store = Arc::new(Told::default());
        let currency = Currency::new(Arc::clone(&store) as _, Duration::from_secs(60));
        let check = async |age: u64, after: u64| {
            store.age_ms.store(age, Ordering::Relaxed);
            store.after_asking_ms.store(after, Ordering::Relaxed);
            (currency.check().await.map_err(|fault| fault.code), store.asked.swap(0, Ordering::Relaxed))
        };
        assert_eq!(check(1_900, 0).await, (Ok(()), 0), "heard of just now");
        assert_eq!(check(2_100, 10).await, (Ok(()), 1), "silent: asked");
        assert_eq!(check(59_000, 59_000).await, (Ok(()), 1), "out of reach: for a while");
        assert_eq!(check(61_000, 61_000).await, (Err("store-unreachable"), 1));
        assert!(currency.is_over());
        assert_eq!(check(61_000, 10).await, (Ok(()), 1), "back again");
        let strict = Currency::new(Arc::clone(&store) as _, Duration::ZERO);
        store.age_ms.store(1_500, Ordering::Relaxed);
        assert!(strict.check().await.is_ok(), "no question, no refusal");
        store.age_ms.store(2_100, Ordering::Relaxed);
        store.after_asking_ms.store(2_100, Ordering::Relaxed);
        assert!(strict.check().await.is_err());
    }
}
