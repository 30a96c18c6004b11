//! `cargo xtask bench`: builds the gateway as images do, and measures it.

use std::path::PathBuf;

use crate::{
    setup,
    shell::{self, cargo, stage, target},
};

/// What to measure.
pub struct Request {
    /// Where the figures go as JSON.
    pub json: Option<PathBuf>,
    /// Short windows.
    pub quick: bool,
    /// Only cases whose name contains this.
    pub only: Option<String>,
    /// The cargo profile of the gateway.
    pub profile: String,
}

/// Builds and measures.
pub fn run(request: &Request) -> anyhow::Result<()> {
    stage("install nginx", setup::install)?;
    stage("build the load", || shell::run(cargo()?.args(["build", "--release", "-p", "portcullis-bench"])))?;
    let profile = &request.profile;
    stage(&format!("build the gateway, profile {profile}"), || {
        shell::run(cargo()?.args(["build", "--profile", profile, "-p", "portcullis", "--bin", "portcullis"]))
    })?;
    let target = target()?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let mut bench = std::process::Command::new(target.join("release/portcullis-bench"));
    bench.arg("--gateway").arg(target.join(folder).join("portcullis"));
    if let Some(json) = &request.json {
        bench.arg("--json").arg(json);
    }
    if request.quick {
        bench.arg("--quick");
    }
    if let Some(only) = &request.only {
        bench.arg("--only").arg(only);
    }
    stage("measure", || shell::run(&mut bench))
}
