//! Ending connections in time: each is told once, and until then is asked nothing but one flag.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

/// Whether connections are to end, and how those that wait are woken for it.
#[derive(Default)]
pub struct Drain {
    begun: AtomicBool,
    wakers: Mutex<HashMap<u64, Waker>>,
    numbers: AtomicU64,
}

/// A connection that can be woken, until it ends.
struct Known<'a> {
    drain: &'a Drain,
    number: u64,
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.drain.wakers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

impl Drain {
    /// From now on connections end.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        for waker in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).values() {
            waker.wake_by_ref();
        }
    }

    /// Waits for a connection, and tells it by `end` when it is to end. To be awaited by the task itself that serves it: the one
    /// that is there at first is woken.
    pub async fn watch<C: Future>(&self, mut connection: Pin<&mut C>, end: impl Fn(Pin<&mut C>)) -> C::Output {
        let mut known = None;
        let mut told = false;
        poll_fn(move |context| {
            known.get_or_insert_with(|| {
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
                wakers.insert(number, context.waker().clone());
                Known { drain: self, number }
            });
            if !told && self.begun.load(Ordering::SeqCst) {
                told = true;
                end(connection.as_mut());
            }
            connection.as_mut().poll(context)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::Arc, time::Duration};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn who_waits_and_who_comes_later_are_told_once() {
        let drain = Arc::new(Drain::default());
        let watch = |drain: Arc<Drain>| async move {
            let (ends, told) = (Notify::new(), AtomicU64::new(0));
            let connection = pin!(ends.notified());
            drain
                .watch(connection, |_| {
                    told.fetch_add(1, Ordering::Relaxed);
                    ends.notify_waiters();
                })
                .await;
            told.into_inner()
        };
        let waiting = tokio::spawn(watch(Arc::clone(&drain)));
        while drain.wakers.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        drain.begin();
        let patience = Duration::from_secs(10);
        assert_eq!(tokio::time::timeout(patience, waiting).await.unwrap().unwrap(), 1);
        assert!(drain.wakers.lock().unwrap().is_empty(), "nobody is known any more");
    }
}
