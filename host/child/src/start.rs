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
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    process::{Child, Command},
};

use crate::{
    confine::{Confinement, Protection},
    supervise::{Level, Orders},
};

/// The most bytes of a report.
const MAX_REPORT: u64 = 16 << 10;

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
    /// What it is kept from; nothing more than its limits where left out.
    pub confinement: Option<Confinement>,
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
    /// Where the supervisor says what the server is kept from: see [`protections`].
    pub report: OwnedFd,
}

/// Starts the supervisor of a process tree.
///
/// # Errors
/// Where a pipe can't be made, or the supervisor can't be started. That the server can't be is told by its exit status, 126.
pub fn start(plan: &Plan) -> io::Result<Started> {
    // Close-on-exec from the first: another process that is started in this moment must not hold our end.
    let (theirs, control) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (report, reporter) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let orders = Orders {
        level: Level::Outer,
        control: theirs.as_raw_fd(),
        report: Some(reporter.as_raw_fd()),
        grace: plan.grace,
        files: plan.files,
        memory: plan.memory,
        remove: plan.remove.clone(),
        confinement: plan.confinement.clone(),
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
    // SAFETY: between fork and exec two system calls are made, neither of which allocates or locks.
    #[expect(unsafe_code, reason = "only this child may inherit its pipes, so they are let through after the fork")]
    unsafe {
        command.pre_exec(move || {
            rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
            Ok(rustix::io::fcntl_setfd(&reporter, FdFlags::empty())?)
        });
    }
    let supervisor = command.spawn()?;
    Ok(Started { supervisor, control, report })
}

/// What a supervisor says that its server is kept from. Ends when the server starts, or does not.
pub async fn protections(report: OwnedFd) -> Vec<Protection> {
    let Ok(report) = Receiver::from_owned_fd(report) else { return Vec::new() };
    let mut text = String::new();
    // Our own program writes it, and closes it before the server runs.
    if report.take(MAX_REPORT).read_to_string(&mut text).await.is_err() {
        return Vec::new();
    }
    text.lines().map(Protection::parse).collect()
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
