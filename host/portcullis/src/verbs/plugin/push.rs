//! `plugin push`: puts a component into a registry.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use portcullis_package::layout::Artifact;
use serde::Serialize;

use super::{
    component,
    keys::{self, Passphrase},
    registry::{Reach, failed, reference},
    sign,
};
use crate::{cli::Global, exit::Failure, output};

/// Put a plugin into a registry, and sign it there with --key
///
/// The layout is the one that other WebAssembly tools read and write (a config of application/vnd.wasm.config.v0+json and one
/// layer of application/wasm).
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin push broker.wasm registry.example.com/plugins/broker:1.2 --key platform.key
  portcullis plugin push broker.wasm localhost:5000/broker:1.2 --username ci --password-file password")]
pub struct Push {
    /// The component
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Registry, repository and tag
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// The file with a key to sign it with
    #[arg(long, value_name = "PATH")]
    key: Option<PathBuf>,
    #[command(flatten)]
    passphrase: Passphrase,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    reference: String,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<String>,
}

impl Push {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let reference = reference(&self.reference)?;
        if reference.digest().is_some() {
            return Err(Failure::usage("what is pushed gets its digest from its bytes; name a tag"));
        }
        let key = self.key.as_ref().map(|file| keys::signing(file, &self.passphrase)).transpose()?;
        let wasm = component(&self.file)?;
        let artifact = Artifact::of(&wasm, BTreeMap::new()).map_err(failed)?;
        let mut registry = self.reach.registry(&reference)?;
        let digest = registry.push(&wasm, &artifact, reference.tag()).await.map_err(failed)?;
        let pushed = reference.at(digest.clone());
        let signed_by = match &key {
            None => None,
            Some(key) => {
                sign::in_registry(&mut registry, &pushed, key).await?;
                Some(sign::fingerprint(key)?)
            }
        };
        let done = Done { reference: pushed.to_string(), digest: digest.to_string(), signed_by };
        output::one(global.output, &done, |d| match &d.signed_by {
            Some(key) => format!("{}\nsigned by {key}\n", d.reference),
            None => format!("{}\nnot signed: `portcullis plugin sign` does that\n", d.reference),
        })
    }
}
