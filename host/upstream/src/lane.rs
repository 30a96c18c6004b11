//! Lanes: threads that carry calls from their client to their server and back, so that a call never waits for another thread.
//!
//! A lane is a single-threaded runtime. What is opened by a lane is used by it alone; everything else of the process counts
//! as one more lane.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
};

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// How many lanes there are, with that of everything else.
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// Makes the calling thread a lane of its own, for good.
pub fn enter() {
    HERE.set(COUNT.fetch_add(1, Ordering::Relaxed));
}

/// The lane of the calling thread; 0 where it is none.
pub(crate) fn here() -> usize {
    HERE.get()
}

/// How many numbers [`here`] has had so far.
pub(crate) fn count() -> usize {
    COUNT.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_a_number_of_its_own() {
        let enter_here = || {
            enter();
            here()
        };
        let one = std::thread::spawn(enter_here).join().unwrap();
        let two = std::thread::spawn(enter_here).join().unwrap();
        assert!(one != 0 && two != 0 && one != two && count() > one.max(two));
        assert_eq!(here(), 0, "this thread entered none");
    }
}
