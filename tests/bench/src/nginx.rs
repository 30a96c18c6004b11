//! nginx `proxy_pass` in front of the same upstream: the yardstick.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

use crate::{accepting, free_port, process::Killed};

/// nginx, running.
pub struct Nginx {
    process: Killed,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Nginx {
    /// Starts nginx; none where it is not installed.
    pub async fn start(scratch: &Path, upstream: SocketAddr, threads: usize) -> anyhow::Result<Option<Self>> {
        let Some(program) =
            ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|p| Path::new(p).exists())
        else {
            return Ok(None);
        };
        let home = scratch.join("nginx");
        fs::create_dir_all(&home)?;
        let address: SocketAddr = ([127, 0, 0, 1], free_port()?).into();
        let file = home.join("nginx.conf");
        fs::write(&file, configuration(&home, address, upstream, threads))?;
        let child = Command::new(program)
            .arg("-p")
            .arg(&home)
            .arg("-e")
            .arg(home.join("error.log"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("nginx")?;
        let process = Killed(child);
        if !accepting(address, Duration::from_secs(5)).await {
            bail!("nginx did not start: {}", fs::read_to_string(home.join("error.log")).unwrap_or_default());
        }
        Ok(Some(Self { process, address }))
    }

    /// The master's process id.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killing the master would leave its workers behind: it has to end them itself.
        let asked = Command::new("kill").arg("-TERM").arg(self.pid().to_string()).status();
        if asked.is_ok_and(|s| s.success()) {
            let _ = self.process.0.wait();
        }
    }
}

/// Tuned as somebody who knows nginx would: kept connections on both sides, no access log, and buffers that hold the
/// largest answer, so that none goes through a file.
fn configuration(home: &Path, address: SocketAddr, upstream: SocketAddr, threads: usize) -> String {
    let mut text = String::new();
    let home = home.display();
    // As root its workers would be somebody else, who may not enter the scratch directory.
    if fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        text.push_str("user root;\n");
    }
    let _ = write!(
        text,
        "daemon off;
worker_processes {threads};
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  keepalive_requests 1000000000;
  upstream mcp {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {address};
    location / {{
      proxy_pass http://mcp;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_buffer_size 16k;
      proxy_buffers 16 16k;
      proxy_busy_buffers_size 64k;
    }}
  }}
}}
"
    );
    text
}
