//! The keeper of all processes: starts them, counts them, keeps their logs, stops them.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use portcullis_child::{Backoff, Plan, Protection, Started, how_it_ended};
use portcullis_model::{Name, Secret};
use portcullis_telemetry::Metrics;
use portcullis_upstream::{BoxFuture, LaunchError, LaunchKey, LaunchSpec, Launcher, Pipes, launch};
use tokio::sync::{oneshot, watch};

use crate::{
    homes::{self, Home, Homes},
    logs::{self, LogRing},
    prepare::{self, Prepared, PrivateDir},
    status::{State, Status},
};

/// A start that has to wait no longer than this waits; a longer one is refused with a hint.
const SHORT_WAIT: Duration = Duration::from_secs(1);
/// So many processes are remembered that are not running.
const MAX_REMEMBERED: usize = 4_096;

/// How processes are kept.
#[derive(Clone)]
pub struct Options {
    /// The parent of the servers' private directories. Made with mode 0700.
    pub runtime_dir: PathBuf,
    /// The parent of the servers' lasting `HOME` directories. On a disk, since package runners fill them.
    pub homes_dir: PathBuf,
    /// What is counted, and where. Nobody reads it where this is left as it is.
    pub metrics: Arc<Metrics>,
    /// The program that has the supervisor mode; this very binary where left out.
    pub supervisor: Option<PathBuf>,
    /// The arguments that choose the supervisor mode.
    pub supervisor_args: Vec<OsString>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// The most processes in all.
    pub max_children: usize,
    /// The most processes of one tenant.
    pub max_children_per_tenant: usize,
    /// The most open files of each member of a process tree.
    pub max_files: u64,
    /// What the gateway keeps, and no process gets to see but its own part; beside the directories above.
    pub hidden: Vec<PathBuf>,
}

impl Options {
    /// The usual figures, with private directories below `runtime_dir`, and homes in its `homes`.
    pub fn new(runtime_dir: PathBuf) -> Self {
        Self {
            homes_dir: runtime_dir.join("homes"),
            metrics: Metrics::new(),
            runtime_dir,
            supervisor: None,
            supervisor_args: vec!["supervise".into()],
            grace: Duration::from_secs(3),
            max_children: 256,
            max_children_per_tenant: 128,
            max_files: 4_096,
            hidden: Vec::new(),
        }
    }
}

/// Keeps the servers' processes. Cheap to clone; implements [`Launcher`].
#[derive(Clone)]
pub struct Orchestrator(Arc<Inner>);

struct Inner {
    options: Options,
    homes: Homes,
    slots: Mutex<HashMap<LaunchKey, Arc<Slot>>>,
    /// Servers that somebody stopped, also such as never ran.
    stopped: Mutex<HashSet<(Name, Name)>>,
    logs: Mutex<HashMap<(Name, Name), Arc<LogRing>>>,
    running: Mutex<Running>,
    /// How many processes run, for whoever waits for none.
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Running {
    total: usize,
    by_tenant: HashMap<Name, usize>,
    closing: bool,
}

/// One process, running or not.
struct Slot {
    key: LaunchKey,
    state: Mutex<SlotState>,
    /// Whether a supervisor runs.
    alive: watch::Sender<bool>,
}

#[derive(Default)]
struct SlotState {
    state: Option<State>,
    stopped: bool,
    /// Whether the end of the running process was asked for.
    asked: bool,
    pid: Option<u32>,
    started: Option<(Instant, SystemTime)>,
    starts: u64,
    backoff: Backoff,
    last_end: String,
    control: Option<OwnedFd>,
    protections: Vec<Protection>,
    leave: Option<oneshot::Sender<()>>,
}

/// A running process's place in the caps.
struct Place(Arc<Inner>, Name);

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = lock(&self.0.running);
        running.total -= 1;
        if let Some(count) = running.by_tenant.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                running.by_tenant.remove(&self.1);
            }
        }
        let total = running.total;
        self.0.counted(total);
        drop(running);
    }
}

/// What the pool holds of a process.
struct Handle {
    slot: Arc<Slot>,
    start: u64,
}

impl launch::Child for Handle {
    fn ready(&self) {
        self.slot.set(self.start, State::Ready);
    }

    fn degraded(&self, reason: &str) {
        self.slot.set(self.start, State::Degraded(reason.to_owned()));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = lock(&self.slot.state);
        if state.starts == self.start {
            // Let go of in good health: somebody wanted that.
            state.asked |= !matches!(state.state, Some(State::Degraded(_)));
            state.control = None;
        }
    }
}

impl Slot {
    fn set(&self, start: u64, to: State) {
        let mut state = lock(&self.state);
        // The first thing that went wrong says most, and how a process ended says more than what its pipes said after it.
        if state.starts == start && state.pid.is_some() && !matches!(state.state, Some(State::Degraded(_))) {
            state.state = Some(to);
        }
    }

    /// Ends the process, at once where `drain` is nothing, and waits until it has ended.
    async fn end(&self, drain: Duration) {
        let mut alive = self.alive.subscribe();
        {
            let mut state = lock(&self.state);
            if state.control.is_some() {
                state.asked = true;
            }
            if let Some(leave) = state.leave.take() {
                // Whoever held it may have let go already.
                let _ = leave.send(());
            }
        }
        if tokio::time::timeout(drain, alive.wait_for(|a| !a)).await.is_err() {
            lock(&self.state).control = None;
        }
        // The supervisor needs its grace and then kills, so this ends.
        let _ = alive.wait_for(|a| !a).await;
    }

    fn ended(&self, start: u64, status: io::Result<ExitStatus>) -> String {
        let mut state = lock(&self.state);
        if state.starts != start {
            return String::new();
        }
        let how = how_it_ended(status);
        state.pid = None;
        state.control = None;
        state.leave = None;
        let now = Instant::now();
        if state.asked {
            state.state = Some(if state.stopped { State::Stopped } else { State::Idle });
        } else {
            let started = state.started.map_or(now, |(at, _)| at);
            state.backoff.ended(started, now);
            state.last_end.clone_from(&how);
            state.state = Some(State::Failed(how.clone()));
        }
        drop(state);
        self.alive.send_replace(false);
        how
    }

    fn status(&self) -> Status {
        let state = lock(&self.state);
        Status {
            key: self.key.clone(),
            state: state.state.clone().unwrap_or(State::Pending),
            pid: state.pid,
            started: state.started.map(|(_, at)| at),
            starts: state.starts,
            failures: state.backoff.failures(),
            protections: state.protections.clone(),
        }
    }
}

impl Orchestrator {
    /// A keeper of no processes yet.
    ///
    /// # Errors
    /// When the parent of the private directories can't be made. What a crash left in it is removed: nobody else may use it.
    pub fn new(options: Options) -> io::Result<Self> {
        prepare::make_parent(&options.runtime_dir)?;
        prepare::clear_parent(&options.runtime_dir);
        Ok(Self(Arc::new(Inner {
            homes: Homes::new(options.homes_dir.clone()),
            options,
            slots: Mutex::default(),
            stopped: Mutex::default(),
            logs: Mutex::default(),
            running: Mutex::default(),
            count: watch::channel(0).0,
        })))
    }

    /// The status of every process that ran or was wanted, in order.
    pub fn status(&self) -> Vec<Status> {
        // A conversation's process is of no interest once it has ended: there is never another.
        let lasting = |s: &&Arc<Slot>| s.key.conversation.is_none() || *s.alive.borrow();
        let mut all: Vec<Status> = lock(&self.0.slots).values().filter(lasting).map(|s| s.status()).collect();
        all.sort_by_cached_key(|s| (s.key.tenant.clone(), s.key.server.clone(), s.key.to_string(), s.key.generation));
        all
    }

    /// What a server's processes wrote to standard error. `None` when none ever ran.
    pub fn logs(&self, tenant: &Name, server: &Name) -> Option<Arc<LogRing>> {
        lock(&self.0.logs).get(&(tenant.clone(), server.clone())).cloned()
    }

    /// How many processes run.
    pub fn running(&self) -> usize {
        lock(&self.0.running).total
    }

    /// Ends a server's processes, after their calls in flight or after `drain`; the next call starts anew, without backoff.
    pub async fn restart(&self, tenant: &Name, server: &Name, drain: Duration) {
        lock(&self.0.stopped).remove(&(tenant.clone(), server.clone()));
        for slot in self.of(tenant, server) {
            lock(&slot.state).stopped = false;
            slot.end(drain).await;
            lock(&slot.state).backoff.reset();
        }
    }

    /// Ends a server's processes as [`Orchestrator::restart`] does, and refuses to start them until
    /// [`Orchestrator::start`].
    pub async fn stop(&self, tenant: &Name, server: &Name, drain: Duration) {
        lock(&self.0.stopped).insert((tenant.clone(), server.clone()));
        for slot in self.of(tenant, server) {
            {
                let mut state = lock(&slot.state);
                state.stopped = true;
                if state.pid.is_none() {
                    state.state = Some(State::Stopped);
                }
            }
            slot.end(drain).await;
        }
    }

    /// Allows a stopped server's processes again; the next call starts them.
    pub fn start(&self, tenant: &Name, server: &Name) {
        lock(&self.0.stopped).remove(&(tenant.clone(), server.clone()));
        for slot in self.of(tenant, server) {
            let mut state = lock(&slot.state);
            state.stopped = false;
            state.backoff.reset();
            if state.pid.is_none() {
                state.state = Some(State::Idle);
            }
        }
    }

    /// Starts nothing any more and ends all processes, after their calls in flight or after `drain`. Returns when none is
    /// left.
    pub async fn shutdown(&self, drain: Duration) {
        lock(&self.0.running).closing = true;
        let slots: Vec<Arc<Slot>> = lock(&self.0.slots).values().cloned().collect();
        let mut ends = tokio::task::JoinSet::new();
        for slot in slots {
            ends.spawn(async move { slot.end(drain).await });
        }
        while ends.join_next().await.is_some() {}
        // The sender lives as long as `self`.
        let _ = self.0.count.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Forgets processes that are not running and that `keep` does not want, and the logs of servers that none is left of:
    /// their resources are gone.
    pub fn retain(&self, keep: impl Fn(&LaunchKey) -> bool) {
        let mut slots = lock(&self.0.slots);
        slots.retain(|key, slot| keep(key) || *slot.alive.borrow());
        lock(&self.0.logs)
            .retain(|(tenant, server), _| slots.keys().any(|key| key.tenant == *tenant && key.server == *server));
    }

    /// Removes the `HOME` directories of servers and connections that `keep` does not want, unless a process still runs in
    /// one. A bounded number at a time, in the background.
    pub fn retain_homes(&self, keep: impl Fn(&Home) -> bool) {
        let unwanted: Vec<Home> = self.0.homes.all().into_iter().filter(|h| !keep(h)).collect();
        self.0.remove_homes(&unwanted);
    }

    fn of(&self, tenant: &Name, server: &Name) -> Vec<Arc<Slot>> {
        let slots = lock(&self.0.slots);
        slots.values().filter(|s| s.key.tenant == *tenant && s.key.server == *server).cloned().collect()
    }
}

impl Launcher for Orchestrator {
    fn launch(&self, key: &LaunchKey, spec: &LaunchSpec) -> BoxFuture<'static, Result<Pipes, LaunchError>> {
        let (inner, key, spec) = (self.0.clone(), key.clone(), spec.clone());
        Box::pin(async move { inner.launch(key, spec).await })
    }
}

impl Inner {
    async fn launch(self: Arc<Self>, key: LaunchKey, spec: LaunchSpec) -> Result<Pipes, LaunchError> {
        let slot = self.slot(&key);
        if self.is_stopped(&key) {
            return Err(LaunchError::Stopped);
        }
        // Two of a kind could fight over a port or a lock file.
        let _ = slot.alive.subscribe().wait_for(|alive| !alive).await;
        let wait = {
            let state = lock(&slot.state);
            if state.stopped {
                return Err(LaunchError::Stopped);
            }
            let wait = state.backoff.wait(Instant::now());
            if wait > SHORT_WAIT {
                return Err(LaunchError::Backoff { reason: state.last_end.clone(), retry_after: wait });
            }
            wait
        };
        tokio::time::sleep(wait).await;
        let place = self.admit(&key.tenant)?;
        let memory = spec.process.memory.map(|m| m.get());
        let (inner, of) = (self.clone(), key.clone());
        let prepared = tokio::task::spawn_blocking(move || inner.prepare(&of, &spec))
            .await
            .map_err(|_| LaunchError::Invalid("shutting down".to_owned()))?;
        let started = prepared.and_then(|p| self.start(&p, memory).map(|started| (p, started)));
        let (prepared, started) = started.inspect_err(|error| self.not_started(&slot, error))?;
        // No await from here on: a caller that goes away can't leave a process behind that nobody holds.
        self.run(slot, started, prepared.dir, prepared.secrets, place)
    }

    fn start(&self, prepared: &Prepared, memory: Option<u64>) -> Result<Started, LaunchError> {
        let options = &self.options;
        let plan = Plan {
            supervisor: options.supervisor.clone(),
            supervisor_args: options.supervisor_args.clone(),
            grace: options.grace,
            files: options.max_files,
            memory,
            remove: Some(prepared.dir.path().to_owned()),
            command: std::iter::once(prepared.program.clone().into_os_string())
                .chain(prepared.args.iter().cloned())
                .collect(),
            confinement: Some(prepared.confinement.clone()),
            env: Some(prepared.env.clone()),
            cwd: Some(prepared.cwd.clone()),
        };
        portcullis_child::start(&plan).map_err(|e| LaunchError::Spawn(format!("can't start its supervisor: {e}")))
    }

    fn prepare(&self, key: &LaunchKey, spec: &LaunchSpec) -> Result<Prepared, LaunchError> {
        let home = Home::of(key);
        let path = home.as_ref().map(|home| self.homes.open(home)).transpose();
        let path = path.map_err(|e| LaunchError::Invalid(format!("can't make the server's home directory: {e}")))?;
        if let Some(home) = home.filter(|h| h.connection.is_some()) {
            self.remove_homes(&self.homes.outdated(&home));
        }
        let mut hidden = self.options.hidden.clone();
        hidden.extend([self.options.runtime_dir.clone(), self.options.homes_dir.clone()]);
        prepare::prepare(spec, &self.options.runtime_dir, path.as_deref(), &hidden)
    }

    /// Removes homes in which no process runs.
    fn remove_homes(&self, homes: &[Home]) {
        let used: Vec<Home> = {
            let slots = lock(&self.slots);
            slots.values().filter(|s| *s.alive.borrow()).filter_map(|s| Home::of(&s.key)).collect()
        };
        let unused: Vec<Home> = homes.iter().filter(|h| !used.contains(h)).cloned().collect();
        let aside = self.homes.put_aside(&unused);
        if aside.is_empty() {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || homes::remove(&aside))),
            Err(_) => homes::remove(&aside),
        }
    }

    fn run(
        &self,
        slot: Arc<Slot>,
        started: Started,
        dir: PrivateDir,
        secrets: Vec<Secret>,
        place: Place,
    ) -> Result<Pipes, LaunchError> {
        let Started { mut supervisor, control, report } = started;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (supervisor.stdin.take(), supervisor.stdout.take(), supervisor.stderr.take())
        else {
            return Err(LaunchError::Spawn("it has no streams".to_owned()));
        };
        let ring = self.ring(&slot.key);
        let (leaver, leave) = oneshot::channel();
        let start = {
            let mut state = lock(&slot.state);
            state.starts += 1;
            state.state = Some(State::Starting);
            state.asked = false;
            state.pid = supervisor.id();
            state.started = Some((Instant::now(), SystemTime::now()));
            state.control = Some(control);
            state.protections.clear();
            state.leave = Some(leaver);
            state.starts
        };
        if start > 1 {
            self.options.metrics.child_restarts(slot.key.tenant.as_str(), slot.key.server.as_str()).inc();
        }
        slot.alive.send_replace(true);
        ring.note(format!("[portcullis: {} started, pid {}]", slot.key, supervisor.id().unwrap_or_default()));
        let (told, of) = (slot.clone(), ring.clone());
        tokio::spawn(async move {
            let held = portcullis_child::protections(report).await;
            for missing in held.iter().filter_map(|p| p.missing.as_ref().map(|why| format!("{}: {why}", p.name))) {
                tracing::warn!(target = %told.key, missing, "a server's process is not kept from all that it should be");
                of.note(format!("[portcullis: {} does not hold: {missing}]", told.key));
            }
            let mut state = lock(&told.state);
            if state.starts == start {
                state.protections = held;
            }
        });
        let (log, ended) = (ring.clone(), slot.clone());
        tokio::spawn(async move { logs::collect(stderr, &log, &secrets).await });
        tokio::spawn(async move {
            let status = supervisor.wait().await;
            drop(place);
            // Its secrets go; the supervisor has done it already unless it was killed.
            if tokio::task::spawn_blocking(move || drop(dir)).await.is_err() {
                tracing::warn!("a server's private directory may be left");
            }
            let how = ended.ended(start, status);
            tracing::info!(target = %ended.key, how, "a server's process ended");
            ring.note(format!("[portcullis: {}: {how}]", ended.key));
        });
        Ok(Pipes { stdin: Box::new(stdin), stdout: Box::new(stdout), child: Box::new(Handle { slot, start }), leave })
    }

    /// Keeps why there is no process, for whoever asks for its state or its log.
    fn not_started(&self, slot: &Slot, error: &LaunchError) {
        let why = error.to_string();
        self.ring(&slot.key).note(format!("[portcullis: {}: {why}]", slot.key));
        lock(&slot.state).state = Some(State::Failed(why));
    }

    /// Whether somebody stopped the server: then a conversation that begins later gets no process either.
    fn is_stopped(&self, key: &LaunchKey) -> bool {
        if lock(&self.stopped).contains(&(key.tenant.clone(), key.server.clone())) {
            return true;
        }
        let slots = lock(&self.slots);
        let mut same = slots.values().filter(|s| s.key.tenant == key.tenant && s.key.server == key.server);
        same.any(|s| lock(&s.state).stopped)
    }

    fn slot(&self, key: &LaunchKey) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        if slots.len() > MAX_REMEMBERED {
            slots.retain(|_, s| *s.alive.borrow() || lock(&s.state).stopped);
        }
        let new = || Arc::new(Slot { key: key.clone(), state: Mutex::default(), alive: watch::channel(false).0 });
        slots.entry(key.clone()).or_insert_with(new).clone()
    }

    fn ring(&self, key: &LaunchKey) -> Arc<LogRing> {
        let mut logs = lock(&self.logs);
        if logs.len() > MAX_REMEMBERED {
            // Those that somebody writes to or reads are held elsewhere as well.
            logs.retain(|_, ring| Arc::strong_count(ring) > 1);
        }
        logs.entry((key.tenant.clone(), key.server.clone())).or_default().clone()
    }

    /// So many processes run from now on. Under the lock, so that the last word is the newest.
    fn counted(&self, total: usize) {
        self.options.metrics.children.set(i64::try_from(total).unwrap_or(i64::MAX));
        self.count.send_replace(total);
    }

    fn admit(self: &Arc<Self>, tenant: &Name) -> Result<Place, LaunchError> {
        let mut running = lock(&self.running);
        if running.closing {
            return Err(LaunchError::Stopped);
        }
        if running.total >= self.options.max_children {
            return Err(LaunchError::TooMany { limit: self.options.max_children });
        }
        let count = running.by_tenant.entry(tenant.clone()).or_default();
        if *count >= self.options.max_children_per_tenant {
            return Err(LaunchError::TooMany { limit: self.options.max_children_per_tenant });
        }
        *count += 1;
        running.total += 1;
        self.counted(running.total);
        drop(running);
        Ok(Place(self.clone(), tenant.clone()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
