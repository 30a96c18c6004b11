//! Starting one supervisor with its server, and what is held of it while it runs.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::{io::FdFlags, pipe::PipeFlags};
use tokio::process::{Child, Command};

use crate::supervise::{Level, Orders};

/// A process tree to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program that has the supervisor mode; this very binary where left out.
    pub supervisor: Option<PathBuf>,
    /// The arguments that choose the supervisor mode.
    pub supervisor_args: Vec<OsString>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// The most open files of each member of the tree.
    pub files: u64,
    /// The most bytes of address space of each member of the tree.
    pub memory: Option<u64>,
    /// A private directory that goes with the tree.
    pub remove: Option<PathBuf>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// The whole environment; the starter's own where left out.
    pub env: Option<BTreeMap<OsString, OsString>>,
    /// Where it starts; where the starter is, where left out.
    pub cwd: Option<PathBuf>,
}

/// A started supervisor: dropping `control` ends it and all that it runs.
#[derive(Debug)]
pub struct Started {
    /// The supervisor, with the server's three streams.
    pub supervisor: Child,
    /// Its life.
    pub control: OwnedFd,
}

/// Starts the supervisor of a process tree.
///
/// # Errors
/// Where a pipe can't be made, or the supervisor can't be started. That the server can't be is told by its exit status, 126.
pub fn start(plan: &Plan) -> io::Result<Started> {
    // Close-on-exec from the first: another process that is started in this moment must not hold our end.
    let (theirs, control) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let orders = Orders {
        level: Level::Outer,
        control: theirs.as_raw_fd(),
        grace: plan.grace,
        files: plan.files,
        memory: plan.memory,
        remove: plan.remove.clone(),
        command: plan.command.clone(),
    };
    let program = plan.supervisor.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(program);
    command
        .args(&plan.supervisor_args)
        .args(orders.to_args())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(env) = &plan.env {
        command.env_clear().envs(env);
    }
    if let Some(cwd) = &plan.cwd {
        command.current_dir(cwd);
    }
    // SAFETY: between fork and exec one system call is made, which neither allocates nor locks.
    #[expect(unsafe_code, reason = "only this child may inherit its control pipe, so it is let through after the fork")]
    unsafe {
        command.pre_exec(move || Ok(rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?));
    }
    let supervisor = command.spawn()?;
    Ok(Started { supervisor, control })
}

/// How a server ended, in words, by its supervisor's exit status.
pub fn how_it_ended(status: io::Result<ExitStatus>) -> String {
    match status.map(|s| s.code()) {
        Ok(Some(code @ 129..=192)) => format!("it was ended by signal {}", code - 128),
        Ok(Some(code)) => format!("it ended with status {code}"),
        Ok(None) => "its supervisor was killed".to_owned(),
        Err(error) => format!("nobody knows how it ended: {error}"),
    }
}
