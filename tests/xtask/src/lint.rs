//! `cargo xtask lint`: formatting, clippy, dependencies and documentation, as CI runs them.

use crate::{
    deny,
    shell::{self, cargo, stage},
};

/// Runs every check; the first that fails ends it.
pub fn run() -> anyhow::Result<()> {
    stage("dependencies", deny::run)?;
    stage("formatting", || shell::run(cargo()?.args(["fmt", "--all", "--check"])))?;
    stage("clippy", || shell::run(cargo()?.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])))?;
    stage("documentation", || {
        shell::run(
            cargo()?
                .args(["doc", "--workspace", "--no-deps", "--document-private-items"])
                .env("RUSTDOCFLAGS", "-Dwarnings"),
        )
    })
}
