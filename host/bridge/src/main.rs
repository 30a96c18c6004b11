//! The bridge as a binary of its own, to be copied into images that hold nothing else of Portcullis.

use std::process::ExitCode;

use clap::Parser;

/// A stdio server's process behind streamable HTTP
///
/// `portcullis-bridge install PATH` copies this program to PATH, where another container of a pod finds it.
#[derive(Parser)]
#[command(name = "portcullis-bridge", version)]
struct Cli {
    #[command(flatten)]
    options: portcullis_bridge::Options,
    /// What is logged
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    // Before anything else: a supervisor starts with each process, and needs nothing of what follows.
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    if first.as_deref().is_some_and(|first| first == "supervise") {
        portcullis_child::supervise_main(args);
    }
    let done = if first.is_some_and(|first| first == "install") {
        portcullis_bridge::install::install(args).map_err(Into::into)
    } else {
        let Cli { options, log } = Cli::parse();
        serve(options, &log)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            // Nothing is left to be done where even standard error is gone.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: portcullis_bridge::Options, log: &str) -> Result<(), Box<dyn std::error::Error>> {
    let filter = tracing_subscriber::EnvFilter::try_new(log)?;
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    lines.with_target(false).with_ansi(colour).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(portcullis_bridge::run(options, |address| tracing::info!("listening at http://{address}/mcp")))?;
    Ok(())
}
