//! `describe`: a resource, and how it is doing.

use clap::Args;
use portcullis_console::{api::Described, documents};
use portcullis_model::Name;

use crate::{cli::Global, exit::Failure, output, verbs::kind};

/// Show a resource and how it is doing
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis describe server github
  portcullis describe gateway main -o json")]
pub struct Describe {
    /// A kind of resource
    #[arg(value_name = "KIND")]
    kind: String,
    /// Its name
    #[arg(value_name = "NAME")]
    name: Name,
}

impl Describe {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let described = global.client()?.describe(kind(&self.kind)?, &self.name).await?;
        output::one(global.output, &described, show)
    }
}

fn show(described: &Described) -> String {
    let resource = &described.resource;
    let mut out = format!("{}\n\n", resource.key());
    for (name, value) in &described.status.facts {
        out.push_str(&format!("{name}: {value}\n"));
    }
    if !described.status.conditions.is_empty() {
        let rows: Vec<Vec<String>> = described
            .status
            .conditions
            .iter()
            .map(|c| vec![c.kind.clone(), c.status.to_string(), c.reason.clone(), c.message.clone()])
            .collect();
        out.push('\n');
        out.push_str(&output::table(&["CONDITION", "HOLDS", "REASON", "MESSAGE"], &rows));
    }
    out.push('\n');
    out.push_str(&documents::write(std::slice::from_ref(resource)).unwrap_or_default());
    out
}
