//! `delete`: a resource goes.

use clap::Args;
use portcullis_model::Name;

use crate::{cli::Global, exit::Failure, output, verbs::kind};

/// Delete a resource
///
/// With a connection go its sealed secrets. A resource that came by a watched file goes when the file does.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis delete server github
  portcullis delete connection github-alice")]
pub struct Delete {
    /// A kind of resource
    #[arg(value_name = "KIND")]
    kind: String,
    /// Its name
    #[arg(value_name = "NAME")]
    name: Name,
}

impl Delete {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let item = global.client()?.delete(kind(&self.kind)?, &self.name).await?;
        output::one(global.output, &item, |item| {
            let mut out = format!("{} {}\n", item.resource, item.change);
            for warning in &item.warnings {
                out.push_str(&format!("  warning: {warning}\n"));
            }
            out
        })
    }
}
