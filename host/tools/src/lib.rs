//! MCP servers that are WebAssembly components: their exported functions are tools, served within the gateway.
//!
//! [`Components`] stands before whoever starts processes: a server that is a component gets pipes of the same sort, with a task behind
//! them that speaks MCP. So everything that holds for processes (one for each connection that holds secrets, limits of calls in flight,
//! lists, status) holds for components, and nothing in between knows the difference.

mod answer;
mod serve;

use std::sync::Arc;

use portcullis_plugin::Toolshed;
use portcullis_upstream::{BoxFuture, LaunchError, LaunchKey, LaunchSpec, Launcher, Pipes, launch::Child};
use tokio::{sync::oneshot, task::AbortHandle};

/// How much may be under way on each pipe.
const PIPE: usize = 64 << 10;

/// Serves components, and leaves all other servers to somebody else.
pub struct Components {
    shed: Arc<Toolshed>,
    others: Arc<dyn Launcher>,
}

impl std::fmt::Debug for Components {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Components").finish_non_exhaustive()
    }
}

impl Components {
    /// Takes components from the shed; `others` starts what is none.
    pub fn new(shed: Toolshed, others: Arc<dyn Launcher>) -> Self {
        Self { shed: Arc::new(shed), others }
    }
}

impl Launcher for Components {
    fn launch(&self, key: &LaunchKey, spec: &LaunchSpec) -> BoxFuture<'static, Result<Pipes, LaunchError>> {
        let Some(component) = spec.component.clone() else { return self.others.launch(key, spec) };
        let (shed, key, env) = (Arc::clone(&self.shed), key.clone(), spec.env.clone());
        Box::pin(async move {
            let toolbox = shed.load(&key.tenant, &key.server, &component, &env).await.map_err(|why| {
                tracing::warn!(server = %key.server, tenant = %key.tenant, why, "a component is refused");
                LaunchError::Invalid(why)
            })?;
            let (stdin, input) = tokio::io::duplex(PIPE);
            let (output, stdout) = tokio::io::duplex(PIPE);
            let served = tokio::spawn(serve::serve(key.server.to_string(), toolbox, component, input, output));
            let (stay, leave) = oneshot::channel();
            let child = Served { task: served.abort_handle(), _stay: stay };
            Ok(Pipes { stdin: Box::new(stdin), stdout: Box::new(stdout), child: Box::new(child), leave })
        })
    }
}

/// Keeps the task that serves; dropping it ends it and every call under way.
struct Served {
    task: AbortHandle,
    _stay: oneshot::Sender<()>,
}

impl Child for Served {
    fn ready(&self) {}
    fn degraded(&self, reason: &str) {
        tracing::debug!(reason, "a component's pipes");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}
