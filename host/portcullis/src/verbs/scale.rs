//! `scale`: how many pods a server has, whatever its definition says.

use clap::Args;
use portcullis_model::Name;

use crate::{cli::Global, exit::Failure, output};

/// Say how many pods a server in the cluster has
///
/// For each of its deployments, until said otherwise: the definition is not changed.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis scale jira 3
  portcullis scale jira --as-written")]
pub struct Scale {
    /// The server
    #[arg(value_name = "SERVER")]
    server: Name,
    /// How many
    #[arg(value_name = "REPLICAS", required_unless_present = "as_written", conflicts_with = "as_written")]
    replicas: Option<u32>,
    /// As many as its definition says
    #[arg(long)]
    as_written: bool,
}

impl Scale {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        global.client()?.scale(&self.server, self.replicas).await?;
        let done = serde_json::json!({ "resource": format!("McpServer/{}", self.server), "change": "scaled", "replicas": self.replicas });
        output::one(global.output, &done, |_| format!("McpServer/{} scaled\n", self.server))
    }
}
