//! One engine, one linker, one pool for all plugins.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use portcullis_package::{MAX_COMPONENT, PackageSettings};
use portcullis_telemetry::Metrics;
use tokio::sync::{Semaphore, watch};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    component::{HasSelf, Linker},
};

use crate::{
    bindings::Everything,
    cache::Cache,
    compile::{CompileLimits, Compiler, TooCostly},
    compiling::Compilation,
    component::Component,
    error::LoadError,
    instances::Ready,
    shadow::Shadows,
    spaces::Spaces,
    state::State,
    ticker::Ticker,
};

/// The most linear memory that the pool has room for per instance; `limits.memory` stays below.
const MAX_MEMORY: usize = 64 << 20;

/// How a [`Host`] is set up.
#[derive(Clone)]
pub struct HostOptions {
    /// Where compiled components are kept; none compiles at each start. Made with mode 0700 where it is not there.
    pub cache_dir: Option<PathBuf>,
    /// The most bytes of compiled components that are kept; those that were used longest ago go first.
    pub cache_bytes: u64,
    /// Where components are compiled. In a child only where there is a `cache_dir`.
    pub compiler: Compiler,
    /// What a child that compiles may use.
    pub compile_limits: CompileLimits,
    /// The most instances at once, of all plugins. Each reserves about 6 GiB of address space, not memory.
    pub pool_instances: u32,
    /// The longest that a compilation may take.
    pub compile_timeout: Duration,
    /// The most bytes of a component, [`MAX_COMPONENT`] at most.
    pub max_component: usize,
    /// Where calls, times, traps, timeouts, denials and instances are counted.
    pub metrics: Arc<Metrics>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            cache_bytes: 1 << 30,
            compiler: Compiler::Here,
            compile_limits: CompileLimits::default(),
            pool_instances: 256,
            compile_timeout: Duration::from_secs(60),
            max_component: PackageSettings::default().max_component.as_usize(),
            metrics: Metrics::new(),
        }
    }
}

impl std::fmt::Debug for HostOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostOptions")
            .field("cache_dir", &self.cache_dir)
            .field("compiler", &self.compiler)
            .field("pool_instances", &self.pool_instances)
            .field("compile_timeout", &self.compile_timeout)
            .field("max_component", &self.max_component)
            .finish_non_exhaustive()
    }
}

/// Runs plugins.
pub struct Host {
    pub(crate) engine: Engine,
    /// Awake while a guest runs.
    pub(crate) ticker: Ticker,
    pub(crate) linker: Linker<State>,
    pub(crate) cache: Option<Cache>,
    /// Stands before every instantiation: an exhausted pool is an error, not a queue.
    pub(crate) permits: Arc<Semaphore>,
    /// Of the permits, those that instances waiting for their next call may hold; the rest is for fresh ones.
    pub(crate) idle_permits: Arc<Semaphore>,
    pub(crate) compiling: Arc<Semaphore>,
    pub(crate) compile_timeout: Duration,
    pub(crate) compiler: Compiler,
    pub(crate) compile_limits: CompileLimits,
    pub(crate) max_component: usize,
    pub(crate) too_costly: TooCostly,
    pub(crate) metrics: Arc<Metrics>,
    /// What plugins remember.
    pub(crate) spaces: Spaces,
    /// Components in use, by digest: one that several places name is there once.
    pub(crate) components: Mutex<HashMap<String, Weak<Component>>>,
    /// Components that are being compiled, by digest.
    pub(crate) under_way: Mutex<HashMap<String, watch::Receiver<Compilation>>>,
    /// What plugins with isolation `shared` share.
    pub(crate) shared: Mutex<HashMap<String, Weak<Ready>>>,
    /// Where candidates run beside the active version.
    pub(crate) shadows: Shadows,
    pooled: bool,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("pooled", &self.pooled).finish_non_exhaustive()
    }
}

impl Host {
    /// Starts the engine and its ticker.
    ///
    /// # Errors
    /// Where the engine does not start, or the cache directory is not private.
    pub fn new(options: HostOptions) -> Result<Arc<Self>, LoadError> {
        let failed = |e: wasmtime::Error| LoadError::Host(format!("{e:#}"));
        let instances = options.pool_instances.clamp(4, 4096);
        let (engine, pooled) = match Engine::new(&config(Some(instances))) {
            Ok(engine) => (engine, true),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    instances,
                    "no address space for a pool of plugin instances; each is made on demand, which costs about 20 microseconds more a call"
                );
                (Engine::new(&config(None)).map_err(failed)?, false)
            }
        };
        let mut linker = Linker::<State>::new(&engine);
        Everything::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state).map_err(failed)?;
        let cache = match &options.cache_dir {
            Some(dir) => Some(
                Cache::open(dir, &engine, options.cache_bytes, Arc::clone(&options.metrics))
                    .map_err(|e| LoadError::Host(format!("the cache of compiled plugins: {e}")))?,
            ),
            None => None,
        };
        let ticker = Ticker::start(&engine)?;
        Ok(Arc::new(Self {
            engine,
            ticker,
            linker,
            cache,
            permits: Arc::new(Semaphore::new(instances as usize)),
            idle_permits: Arc::new(Semaphore::new(instances as usize / 2)),
            compiling: Arc::new(Semaphore::new(2)),
            compile_timeout: options.compile_timeout,
            compiler: options.compiler,
            compile_limits: options.compile_limits,
            max_component: options.max_component.min(MAX_COMPONENT),
            too_costly: TooCostly::default(),
            metrics: options.metrics,
            spaces: Spaces::default(),
            components: Mutex::default(),
            under_way: Mutex::default(),
            shared: Mutex::default(),
            shadows: Shadows::default(),
            pooled,
        }))
    }

    /// Whether instances come from a pool rather than being made on demand.
    pub fn pooled(&self) -> bool {
        self.pooled
    }

    /// How many more instances could run now.
    pub fn free_instances(&self) -> usize {
        self.permits.available_permits()
    }
}

pub(crate) fn config(pool: Option<u32>) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    // A backtrace costs 50 microseconds at each trap, and a hostile caller could ask for many.
    config.wasm_backtrace_max_frames(None);
    config.max_wasm_stack(512 << 10);
    config.async_stack_size(1 << 20);
    if let Some(instances) = pool {
        let mut pool = PoolingAllocationConfig::default();
        pool.total_component_instances(instances)
            .total_core_instances(instances.saturating_mul(8))
            .total_memories(instances)
            .total_tables(instances.saturating_mul(4))
            .total_stacks(instances)
            .max_memories_per_component(1)
            .max_tables_per_component(4)
            .max_core_instances_per_component(32)
            .max_memory_size(MAX_MEMORY)
            .linear_memory_keep_resident(2 << 20)
            .table_keep_resident(64 << 10)
            .async_stack_keep_resident(64 << 10)
            .max_unused_warm_slots(64)
            .pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}
