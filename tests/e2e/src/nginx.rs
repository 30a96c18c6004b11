//! nginx in front of the product: at a path of its own, or as the balancer of several.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail};
use tokio::net::TcpStream;

use crate::PATIENCE;

/// A port of loopback that is free just now.
///
/// # Errors
/// Where there is none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// nginx, running until dropped.
pub struct Nginx {
    child: Child,
    _home: tempfile::TempDir,
}

impl Nginx {
    /// Starts it on a port of loopback: what comes to `prefix` goes to `upstream` without it, and what is well known of
    /// anything there goes on as it is. Everything else is not found.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(port: u16, prefix: &str, upstream: SocketAddr) -> anyhow::Result<Self> {
        let locations = format!(
            "location {prefix}/ {{ proxy_pass http://{upstream}/; }}
    location ~ ^/\\.well-known/[a-z-]+{prefix}(/|$) {{ proxy_pass http://{upstream}; }}
    location / {{ return 404; }}"
        );
        Self::with(port, "", &locations).await
    }

    /// Starts it on a port of loopback before a Service, whose address leads to one of several: where a connection is refused, it is
    /// tried again, as ingress controllers do. What was sent once is never sent again.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn before(port: u16, service: SocketAddr) -> anyhow::Result<Self> {
        // The address many times over, since each attempt is given one of the pods at random: with ten of two pods, one connection of a
        // thousand met the dead one each time.
        let tries = format!("server {service} max_fails=0;\n    ").repeat(40);
        let locations = "location / { proxy_pass http://service; proxy_connect_timeout 1s; proxy_read_timeout 300s; }";
        Self::with(port, &format!("upstream service {{\n    {tries}}}"), locations).await
    }

    async fn with(port: u16, before: &str, locations: &str) -> anyhow::Result<Self> {
        let program = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|p| Path::new(p).exists());
        let program = program.context("nginx is not installed")?;
        let home = tempfile::tempdir()?;
        let file = home.path().join("nginx.conf");
        fs::write(&file, configuration(home.path(), port, before, locations))?;
        let child = Command::new(program)
            .arg("-p")
            .arg(home.path())
            .arg("-e")
            .arg(home.path().join("error.log"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("nginx")?;
        let nginx = Self { child, _home: home };
        let until = tokio::time::Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if tokio::time::Instant::now() > until {
                let log = fs::read_to_string(nginx._home.path().join("error.log")).unwrap_or_default();
                bail!("nginx did not start: {log}");
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killing the master would leave its workers behind: it has to end them itself.
        let asked = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        if asked.is_ok_and(|s| s.success()) {
            let _ = self.child.wait();
        }
    }
}

/// As docs/guides/oauth.md has it, but for TLS.
fn configuration(home: &Path, port: u16, before: &str, locations: &str) -> String {
    // As root its workers would be somebody else, who may not enter the scratch directory.
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let user = if root { "user root;" } else { "" };
    let home = home.display();
    format!(
        "{user}
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  {before}
  server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_buffering off;
    {locations}
  }}
}}
"
    )
}
