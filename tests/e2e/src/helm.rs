//! The real `helm`, and the charts and manifests of `deploy/`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::parts::{Parts, root};

/// The chart of the gateway.
pub fn chart() -> PathBuf {
    root().join("deploy/helm/portcullis")
}

/// `helm` with a home of its own, for one cluster or none.
pub struct Helm {
    home: tempfile::TempDir,
    program: PathBuf,
    kubeconfig: Option<PathBuf>,
}

impl Helm {
    /// Without a cluster.
    ///
    /// # Errors
    /// Where it is not installed.
    pub fn alone() -> anyhow::Result<Self> {
        let program = Parts::get().helm.clone().context("no helm: run `cargo xtask setup`")?;
        Ok(Self { home: tempfile::tempdir()?, program, kubeconfig: None })
    }

    /// For the cluster of a kubeconfig.
    ///
    /// # Errors
    /// Those of [`Helm::alone`].
    pub fn of(kubeconfig: &Value) -> anyhow::Result<Self> {
        let mut helm = Self::alone()?;
        let path = helm.home.path().join("kubeconfig");
        fs::write(&path, kubeconfig.to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        helm.kubeconfig = Some(path);
        Ok(helm)
    }

    /// A place of its own, for values.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file of values.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn values(&self, name: &str, values: &Value) -> anyhow::Result<String> {
        let path = self.home.path().join(name);
        // JSON is YAML.
        fs::write(&path, values.to_string())?;
        Ok(path.display().to_string())
    }

    /// Runs it.
    ///
    /// # Errors
    /// Where it can't be run; how it ended is in the output.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("HOME", self.home.path());
        // A kubeconfig of nobody, so that none of whoever runs the tests is met.
        let nobody = self.home.path().join("none");
        command.env("KUBECONFIG", self.kubeconfig.as_ref().unwrap_or(&nobody));
        command.output().with_context(|| self.program.display().to_string())
    }

    /// Runs it, and gives what it printed.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {}: {error}", arguments.join(" "));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The objects of the chart.
    ///
    /// # Errors
    /// Where it is refused, with what was said.
    pub fn template(&self, release: &str, namespace: &str, more: &[&str]) -> anyhow::Result<Vec<Value>> {
        let chart = chart().display().to_string();
        let arguments = [&["template", release, &chart, "--namespace", namespace], more].concat();
        documents(&self.ask(&arguments)?)
    }
}

/// The documents of a text in YAML; empty ones are left out.
///
/// # Errors
/// Where one is no YAML.
pub fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}
