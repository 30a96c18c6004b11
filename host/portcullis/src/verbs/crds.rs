//! `crds`: the kinds as Kubernetes custom resource definitions.

use clap::Args;
use portcullis_model::custom;

use crate::{
    cli::Global,
    exit::Failure,
    output::{self, Format},
};

/// Print the kinds as Kubernetes custom resource definitions
///
/// What a cluster has to know before a gateway can take resources from it: one definition for each kind. The gateway itself
/// needs no right to them.
#[derive(Args)]
#[command(after_help = "\
Example:
  portcullis crds | kubectl apply --server-side -f -")]
pub struct Crds {}

impl Crds {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let all = custom::definitions();
        match global.output {
            // As a list, so that `kubectl apply` takes this too.
            Format::Json => {
                output::text(&format!("{}\n", serde_json::json!({"apiVersion": "v1", "kind": "List", "items": all})))
            }
            Format::Table | Format::Yaml => output::list(Format::Yaml, &all, |_| String::new()),
        }
    }
}
