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
/// Held calls of one caller.
const MOST_OF_CALLER: usize = 32;
/// Held calls of one server.
const MOST_OF_SERVER: usize = 256;
/// How long a call that is over can be asked about again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// All of them.
pub struct Held {
    /// Which process holds them: what another one seals names another.
    pub replica: [u8; 8],
    table: Mutex<HashMap<[u8; 16], Entry>>,
    gauge: GaugeHandle,
}

struct Entry {
    call: Arc<HeldCall>,
    caller: [u8; 16],
    server: (Name, Name),
    over: Option<Instant>,
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
        table.insert(call.id, Entry { call: Arc::clone(call), caller, server, over: None });
        drop(table);
        self.gauge.inc();
        Ok(())
    }

    /// The held call of this id.
    pub fn get(&self, id: &[u8; 16]) -> Option<Arc<HeldCall>> {
        self.table().get(id).map(|entry| Arc::clone(&entry.call))
    }

    /// A call is over; its last answer can be asked for again for a while.
    fn over(&self, id: &[u8; 16]) {
        let mut table = self.table();
        if let Some(entry) = table.get_mut(id)
            && entry.over.replace(Instant::now()).is_none()
        {
            drop(table);
            self.gauge.dec();
        }
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

    fn table(&self) -> MutexGuard<'_, HashMap<[u8; 16], Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
