//! What the bridge is told on its command line.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

/// Be a server's standard input and output, and speak streamable HTTP for it
///
/// Runs COMMAND as an MCP server on standard input and output, and serves it at http://ADDRESS/mcp to one or several clients at
/// once, in both eras of the protocol. What the server writes to standard error is logged. /healthz and /readyz say how it is.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  portcullis bridge -- npx -y @modelcontextprotocol/server-everything
  portcullis bridge --listen 0.0.0.0:8808 --token-file /run/secrets/bridge -- mcp-server-time")]
pub struct Options {
    /// Where to listen; `[::]` is every address there is. Beyond loopback a token is needed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8808")]
    pub listen: SocketAddr,
    /// A file of bearer tokens, one a line; one of them has to come with each request. Read again when it changes
    #[arg(long, value_name = "PATH")]
    pub token_file: Option<PathBuf>,
    /// Give each session a process of its own, also where its client can't be asked anything
    #[arg(long)]
    pub per_session: bool,
    /// The most processes of sessions
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub max_children: usize,
    /// The most sessions
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_sessions: usize,
    /// The most calls under way in one process
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_in_flight: usize,
    /// The most bytes of one message, either way
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 20)]
    pub max_message: usize,
    /// The most bytes kept for clients that come again, of all sessions together
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    pub max_replay: usize,
    /// Seconds after which a session that nobody uses ends
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = seconds)]
    pub session_idle: Duration,
    /// Seconds that a process has for its first answer: package runners download first
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub start_timeout: Duration,
    /// Seconds that a call may take
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    pub call_timeout: Duration,
    /// Seconds that calls under way have when the bridge is told to end
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub drain: Duration,
    /// Seconds for which requests are still taken once the bridge is told to end, each the last of its connection, so that whoever
    /// chooses among several can hear of it
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub linger: Duration,
    /// End, where the server ends or says nothing that makes sense before it has answered for the first time, since somebody starts
    /// the bridge again
    #[arg(long)]
    pub fail_fast: bool,
    /// A name that Host may hold beside addresses and localhost; may stand several times
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// An origin whose web pages may ask; may stand several times
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// The server's program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_servers_arguments_are_its_own() {
        let cli = Cli::try_parse_from(["bridge", "--drain", "0.5", "--", "npx", "-y", "--listen"]).unwrap();
        assert_eq!(cli.options.command, ["npx", "-y", "--listen"]);
        assert_eq!((cli.options.drain, cli.options.listen.port()), (Duration::from_millis(500), 8808));
        for bad in [&["bridge"][..], &["bridge", "--"], &["bridge", "npx"], &["bridge", "--drain", "-1", "--", "x"]] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
