//! Starting one supervisor with its server, and what is held of it while it runs.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    process::Stdio,
};

use portcullis_upstream::LaunchError;
use rustix::{io::FdFlags, pipe::PipeFlags};
use tokio::process::{Child, Command};

use crate::{
    orchestrator::Options,
    prepare::Prepared,
    supervise::{Level, Orders},
};

/// A started supervisor: dropping `control` ends it and all that it runs.
pub(crate) struct Started {
    pub(crate) supervisor: Child,
    pub(crate) control: OwnedFd,
}

/// Starts the supervisor of a prepared process.
pub(crate) fn start(options: &Options, prepared: &Prepared, memory: Option<u64>) -> Result<Started, LaunchError> {
    spawn(options, prepared, memory).map_err(|e| LaunchError::Spawn(format!("can't start its supervisor: {e}")))
}

fn spawn(options: &Options, prepared: &Prepared, memory: Option<u64>) -> io::Result<Started> {
    // Close-on-exec from the first: another process that is started in this moment must not hold our end.
    let (theirs, control) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let orders = Orders {
        level: Level::Outer,
        control: theirs.as_raw_fd(),
        grace: options.grace,
        files: options.max_files,
        memory,
        remove: Some(prepared.dir.path().to_owned()),
        command: std::iter::once(prepared.program.clone().into_os_string())
            .chain(prepared.args.iter().cloned())
            .collect(),
    };
    let program = options.supervisor.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(program);
    command
        .args(&options.supervisor_args)
        .args(orders.to_args())
        .env_clear()
        .envs(&prepared.env)
        .current_dir(&prepared.cwd)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: between fork and exec one system call is made, which neither allocates nor locks.
    #[expect(unsafe_code, reason = "only this child may inherit its control pipe, so it is let through after the fork")]
    unsafe {
        command.pre_exec(move || Ok(rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?));
    }
    let supervisor = command.spawn()?;
    Ok(Started { supervisor, control })
}
