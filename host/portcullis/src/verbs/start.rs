//! `start`: a stopped server may run again.

use clap::Args;
use portcullis_model::Name;

use crate::{cli::Global, exit::Failure, output};

/// Allow a stopped server again
///
/// A process starts with the next call, pods start at once.
#[derive(Args)]
#[command(after_help = "\
Example:
  portcullis start files")]
pub struct Start {
    /// The server
    #[arg(value_name = "SERVER")]
    server: Name,
}

impl Start {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        global.client()?.start(&self.server).await?;
        let done = serde_json::json!({ "resource": format!("McpServer/{}", self.server), "change": "started" });
        output::one(global.output, &done, |_| format!("McpServer/{} started\n", self.server))
    }
}
