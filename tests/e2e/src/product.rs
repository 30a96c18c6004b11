//! The product: the built binary, started with a data directory and resources of its own.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::{eventually, http, parts::binary, process};

/// A running gateway.
pub struct Product {
    child: Option<Child>,
    home: tempfile::TempDir,
    environment: Vec<(String, String)>,
    settings: Value,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Product {
    /// Starts with the given resources, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not start; its log is part of the message.
    pub async fn start(resources: &[Value]) -> anyhow::Result<Self> {
        Self::start_with(resources, &[], json!({})).await
    }

    /// Starts with resources, environment variables and further settings of the server.
    ///
    /// # Errors
    /// Where it does not start; its log is part of the message.
    pub async fn start_with(resources: &[Value], environment: &[(&str, &str)], more: Value) -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        fs::create_dir(home.path().join("resources"))?;
        // Its own choice of a port: one that is looked for here may be somebody else's by the time it starts.
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = json!({
            "listen": address.to_string(),
            "dataDir": home.path().join("data"),
            "socket": home.path().join("admin.sock"),
            "resources": [home.path().join("resources")],
            "drain": "5s",
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            settings[name] = value.clone();
        }
        let environment = environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut product = Self { child: None, home, environment, settings, address };
        product.write("resources.yaml", resources)?;
        product.launch().await?;
        Ok(product)
    }

    /// Starts the process, on the data that is there, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not start; its log is part of the message.
    pub async fn launch(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "it runs already");
        // JSON is YAML.
        let config = self.home.path().join("portcullis.yaml");
        fs::write(&config, self.settings.to_string())?;
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let before = self.log().len();
        let mut command = Command::new(binary());
        command.arg("serve").arg("--config").arg(&config);
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        self.child = Some(child);
        let until = tokio::time::Instant::now() + 3 * crate::PATIENCE;
        loop {
            // Behind a proxy it says where the proxy is.
            let told = self.settings["listen"].as_str().filter(|_| !self.settings["publicUrl"].is_null());
            let told = told.and_then(|listen| listen.parse::<SocketAddr>().ok()).filter(|listen| listen.port() != 0);
            let log = self.log();
            let log = log.get(before..).filter(|log| log.contains("serving url="));
            if let Some(address) = log.and_then(|log| told.or_else(|| serving(log))) {
                self.address = address;
                // Where it is started again, it is found at the same place.
                self.settings["listen"] = json!(address.to_string());
                // With TLS, whoever asks has to know whom to trust: those tests wait for what they want themselves.
                let tls = self.settings.get("tls").is_some();
                if tls || http::get(&self.page("/readyz"), &[]).await.is_ok_and(|r| r.status == 200) {
                    return Ok(());
                }
            }
            let ended = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten());
            ensure!(ended.is_none(), "it ended with {ended:?}:\n{}", self.log());
            ensure!(tokio::time::Instant::now() < until, "it is not ready:\n{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// The MCP endpoint of a gateway.
    pub fn url(&self, gateway: &str) -> String {
        format!("http://{}/mcp/{gateway}", self.address)
    }

    /// Another page of the same listener.
    pub fn page(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its process id.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map(Child::id).expect("the product runs")
    }

    /// Where it keeps what it knows.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A place of this test's own.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// Writes a watched file of resources, whole, as an editor does: aside, then renamed.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn write(&self, file: &str, resources: &[Value]) -> anyhow::Result<()> {
        let documents: Vec<String> = resources.iter().map(Value::to_string).collect();
        self.write_text(file, &documents.join("\n---\n"))
    }

    /// Writes a watched file as it stands.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn write_text(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let aside = self.home.path().join(format!("{file}.new"));
        fs::write(&aside, text)?;
        fs::rename(aside, self.home.path().join("resources").join(file))?;
        Ok(())
    }

    /// Runs a verb of the CLI against this gateway.
    ///
    /// # Errors
    /// Where the binary can't be run; how it ended is in the output.
    pub fn cli(&self, args: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut child = Command::new(binary())
            .args(args)
            .env("PORTCULLIS_SOCKET", self.home.path().join("admin.sock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A verb that reads nothing may have ended before.
            let _ = stdin.write_all(input.as_bytes());
        }
        Ok(child.wait_with_output()?)
    }

    /// Runs a verb that has to succeed, with `-o json`.
    ///
    /// # Errors
    /// Where it fails; what it printed is part of the message.
    pub fn ask(&self, args: &[&str], input: &str) -> anyhow::Result<Value> {
        let output = self.cli(&[args, &["-o", "json"]].concat(), input)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "portcullis {}: {}: {error}", args.join(" "), output.status);
        if output.stdout.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).context("it printed no JSON")
    }

    /// A new token: its id and its text.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn token(&self, owner: &str) -> anyhow::Result<(String, String)> {
        let made = self.ask(&["token", "create", "--owner", owner, "--name", "test"], "")?;
        let part = |name: &str| made[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {made}"));
        Ok((part("id")?, part("token")?))
    }

    /// Kills the process as a crash would, and waits until its children are gone too.
    pub async fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let left = process::descendants(child.id());
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        gone(&left).await;
    }

    /// Stops the process as an operator does, and waits until its children are gone too.
    ///
    /// # Panics
    /// Where it, or a child, does not go.
    pub async fn stop(mut self) {
        let Some(mut child) = self.child.take() else { return };
        let left = process::descendants(child.id());
        let asked =
            rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM);
        assert!(asked.is_ok(), "SIGTERM: {asked:?}");
        eventually("the gateway stops after SIGTERM", || {
            let ended = child.try_wait().ok().flatten();
            async move { ended }
        })
        .await;
        gone(&left).await;
    }
}

/// Where it says in its log that it serves.
fn serving(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|l| l.contains("serving url="))?;
    let url = line.split_once("url=\"")?.1.split_once('"')?.0;
    let authority = url.split_once("://")?.1;
    // Behind another name it still listens on loopback.
    let port = authority.rsplit_once(':')?.1.trim_end_matches('/').parse().ok()?;
    Some(SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn gone(children: &std::collections::BTreeSet<u32>) {
    eventually("every child of the gateway is gone", || {
        let left: Vec<String> =
            children.iter().filter(|p| process::alive(**p)).map(|p| format!("{p} {}", process::command(*p))).collect();
        if !left.is_empty() {
            eprintln!("left: {left:?}");
        }
        async move { left.is_empty().then_some(()) }
    })
    .await;
}

impl Drop for Product {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{}\n---", self.log());
            // For whoever looks for the cause: all that the gateway kept.
            if let Some(kept) = std::env::var_os("PORTCULLIS_TEST_KEEP") {
                let _ = Command::new("cp").arg("-r").arg(self.home.path()).arg(kept).status();
            }
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A resource.
pub fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}
