//! Getting ready once for all calls: a guest's `setup` runs when it is loaded, and the memory that it leaves becomes the memory
//! that instances start from.
//!
//! A component that exports `setup` is compiled with its memory and globals exported ("open"); after `prepare` they are read,
//! written into the component as its initial data, and that is compiled. Instances are then as fresh as ever, but for what
//! every one of them would have done first. Tables, and what the host holds for a guest, can't be taken along: there are no
//! handles while a guest gets ready.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use wasmtime::{
    Store,
    component::{Component as Compiled, ComponentType, Instance, Lift, WasmList},
};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use crate::{
    bindings::portcullis::types::error::Error as WitError,
    component::{Component, Exports, brief},
    error::{LoadError, PluginFailure},
    host::Host,
    load::LoadPlan,
    meter::{Limiter, Meter, PollMeter},
    run::{TRIAL_CPU, failure, from_guest},
    state::{Fixed, State},
};

/// The longest that getting ready may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of a memory that is taken: no limit is above that.
const WHOLE_MEMORY: usize = 128 << 20;

/// What instances of a plugin start from.
pub(crate) enum Prepared {
    /// From this, which is ready.
    Image(Compiled),
    /// From the component; each has to get ready.
    EachTime,
    /// From the component, which has nothing to do.
    NotNeeded,
}

/// The component with its memory and globals exported; none where it has what can't be taken, such as a changing table.
pub(crate) fn opened(wasm: &[u8]) -> Option<Vec<u8>> {
    // The rewriter gives up on shapes that it does not know by panicking.
    match catch_unwind(|| Wizer::new().instrument_component(wasm).map(|(_, open)| open)) {
        Ok(Ok(open)) => Some(open),
        Ok(Err(error)) => {
            tracing::info!(%error, "the memory of a plugin can't be kept; each instance gets ready by itself");
            None
        }
        Err(_) => None,
    }
}

impl Host {
    /// Lets the guest get ready, and takes its memory.
    pub(crate) async fn prepare(self: &Arc<Self>, plan: &LoadPlan, fixed: &Arc<Fixed>) -> Result<Prepared, LoadError> {
        if Exports::of(&plan.component.compiled).setup.is_none() {
            return Ok(Prepared::NotNeeded);
        }
        let key = key(&plan.component, &plan.config);
        if let Some(compiled) = self.cache.as_ref().and_then(|cache| cache.get(&self.engine, &key)) {
            return Ok(Prepared::Image(compiled));
        }
        let instance = Arc::clone(&self.permits).acquire_owned().await.map_err(|e| LoadError::Host(e.to_string()))?;
        let compiling =
            Arc::clone(&self.compiling).acquire_owned().await.map_err(|e| LoadError::Host(e.to_string()))?;
        let (host, component, fixed) = (Arc::clone(self), Arc::clone(&plan.component), Arc::clone(fixed));
        let (cpu, memory) = (plan.limits.cpu.get().max(TRIAL_CPU), plan.limits.memory.as_usize());
        let (runtime, patience) = (Handle::current(), self.compile_timeout);
        let work = tokio::task::spawn_blocking(move || {
            let _permits = (instance, compiling);
            let _awake = host.ticker.awake();
            let mut state = State::new(fixed, Meter::new(cpu), Limiter::new(memory));
            state.preparing = true;
            let (store, instance) = runtime.block_on(host.get_ready(&component, state))?;
            match component.source.as_ref().and_then(|source| taken(source, store, instance)) {
                Some(image) => Ok(Prepared::Image(host.compiled(&key, || &image)?)),
                None => Ok(Prepared::EachTime),
            }
        });
        match tokio::time::timeout(patience, work).await {
            Ok(done) => done.map_err(|e| LoadError::Host(e.to_string()))?,
            Err(_) => Err(LoadError::CompileTimeout(patience)),
        }
    }

    /// Runs `prepare`; what is left is an instance that is ready.
    async fn get_ready(&self, component: &Component, state: State) -> Result<(Store<State>, Instance), LoadError> {
        let pre = self.link(&component.compiled)?;
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(from_guest(0));
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().tick()));
        store.set_epoch_deadline(1);
        let polls = Arc::new(PollMeter::default());
        store.data_mut().meter.begin_suspending(PATIENCE, Arc::clone(&polls));
        let work = async {
            let instance = pre.instantiate_async(&mut store).await?;
            let Some(index) = Exports::of(&component.compiled).setup else { return Ok((instance, Ok(()))) };
            let prepare = instance.get_typed_func::<(), (Result<(), WitError>,)>(&mut store, index)?;
            let answer = prepare.call_async(&mut store, ()).await?.0;
            wasmtime::Result::Ok((instance, answer))
        };
        let mut work = Box::pin(work);
        let metered = std::future::poll_fn(|context| {
            polls.enter();
            let polled = work.as_mut().poll(context);
            polls.leave();
            polled
        });
        let ended = tokio::time::timeout(PATIENCE, metered).await;
        drop(work);
        let ended = ended.map_err(|_| LoadError::Trial(PluginFailure::Timeout))?;
        let state = store.data_mut();
        state.end();
        let (instance, answer) = ended.map_err(|error| LoadError::Trial(failure(state, &error)))?;
        answer.map_err(|error| LoadError::Setup(error.into()))?;
        Ok((store, instance))
    }
}

/// The component with the memory and globals of an instance as its own; none, and a line in the log, where that fails.
fn taken(source: &[u8], mut store: Store<State>, instance: Instance) -> Option<Vec<u8>> {
    // The whole memory comes out at once.
    store.set_hostcall_fuel(WHOLE_MEMORY);
    let mut reader = Reader { store, instance, problem: None };
    let image = catch_unwind(AssertUnwindSafe(|| {
        let wizer = Wizer::new();
        let (context, _) = wizer.instrument_component(source)?;
        // This thread is for what blocks; reading waits for nobody.
        Handle::current().block_on(wizer.snapshot_component(&context, &mut reader))
    }));
    let problem = match (reader.problem, image) {
        (None, Ok(Ok(image))) => return Some(image),
        (Some(problem), _) | (None, Ok(Err(problem))) => brief(&format!("{problem:#}")),
        (None, Err(_)) => "its shape is unknown".to_owned(),
    };
    let plugin = &reader.store.data().fixed.name;
    tracing::warn!(plugin, problem, "the memory of a plugin can't be kept; each instance gets ready by itself");
    None
}

/// Reads what the open component shows.
struct Reader {
    store: Store<State>,
    instance: Instance,
    /// The trait has no way to fail: what is read after this is not used.
    problem: Option<wasmtime::Error>,
}

impl Reader {
    async fn call<R>(&mut self, instance: &str, function: &str) -> wasmtime::Result<R>
    where
        R: ComponentType + Lift + Send + Sync + 'static,
    {
        let missing = || wasmtime::Error::msg(format!("no {function}"));
        let exported = self.instance.get_export_index(&mut self.store, None, instance).ok_or_else(missing)?;
        let index = self.instance.get_export_index(&mut self.store, Some(&exported), function).ok_or_else(missing)?;
        let function = self.instance.get_typed_func::<(), (R,)>(&mut self.store, index)?;
        self.store.set_epoch_deadline(1);
        Ok(function.call_async(&mut self.store, ()).await?.0)
    }

    async fn read<R>(&mut self, instance: &str, function: &str) -> R
    where
        R: ComponentType + Lift + Default + Send + Sync + 'static,
    {
        match self.call(instance, function).await {
            Ok(value) => value,
            Err(error) => {
                self.problem = Some(error);
                R::default()
            }
        }
    }
}

impl ComponentInstanceState for Reader {
    async fn call_func_ret_list_u8(&mut self, instance: &str, func: &str, contents: impl FnOnce(&[u8]) + Send) {
        match self.call::<WasmList<u8>>(instance, func).await {
            Ok(list) => contents(list.as_le_slice(&self.store)),
            Err(error) => {
                self.problem = Some(error);
                contents(&[]);
            }
        }
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.read(instance, func).await
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.read(instance, func).await
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.read::<f32>(instance, func).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.read::<f64>(instance, func).await.to_bits()
    }
}

/// Tells an image from those of other components and configurations in the cache.
fn key(component: &Component, config: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(component.digest());
    hash.update(config);
    let digest: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    format!("{digest}-ready")
}
