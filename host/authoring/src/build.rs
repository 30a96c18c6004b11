//! Builds a plugin's component with cargo, and runs its own tests.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

/// What `cargo build` makes a component for straight away.
pub const TARGET: &str = "wasm32-wasip2";

/// A component that was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Where it lies.
    pub path: PathBuf,
    /// Whether anything had to be compiled.
    pub fresh: bool,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No project there.
    #[error("{0} holds no Cargo.toml: this is no plugin's project")]
    NoProject(PathBuf),
    /// No cargo, or no rustc.
    #[error("{tool} can't be run: {source}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The standard library for components is missing.
    #[error("this Rust has no standard library for {TARGET}, which components are built for")]
    NoTarget,
    /// It does not compile, or a test fails; cargo has said why.
    #[error("`{0}` failed; what is wrong stands above")]
    Failed(String),
    /// It is no component.
    #[error("cargo built no component: `[lib] crate-type` of Cargo.toml has to hold \"cdylib\"")]
    NoComponent,
}

impl BuildError {
    /// What to do about it.
    pub fn next(&self) -> Option<&'static str> {
        match self {
            Self::NoProject(_) => Some("Go to the folder that `portcullis plugin new` made, or name it with --path."),
            Self::Tool { .. } => Some("Install Rust: https://rustup.rs"),
            Self::NoTarget => Some(
                "Run `rustup target add wasm32-wasip2`. Without rustup, install your distribution's standard library for wasm32-wasip2.",
            ),
            Self::Failed(_) => None,
            Self::NoComponent => Some("Write `crate-type = [\"cdylib\", \"rlib\"]` under `[lib]`."),
        }
    }
}

/// Builds the component of a project: `cargo build --release --target wasm32-wasip2`, and `more`. What cargo says goes to standard
/// error.
///
/// # Errors
/// Why there is none.
pub fn build(project: &Path, more: &[String]) -> Result<Built, BuildError> {
    let manifest = project.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(BuildError::NoProject(project.to_owned()));
    }
    has_target(project)?;
    let mut cargo = tool("cargo", project);
    cargo.args(["build", "--lib", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    cargo.args(more).stderr(Stdio::inherit()).stdin(Stdio::null());
    let output = cargo.output().map_err(|source| BuildError::Tool { tool: "cargo", source })?;
    if !output.status.success() {
        return Err(BuildError::Failed(format!("cargo build --release --target {TARGET}")));
    }
    let manifest = manifest.canonicalize().unwrap_or(manifest);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(|message| message.reason == "compiler-artifact" && message.manifest_path.as_ref() == Some(&manifest))
        .filter_map(|message| {
            let path = message.filenames.into_iter().find(|path| path.extension().is_some_and(|end| end == "wasm"))?;
            Some(Built { path, fresh: !message.fresh })
        })
        .next_back()
        .ok_or(BuildError::NoComponent)
}

/// Runs a project's own tests, natively: `cargo test`, and `more`.
///
/// # Errors
/// Where one fails, or they can't be run.
pub fn test(project: &Path, more: &[String]) -> Result<(), BuildError> {
    if !project.join("Cargo.toml").is_file() {
        return Err(BuildError::NoProject(project.to_owned()));
    }
    let mut cargo = tool("cargo", project);
    cargo.arg("test").args(more).stdin(Stdio::null());
    // Standard output is this command's own.
    cargo.stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = cargo.output().map_err(|source| BuildError::Tool { tool: "cargo", source })?;
    if output.status.success() {
        return Ok(());
    }
    use io::Write as _;
    // What failed stands on standard output of the test program.
    let _ = io::stderr().write_all(&output.stdout);
    Err(BuildError::Failed("cargo test".to_owned()))
}

/// One line of what cargo says in JSON.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    #[serde(default)]
    fresh: bool,
}

/// Looks whether components can be built at all, since cargo says so in many words only after a while.
fn has_target(project: &Path) -> Result<(), BuildError> {
    let mut rustc = tool("rustc", project);
    rustc.args(["--print", "target-libdir", "--target", TARGET]).stderr(Stdio::null());
    let output = rustc.output().map_err(|source| BuildError::Tool { tool: "rustc", source })?;
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && folder.is_dir() { Ok(()) } else { Err(BuildError::NoTarget) }
}

/// A command in the project's folder. Where this program was itself started by cargo, what that cargo said of its own build is
/// left out: it is not meant for the project's.
fn tool(name: &str, project: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(project);
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let said_by_cargo =
            ["CARGO_PKG_", "CARGO_CFG_", "CARGO_FEATURE_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_", "CARGO_PROFILE_"]
                .iter()
                .any(|start| name.starts_with(start))
                || [
                    "CARGO",
                    "CARGO_MAKEFLAGS",
                    "CARGO_CRATE_NAME",
                    "CARGO_PRIMARY_PACKAGE",
                    "OUT_DIR",
                    "RUSTC",
                    "RUSTDOC",
                ]
                .contains(&name);
        if said_by_cargo {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_project_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = build(dir.path(), &[]).unwrap_err();
        assert!(matches!(error, BuildError::NoProject(_)) && error.next().is_some());
        assert!(matches!(test(dir.path(), &[]), Err(BuildError::NoProject(_))));
    }
}
