//! `render`: what a server becomes in the cluster, before anything is changed there.

use std::path::PathBuf;

use clap::Args;
use portcullis_console::{
    api::{RenderRequest, Rendered},
    documents,
};
use portcullis_model::{Kind, Name};

use crate::{cli::Global, exit::Failure, output, verbs::apply};

/// Show the Kubernetes objects that a server becomes
///
/// With its override merged, and without the values of Secrets. Nothing is changed.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis render jira                      # as it is
  portcullis render jira --connection jira-alice
  portcullis render -f jira.yaml --check      # as it would be; the cluster is asked whether it takes that")]
pub struct Render {
    /// The server
    #[arg(value_name = "SERVER", required_unless_present = "file", conflicts_with = "file")]
    server: Option<Name>,
    /// A file with the server's definition, which need not be applied yet; - for standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// One connection of it; all that have a deployment of their own where left out
    #[arg(long, value_name = "NAME")]
    connection: Option<Name>,
    /// Ask the cluster whether it would take the objects
    #[arg(long)]
    check: bool,
}

impl Render {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut request =
            RenderRequest { server: self.server, connection: self.connection, check: self.check, resource: None };
        if let Some(file) = &self.file {
            let mut found = apply::read(file).map_err(Failure::from)?;
            found.retain(|document| document.resource.spec.kind() == Kind::McpServer);
            let (Some(document), true) = (found.pop(), found.is_empty()) else {
                return Err(Failure::usage("the file must hold one McpServer"));
            };
            let mut resource = document.resource;
            resource.metadata.namespace = global.tenant.clone();
            request.resource = Some(resource);
        }
        let rendered = global.client()?.render(&request).await?;
        output::one(global.output, &rendered, show)
    }
}

/// As `kubectl` reads it.
fn show(rendered: &Rendered) -> String {
    let mut out = String::new();
    if !rendered.relaxed.is_empty() {
        out.push_str(&format!("# gives up: {}\n", rendered.relaxed.join(", ")));
    }
    if rendered.checked {
        out.push_str("# the cluster would take these\n");
    }
    out.push_str(&documents::write(&rendered.objects).unwrap_or_default());
    out
}
