//! `stop`: what runs of a server ends, until `start`.

use clap::Args;
use portcullis_model::{Name, Span};

use crate::{cli::Global, exit::Failure, output};

/// Stop a server that Portcullis runs, until `portcullis start`
///
/// Its processes or pods end when their calls in flight have; calls are refused from then on.
#[derive(Args)]
#[command(after_help = "\
Example:
  portcullis stop files")]
pub struct Stop {
    /// The server
    #[arg(value_name = "SERVER")]
    server: Name,
    /// How long calls in flight may take (processes)
    #[arg(long, value_name = "SPAN", default_value = "10s")]
    drain: Span,
}

impl Stop {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        global.client()?.stop(&self.server, Some(self.drain.get())).await?;
        let done = serde_json::json!({ "resource": format!("McpServer/{}", self.server), "change": "stopped" });
        output::one(global.output, &done, |_| format!("McpServer/{} stopped\n", self.server))
    }
}
