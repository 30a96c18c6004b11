//! `restart`: what runs of a server is started anew.

use clap::Args;
use portcullis_model::{Name, Span};

use crate::{cli::Global, exit::Failure, output};

/// Restart a server that Portcullis runs
///
/// Its processes end when their calls in flight have, and the next call starts it anew. In a cluster new pods come first, and the old
/// ones go once the new ones can be called.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis restart files
  portcullis restart files --drain 60s")]
pub struct Restart {
    /// The server
    #[arg(value_name = "SERVER")]
    server: Name,
    /// How long calls in flight may take (processes)
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    drain: Span,
}

impl Restart {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        global.client()?.restart(&self.server, Some(self.drain.get())).await?;
        let done = serde_json::json!({ "resource": format!("McpServer/{}", self.server), "change": "restarted" });
        output::one(global.output, &done, |_| format!("McpServer/{} restarted\n", self.server))
    }
}
