//! Instances of a plugin: fresh ones, and warm ones that wait for their next call.

use std::{
    any::{Any, TypeId},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use portcullis_model::spec::Isolation;
use portcullis_telemetry::Metrics;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{
    Store,
    component::{Instance, InstancePre, TypedFunc},
};

use crate::{
    bindings::portcullis::types::error::Error as WitError,
    component::{Component, Exports},
    error::PluginFailure,
    meter::{Limiter, Meter},
    plugin::Plugin,
    run::from_guest,
    state::State,
};

/// How many times as much CPU time a call may use that waits for others.
const WAITING: u32 = 25;
/// The host's part of a call is on the plugin's clock as well, and a host that nobody optimised takes many times as long.
const UNOPTIMISED: u32 = if cfg!(debug_assertions) { 4 } else { 1 };
/// A warm instance is dropped after so many calls, more or less: what a guest leaks ends with it.
const CALLS_PER_INSTANCE: u32 = 10_000;
/// The most warm instances of one plugin that wait for their next call.
const MAX_IDLE: usize = 32;

/// Code that is ready for instances, and those that wait for their next call.
pub(crate) struct Ready {
    pub(crate) component: Arc<Component>,
    pub(crate) pre: InstancePre<State>,
    pub(crate) exports: Arc<Exports>,
    /// Whether each instance has to get ready by itself, since its memory afterwards could not be kept.
    pub(crate) unprepared: bool,
    idle: Mutex<Vec<Running>>,
    idle_count: AtomicU32,
}

impl Ready {
    pub(crate) fn new(component: Arc<Component>, pre: InstancePre<State>, exports: Exports, unprepared: bool) -> Self {
        let (idle, idle_count) = (Mutex::default(), AtomicU32::new(0));
        Self { component, pre, exports: Arc::new(exports), unprepared, idle, idle_count }
    }
}

/// A store with its instance. The order of fields is the order of dropping: the permit goes back last.
pub(crate) struct Running {
    pub(crate) store: Store<State>,
    pub(crate) instance: Option<Instance>,
    calls: u32,
    /// After how many it is dropped.
    retires: u32,
    /// The functions of a warm instance with their types checked, by those types: no two hooks have the same.
    pub(crate) typed: Vec<(TypeId, Box<dyn Any + Send>)>,
    idle: Option<OwnedSemaphorePermit>,
    _alive: Alive,
    _permit: OwnedSemaphorePermit,
}

/// A hook of an instance.
pub(crate) type Hook<P, R> = TypedFunc<P, (Result<R, WitError>,)>;

/// Counts as an instance until it is dropped.
struct Alive(Arc<Metrics>);

impl Alive {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.plugin_instances.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.plugin_instances.dec();
    }
}

/// Instances that began together do not end together: each has up to a fifth fewer calls.
fn retires() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let spread = NEXT.fetch_add(1, Relaxed).wrapping_mul(2_654_435_761) >> 8;
    CALLS_PER_INSTANCE - spread % (CALLS_PER_INSTANCE / 5)
}

impl Plugin {
    /// An instance that waits for its next call, or room for a fresh one.
    pub(crate) async fn take(&self) -> Result<Running, PluginFailure> {
        if self.isolation != Isolation::Call && self.ready.idle_count.load(Relaxed) > 0 {
            let warm = self.ready.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            if let Some(mut running) = warm {
                self.ready.idle_count.fetch_sub(1, Relaxed);
                if self.isolation == Isolation::Shared {
                    // It was another's a moment ago: grants, secrets and name are this one's from here on.
                    running.store.data_mut().fixed = Arc::clone(&self.fixed);
                }
                return Ok(running);
            }
        }
        let permits = &self.host.permits;
        let permit = match Arc::clone(permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let patience = if self.suspends { self.limits.wait.get() } else { self.limits.wall.get() };
                tokio::time::timeout(patience, Arc::clone(permits).acquire_owned())
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .ok_or(PluginFailure::PoolFull)?
            }
        };
        Ok(self.fresh(permit, self.cpu()))
    }

    /// How much CPU time one call may use. Where a plugin waits for others, what the host does for it in between (checking a
    /// signature, speaking TLS) is on the same clock, and no fault of the plugin's.
    fn cpu(&self) -> Duration {
        self.limits.cpu.get() * UNOPTIMISED * if self.suspends { WAITING } else { 1 }
    }

    pub(crate) fn fresh(&self, permit: OwnedSemaphorePermit, cpu: Duration) -> Running {
        let state = State::new(Arc::clone(&self.fixed), Meter::new(cpu), Limiter::new(self.limits.memory.as_usize()));
        let mut store = Store::new(&self.host.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(from_guest(self.limits.output.as_usize()));
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().tick()));
        let alive = Alive::new(&self.host.metrics);
        Running {
            store,
            instance: None,
            calls: 0,
            retires: retires(),
            typed: Vec::new(),
            idle: None,
            _alive: alive,
            _permit: permit,
        }
    }

    /// Puts an instance back after a clean call; drops it where it may not be used again.
    pub(crate) fn give_back(&self, mut running: Running) {
        running.calls += 1;
        let clean = running.store.data().handles_left() == 0;
        let small = running.store.data().limiter.high <= self.limits.memory.as_usize() / 2;
        if self.isolation == Isolation::Call || !clean || !small || running.calls >= running.retires {
            return;
        }
        if running.idle.is_none() {
            let Ok(permit) = Arc::clone(&self.host.idle_permits).try_acquire_owned() else { return };
            running.idle = Some(permit);
        }
        let mut idle = self.ready.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(running);
            self.ready.idle_count.fetch_add(1, Relaxed);
        }
    }
}
