//! Where the real servers and clients are installed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, bail};
use serde::Deserialize;

/// Installed parts.
#[derive(Clone, Debug, Deserialize)]
pub struct Parts {
    /// The folder that holds `node_modules`.
    pub node: PathBuf,
    /// The Node binary.
    pub node_bin: PathBuf,
    /// The Python environment.
    pub venv: PathBuf,
    /// The `helm` program; none where nobody said, and then no test asks for it.
    #[serde(default)]
    pub helm: Option<PathBuf>,
    /// What images are built on; none where this machine builds none.
    #[serde(default)]
    pub images: Option<PathBuf>,
    /// The programs of a small Kubernetes.
    pub cluster: Option<PathBuf>,
    /// The program around the official Rust client; none where nobody said, and then no test asks for it.
    #[serde(default)]
    pub rust_client: Option<PathBuf>,
    /// The example plugin in JavaScript; none where nobody said, and then no test asks for it.
    #[serde(default)]
    pub javascript_plugin: Option<PathBuf>,
    /// The folder that holds the bridge and its fixture as static programs; none where nobody said, and then no test asks for it.
    #[serde(default)]
    pub bridge: Option<PathBuf>,
    /// The example plugin in Python, as before; beside it, in `wheels`, what builds it.
    #[serde(default)]
    pub python_plugin: Option<PathBuf>,
}

impl Parts {
    /// The parts as `cargo xtask test` says in the environment; without it they are installed now, so that a plain
    /// `cargo test` works as well.
    ///
    /// # Panics
    /// Where they can't be installed: every test that asks for them would fail.
    pub fn get() -> &'static Self {
        static PARTS: OnceLock<Parts> = OnceLock::new();
        PARTS.get_or_init(|| match Self::find() {
            Ok(parts) => parts,
            Err(error) => panic!("the parts that the tests need: {error:#}"),
        })
    }

    fn find() -> anyhow::Result<Self> {
        let told = |name: &str| env::var_os(name).map(PathBuf::from);
        if let (Some(node), Some(node_bin), Some(venv)) =
            (told("PORTCULLIS_TEST_NODE"), told("PORTCULLIS_TEST_NODE_BIN"), told("PORTCULLIS_TEST_VENV"))
        {
            return Ok(Self {
                node,
                node_bin,
                venv,
                helm: told("PORTCULLIS_TEST_HELM"),
                images: told("PORTCULLIS_TEST_IMAGES"),
                cluster: told("PORTCULLIS_TEST_CLUSTER"),
                rust_client: told("PORTCULLIS_TEST_RUST_CLIENT"),
                javascript_plugin: told("PORTCULLIS_TEST_JAVASCRIPT_PLUGIN"),
                bridge: told("PORTCULLIS_TEST_BRIDGE"),
                python_plugin: told("PORTCULLIS_TEST_PYTHON_PLUGIN"),
            });
        }
        let output = Command::new("cargo").current_dir(root()).args(["xtask", "setup", "--print"]).output()?;
        if !output.status.success() {
            bail!("cargo xtask setup: {}", String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("cargo xtask setup printed no places")
    }

    /// A script of an installed npm package.
    pub fn script(&self, package: &str) -> String {
        self.node.join("node_modules/@modelcontextprotocol").join(package).join("dist/index.js").display().to_string()
    }

    /// The MCP inspector, whose `--cli` is a client.
    pub fn inspector(&self) -> PathBuf {
        self.node.join("node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js")
    }

    /// The folder that holds every Python package as a file, which `uvx` installs from.
    pub fn wheels(&self) -> PathBuf {
        self.venv.join("wheels")
    }

    /// A program of the Python environment.
    pub fn python(&self, program: &str) -> String {
        self.venv.join("bin").join(program).display().to_string()
    }
}

/// The checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The binary under test: what `cargo xtask test` built, or what stands where the tests were built.
///
/// # Panics
/// Where it was not built.
pub fn binary() -> PathBuf {
    let binary = env::var_os("PORTCULLIS_TEST_BIN").map_or_else(
        || {
            let test = env::current_exe().unwrap_or_default();
            test.parent().and_then(Path::parent).map(|p| p.join("portcullis")).unwrap_or_default()
        },
        PathBuf::from,
    );
    assert!(binary.is_file(), "{} is not built: cargo build -p portcullis", binary.display());
    binary
}
