//! `portcullis-conformance`: measures, reports, and fails on any difference that is not listed.
#![allow(clippy::print_stdout, reason = "a command that reports to a terminal")]

use std::{env, fs, path::PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use portcullis_conformance::{
    client,
    known::Known,
    run::{Outcome, revisions},
};

/// The official conformance suite, directly and through the gateway.
#[derive(Parser)]
struct Cli {
    /// Writes the figures and differences as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only this revision.
    #[arg(long)]
    revision: Option<String>,
    /// Writes the list of known differences as it is true now.
    #[arg(long)]
    accept: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Uses a server through a gateway. The suite's client scenarios start this.
    #[command(hide = true)]
    Drive {
        /// The server.
        url: String,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    if let Some(Command::Drive { url }) = &cli.command {
        return client::drive(url).await;
    }
    let known = Known::read()?;
    let outcome = Outcome::measure(&revisions(cli.revision.as_deref()), &known, &env::current_exe()?).await?;
    outcome.print(&known);
    if let Some(file) = &cli.json {
        let text = serde_json::to_string_pretty(&outcome.json(&known))?;
        fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    if cli.accept {
        return outcome.accepted(&known).write();
    }
    outcome.judge(&known)
}
