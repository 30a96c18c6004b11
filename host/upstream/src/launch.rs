//! What has to be known to start a server's process, and the trait of whoever starts it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use portcullis_model::{
    Secret, Side,
    spec::{ComponentServer, Process},
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{BoxFuture, target::TargetKey};

/// Which child: the same key is the same child.
pub type LaunchKey = TargetKey;

/// A secret that the child finds in a file.
#[derive(Clone, Debug)]
pub struct SecretFile {
    /// The environment variable that gets the file's path.
    pub env: String,
    /// What the file holds.
    pub content: Secret,
}

/// A process to start. Cheap to make: the registry entry is shared.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// The registry entry's part.
    pub process: Arc<Process>,
    /// Where the server is a component, which needs no process: `process` says how it is treated.
    pub component: Option<Arc<ComponentServer>>,
    /// Values for `${field.NAME}` in the arguments. Not secret.
    pub values: BTreeMap<String, String>,
    /// Variables that hold a connection's values.
    pub env: Vec<(String, Secret)>,
    /// Arguments that hold a connection's values: only where the registry entry allows the process list to show them.
    pub args: Vec<Secret>,
    /// Files that hold a connection's values.
    pub files: Vec<SecretFile>,
}

impl LaunchSpec {
    /// A process that carries nobody's values.
    pub fn plain(process: Arc<Process>) -> Self {
        Self { process, component: None, values: BTreeMap::new(), env: Vec::new(), args: Vec::new(), files: Vec::new() }
    }
}

/// Why a process was not started.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaunchError {
    /// The program is not there or can't be run.
    #[error("can't start the process: {0}")]
    Spawn(String),
    /// The last ones ended at once; the next start is later.
    #[error("the process keeps ending ({reason}); the next start is in {} s", retry_after.as_secs().max(1))]
    Backoff {
        /// How the last one ended.
        reason: String,
        /// How long until the next start.
        retry_after: Duration,
    },
    /// As many children run as may.
    #[error("too many processes are running ({limit})")]
    TooMany {
        /// The cap.
        limit: usize,
    },
    /// The specification can't be carried out.
    #[error("{0}")]
    Invalid(String),
    /// It is still coming up: package runners download first.
    #[error("the process is still starting")]
    Starting,
    /// Somebody stopped the server.
    #[error("the server is stopped")]
    Stopped,
}

impl LaunchError {
    /// Whose fault it is.
    pub fn side(&self) -> Side {
        match self {
            Self::Spawn(_) | Self::Backoff { .. } | Self::Starting => Side::Server,
            Self::TooMany { .. } | Self::Invalid(_) | Self::Stopped => Side::Gateway,
        }
    }
}

/// A running child's standard input and output.
pub struct Pipes {
    /// Its standard input. Dropping it asks the child to end.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// Its standard output. Its end is the child's end.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Keeps the child; dropping it ends the child.
    pub child: Box<dyn Child>,
    /// Fires when the child is to take no new calls and to be let go of after its last one: a restart or a stop.
    pub leave: tokio::sync::oneshot::Receiver<()>,
}

/// A handle on a running child. Dropping it ends the child and all that it started.
pub trait Child: Send + Sync {
    /// The child spoke MCP: it counts as healthy from here on.
    fn ready(&self);
    /// Something went wrong, in words for `status`. When the child is dropped after this, its end counts as a failure.
    fn degraded(&self, reason: &str);
}

/// Whoever starts processes.
pub trait Launcher: Send + Sync {
    /// Starts the process of this key, or says why not. Called for one key at a time.
    fn launch(&self, key: &LaunchKey, spec: &LaunchSpec) -> BoxFuture<'static, Result<Pipes, LaunchError>>;
}

/// A launcher that starts nothing, for a gateway without processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLauncher;

impl Launcher for NoLauncher {
    fn launch(&self, _: &LaunchKey, _: &LaunchSpec) -> BoxFuture<'static, Result<Pipes, LaunchError>> {
        Box::pin(async { Err(LaunchError::Invalid("this gateway runs no processes".to_owned())) })
    }
}

/// The text with each `${field.NAME}` replaced by its value; by nothing where there is none.
pub fn expand(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${field.") {
        out.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            out.push_str("${field.");
            rest = after;
            continue;
        };
        out.push_str(values.get(name).map(String::as_str).unwrap_or_default());
        rest = tail;
    }
    out.push_str(rest);
    out
}
