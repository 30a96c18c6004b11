//! `plugin inspect`: what a component is, wants and can be told, without running it.

use std::path::PathBuf;

use clap::Args;
use portcullis_model::text::shown;
use portcullis_package::PackageSettings;
use portcullis_plugin::{Component, Manifest};
use serde::Serialize;
use serde_json::Value;

use super::{compile, component};
use crate::{cli::Global, exit::Failure, output};

/// Show what a component is and what it wants
///
/// Its hooks, what it imports, the grants that it needs, its manifest and the schema of its configuration. It is compiled as
/// Portcullis would compile it, so one that would be refused is refused here; it is not run.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin inspect broker.wasm
  portcullis plugin inspect broker.wasm -o json")]
pub struct Inspect {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    digest: String,
    bytes: usize,
    hooks: Vec<&'static str>,
    suspends: bool,
    /// Grants that its imports need.
    needs: Vec<&'static str>,
    imports: Vec<Import>,
    /// Of the imports, those behind which there is nothing: files and sockets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    closed: Vec<String>,
    manifest: Option<Manifest>,
    config_schema: Option<Value>,
    /// Keywords of the schema that Portcullis does not check.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unchecked: Vec<String>,
}

#[derive(Serialize)]
struct Import {
    interface: String,
    functions: Vec<String>,
}

impl Inspect {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let wasm = component(&self.file)?;
        let bytes = wasm.len();
        let (_, component) = compile(wasm).await?;
        output::one(global.output, &seen(&component, bytes), show)
    }
}

fn seen(component: &Component, bytes: usize) -> Seen {
    let schema = component.schema();
    Seen {
        digest: format!("sha256:{}", component.digest()),
        bytes,
        hooks: component.hooks().names(),
        suspends: component.suspends(),
        needs: component.needs(),
        imports: component
            .imported()
            .map(|(interface, functions)| Import { interface: interface.to_owned(), functions: functions.to_vec() })
            .collect(),
        closed: component.closed().map(str::to_owned).collect(),
        manifest: component.manifest().cloned(),
        config_schema: schema.map(|schema| schema.json().clone()),
        unchecked: schema.map(|schema| schema.unchecked().into_iter().collect()).unwrap_or_default(),
    }
}

fn show(seen: &Seen) -> String {
    let mut out = String::new();
    if let Some(manifest) = &seen.manifest {
        let said = |text: &str| shown(text, 300);
        out.push_str(&format!("{} {}", said(&manifest.name), said(&manifest.version)));
        if !manifest.description.is_empty() {
            out.push_str(&format!(": {}", said(&manifest.description)));
        }
        out.push_str(&format!("\ncontract: {}", said(&manifest.wit)));
        if !manifest.sdk.is_empty() {
            out.push_str(&format!(", sdk: {}", said(&manifest.sdk)));
        }
        out.push('\n');
    } else {
        out.push_str("no manifest: it does not say who it is\n");
    }
    out.push_str(&format!("{}, {} bytes\n", seen.digest, seen.bytes));
    let usual = PackageSettings::default().max_component;
    if seen.bytes > usual.as_usize() {
        let usual = usual.get() >> 20;
        out.push_str(&format!(
            "a gateway takes {usual} MiB at most, unless its settings allow more: `plugins: {{maxComponent: {}MiB}}`\n",
            seen.bytes.div_ceil(1 << 20)
        ));
    }
    out.push_str(&format!("hooks: {}\n", seen.hooks.join(", ")));
    out.push_str(if seen.suspends { "calls may wait for others\n" } else { "calls wait for nothing\n" });
    let needs = if seen.needs.is_empty() { "none".to_owned() } else { seen.needs.join(", ") };
    out.push_str(&format!("grants that its imports need: {needs}\n"));
    match seen.manifest.as_ref().and_then(|manifest| manifest.wants.as_ref()) {
        None => {}
        Some(wants) if wants.is_empty() => out.push_str("it wants nothing to be granted\n"),
        Some(wants) => {
            let row = |want: &portcullis_plugin::Want| {
                vec![want.grant.clone(), want.what.clone().unwrap_or_default(), want.reason.clone()]
            };
            out.push('\n');
            out.push_str(&output::table(&["WANTS", "WHICH", "FOR"], &wants.iter().map(row).collect::<Vec<_>>()));
        }
    }
    let rows: Vec<Vec<String>> =
        seen.imports.iter().map(|import| vec![import.interface.clone(), import.functions.join(", ")]).collect();
    out.push('\n');
    out.push_str(&output::table(&["IMPORTS", "FUNCTIONS"], &rows));
    if !seen.closed.is_empty() {
        out.push_str(&format!("\nno plugin has files or sockets: nothing stands behind {}\n", seen.closed.join(", ")));
    }
    match &seen.config_schema {
        None => out.push_str("\nno schema of its configuration\n"),
        Some(schema) => {
            out.push_str("\nconfiguration:\n");
            out.push_str(&shown_json(schema));
            if !seen.unchecked.is_empty() {
                out.push_str(&format!("\nnot checked by Portcullis: {}\n", seen.unchecked.join(", ")));
            }
        }
    }
    out
}

/// Indented, without what moves a terminal's cursor: JSON escapes control characters, and the rest is left out.
fn shown_json(json: &Value) -> String {
    let text = serde_json::to_string_pretty(json).unwrap_or_default();
    let mut out: String = text.chars().filter(|c| *c == '\n' || !portcullis_model::text::deceives(*c)).collect();
    out.push('\n');
    out
}
