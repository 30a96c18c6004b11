//! A real registry: Debian's `docker-registry`, on a port of its own choice, behind a password.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::PATIENCE;

/// Whom it lets in.
pub const USER: &str = "ci";
/// With which password.
pub const PASSWORD: &str = "canary-registry-password";
/// The same as the registry wants it (bcrypt).
const HTPASSWD: &str = "ci:$2b$04$myMcE4DM1psSKhUfLP63HuDdriAQK1M3HgCKhjttgc4lPqEFs.vPa";

/// The registry, running until dropped; what it keeps stays with it.
pub struct Registry {
    child: Option<Child>,
    home: tempfile::TempDir,
    /// Where it listens. After a restart too.
    pub address: SocketAddr,
}

impl Registry {
    /// Starts an empty one.
    ///
    /// # Errors
    /// Where it is not installed, or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        fs::write(home.path().join("htpasswd"), HTPASSWD)?;
        fs::write(home.path().join("password"), PASSWORD)?;
        let mut registry = Self { child: None, home, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        registry.launch().await?;
        Ok(registry)
    }

    /// Starts it again on what it keeps.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn launch(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "it runs already");
        let home = self.home.path();
        let settings = serde_json::json!({
            "version": 0.1,
            "storage": { "filesystem": { "rootdirectory": home.join("data") } },
            "http": { "addr": self.address.to_string(), "secret": "of this test" },
            "auth": { "htpasswd": { "realm": "test", "path": home.join("htpasswd") } },
        });
        fs::write(home.join("config.yml"), settings.to_string())?;
        let log = fs::File::create(home.join("log"))?;
        let program =
            ["/usr/bin/docker-registry", "/usr/sbin/docker-registry"].into_iter().find(|p| Path::new(p).exists());
        let child = Command::new(program.context("docker-registry is not installed")?)
            .arg("serve")
            .arg(home.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(home.join("log")).unwrap_or_default();
            let said = log.split("listening on ").nth(1).and_then(|rest| rest.split('"').next()?.trim().parse().ok());
            if let Some(address) = said {
                self.address = address;
                return Ok(());
            }
            if tokio::time::Instant::now() > until {
                bail!("the registry did not start: {log}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Makes it silent: it takes connections and gives no answer.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Ends it; what it keeps stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A name in it.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// The file that holds the password.
    pub fn password_file(&self) -> PathBuf {
        self.home.path().join("password")
    }

    /// The file that holds what a digest (`sha256:...`) names.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let start = hex.get(..2).unwrap_or_default();
        self.home.path().join("data/docker/registry/v2/blobs/sha256").join(start).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
