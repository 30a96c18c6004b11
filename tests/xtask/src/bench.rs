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
    let profile = &request.profile;
    // Both at once: built apart, they would unify features differently and build everything twice.
    stage(&format!("build, profile {profile}"), || {
        shell::run(cargo()?.args(["build", "--profile", profile, "-p", "portcullis", "-p", "portcullis-bench"]))
    })?;
    let target = target()?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let built = target.join(folder);
    let mut bench = std::process::Command::new(built.join("portcullis-bench"));
    bench.arg("--gateway").arg(built.join("portcullis"));
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
