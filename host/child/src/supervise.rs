//! The supervisor: a mode of the binary that runs one server's process tree and outlives nobody.
//!
//! A parent-death signal follows a thread and misses grandchildren, so each server gets a supervisor of its own. It is a
//! subreaper: whatever the server leaves behind, in whatever session, becomes its child. When the control pipe from the
//! gateway ends (the gateway asked, or is dead), or when the server itself ends, every descendant gets SIGTERM and, after
//! the grace, SIGKILL. It exits, with the server's own status, when nothing is left. No async runtime: two threads, both
//! blocked nearly always.
//!
//! A supervisor can be killed as well, so there are two, one in the other, and each ends the tree when the other is gone:
//! the outer one is the subreaper that inherits what the inner one leaves, and the inner one's control pipe ends with the
//! outer one. Only who kills both in one moment leaves something behind.

use std::{
    ffi::OsString,
    fs,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::{Errno, FdFlags},
    pipe::PipeFlags,
    process::{Pid, Resource, Rlimit, Signal, WaitOptions},
};

use crate::confine::{Confinement, Protection};

/// How often the tree is looked at while it is being killed.
const ROUND: Duration = Duration::from_millis(20);
/// How much longer than the grace the inner supervisor has for its work.
const MARGIN: Duration = Duration::from_secs(1);
/// Exit status when the server's program can't be run, as shells have it.
const CANNOT_RUN: i32 = 126;
/// Exit status when the supervisor was called wrongly.
const USAGE: i32 = 2;

/// Which of the two supervisors it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// The gateway's child: runs the inner one, and ends what that one leaves behind.
    Outer,
    /// Runs the server.
    Inner,
}

/// What the gateway asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Which supervisor is meant.
    pub(crate) level: Level,
    /// The read end of the control pipe.
    pub(crate) control: RawFd,
    /// Between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
    /// The write end of the pipe that what holds is told by.
    pub(crate) report: Option<RawFd>,
    /// RLIMIT_NOFILE of the tree.
    pub(crate) files: u64,
    /// RLIMIT_AS of each member of the tree.
    pub(crate) memory: Option<u64>,
    /// A private directory to remove at the end.
    pub(crate) remove: Option<PathBuf>,
    /// What the server is kept from.
    pub(crate) confinement: Option<Confinement>,
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
}

impl Orders {
    /// As arguments of `supervise`.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let level = match self.level {
            Level::Outer => "outer",
            Level::Inner => "inner",
        };
        let mut args: Vec<OsString> = vec![
            "--level".into(),
            level.into(),
            "--control".into(),
            self.control.to_string().into(),
            "--grace-ms".into(),
            self.grace.as_millis().to_string().into(),
            "--files".into(),
            self.files.to_string().into(),
        ];
        if let Some(memory) = self.memory {
            args.extend(["--memory".into(), memory.to_string().into()]);
        }
        if let Some(dir) = &self.remove {
            args.extend(["--remove".into(), dir.clone().into_os_string()]);
        }
        if let Some(report) = self.report {
            args.extend(["--report".into(), report.to_string().into()]);
        }
        if let Some(confinement) = &self.confinement {
            args.extend(confinement.to_args());
        }
        args.push("--".into());
        args.extend(self.command.iter().cloned());
        args
    }

    fn parse(args: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut args = args.into_iter();
        let (mut level, mut control, mut grace, mut files) = (None, None, None, None);
        let (mut memory, mut remove, mut report) = (None, None, None);
        let mut confinement: Option<Confinement> = None;
        loop {
            let flag = args.next()?;
            if flag == "--" {
                break;
            }
            let value = args.next()?;
            let number = || value.to_str()?.parse::<u64>().ok();
            match flag.to_str()? {
                "--level" if value == "outer" => level = Some(Level::Outer),
                "--level" if value == "inner" => level = Some(Level::Inner),
                "--control" => control = Some(RawFd::try_from(number()?).ok().filter(|fd| *fd > 2)?),
                "--report" => report = Some(RawFd::try_from(number()?).ok().filter(|fd| *fd > 2)?),
                "--grace-ms" => grace = Some(Duration::from_millis(number()?)),
                "--files" => files = Some(number()?),
                "--memory" => memory = Some(number()?),
                "--remove" => remove = Some(PathBuf::from(value)),
                other => confinement.get_or_insert_default().take(other, &value)?,
            }
        }
        let command: Vec<OsString> = args.collect();
        (!command.is_empty()).then_some(())?;
        Some(Self {
            level: level?,
            control: control?,
            report,
            grace: grace?,
            files: files?,
            memory,
            remove,
            confinement,
            command,
        })
    }
}

/// Why the tree is ended.
enum Cause {
    /// The control pipe ended or said so.
    Told,
    /// What was run here, the server or the inner supervisor, ended by itself.
    Ended,
}

/// The whole life of a supervisor. `args` are those after the subcommand's name. Never returns.
///
/// Its exit status is the server's, 128 and the signal's number where one ended it, 126 when the program can't be run.
pub fn supervise_main(args: impl IntoIterator<Item = OsString>) -> ! {
    let args: Vec<OsString> = args.into_iter().collect();
    // Whatever came before the orders chose this mode, and chooses it for the inner supervisor.
    let mode = std::env::args_os().len().saturating_sub(args.len());
    let mode: Vec<OsString> = std::env::args_os().take(mode).skip(1).collect();
    let status = match Orders::parse(args) {
        Some(orders) => {
            let status = run(&orders, mode);
            if let Some(dir) = &orders.remove {
                // Its secrets have to go even where the gateway can't remove them any more.
                let _ = fs::remove_dir_all(dir);
            }
            status
        }
        None => {
            complain("is a mode that only Portcullis itself uses");
            USAGE
        }
    };
    std::process::exit(status)
}

#[expect(clippy::print_stderr, reason = "the standard error stream is the server's log")]
fn complain(what: &str) {
    eprintln!("portcullis supervise: {what}");
}

fn run(orders: &Orders, mode: Vec<OsString>) -> i32 {
    let Some((control, report)) = take_pipes(orders) else {
        complain("has no control pipe");
        return USAGE;
    };
    // Each of these only tightens; a kernel that lacks one still runs the server.
    let _ = rustix::process::setsid();
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = rustix::process::setrlimit(Resource::Nofile, files_limit(orders.files));
    if let Err(error) = rustix::thread::set_no_new_privs(true)
        .and_then(|()| rustix::process::set_child_subreaper(Some(rustix::process::getpid())))
    {
        complain(&format!("can't set the process up: {error}"));
        return CANNOT_RUN;
    }
    let spawned = match orders.level {
        Level::Outer => spawn_inner(orders, mode, report).map(|(pid, inner)| (pid, Some(inner))),
        // Before the first thread: whatever runs from here on, this supervisor too, is held.
        Level::Inner => match confine(orders, report) {
            Ok(()) => spawn(orders).map(|pid| (pid, None)),
            Err(why) => {
                complain(&format!("can't keep the server from what it may not: {why}"));
                return CANNOT_RUN;
            }
        },
    };
    let (server, inner) = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            complain(&format!("can't run {}: {error}", orders.command[0].to_string_lossy()));
            return CANNOT_RUN;
        }
    };
    close_streams();

    let (sender, causes) = mpsc::channel();
    let teller = sender.clone();
    thread::spawn(move || {
        wait_for_end(&control);
        let _ = teller.send(Cause::Told);
    });
    let grace = orders.grace;
    thread::spawn(move || end_tree(&causes, grace, inner));

    // This thread started the server and must outlive it: its death would be the server's (the parent-death signal).
    let mut outcome = None;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == server => {
                let code = status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s));
                outcome = Some(code.unwrap_or(CANNOT_RUN));
                let _ = sender.send(Cause::Ended);
            }
            Ok(_) | Err(Errno::INTR) => {}
            // Nothing is left.
            Err(_) => return outcome.unwrap_or(CANNOT_RUN),
        }
    }
}

/// Keeps the server from what it may not, and tells what holds.
fn confine(orders: &Orders, report: Option<OwnedFd>) -> Result<(), String> {
    let mut held = vec![Protection::holds("no-new-privileges"), Protection::holds("limits")];
    if let Some(confinement) = &orders.confinement {
        held.extend(confinement.apply()?);
    }
    if let Some(report) = report {
        let text: String = held.iter().map(Protection::line).collect();
        // A few lines fit into a pipe; a gateway that is gone is noticed elsewhere.
        let _ = rustix::io::write(&report, text.as_bytes());
    }
    Ok(())
}

/// Takes the pipes over, and keeps every descriptor but the three streams from the server: the pipes themselves, and
/// whatever leaked into the gateway from whoever started it. None where there is no control pipe.
fn take_pipes(orders: &Orders) -> Option<(OwnedFd, Option<OwnedFd>)> {
    let (mut control, mut report) = (None, None);
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .ok()?
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for other in open {
        let known = if other == orders.control {
            Some(&mut control)
        } else if Some(other) == orders.report {
            Some(&mut report)
        } else {
            None
        };
        if let Some(place) = known {
            // SAFETY: the descriptor is open (just seen), the gateway passed it for us to own, and nothing else here uses it.
            #[expect(unsafe_code, reason = "an inherited descriptor has no owner until somebody takes it over")]
            let taken = unsafe { OwnedFd::from_raw_fd(other) };
            let _ = rustix::io::fcntl_setfd(&taken, FdFlags::CLOEXEC);
            *place = Some(taken);
            continue;
        }
        // SAFETY: the number is borrowed for one system call, which fails harmlessly where it was closed meanwhile (the
        // directory that was just read has a descriptor as well).
        #[expect(unsafe_code, reason = "inherited descriptors are known by number only")]
        let other = unsafe { BorrowedFd::borrow_raw(other) };
        let _ = rustix::io::fcntl_setfd(other, FdFlags::CLOEXEC);
    }
    control.map(|control| (control, report))
}

fn files_limit(wanted: u64) -> Rlimit {
    let now = rustix::process::getrlimit(Resource::Nofile);
    let limit = now.maximum.map_or(wanted, |most| most.min(wanted));
    Rlimit { current: Some(limit), maximum: Some(limit) }
}

/// Starts the inner supervisor. The descriptor is the end of its control pipe that ends it.
fn spawn_inner(orders: &Orders, mode: Vec<OsString>, report: Option<OwnedFd>) -> std::io::Result<(Pid, OwnedFd)> {
    let (theirs, inner) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let inner_orders = Orders { level: Level::Inner, control: theirs.as_raw_fd(), ..orders.clone() };
    let mut command = Command::new("/proc/self/exe");
    command.args(mode).args(inner_orders.to_args());
    // SAFETY: between fork and exec system calls are made, none of which allocates or locks.
    #[expect(unsafe_code, reason = "only this child may inherit its pipes, so they are let through after the fork")]
    unsafe {
        command.pre_exec(move || {
            if let Some(report) = &report {
                rustix::io::fcntl_setfd(report, FdFlags::empty())?;
            }
            Ok(rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?)
        });
    }
    Ok((pid_of(&command.spawn()?)?, inner))
}

fn pid_of(child: &std::process::Child) -> std::io::Result<Pid> {
    // The process is reaped by the loop in `run`, so the handle is of no further use.
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| std::io::Error::from(Errno::SRCH))
}

fn spawn(orders: &Orders) -> std::io::Result<Pid> {
    let mut command = Command::new(&orders.command[0]);
    command.args(&orders.command[1..]);
    let memory = orders.memory;
    // SAFETY: between fork and exec only system calls are made, none of which allocates or locks.
    #[expect(unsafe_code, reason = "these can only be set in the child itself, before it becomes the server")]
    unsafe {
        command.pre_exec(move || {
            // An own session, so that a terminal's signals and the server's own `kill 0` don't reach us.
            rustix::process::setsid()?;
            // Should this supervisor be killed, at least the server goes with it.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if let Some(bytes) = memory {
                let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
                rustix::process::setrlimit(Resource::As, limit)?;
            }
            Ok(())
        });
    }
    pid_of(&command.spawn()?)
}

/// Lets go of the server's streams: the gateway has to see their end when the server's ends close.
fn close_streams() {
    if let Ok(null) = fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

fn wait_for_end(control: &OwnedFd) {
    let mut byte = [0u8; 1];
    while let Err(Errno::INTR) = rustix::io::read(control, &mut byte) {}
}

/// Waits for a cause, then ends every descendant. The process exits from the main thread once all are reaped.
fn end_tree(causes: &mpsc::Receiver<Cause>, grace: Duration, inner: Option<OwnedFd>) {
    let Ok(cause) = causes.recv() else { return };
    let patience = match (inner, cause) {
        // The inner supervisor lives and does it all: a signal to it would cut the server's grace short.
        (Some(inner), Cause::Told) => {
            drop(inner);
            grace + MARGIN
        }
        _ => {
            for pid in descendants() {
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
            grace
        }
    };
    let patience = Instant::now() + patience;
    while Instant::now() < patience && !descendants().is_empty() {
        thread::sleep(ROUND);
    }
    // Again and again: a tree that forks while it is walked has members that this round misses.
    loop {
        for pid in descendants() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        thread::sleep(ROUND);
    }
}

/// All living descendants. As a subreaper this process is the ancestor of whatever the server ever started, sessions of
/// their own included.
fn descendants() -> Vec<Pid> {
    let mut parents = Vec::new();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if let Some(parent) = fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(parent_of) {
            parents.push((pid, parent));
        }
    }
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found = vec![own];
    let mut at = 0;
    while at < found.len() {
        let ancestor = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == ancestor).map(|(pid, _)| *pid));
        at += 1;
    }
    found[1..].iter().filter_map(|pid| Pid::from_raw(*pid)).collect()
}

/// Whether a process is a child of this one, or of one of its children, however far down. Whoever can't be looked at is taken
/// for one.
pub fn descends(pid: i32) -> bool {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut at = pid;
    while at != own {
        let stat = fs::read_to_string(format!("/proc/{at}/stat"));
        match stat.ok().as_deref().and_then(parent_of) {
            None => return true,
            // The first process, or one whose parent is outside what can be seen.
            Some(parent) if parent <= 1 && parent != own => return false,
            Some(parent) => at = parent,
        }
    }
    at != pid
}

/// The parent of a process that lives, from `/proc/PID/stat`. The name stands in parentheses and may hold anything.
fn parent_of(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    // A zombie can't be killed any more, only reaped.
    words.next().filter(|state| *state != "Z")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_their_arguments() {
        let orders = Orders {
            level: Level::Inner,
            control: 7,
            report: Some(8),
            grace: Duration::from_millis(1500),
            files: 4096,
            memory: Some(1 << 30),
            remove: Some("/tmp/x y".into()),
            confinement: Some(Confinement { hide: vec!["/secret".into()], network: true, ..Confinement::default() }),
            command: vec!["/bin/echo".into(), "--".into(), "--control".into()],
        };
        assert_eq!(Orders::parse(orders.to_args()), Some(orders));
        for bad in [
            &[][..],
            &["--"],
            &["--level", "inner", "--control", "1", "--grace-ms", "1", "--files", "1", "--", "x"],
            &["--files", "x", "--", "y"],
        ] {
            assert_eq!(Orders::parse(bad.iter().map(OsString::from)), None, "{bad:?}");
        }
    }

    #[test]
    fn knows_its_own() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 100 & echo $!; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let parent = std::os::unix::process::parent_id().try_into().unwrap();
        let grandchild: i32 = line.trim().parse().unwrap();
        assert!(descends(child.id().try_into().unwrap()) && descends(grandchild));
        assert!(!descends(own) && !descends(parent) && !descends(1));
        rustix::process::kill_process(Pid::from_raw(grandchild).unwrap(), Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(descends(grandchild), "gone, so nobody knows");
    }

    #[test]
    fn reads_any_process_name() {
        assert_eq!(parent_of("12 (a) b) S) S 34 12 0"), Some(34));
        assert_eq!(parent_of("12 (x) Z 34 12 0"), None);
        assert_eq!(parent_of("nonsense"), None);
    }
}
