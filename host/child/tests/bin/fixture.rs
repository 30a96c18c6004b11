//! The supervisor mode as the product has it, and a program that tries what it may not and says how that went.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    fs, io,
    net::{TcpListener, UdpSocket},
};

fn main() {
    let mut args = std::env::args_os().skip(1);
    let first = args.next().unwrap();
    if first == "supervise" {
        portcullis_child::supervise_main(args);
    }
    let mut all = vec![first];
    all.extend(args);
    for what in all {
        let what = what.into_string().unwrap();
        let (verb, path) = what.split_once(':').unwrap_or((&what, ""));
        let done = attempt(verb, path);
        println!("{what} {}", done.err().map_or("ok".to_owned(), |e| format!("{:?}", e.kind())));
    }
}

/// Whether a system call says so.
#[expect(unsafe_code, reason = "what is tried has no safe form")]
fn call(number: i64, arguments: [i64; 4]) -> io::Result<()> {
    let [a, b, c, d] = arguments;
    // SAFETY: no argument is a pointer that is written through; the calls are expected to fail.
    match unsafe { libc::syscall(number, a, b, c, d) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn attempt(verb: &str, path: &str) -> io::Result<()> {
    let parent = i64::from(std::os::unix::process::parent_id());
    let pid = path.parse::<i64>().unwrap_or(parent);
    match verb {
        "read" => fs::read(path).map(drop),
        "list" => fs::read_dir(path).map(drop),
        "write" => fs::write(path, "x"),
        "append" => fs::OpenOptions::new().append(true).open(path).map(drop),
        "mkdir" => fs::create_dir(path),
        "remove" => fs::remove_file(path),
        "move" => {
            let (from, to) = path.split_once('>').unwrap();
            fs::rename(from, to)
        }
        "run" => std::process::Command::new(path).arg("0").status().map(drop),
        "signal" => call(libc::SYS_kill, [pid, 0, 0, 0]),
        "trace" => call(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), pid, 0, 0]),
        "environment" => fs::read(format!("/proc/{pid}/environ")).map(drop),
        "mount" => call(libc::SYS_umount2, [c"/nowhere".as_ptr() as i64, 0, 0, 0]),
        "namespace" => call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0]),
        "clone" => call(libc::SYS_clone, [i64::from(libc::CLONE_NEWUSER), 0, 0, 0]),
        "rings" => call(libc::SYS_io_uring_setup, [1, 0, 0, 0]),
        "trace32" => call(libc::SYS_ptrace | 0x4000_0000, [libc::PTRACE_ATTACH.into(), pid, 0, 0]),
        "tcp" => TcpListener::bind("127.0.0.1:0").map(drop),
        "udp" => UdpSocket::bind("[::1]:0").map(drop),
        "local" => std::os::unix::net::UnixStream::pair().map(drop),
        "thread" => std::thread::spawn(|| {}).join().map_err(|_| io::Error::other("it did not run")),
        "root" => gain(),
        other => panic!("unknown: {other}"),
    }
}

/// Whether there is any way left to become more than it is.
fn gain() -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned()).unwrap();
    let bounding = u64::from_str_radix(&field("CapBnd:"), 16).unwrap();
    // CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_SYS_MODULE, CAP_NET_ADMIN, CAP_NET_RAW
    let dangerous = [21, 19, 16, 12, 13].iter().any(|n| bounding & (1 << n) != 0);
    match (field("NoNewPrivs:").as_str(), dangerous) {
        ("1", false) => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
        _ => Ok(()),
    }
}
