//! No core dumps: one of the gateway would hold every secret that is in its memory, one of a server its environment.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most bytes of a core dump. One is less than any dump needs, and is the value at which Linux leaves out a dump that goes to a
/// program as well (core(5): such a one knows no other limit).
const MOST: u64 = 1;

/// Makes this process, and all that it starts, leave no core dump. Whoever runs them can't raise the limit again without
/// privileges.
pub fn none() {
    let most = getrlimit(Resource::Core).maximum.map_or(MOST, |now| now.min(MOST));
    // A limit is lowered by anybody.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(most), maximum: Some(most) });
}

/// Keeps the memory of the gateway from other processes of its user, such as the servers that it starts: no dump, no debugger,
/// no `/proc/PID/mem` or `environ`. A process that is started afterwards has its own.
pub fn closed() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "other processes of this user can read the gateway's memory");
    }
}
