//! What a server's process is doing, for whoever asks.

use std::time::SystemTime;

use portcullis_child::Protection;
use portcullis_upstream::LaunchKey;
use serde::Serialize;

/// The state of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "reason")]
pub enum State {
    /// It was never needed yet.
    Pending,
    /// It is running and has not spoken MCP yet.
    Starting,
    /// It is running and speaks MCP.
    Ready,
    /// It is running, but something is wrong.
    Degraded(String),
    /// It is not running, and a call starts it.
    Idle,
    /// It ended by itself; the next call starts it again, perhaps after a while.
    Failed(String),
    /// Somebody stopped it.
    Stopped,
}

/// One process's status.
#[derive(Clone, Debug)]
pub struct Status {
    /// Which server, under whose account.
    pub key: LaunchKey,
    /// What it is doing.
    pub state: State,
    /// The supervisor's process id, while it runs.
    pub pid: Option<u32>,
    /// When it was started last.
    pub started: Option<SystemTime>,
    /// How often it was started.
    pub starts: u64,
    /// How often in a row it ended by itself.
    pub failures: u32,
    /// What the process that runs, or ran last, is kept from, and what of it does not hold.
    pub protections: Vec<Protection>,
}
