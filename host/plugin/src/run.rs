//! Runs one hook of a plugin: metered, stopped in time, and an instance that failed is never used again.

use std::{
    any::TypeId,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_model::spec::Isolation;
use wasmtime::{
    Trap,
    component::{ComponentExportIndex, ComponentNamedList, ComponentType, Lift, Lower},
};

use crate::{
    answer::Read,
    bindings::portcullis::types::error::Error as WitError,
    component::brief,
    error::{LoadError, PluginFailure},
    health::Culprit,
    instances::{Hook, Running},
    meter::{PollMeter, Stop},
    plugin::Plugin,
    state::{Lent, State},
};

/// The least CPU time of a trial: the first run of fresh code touches every page for the first time.
pub(crate) const TRIAL_CPU: Duration = Duration::from_millis(200);

/// What a call leaves behind beside its answer.
pub(crate) struct Left {
    pub(crate) lent: Lent,
    pub(crate) reads: Vec<Read>,
}

impl Plugin {
    /// Counts what a hook came to: answers, failures and their kind, the time that it took.
    pub(crate) async fn counted<T>(
        &self,
        hook: &'static str,
        answer: impl Future<Output = Result<T, PluginFailure>>,
    ) -> Result<T, PluginFailure> {
        let started = Instant::now();
        let result = answer.await;
        let metrics = &self.fixed.metrics;
        let failure = result.as_ref().err();
        metrics.record(hook, failure.is_none_or(|f| !f.is_fault()), started.elapsed());
        if let Some(failure) = failure {
            match failure {
                PluginFailure::Trap(_) | PluginFailure::Memory => metrics.trapped(),
                PluginFailure::Cpu => metrics.timed_out(false),
                PluginFailure::Timeout => metrics.timed_out(true),
                _ => {}
            }
            let (plugin, tenant) = (&self.fixed.name, &self.fixed.tenant);
            tracing::debug!(%plugin, %tenant, hook, %failure, "a plugin call failed");
        }
        result
    }

    /// Runs one hook. `Err` of the guest and every failure drop the store; so does dropping the future.
    pub(crate) async fn run<P, R>(
        &self,
        index: Option<&ComponentExportIndex>,
        lent: Lent,
        params: P,
    ) -> Result<(R, Left), PluginFailure>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentType + Lift + Send + Sync + 'static,
    {
        self.run_with(index, lent, params, Duration::ZERO).await
    }

    /// [`Plugin::run`] with more time than other calls, for a larger input.
    pub(crate) async fn run_with<P, R>(
        &self,
        index: Option<&ComponentExportIndex>,
        lent: Lent,
        params: P,
        more: Duration,
    ) -> Result<(R, Left), PluginFailure>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentType + Lift + Send + Sync + 'static,
    {
        let Some(index) = index else { return Err(PluginFailure::NoHook) };
        let ticket = self.health.enter(Culprit::of(&lent))?;
        let mut running = self.take().await?;
        let _awake = self.host.ticker.awake();
        running.store.data_mut().meter.allow_more(more);
        running.store.data_mut().lent = lent;
        running.store.set_epoch_deadline(1);
        let outcome = if self.suspends {
            self.call_suspending::<P, R>(&mut running, index, params).await?
        } else {
            running.store.data_mut().meter.begin_inline(self.limits.wall.get() + 10 * more);
            self.call_inline::<P, R>(&mut running, index, params)
        };
        let state = running.store.data_mut();
        let overran = state.meter.overran;
        let left = Left { lent: state.end(), reads: std::mem::take(&mut state.reads) };
        match outcome {
            Ok(Ok(answer)) => {
                if overran {
                    self.fixed.metrics.overran();
                }
                self.give_back(running);
                ticket.well();
                Ok((answer, left))
            }
            Ok(Err(error)) => {
                ticket.well();
                Err(PluginFailure::Error(error.into()))
            }
            Err(error) => {
                let failure = failure(state, &error);
                ticket.failed(&failure);
                Err(failure)
            }
        }
    }

    fn call_inline<P, R>(
        &self,
        running: &mut Running,
        index: &ComponentExportIndex,
        params: P,
    ) -> wasmtime::Result<Result<R, WitError>>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentType + Lift + Send + Sync + 'static,
    {
        let instance = match running.instance {
            Some(instance) => instance,
            None => {
                let instance = self.ready.pre.instantiate(&mut running.store)?;
                if self.ready.unprepared
                    && let Some(index) = &self.exports.setup
                {
                    let prepare = instance.get_typed_func::<(), (Result<(), WitError>,)>(&mut running.store, index)?;
                    if let Err(error) = prepare.call(&mut running.store, ())?.0 {
                        return Ok(Err(error));
                    }
                }
                *running.instance.insert(instance)
            }
        };
        let key = TypeId::of::<(P, R)>();
        let known = running.typed.iter().find(|(one, _)| *one == key).and_then(|(_, f)| f.downcast_ref::<Hook<P, R>>());
        let function = match known {
            Some(function) => *function,
            None => {
                let function = instance.get_typed_func::<P, (Result<R, WitError>,)>(&mut running.store, index)?;
                if self.isolation != Isolation::Call {
                    running.typed.push((key, Box::new(function)));
                }
                function
            }
        };
        Ok(function.call(&mut running.store, params)?.0)
    }

    async fn call_suspending<P, R>(
        &self,
        running: &mut Running,
        index: &ComponentExportIndex,
        params: P,
    ) -> Result<wasmtime::Result<Result<R, WitError>>, PluginFailure>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentType + Lift + Send + Sync + 'static,
    {
        let polls = Arc::new(PollMeter::default());
        let wait = self.limits.wait.get();
        running.store.data_mut().meter.begin_suspending(wait, Arc::clone(&polls));
        let call = async {
            let instance = match running.instance {
                Some(instance) => instance,
                None => {
                    let instance = self.ready.pre.instantiate_async(&mut running.store).await?;
                    if self.ready.unprepared
                        && let Some(index) = &self.exports.setup
                    {
                        let prepare =
                            instance.get_typed_func::<(), (Result<(), WitError>,)>(&mut running.store, index)?;
                        if let Err(error) = prepare.call_async(&mut running.store, ()).await?.0 {
                            return Ok(Err(error));
                        }
                    }
                    *running.instance.insert(instance)
                }
            };
            let function = instance.get_typed_func::<P, (Result<R, WitError>,)>(&mut running.store, index)?;
            Ok(function.call_async(&mut running.store, params).await?.0)
        };
        let mut call = Box::pin(call);
        let metered = std::future::poll_fn(|context| {
            polls.enter();
            let polled = call.as_mut().poll(context);
            polls.leave();
            polled
        });
        tokio::time::timeout(wait, metered).await.map_err(|_| PluginFailure::Timeout)
    }

    /// Instantiates once and loads every hook with its types.
    pub(crate) async fn trial(&self) -> Result<(), LoadError> {
        let permit =
            Arc::clone(&self.host.permits).acquire_owned().await.map_err(|e| LoadError::Host(e.to_string()))?;
        let mut running = self.fresh(permit, self.limits.cpu.get().max(TRIAL_CPU));
        let wall = self.limits.wall.get().max(Duration::from_secs(2));
        let _awake = self.host.ticker.awake();
        running.store.set_epoch_deadline(1);
        let instantiated = if self.suspends {
            let polls = Arc::new(PollMeter::default());
            running.store.data_mut().meter.begin_suspending(wall, Arc::clone(&polls));
            let mut work = Box::pin(self.ready.pre.instantiate_async(&mut running.store));
            std::future::poll_fn(|context| {
                polls.enter();
                let polled = work.as_mut().poll(context);
                polls.leave();
                polled
            })
            .await
        } else {
            running.store.data_mut().meter.begin_inline(wall);
            self.ready.pre.instantiate(&mut running.store)
        };
        let instance = instantiated.map_err(|error| {
            let state = running.store.data_mut();
            state.end();
            LoadError::Trial(failure(state, &error))
        })?;
        crate::calls::check_types(self, &instance, &mut running.store)
    }
}

/// The most bytes that a guest hands over at once: an answer, a request's body, and what stands beside them. Its lists may point at
/// the same bytes a thousand times, so what it has in its memory says little.
pub(crate) fn from_guest(output: usize) -> usize {
    output.max(1 << 20).saturating_mul(2)
}

/// What a failed call is called: first who stopped it, then how wasmtime names it.
pub(crate) fn failure(state: &State, error: &wasmtime::Error) -> PluginFailure {
    match &state.meter.stop {
        Some(Stop::Cpu) => return PluginFailure::Cpu,
        Some(Stop::Wall) => return PluginFailure::Timeout,
        Some(Stop::Forbidden(what)) => return PluginFailure::Trap(format!("it did what no plugin may: {what}")),
        None => {}
    }
    if state.limiter.hit {
        return PluginFailure::Memory;
    }
    match error.downcast_ref::<Trap>() {
        // wasmtime has no public type for it.
        None if error.root_cause().to_string().contains("too much data") => PluginFailure::Output,
        Some(trap) => PluginFailure::Trap(trap.to_string()),
        None => PluginFailure::Trap(brief(&error.root_cause().to_string())),
    }
}
