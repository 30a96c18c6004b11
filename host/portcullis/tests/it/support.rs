//! Running the binary, and a gateway of its own for each test.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Plugins are compiled at the first start, by a debug build, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The binary with a home of its own and nothing of the developer's environment.
pub fn portcullis(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("PORTCULLIS_HOME", home);
    command
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs a command to its end, with this on its standard input.
pub fn run_with(home: &Path, args: &[&str], input: &str) -> Ran {
    let mut command = portcullis(home);
    let mut child =
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may refuse before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// Runs a line as a terminal does that knows nothing of the gateway.
pub fn shell(home: &Path, line: &str) -> Ran {
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("PORTCULLIS_HOME", home);
    command.args(["-c", line]).current_dir("/").stdin(Stdio::null()).output().unwrap().into()
}

pub fn run(home: &Path, args: &[&str]) -> Ran {
    run_with(home, args, "")
}

/// A running gateway, stopped when it goes out of scope.
pub struct Gateway {
    pub child: Child,
    pub home: PathBuf,
    pub said: String,
}

impl Gateway {
    /// Starts `portcullis ARGS` and waits until standard output holds `until`.
    pub fn start(home: &Path, args: &[&str], until: &str) -> Self {
        let mut child = portcullis(home)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, said) = mpsc::channel();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let errors = lines.clone();
        for (mut reader, lines) in [
            (
                Box::new(move |l: &mut String| out.read_line(l))
                    as Box<dyn FnMut(&mut String) -> std::io::Result<usize> + Send>,
                lines,
            ),
            (Box::new(move |l: &mut String| err.read_line(l)), errors),
        ] {
            std::thread::spawn(move || {
                let mut line = String::new();
                while reader(&mut line).is_ok_and(|n| n > 0) {
                    // The test may have ended.
                    let _ = lines.send(std::mem::take(&mut line));
                }
            });
        }
        let end = Instant::now() + PATIENCE;
        let mut all = String::new();
        let mut gateway = Self { child, home: home.to_owned(), said: String::new() };
        while !all.contains(until) {
            match said.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => all.push_str(&line),
                Err(_) => panic!("it never said {until:?}: {all}"),
            }
        }
        gateway.said = all;
        gateway
    }

    pub fn quickstart(home: &Path) -> Self {
        Self::start(home, &["quickstart", "--listen", "127.0.0.1:0"], "Ctrl-C stops it")
    }

    /// What stands after a word in what was said.
    pub fn word_after(&self, word: &str) -> String {
        let (_, rest) = self.said.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {}", self.said));
        rest.split_whitespace().next().unwrap().to_owned()
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        run(&self.home, args)
    }

    /// Asks it to stop and waits for its end.
    pub fn stop(self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.ended()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> i32 {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < end, "it does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Supervisors end what it started.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks again and again until it holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A GET over plain HTTP/1.1: the status and the body.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// The head of the answer to a GET on a connection that the client would keep.
pub fn raw(address: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut head = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        if line.is_empty() {
            break;
        }
        head.push_str(&line);
        head.push('\n');
    }
    head
}
