//! `logs`: what a server wrote to its standard error.

use std::io::Write as _;

use clap::Args;
use portcullis_console::api::LogLine;
use portcullis_model::{Name, text::deceives};

use crate::{cli::Global, exit::Failure, output::Format};

/// Show what a server wrote: a process to standard error, a pod to its log
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis logs files
  portcullis logs files -n 1000 --follow
  portcullis logs jira --previous            # of a pod that was started anew: what it said before")]
pub struct Logs {
    /// The server
    #[arg(value_name = "SERVER")]
    server: Name,
    /// How many of the last lines
    #[arg(short = 'n', long, default_value_t = 200)]
    lines: usize,
    /// Go on with lines as they come
    #[arg(short, long)]
    follow: bool,
    /// Of containers that ended and were started anew (servers in a cluster)
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
}

impl Logs {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let json = global.output != Format::Table;
        let show = |line: LogLine| {
            let mut out = std::io::stdout().lock();
            if json {
                serde_json::to_writer(&mut out, &line)?;
                writeln!(out)?;
            } else {
                // A server's output could otherwise move the cursor or change the terminal's title.
                let text: String = line.text.chars().filter(|c| *c == '\t' || !deceives(*c)).collect();
                writeln!(out, "{text}")?;
            }
            out.flush()
        };
        let client = global.client()?;
        let reading = client.logs(&self.server, (self.lines, self.follow, self.previous), show);
        tokio::select! {
            done = reading => Ok(done?),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }
}
