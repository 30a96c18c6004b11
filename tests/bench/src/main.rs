//! `cargo xtask bench`: what a call costs through Portcullis, beside nginx in front of the same server.
//!
//! One run measures everything side by side, in CPU time of the process in the middle, because machines differ and CPU time
//! hardly does. The upstream is a process of its own, so that its time is nobody else's; the load comes from this process.
//! The difference between two rows is what the further step costs: `auth` less `open` is authentication, and so on.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command that reports to a terminal")]

mod cases;
mod gateway;
mod load;
mod nginx;
mod process;
mod report;
mod streams;
mod upstream;
mod wire;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures calls through Portcullis beside nginx in front of the same MCP server")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the minimal MCP server that everything is measured against, until it is killed.
    #[command(hide = true)]
    Upstream,
    /// Measures what idle sessions and streams cost in memory.
    Streams {
        /// The `portcullis` binary.
        #[arg(long)]
        gateway: PathBuf,
        /// How many of each.
        #[arg(long, default_value_t = 10_000)]
        count: usize,
    },
    /// Holds streams open until it is killed.
    #[command(hide = true)]
    Hold { address: SocketAddr, kind: streams::Kind, count: usize },
}

/// What to measure, and with what.
#[derive(Args, Clone)]
struct Options {
    /// The `portcullis` binary; without it only the upstream and nginx are measured.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// Writes the figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Short windows and one round: shows that everything works, not what it costs.
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Worker threads of nginx and of the gateway.
    #[arg(long, default_value_t = default_threads())]
    threads: usize,
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(4)
}

fn main() -> ExitCode {
    match obey(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(cli: Cli) -> anyhow::Result<()> {
    // One thread each for the load and for the upstream: what they use is kept from the process in the middle as little as
    // two cores allow, and their own overhead stays the same in every case.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.command {
        Some(Command::Upstream) => runtime.block_on(upstream::serve()),
        Some(Command::Streams { gateway, count }) => {
            runtime.block_on(streams::run(&gateway, count, cli.options.threads))
        }
        Some(Command::Hold { address, kind, count }) => runtime.block_on(streams::hold(address, kind, count)),
        None => runtime.block_on(run(cli.options)),
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir().context("no temporary directory")?;
    let upstream = upstream::Upstream::start().await?;
    let nginx = nginx::Nginx::start(scratch.path(), upstream.address, options.threads).await?;
    let (address, threads) = (upstream.address, options.threads);
    let (first, second) = match &options.gateway {
        Some(binary) => {
            let start = |name: &str, tools| {
                let home = scratch.path().join(name);
                async move { gateway::Gateway::start(binary, &home, address, tools, threads).await }
            };
            let few = start("few", gateway::FEW).await.context("the gateway under test")?;
            let many = start("many", gateway::MANY).await.context("the gateway with the large catalogue")?;
            (Some(few), Some(many))
        }
        None => (None, None),
    };
    let plan = cases::plan(&upstream, nginx.as_ref(), first.as_ref(), second.as_ref(), options.only.as_deref());
    let pace = if options.quick { load::Pace::quick() } else { load::Pace::full() };
    let figures = cases::measure(&plan, pace).await?;
    report::table(&figures);
    if let (Some(few), Some(many)) = (&first, &second) {
        report::budgets(&figures, few, many);
    }
    if nginx.is_none() {
        println!("\nnginx is not installed, so nothing has a ratio: `cargo xtask setup` installs it.");
    }
    if options.gateway.is_none() {
        println!("\nNo gateway was given (--gateway FILE): only what stands beside it was measured.");
    }
    if let Some(path) = &options.json {
        report::json(&figures, path)?;
    }
    Ok(())
}

/// A port that is free now.
fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until something accepts connections.
async fn accepting(address: SocketAddr, patience: Duration) -> bool {
    let until = tokio::time::Instant::now() + patience;
    while tokio::time::Instant::now() < until {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}
