//! `plugin rollback` and `plugin resume`: which version of a plugin serves.

use clap::Args;
use portcullis_model::Name;

use super::status;
use crate::{cli::Global, exit::Failure, output};

/// Go back to the version that was active before
///
/// At once, and without a failed call. It holds until the resource names another source or configuration, or until `resume`; the
/// version keeps the grants and limits that the resource has now. Again, it goes one version further back; three are kept.
#[derive(Args)]
#[command(after_help = "\
Example:
  portcullis plugin rollback office-hours")]
pub struct Rollback {
    /// The plugin
    #[arg(value_name = "NAME")]
    name: Name,
}

impl Rollback {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let plugin = global.client()?.roll_back(&self.name).await?;
        output::one(global.output, &plugin, |p| status::table(std::slice::from_ref(p)))
    }
}

/// Go forward again to what the resource says, after a rollback
#[derive(Args)]
#[command(after_help = "\
Example:
  portcullis plugin resume office-hours")]
pub struct Resume {
    /// The plugin
    #[arg(value_name = "NAME")]
    name: Name,
}

impl Resume {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let plugin = global.client()?.resume(&self.name).await?;
        output::one(global.output, &plugin, |p| status::table(std::slice::from_ref(p)))
    }
}
