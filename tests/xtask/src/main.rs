//! The project's commands, the same for newcomers, for CI and for whoever measures the project later.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command that reports to a terminal")]

mod bench;
mod cluster;
mod conformance;
mod deny;
mod examples;
mod lint;
mod setup;
mod shell;
mod spdx;
mod test;
mod tidy;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Portcullis: the project's commands")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what the tests need and runs them; with FILTER only those whose name contains it.
    Test {
        /// A part of the names of the tests to run, such as `spine`.
        filter: Option<String>,
    },
    /// Measures calls beside nginx.
    Bench {
        /// Writes the figures as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Short windows, to see that everything works.
        #[arg(long)]
        quick: bool,
        /// Only cases whose name contains this.
        #[arg(long)]
        only: Option<String>,
        /// The cargo profile of the gateway under test.
        #[arg(long, default_value = "dist")]
        profile: String,
    },
    /// Runs the official conformance suite directly and through the gateway, and compares.
    Conformance {
        /// Writes the figures and differences as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Only this revision.
        #[arg(long)]
        revision: Option<String>,
        /// Writes the list of known differences as it is true now.
        #[arg(long)]
        accept: bool,
        /// The cargo profile of the gateway under test.
        #[arg(long, default_value = "dev")]
        profile: String,
    },
    /// Checks what no compiler checks: crate arrows, file lengths, who may read secrets, the plugin contract, links.
    Tidy,
    /// Formatting, clippy, dependencies and documentation.
    Lint,
    /// A small real Kubernetes, the same as the tests': `up` prints where its kubeconfig is.
    K8s {
        #[arg(value_enum)]
        what: cluster::Verb,
    },
    /// Installs what the tests need.
    Setup {
        /// Prints where things are, as JSON, and nothing else.
        #[arg(long)]
        print: bool,
    },
}

fn main() -> ExitCode {
    match obey(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Test { filter } => test::run(filter.as_deref()),
        Command::Bench { json, quick, only, profile } => bench::run(&bench::Request { json, quick, only, profile }),
        Command::Conformance { json, revision, accept, profile } => {
            conformance::run(&conformance::Request { json, revision, accept, profile })
        }
        Command::Tidy => tidy::run(),
        Command::Lint => lint::run(),
        Command::K8s { what } => cluster::run(what),
        Command::Setup { print } => setup::run(print),
    }
}
