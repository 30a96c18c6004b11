//! `cargo xtask test`: everything that the tests need, then all of them, closing with the runner's own summary.

use std::process::Command;

use anyhow::{Context, bail};

use crate::{
    setup,
    shell::{self, cargo, find, stage, target},
};

/// Runs the tests whose names contain `filter`, or all.
pub fn run(filter: Option<&str>) -> anyhow::Result<()> {
    let parts = stage("install what the tests need", setup::install)?;
    let nextest = find("cargo-nextest").is_some();
    let runner = || -> anyhow::Result<Command> {
        let mut command = cargo()?;
        if nextest {
            command.args(["nextest", "run"]);
        } else {
            command.arg("test");
        }
        command.arg("--workspace");
        parts.environment(&mut command);
        Ok(command)
    };
    stage("build the tests", || shell::run(runner()?.arg("--no-run")))?;
    let binary = target()?.join("debug/portcullis");
    stage("build the binary under test", || {
        // With the tests again: without them dependencies have other features, and everything is compiled a second time.
        shell::run(cargo()?.args(["build", "--workspace", "--bin", "portcullis", "--tests"]))
    })?;
    if !binary.is_file() {
        bail!("{} was not built", binary.display());
    }
    stage("run the tests", || {
        let mut command = runner()?;
        command.env("PORTCULLIS_TEST_BIN", &binary);
        command.arg("--no-fail-fast").args(filter);
        shell::run(&mut command).context("tests failed")
    })
}
