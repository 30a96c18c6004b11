//! A loaded plugin: a component with its configuration, grants and limits, ready to answer.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use portcullis_model::{
    Name, Secret,
    spec::{Grants, Isolation, Limits},
};
use portcullis_telemetry::Metrics;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{
    Store, Trap,
    component::{
        Component as Compiled, ComponentExportIndex, ComponentNamedList, ComponentType, Instance, InstancePre, Lift,
        Lower, TypedFunc,
    },
};

use crate::{
    answer::{Description, Hooks, Read},
    bindings::portcullis::types::error::Error as WitError,
    component::{Component, Exports, brief},
    error::{LoadError, PluginFailure},
    host::Host,
    meter::{Limiter, LogBudget, Meter, PollMeter, Stop},
    prepare::Prepared,
    secrets::{Allowed, Guarded, OriginPattern},
    services::Services,
    spaces::Space,
    state::{Fixed, Lent, State},
};

/// How many times as much CPU time a call may use that waits for others.
const WAITING: u32 = 25;
/// The host's part of a call is on the plugin's clock as well, and a host that nobody optimised takes many times as long.
const UNOPTIMISED: u32 = if cfg!(debug_assertions) { 4 } else { 1 };
/// A warm instance is dropped after so many calls: what a guest leaks ends with it.
const CALLS_PER_INSTANCE: u32 = 10_000;
/// The most warm instances of one plugin that wait for their next call.
const MAX_IDLE: usize = 32;
/// The least CPU time of a trial: the first run of fresh code touches every page for the first time.
pub(crate) const TRIAL_CPU: Duration = Duration::from_millis(200);

/// A secret that an operator granted, already read.
#[derive(Clone, Debug)]
pub struct GrantedSecret {
    /// The secret.
    pub value: Secret,
    /// Origins that it may go to; the servers that a resolver answers for where empty.
    pub origins: Vec<String>,
}

/// What makes a component a plugin.
pub struct LoadPlan {
    /// The `Plugin` resource's name, for logs and metrics.
    pub name: String,
    /// Whose plugin it is.
    pub tenant: Name,
    /// The component.
    pub component: Arc<Component>,
    /// Its configuration: JSON text.
    pub config: String,
    /// What it may do.
    pub grants: Grants,
    /// The secrets of `grants.secrets`, read.
    pub secrets: BTreeMap<String, GrantedSecret>,
    /// How much one call may use.
    pub limits: Limits,
    /// How long an instance lives.
    pub isolation: Isolation,
    /// What the house does for it.
    pub services: Services,
}

/// A plugin that is ready. Dropping the last reference drops its warm instances; calls that run end on it.
pub struct Plugin {
    host: Arc<Host>,
    component: Arc<Component>,
    pre: InstancePre<State>,
    pub(crate) exports: Exports,
    /// Whether each instance has to get ready by itself, since its memory afterwards could not be kept.
    unprepared: bool,
    fixed: Arc<Fixed>,
    pub(crate) limits: Limits,
    isolation: Isolation,
    suspends: bool,
    idle: Mutex<Vec<Running>>,
    idle_count: AtomicU32,
    description: Option<Description>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.fixed.name)
            .field("component", &self.component)
            .finish_non_exhaustive()
    }
}

/// A store with its instance. The order of fields is the order of dropping: the permit goes back last.
struct Running {
    store: Store<State>,
    instance: Option<Instance>,
    calls: u32,
    /// The functions of a warm instance with their types checked, by those types: no two hooks have the same.
    typed: Vec<(TypeId, Box<dyn Any + Send>)>,
    idle: Option<OwnedSemaphorePermit>,
    _alive: Alive,
    _permit: OwnedSemaphorePermit,
}

/// A hook of an instance.
type Hook<P, R> = TypedFunc<P, (Result<R, WitError>,)>;

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

/// What a call leaves behind beside its answer.
pub(crate) struct Left {
    pub(crate) lent: Lent,
    pub(crate) reads: Vec<Read>,
}

impl Host {
    /// Checks grants, links, runs a trial instantiation and loads every hook. Only then is there a plugin, so what
    /// served before is replaced by what works.
    ///
    /// # Errors
    /// What is wrong; nothing was changed.
    pub async fn load(self: &Arc<Self>, plan: LoadPlan) -> Result<Arc<Plugin>, LoadError> {
        let fixed = match check(&plan, &self.metrics, self.spaces.of(&plan.tenant, &plan.name)) {
            Ok(fixed) => fixed,
            Err(error) => {
                tracing::warn!(plugin = %plan.name, tenant = %plan.tenant, %error, "a plugin is refused");
                return Err(error);
            }
        };
        let fixed = Arc::new(fixed);
        let refused = |error: LoadError| {
            tracing::warn!(plugin = %plan.name, tenant = %plan.tenant, %error, "a plugin is refused");
            error
        };
        let prepared = self.prepare(&plan, &fixed).await.map_err(refused)?;
        let (runs, unprepared) = match &prepared {
            Prepared::Image(compiled) => (compiled, false),
            Prepared::EachTime => (&plan.component.compiled, true),
            Prepared::NotNeeded => (&plan.component.compiled, false),
        };
        let mut plugin = Plugin {
            pre: self.link(runs)?,
            exports: Exports::of(runs),
            unprepared,
            host: Arc::clone(self),
            suspends: plan.component.suspends(),
            component: plan.component,
            fixed,
            limits: plan.limits,
            isolation: plan.isolation,
            idle: Mutex::new(Vec::new()),
            idle_count: AtomicU32::new(0),
            description: None,
        };
        plugin.trial().await?;
        if plugin.hooks().described {
            plugin.description = Some(plugin.describe().await.map_err(|failure| match failure {
                PluginFailure::Error(error) => LoadError::Setup(error),
                failure => LoadError::Trial(failure),
            })?);
        }
        Ok(Arc::new(plugin))
    }

    pub(crate) fn link(&self, compiled: &Compiled) -> Result<InstancePre<State>, LoadError> {
        self.linker.instantiate_pre(compiled).map_err(|e| LoadError::Link(brief(&format!("{e:#}"))))
    }
}

/// Everything about a plan that can be said without running it.
fn check(plan: &LoadPlan, metrics: &Metrics, space: Arc<Space>) -> Result<Fixed, LoadError> {
    let metrics = metrics.plugin_handle(plan.tenant.as_str(), &plan.name);
    let (component, grants, services) = (&plan.component, &plan.grants, &plan.services);
    // Interface, functions that need the grant, the grant in YAML, whether it is given, whether the house has it.
    type Need<'a> = (&'a str, &'a [&'a str], &'static str, bool, bool);
    let needs: [Need<'_>; 9] = [
        ("portcullis:auth/tokens", &["lookup"], "tokens: true", grants.tokens, services.tokens.is_some()),
        (
            "portcullis:auth/jwt",
            &["verify", "unverified-issuer"],
            "issuers: [..]",
            !grants.issuers.is_empty(),
            services.jwt.is_some(),
        ),
        (
            "portcullis:credential/connections",
            &["list"],
            "connections: true",
            grants.connections,
            services.connections.is_some(),
        ),
        ("portcullis:host/http", &["send"], "http: [..]", !grants.http.is_empty(), services.http.is_some()),
        ("portcullis:host/token-request", &["send"], "http: [..]", !grants.http.is_empty(), services.http.is_some()),
        ("portcullis:credential/caller-token", &["get"], "callerToken: true", grants.caller_token, true),
        ("portcullis:host/state", &["open"], "state: 64KiB", grants.state.is_some(), true),
        (
            "portcullis:host/signing",
            &["hmac-sha256", "[method]token.sign"],
            "sign: true",
            grants.sign,
            services.assertions.is_some(),
        ),
        ("portcullis:host/reveal", &["reveal"], "reveal: true", grants.reveal, services.audit.is_some()),
    ];
    for (interface, functions, grant, granted, available) in needs {
        let Some(used) = functions.iter().find_map(|f| component.uses(interface, f)) else { continue };
        if !granted {
            metrics.capability_denied(capability(interface));
            return Err(LoadError::Ungranted { interface: used.to_owned(), grant });
        }
        if !available {
            return Err(LoadError::Unavailable(used.to_owned()));
        }
    }
    let not_an_origin =
        |text: &str| LoadError::Invalid(format!("\"{text}\" is not an origin such as https://idp.example.com"));
    let http_origins: Result<Vec<_>, _> =
        grants.http.iter().map(|o| OriginPattern::parse(o).ok_or_else(|| not_an_origin(o))).collect();
    let mut secrets = BTreeMap::new();
    for (name, secret) in &plan.secrets {
        let allowed = Allowed::granted(&secret.origins).map_err(|o| not_an_origin(&o))?;
        secrets.insert(name.clone(), Guarded::secret(secret.value.clone(), allowed, name.clone()));
    }
    let config: serde_json::Value = serde_json::from_str(&plan.config)
        .map_err(|e| LoadError::Invalid(format!("the configuration is no JSON: {e}")))?;
    let complaints = component.schema().map(|schema| schema.check(&config)).unwrap_or_default();
    if !complaints.is_empty() {
        return Err(LoadError::Config(complaints));
    }
    Ok(Fixed {
        name: plan.name.clone(),
        tenant: plan.tenant.clone(),
        config: plan.config.clone(),
        grants: plan.grants.clone(),
        http_origins: http_origins?,
        secrets,
        services: plan.services.clone(),
        metrics,
        log_budget: LogBudget::new(),
        space,
        max_output: plan.limits.output.as_usize(),
        figures_dropped: AtomicBool::new(false),
    })
}

/// How metrics call what an interface gives.
fn capability(interface: &str) -> &'static str {
    match interface.rsplit('/').next().unwrap_or_default() {
        "tokens" => "tokens",
        "jwt" => "issuer",
        "connections" => "connections",
        "http" | "token-request" => "http",
        "caller-token" => "caller-token",
        "reveal" => "reveal",
        "state" => "state",
        "signing" => "sign",
        _ => "other",
    }
}

impl Plugin {
    /// The hooks that it serves.
    pub fn hooks(&self) -> Hooks {
        self.component.hooks()
    }

    /// Where clients get the tokens that it accepts, if it says so.
    pub fn description(&self) -> Option<&Description> {
        self.description.as_ref()
    }

    /// SHA-256 of its component, in hex.
    pub fn digest(&self) -> &str {
        self.component.digest()
    }

    /// The `Plugin` resource's name.
    pub fn name(&self) -> &str {
        &self.fixed.name
    }

    /// Whose it is.
    pub fn tenant(&self) -> &Name {
        &self.fixed.tenant
    }

    /// What it was granted.
    pub fn grants(&self) -> &Grants {
        &self.fixed.grants
    }

    /// Its configuration, as it reads it.
    pub fn config(&self) -> &str {
        &self.fixed.config
    }

    /// Whether its instances start from the memory that its `setup` left, rather than each getting ready by itself. True where it
    /// has no `setup`.
    pub fn starts_ready(&self) -> bool {
        !self.unprepared
    }

    /// Whether its calls may wait for others; otherwise they are over before the future is polled a second time.
    pub fn suspends(&self) -> bool {
        self.suspends
    }

    /// An instance that waits for its next call, or room for a fresh one.
    async fn take(&self) -> Result<Running, PluginFailure> {
        if self.isolation == Isolation::Tenant && self.idle_count.load(Relaxed) > 0 {
            let warm = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            if let Some(running) = warm {
                self.idle_count.fetch_sub(1, Relaxed);
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

    fn fresh(&self, permit: OwnedSemaphorePermit, cpu: Duration) -> Running {
        let state = State::new(Arc::clone(&self.fixed), Meter::new(cpu), Limiter::new(self.limits.memory.as_usize()));
        let mut store = Store::new(&self.host.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(from_guest(self.limits.output.as_usize()));
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().meter.tick()));
        let alive = Alive::new(&self.host.metrics);
        Running { store, instance: None, calls: 0, typed: Vec::new(), idle: None, _alive: alive, _permit: permit }
    }

    /// Puts an instance back after a clean call; drops it where it may not be used again.
    fn give_back(&self, mut running: Running) {
        running.calls += 1;
        let clean = running.store.data().handles_left() == 0;
        let small = running.store.data().limiter.high <= self.limits.memory.as_usize() / 2;
        if self.isolation != Isolation::Tenant || !clean || !small || running.calls >= CALLS_PER_INSTANCE {
            return;
        }
        if running.idle.is_none() {
            let Ok(permit) = Arc::clone(&self.host.idle_permits).try_acquire_owned() else { return };
            running.idle = Some(permit);
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(running);
            self.idle_count.fetch_add(1, Relaxed);
        }
    }

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
        let left = Left { lent: state.end(), reads: std::mem::take(&mut state.reads) };
        match outcome {
            Ok(Ok(answer)) => {
                self.give_back(running);
                Ok((answer, left))
            }
            Ok(Err(error)) => Err(PluginFailure::Error(error.into())),
            Err(error) => Err(failure(state, &error)),
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
                let instance = self.pre.instantiate(&mut running.store)?;
                if self.unprepared
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
                if self.isolation == Isolation::Tenant {
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
                    let instance = self.pre.instantiate_async(&mut running.store).await?;
                    if self.unprepared
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
    async fn trial(&self) -> Result<(), LoadError> {
        let permit =
            Arc::clone(&self.host.permits).acquire_owned().await.map_err(|e| LoadError::Host(e.to_string()))?;
        let mut running = self.fresh(permit, self.limits.cpu.get().max(TRIAL_CPU));
        let wall = self.limits.wall.get().max(Duration::from_secs(2));
        let _awake = self.host.ticker.awake();
        running.store.set_epoch_deadline(1);
        let instantiated = if self.suspends {
            let polls = Arc::new(PollMeter::default());
            running.store.data_mut().meter.begin_suspending(wall, Arc::clone(&polls));
            let mut work = Box::pin(self.pre.instantiate_async(&mut running.store));
            std::future::poll_fn(|context| {
                polls.enter();
                let polled = work.as_mut().poll(context);
                polls.leave();
                polled
            })
            .await
        } else {
            running.store.data_mut().meter.begin_inline(wall);
            self.pre.instantiate(&mut running.store)
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
