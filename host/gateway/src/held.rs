//! Held calls: a legacy server asks something in the middle of a call of a modern client, which has no stream to be asked
//! on. The client gets `input_required`, and the call waits until it comes back with the answer (2026-07-28, multi
//! round-trip requests; security decision 19).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use portcullis_model::{Fault, Name, Principal, Side};
use portcullis_telemetry::metrics::GaugeHandle;

mod call;
pub mod state;

pub use call::{HeldCall, lost as call_lost};

/// Held calls of the process.
const MOST: usize = 4_096;
/// Held calls of one caller. Those that are over count too, and make room for those that wait.
const MOST_OF_CALLER: usize = 32;
/// Held calls of one server.
const MOST_OF_SERVER: usize = 256;
/// How long a call that is over can be asked about again.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Bytes of answers that are kept for that, of one caller and of all. The oldest make room.
const KEPT_OF_CALLER: usize = 4 << 20;
const KEPT: usize = 64 << 20;

/// All of them.
pub struct Held {
    /// Which process holds them: what another one seals names another.
    pub replica: [u8; 8],
    table: Mutex<Table>,
    gauge: GaugeHandle,
}

struct Entry {
    call: Arc<HeldCall>,
    caller: [u8; 16],
    server: (Name, Name),
    over: Option<Instant>,
    /// Of the answer that is kept.
    bytes: usize,
}

type Table = HashMap<[u8; 16], Entry>;

/// Forgets the call that is over for longest, of those that `which` says; whether there was one.
fn forget_oldest(table: &mut Table, which: impl Fn(&Entry) -> bool) -> bool {
    let over = table.iter().filter(|(_, entry)| which(entry)).filter_map(|(id, entry)| Some((entry.over?, *id)));
    let oldest = over.min().map(|(_, id)| id);
    oldest.is_some_and(|id| table.remove(&id).is_some())
}

impl Held {
    /// A table of a new process.
    pub fn new(gauge: GaugeHandle) -> Self {
        let mut replica = [0; 8];
        // Without randomness nothing can be sealed either, so that nothing is ever held.
        let _ = getrandom::fill(&mut replica);
        Self { replica, table: Mutex::default(), gauge }
    }

    /// Holds a call from now on.
    ///
    /// # Errors
    /// A fault where too many are held.
    fn hold(&self, call: &Arc<HeldCall>) -> Result<(), Fault> {
        let mut table = self.table();
        if table.contains_key(&call.id) {
            return Ok(());
        }
        let caller = call.binding.principal;
        let Some(name) = call.server.get() else {
            return Err(Fault::new(Side::Gateway, "internal", "a call without a server can't be held"));
        };
        let server = (call.binding.tenant.clone(), name.clone());
        // Who is asked again and again without an end would otherwise fill the table with what is over.
        if table.values().filter(|e| e.caller == caller).count() >= MOST_OF_CALLER {
            forget_oldest(&mut table, |e| e.caller == caller);
        }
        if table.len() >= MOST {
            forget_oldest(&mut table, |_| true);
        }
        let waiting = |which: &dyn Fn(&Entry) -> bool| table.values().filter(|e| e.over.is_none() && which(e)).count();
        if table.len() >= MOST
            || waiting(&|e| e.caller == caller) >= MOST_OF_CALLER
            || waiting(&|e| e.server == server) >= MOST_OF_SERVER
        {
            return Err(Fault::new(Side::Gateway, "overloaded", "too many calls wait for an answer of their callers")
                .server(name.as_str())
                .next("Answer or give up those that wait")
                .retry_after_ms(10_000));
        }
        table.insert(call.id, Entry { call: Arc::clone(call), caller, server, over: None, bytes: 0 });
        drop(table);
        self.gauge.inc();
        Ok(())
    }

    /// The held call of this id.
    pub fn get(&self, id: &[u8; 16]) -> Option<Arc<HeldCall>> {
        self.table().get(id).map(|entry| Arc::clone(&entry.call))
    }

    /// A call is over; its last answer, of so many bytes, can be asked for again for a while.
    fn over(&self, id: &[u8; 16], bytes: usize) {
        let mut table = self.table();
        let Some(entry) = table.get_mut(id) else { return };
        if entry.over.replace(Instant::now()).is_none() {
            self.gauge.dec();
        }
        entry.bytes = bytes;
        let caller = entry.caller;
        let kept = |table: &Table, of: &dyn Fn(&Entry) -> bool| -> usize {
            table.values().filter(|e| of(e)).map(|e| e.bytes).sum()
        };
        let own = |e: &Entry| e.caller == caller;
        while kept(&table, &own) > KEPT_OF_CALLER && forget_oldest(&mut table, own) {}
        while kept(&table, &|_| true) > KEPT && forget_oldest(&mut table, |_| true) {}
    }

    /// Forgets what has been over for long.
    pub fn sweep(&self) {
        self.table().retain(|_, entry| entry.over.is_none_or(|over| over.elapsed() < REMEMBERED));
    }

    /// Whether any call waits.
    pub fn any(&self) -> bool {
        !self.table().is_empty()
    }

    /// Ends those calls that wait whose caller (and gateway) `which` says.
    pub fn end_where(&self, which: impl Fn(&Principal, &Name) -> bool) {
        let waiting: Vec<_> = {
            let table = self.table();
            table.values().filter(|entry| entry.over.is_none()).map(|entry| Arc::clone(&entry.call)).collect()
        };
        for call in waiting.iter().filter(|call| which(&call.whose, &call.binding.gateway)) {
            call.cancelled.cancel();
        }
    }

    /// Ends every call that waits: the process stops.
    pub fn end_all(&self) {
        let calls: Vec<_> = self.table().values().map(|entry| Arc::clone(&entry.call)).collect();
        calls.iter().for_each(|call| call.cancelled.cancel());
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        Held::new(GaugeHandle::default())
    }

    fn call(held: &Held, caller: u8, id: u16) -> Result<Arc<HeldCall>, Fault> {
        let call = HeldCall::of_test(caller, id);
        held.hold(&call).map(|()| call)
    }

    fn of(held: &Held, caller: u8) -> (usize, usize) {
        let table = held.table();
        let own = table.values().filter(|e| e.caller == [caller; 16]);
        own.fold((0, 0), |(count, bytes), e| (count + 1, bytes + e.bytes))
    }

    #[test]
    fn what_is_over_makes_room_for_what_waits() {
        let held = held();
        let others = call(&held, 9, 9).unwrap();
        held.over(&others.id, 10);
        for n in 0..100 {
            let call = call(&held, 1, n).unwrap();
            held.over(&call.id, 1);
        }
        assert_eq!(of(&held, 1), (MOST_OF_CALLER, MOST_OF_CALLER));
        assert!(held.get(&others.id).is_some(), "nobody else's is forgotten for it");
        assert_eq!(held.gauge.get(), 0);
        // Those that wait are no room.
        for n in 100..132 {
            call(&held, 1, n).unwrap();
        }
        assert_eq!(call(&held, 1, 999).err().unwrap().code, "overloaded");
        assert_eq!(of(&held, 1).0, MOST_OF_CALLER);
    }

    #[test]
    fn so_many_bytes_of_answers_are_kept() {
        let held = held();
        let mut last = [0; 16];
        for n in 0..30 {
            last = call(&held, 1, n).unwrap().id;
            held.over(&last, 1 << 20);
        }
        assert_eq!(of(&held, 1).1, KEPT_OF_CALLER);
        assert!(held.get(&last).is_some(), "the latest are kept");
        for caller in 2..40 {
            for n in 0..4 {
                let call = call(&held, caller, n).unwrap();
                held.over(&call.id, 1 << 20);
            }
        }
        assert_eq!(held.table().values().map(|e| e.bytes).sum::<usize>(), KEPT);
    }
}
