//! A real PostgreSQL for the tests: one that all of a run share, with a database for each, or one of a test's own that it may
//! kill and start again.
//!
//! `supervise.py` runs them; none outlives who asked for it, not even where a test is killed.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

/// How long a start may take on a machine that compiles meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);
/// The password of everybody.
pub const PASSWORD: &str = "portcullis-test";
/// Who the databases belong to: nobody with more rights than that.
const ROLE: &str = "portcullis";

/// A running server.
#[derive(Debug)]
pub struct Server {
    port: u16,
    /// While it is held, the shared server stays.
    _lease: Option<File>,
    own: Option<Own>,
}

/// The supervisor of a server that belongs to one test.
#[derive(Debug)]
struct Own {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// An empty database, and the server that it lies in.
#[derive(Debug)]
pub struct Database {
    /// The server.
    pub server: Server,
    /// The name.
    pub name: String,
}

impl Server {
    /// The server that all tests share, started where it does not run yet; none where PostgreSQL is not installed.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn shared() -> anyhow::Result<Option<Self>> {
        let Some(bin) = programs() else { return Ok(None) };
        let base = base()?;
        let run = base.join("shared");
        let until = Instant::now() + PATIENCE;
        loop {
            private(&run)?;
            let lease = File::create(run.join("users"))?;
            rustix::fs::flock(&lease, rustix::fs::FlockOperation::LockShared).context("the lock of the server")?;
            let start = File::create(base.join("start.lock"))?;
            rustix::fs::flock(&start, rustix::fs::FlockOperation::LockExclusive).context("the lock of starting")?;
            if let Some(port) = ready(&run) {
                return Ok(Some(Self { port, _lease: Some(lease), own: None }));
            }
            for left in ["failed", "ready", "data", "log"] {
                let left = run.join(left);
                let _ = if left.is_dir() { fs::remove_dir_all(left) } else { fs::remove_file(left) };
            }
            let mut supervisor = supervise(&bin, &base, &run, "shared")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("python3")?;
            loop {
                if let Some(port) = ready(&run) {
                    return Ok(Some(Self { port, _lease: Some(lease), own: None }));
                }
                if let Ok(why) = fs::read_to_string(run.join("failed")) {
                    bail!("PostgreSQL does not start: {why}");
                }
                ensure!(Instant::now() < until, "PostgreSQL does not start; {} tells more", run.join("log").display());
                if supervisor.try_wait()?.is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// A server of this test's own; none where PostgreSQL is not installed.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn own() -> anyhow::Result<Option<Self>> {
        let Some(bin) = programs() else { return Ok(None) };
        let base = base()?;
        let run = base.join(unique("own"));
        private(&run)?;
        let mut child = supervise(&bin, &base, &run, "own")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("python3")?;
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().context("no output")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let port = line.trim().parse().context("PostgreSQL does not start")?;
        Ok(Some(Self { port, _lease: None, own: Some(Own { child, stdin, stdout }) }))
    }

    /// The port of loopback that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Kills it and all its processes (SIGKILL). Only a test's own.
    ///
    /// # Errors
    /// Where it is not this test's own, or its supervisor is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.tell("kill")
    }

    /// Starts it again, on the same port with what it kept.
    ///
    /// # Errors
    /// Those of [`Server::kill`].
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.tell("start")
    }

    /// Stops all its processes where they are, as on a machine that hangs.
    ///
    /// # Errors
    /// Those of [`Server::kill`].
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.tell("freeze")
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Those of [`Server::kill`].
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.tell("thaw")
    }

    fn tell(&mut self, what: &str) -> anyhow::Result<()> {
        let own = self.own.as_mut().context("this server is shared")?;
        writeln!(own.stdin.as_mut().context("no input")?, "{what}")?;
        let mut line = String::new();
        own.stdout.read_line(&mut line)?;
        ensure!(line.trim() == "done", "the supervisor of PostgreSQL is gone");
        Ok(())
    }

    /// A new database in it, owned by a role without other rights.
    ///
    /// # Errors
    /// Where the server does not make it.
    pub async fn database(self) -> anyhow::Result<Database> {
        let name = unique("test").replace('-', "_");
        let client = self.client("postgres", "postgres").await?;
        // Whoever comes first makes the role; the others wait until it is there (all of this is one transaction).
        client
            .batch_execute(&format!(
                "SELECT pg_advisory_xact_lock(1);
                 DO $$ BEGIN
                   IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
                     CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}';
                   END IF;
                 END $$;"
            ))
            .await?;
        client.batch_execute(&format!("CREATE DATABASE {name} OWNER {ROLE}")).await?;
        Ok(Database { server: self, name })
    }

    /// A connection of this user.
    ///
    /// # Errors
    /// Where the server does not let them in.
    pub async fn client(&self, user: &str, database: &str) -> anyhow::Result<tokio_postgres::Client> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(PASSWORD).dbname(database);
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        // It ends with the client.
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Database {
    /// A new database in the shared server; none where PostgreSQL is not installed.
    ///
    /// # Errors
    /// Where there is none to be had.
    pub async fn shared() -> anyhow::Result<Option<Self>> {
        Self::of(tokio::task::spawn_blocking(Server::shared).await??).await
    }

    /// A new database in a server of this test's own; none where PostgreSQL is not installed.
    ///
    /// # Errors
    /// Where there is none to be had.
    pub async fn own() -> anyhow::Result<Option<Self>> {
        Self::of(tokio::task::spawn_blocking(Server::own).await??).await
    }

    async fn of(server: Option<Server>) -> anyhow::Result<Option<Self>> {
        match server {
            Some(server) => Ok(Some(server.database().await?)),
            None => Ok(None),
        }
    }

    /// Its URL, without the password.
    pub fn url(&self) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{}/{}", self.server.port, self.name)
    }

    /// A connection of an administrator.
    ///
    /// # Errors
    /// Where the server does not let them in.
    pub async fn admin(&self) -> anyhow::Result<tokio_postgres::Client> {
        self.server.client("postgres", &self.name).await
    }
}

/// Ends the server with whoever asked for it.
impl Drop for Own {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// The folder of PostgreSQL's programs: Debian's newest, or where `initdb` is found.
pub fn programs() -> Option<PathBuf> {
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    debian.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian.pop().map(|(_, bin)| bin).or_else(|| std::env::split_paths(&path).find(|p| p.join("initdb").is_file()))
}

fn supervise(bin: &Path, base: &Path, run: &Path, mode: &str) -> Command {
    let mut command = Command::new("python3");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("supervise.py");
    command.arg("-B").arg(script).arg(bin).arg(base).arg(run).arg(mode);
    command
}

fn ready(run: &Path) -> Option<u16> {
    let port = fs::read_to_string(run.join("ready")).ok()?.parse().ok()?;
    std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(|_| port)
}

/// Where all of them live. Who runs the server has to get through; nobody else may write.
fn base() -> anyhow::Result<PathBuf> {
    let us = rustix::process::getuid().as_raw();
    let base = std::env::temp_dir().join(format!("portcullis-test-postgres-{us}"));
    private(&base)?;
    let made = fs::symlink_metadata(&base)?;
    ensure!(made.is_dir() && made.uid() == us, "{} is somebody else's", base.display());
    Ok(base)
}

fn private(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o711))?;
    Ok(())
}

fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros();
    format!("{what}-{now:x}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
