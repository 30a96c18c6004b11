//! The seven real servers, as `McpServer` resources.

use std::path::Path;

use serde_json::{Value, json};

use crate::parts::Parts;

/// A real server: its name, how it is started, how many tools it has.
#[derive(Clone, Debug)]
pub struct Server {
    /// The name of its resource.
    pub name: &'static str,
    /// Its program.
    pub command: String,
    /// The program's arguments.
    pub args: Vec<String>,
    /// How many tools it shows to a client without capabilities.
    pub tools: usize,
    /// The revision that it speaks at best.
    pub version: &'static str,
}

/// All seven. `folder` holds what they work on: `files` for the file server, `repository` for git, `memory.json`.
pub fn all(folder: &Path) -> Vec<Server> {
    let parts = Parts::get();
    let node = parts.node_bin.display().to_string();
    let npm = |name, package, args: &[String], tools| {
        let args = std::iter::once(parts.script(package)).chain(args.iter().cloned()).collect();
        Server { name, command: node.clone(), args, tools, version: "2025-11-25" }
    };
    let pypi = |name, args: &[String], tools| Server {
        name,
        command: parts.python(&format!("mcp-server-{name}")),
        args: args.to_vec(),
        tools,
        version: "2026-07-28",
    };
    let inside = |name: &str| folder.join(name).display().to_string();
    vec![
        npm("everything", "server-everything", &["stdio".to_owned()], 13),
        npm("filesystem", "server-filesystem", &[inside("files")], 14),
        npm("memory", "server-memory", &[], 9),
        npm("thinking", "server-sequential-thinking", &[], 1),
        pypi("time", &["--local-timezone".to_owned(), "Europe/Vienna".to_owned()], 2),
        pypi("git", &["--repository".to_owned(), inside("repository")], 12),
        pypi("fetch", &["--ignore-robots-txt".to_owned(), "--allow-private-ips".to_owned()], 1),
    ]
}

/// Makes what the servers of [`all`] work on.
///
/// # Errors
/// Where it can't be written.
pub fn prepare(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder.join("files"))?;
    std::fs::write(folder.join("files/public.txt"), "for everybody\n")?;
    std::fs::write(folder.join("files/secret.txt"), "for nobody\n")?;
    let repository = folder.join("repository");
    std::fs::create_dir_all(&repository)?;
    let done = std::process::Command::new("git").current_dir(&repository).args(["init", "-q"]).status()?;
    anyhow::ensure!(done.success(), "git init");
    Ok(())
}

impl Server {
    /// The resource that runs it as a child of the gateway.
    pub fn resource(&self, memory: &Path) -> Value {
        let mut spec = json!({"process": {"command": self.command, "args": self.args}});
        if self.name == "memory" {
            spec["process"]["env"] = json!({"MEMORY_FILE_PATH": memory.display().to_string()});
        }
        crate::product::resource("McpServer", self.name, spec)
    }
}
