//! `demo-server`: a small MCP server on standard input and output.

use clap::Args;

use crate::{demo, exit::Failure};

/// Be a small MCP server on standard input and output
///
/// The server that `quickstart` puts behind its gateway: the time anywhere, figures about a text, and notes that last as
/// long as it runs.
#[derive(Args)]
#[command(after_help = "\
Example, as an McpServer:
  process:
    command: portcullis
    args: [demo-server]")]
pub struct DemoServer {}

impl DemoServer {
    pub fn run(self) -> Result<(), Failure> {
        demo::serve(std::io::stdin().lock(), std::io::stdout().lock())?;
        Ok(())
    }
}
