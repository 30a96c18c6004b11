//! `cargo xtask conformance`: the official suite, directly and through the gateway.

use std::path::PathBuf;

use crate::{
    setup,
    shell::{self, cargo, stage, target},
};

/// What to run.
pub struct Request {
    /// Where the figures go as JSON.
    pub json: Option<PathBuf>,
    /// Only this revision.
    pub revision: Option<String>,
    /// Write the list of known differences anew.
    pub accept: bool,
    /// The cargo profile of the gateway.
    pub profile: String,
}

/// Builds and measures.
pub fn run(request: &Request) -> anyhow::Result<()> {
    let parts = stage("install the suite", setup::install)?;
    let profile = &request.profile;
    // With the tests, though none is run: without them dependencies have other features, and everything is compiled again.
    stage(&format!("build, profile {profile}"), || {
        shell::run(cargo()?.args(["build", "--profile", profile, "--workspace", "--bins", "--tests"]))
    })?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let built = target()?.join(folder);
    let mut conformance = std::process::Command::new(built.join("portcullis-conformance"));
    parts.environment(&mut conformance);
    conformance.env("PORTCULLIS_TEST_BIN", built.join("portcullis"));
    if let Some(json) = &request.json {
        conformance.arg("--json").arg(json);
    }
    if let Some(revision) = &request.revision {
        conformance.arg("--revision").arg(revision);
    }
    if request.accept {
        conformance.arg("--accept");
    }
    stage("compare", || shell::run(&mut conformance))
}
