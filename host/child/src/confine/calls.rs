//! System calls, by seccomp: those that servers have no use for and that reach beyond a process, or deep into the kernel.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Protection;

/// Refused as forbidden (EPERM): other processes' memory, mounts, modules, the machine's clock and power, tracing, keys,
/// new namespaces, and rings that would run calls past this filter.
const FORBIDDEN: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Refused as unknown (ENOSYS), so that libraries take the older call, whose flags can be looked at.
const UNKNOWN: &[i64] = &[libc::SYS_clone3];

/// Families of sockets that no server speaks: raw frames, virtual machines, the kernel's own.
const FAMILIES: &[i32] = &[libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, libc::AF_KEY, libc::AF_BLUETOOTH];
/// Those of IP.
const IP: &[i32] = &[libc::AF_INET, libc::AF_INET6];

/// Calls of the x32 table stand beside the others, with this bit.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

pub(super) fn restrict(network: bool, held: &mut Vec<Protection>) -> Result<(), String> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        held.push(Protection::missing("system-calls", "not on this sort of processor"));
        if !network {
            return Err("the network can't be kept from it on this sort of processor".to_owned());
        }
        return Ok(());
    };
    let failed = |e: &dyn std::fmt::Display| format!("seccomp: {e}");
    for (calls, errno) in [(forbidden(network).map_err(|e| failed(&e))?, libc::EPERM), (unknown(), libc::ENOSYS)] {
        let program = compile(calls, errno, arch).map_err(|e| failed(&e))?;
        match seccompiler::apply_filter(&program) {
            Ok(()) => {}
            // As some containers and old kernels have it.
            Err(seccompiler::Error::Prctl(e) | seccompiler::Error::Seccomp(e)) if network && unsupported(&e) => {
                held.push(Protection::missing("system-calls", "this kernel has no seccomp filters"));
                return Ok(());
            }
            Err(error) => return Err(failed(&error)),
        }
    }
    held.push(Protection::holds("system-calls"));
    if !network {
        held.push(Protection::holds("no-network"));
    }
    Ok(())
}

fn unsupported(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

type Calls = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(calls: Calls, errno: i32, arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let action = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(calls, SeccompAction::Allow, action, arch)?.try_into()
}

fn forbidden(network: bool) -> Result<Calls, BackendError> {
    let mut calls: Calls = FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    let families = FAMILIES.iter().chain(if network { &[] } else { IP });
    let socket = families.map(|family| first_is(SeccompCmpOp::Eq, u64::from(family.unsigned_abs())));
    calls.insert(libc::SYS_socket, socket.collect::<Result<_, _>>()?);
    let user = u64::from(libc::CLONE_NEWUSER.unsigned_abs());
    calls.insert(libc::SYS_clone, vec![first_is(SeccompCmpOp::MaskedEq(user), user)?]);
    #[cfg(target_arch = "x86_64")]
    {
        // Nobody speaks x32, so of that table everything that matters is refused whatever its arguments are.
        let beside: Vec<i64> = calls.keys().chain(UNKNOWN).map(|call| call | X32).collect();
        calls.extend(beside.into_iter().map(|call| (call, Vec::new())));
    }
    Ok(calls)
}

fn unknown() -> Calls {
    UNKNOWN.iter().map(|call| (*call, Vec::new())).collect()
}

/// The rule that a call's first argument is like this.
fn first_is(how: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, how, value)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn nothing_is_reached_by_its_other_number() {
        let calls = forbidden(true).unwrap();
        for call in FORBIDDEN.iter().chain(UNKNOWN).chain(&[libc::SYS_socket, libc::SYS_clone]) {
            assert!(calls.get(&(call | X32)).is_some_and(Vec::is_empty), "{call}");
        }
    }
}
