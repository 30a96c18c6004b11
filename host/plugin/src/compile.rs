//! Compiling in a child: what a hostile component costs there has bounds, and ends with the child.
//!
//! The child is this same program. It gets the component on its standard input, nothing of our environment, and a fresh file of the
//! cache as its standard output; it takes limits upon itself before it reads a byte. Compiling can't be interrupted in here
//! (`Engine::increment_epoch` stops guests, not the compiler), and a compiler that runs out of memory ends its process.
//!
//! What this is not: a fence around a compiler that somebody has taken over. Its file is loaded as native code.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, Signal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Handle,
};
use wasmtime::Engine;

use portcullis_package::MAX_COMPONENT;

use crate::{component::brief, error::LoadError, host::config};

/// How a child says that the component is at fault.
const REFUSED: u8 = 3;
/// How a child says that it was called wrongly, or can't write.
const FAILED: u8 = 4;
/// The most bytes of what a child says.
const MAX_WORDS: u64 = 16 << 10;
/// The most bytes that are read: what is compiled may have grown since it was looked at, by what makes its memory readable.
const MAX_INPUT: u64 = 4 * MAX_COMPONENT as u64;
/// Address space beyond what is written to: reservations, code, stacks.
const RESERVED: u64 = 4 << 30;
/// The most components that are remembered as too costly.
const MAX_TOO_COSTLY: usize = 1_000;
/// The most threads of a child.
const THREADS: usize = 4;

/// Where components are compiled.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// In this process: nothing but the component's size and counts bounds what it costs.
    #[default]
    Here,
    /// In a child of this program, which has to call [`compile_main`] where its first argument is [`COMPILE`].
    Child(PathBuf),
}

/// What a child may use.
#[derive(Clone, Copy, Debug)]
pub struct CompileLimits {
    /// Processor time, of all its threads.
    pub cpu: Duration,
    /// Memory.
    pub memory: u64,
    /// Bytes of native code.
    pub code: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { cpu: Duration::from_secs(120), memory: 2 << 30, code: 512 << 20 }
    }
}

/// The first argument of a child.
pub const COMPILE: &str = "compile-component";

/// Compiles in a child, into a file that is empty.
///
/// # Errors
/// Why not: the component's fault, a limit, or ours.
pub(crate) fn in_child(
    program: &std::path::Path,
    limits: CompileLimits,
    patience: Duration,
    wasm: &[u8],
    into: File,
) -> Result<(), LoadError> {
    let failed = |e: io::Error| LoadError::Host(format!("compiling in a child: {e}"));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    let mut command = tokio::process::Command::new(program);
    command
        .arg(COMPILE)
        .args([limits.cpu.as_secs().max(1), limits.memory, limits.code].map(|n| n.to_string()))
        // Secrets stand in the environment of many gateways.
        .env_clear()
        .env("RAYON_NUM_THREADS", threads.to_string())
        // What the allocator only reserves would count as used.
        .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
        .stdin(Stdio::piped())
        .stdout(into)
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // We are on a thread for what blocks.
    let ended = Handle::current().block_on(async {
        let mut child = command.spawn()?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let work = async {
            if let Some(mut stdin) = stdin {
                // A child that dies early reads no further; its status says why.
                let _ = stdin.write_all(wasm).await;
            }
            let mut words = Vec::new();
            if let Some(stderr) = stderr {
                stderr.take(MAX_WORDS).read_to_end(&mut words).await?;
            }
            io::Result::Ok((child.wait().await?, words))
        };
        tokio::time::timeout(patience, work).await.map_or(Ok(None), |done| done.map(Some))
    });
    match ended.map_err(failed)? {
        Some((status, words)) => judge(status, &String::from_utf8_lossy(&words), limits),
        None => Err(LoadError::CompileTimeout(patience)),
    }
}

/// Components that took more than they may, by their key in the cache: tried once in the life of a process, since whoever applies
/// one would otherwise have the machine at it for ever. Other failures may be the machine's and are tried again.
#[derive(Default)]
pub(crate) struct TooCostly(Mutex<HashMap<String, String>>);

impl TooCostly {
    /// What it took, if it was tried.
    pub(crate) fn get(&self, key: &str) -> Option<String> {
        self.table().get(key).cloned()
    }

    /// Keeps what a limit ended.
    pub(crate) fn remember(&self, key: &str, error: &LoadError) {
        let LoadError::CompileLimit(what) = error else { return };
        let mut table = self.table();
        if table.len() >= MAX_TOO_COSTLY {
            table.clear();
        }
        table.insert(key.to_owned(), what.clone());
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn judge(status: ExitStatus, words: &str, limits: CompileLimits) -> Result<(), LoadError> {
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    let memory = || LoadError::CompileLimit(format!("more than {} MiB of memory", limits.memory >> 20));
    if status.success() {
        return Ok(());
    }
    if status.code() == Some(i32::from(REFUSED)) {
        return Err(LoadError::Compile(brief(words)));
    }
    if is(Signal::XCPU) {
        return Err(LoadError::CompileLimit(format!("more than {:?} of processor time", limits.cpu)));
    }
    if is(Signal::XFSZ) || words.contains("File too large") {
        return Err(LoadError::CompileLimit(format!("more than {} MiB of native code", limits.code >> 20)));
    }
    // An allocator that gets nothing ends the process; the kernel kills where the machine itself has no more.
    if is(Signal::KILL)
        || (is(Signal::ABORT) && words.contains("memory allocation"))
        || words.contains("Cannot allocate memory")
    {
        return Err(memory());
    }
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    };
    // A crash of the compiler: no fault of the machine.
    Err(LoadError::CompileLimit(format!("the compiler ended with {how}: {}", brief(words))))
}

/// The whole life of a child. `args` are those after [`COMPILE`]: seconds of processor time, bytes of memory, bytes of code.
pub fn compile_main(args: impl IntoIterator<Item = std::ffi::OsString>) -> ! {
    let (code, words) = match compile(args) {
        Ok(()) => (0, String::new()),
        Err((code, words)) => (code, words),
    };
    // Nobody is left to hear that nobody hears it.
    let _ = io::stderr().write_all(words.as_bytes());
    std::process::exit(i32::from(code))
}

fn compile(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<(), (u8, String)> {
    let failed = |e: &dyn std::fmt::Display| (FAILED, e.to_string());
    let numbers: Vec<u64> = args.into_iter().filter_map(|a| a.to_str()?.parse().ok()).collect();
    let [cpu, memory, code] = numbers[..] else {
        return Err((FAILED, "this is started by the gateway only\n".to_owned()));
    };
    let limit = |resource, soft: u64, hard: u64| {
        let limit = Rlimit { current: Some(soft), maximum: Some(hard) };
        rustix::process::setrlimit(resource, limit).map_err(|e| failed(&e))
    };
    let bound = |resource, most| limit(resource, most, most);
    bound(Resource::Core, 0)?;
    // At the soft limit comes the signal that says what it is about; at the hard one nobody is asked.
    limit(Resource::Cpu, cpu, cpu.saturating_add(1))?;
    bound(Resource::Data, memory)?;
    bound(Resource::As, memory.saturating_add(RESERVED))?;
    bound(Resource::Fsize, code)?;
    // Whoever waits for a call goes first. That it fails is no reason not to compile.
    let _ = rustix::process::nice(10);
    let mut wasm = Vec::new();
    io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut wasm).map_err(|e| failed(&e))?;
    if wasm.len() as u64 > MAX_INPUT || Engine::detect_precompiled(&wasm).is_some() {
        return Err((REFUSED, "no component".to_owned()));
    }
    // The way in which instances are allocated is no part of the code.
    let engine = Engine::new(&config(None)).map_err(|e| failed(&e))?;
    let native = engine.precompile_component(&wasm).map_err(|e| (REFUSED, format!("{e:#}")))?;
    let mut out = io::stdout().lock();
    out.write_all(&native).and_then(|()| out.flush()).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};

    use super::*;

    #[test]
    fn how_instances_are_allocated_is_no_part_of_the_code() {
        let hash = |config| {
            let mut hasher = DefaultHasher::new();
            Engine::new(&config).unwrap().precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        assert_eq!(hash(config(None)), hash(config(Some(4))));
    }

    #[test]
    fn a_child_that_dies_says_why() {
        let limits = CompileLimits { cpu: Duration::from_secs(3), memory: 64 << 20, code: 1 << 20 };
        let said =
            |status: i32, words: &str| judge(ExitStatus::from_raw(status), words, limits).unwrap_err().to_string();
        assert!(judge(ExitStatus::from_raw(0), "", limits).is_ok());
        assert!(said(i32::from(REFUSED) << 8, "invalid section").contains("does not compile: invalid section"));
        assert!(said(Signal::XCPU.as_raw(), "").contains("3s of processor time"));
        assert!(said(Signal::XFSZ.as_raw(), "").contains("1 MiB of native code"));
        assert!(said(Signal::ABORT.as_raw(), "memory allocation of 9 bytes failed").contains("64 MiB of memory"));
        assert!(said(Signal::KILL.as_raw(), "").contains("64 MiB of memory"));
        assert!(said(Signal::SEGV.as_raw(), "").contains("signal 11"));
    }
}
