//! `plugin sign`: puts a signature beside a file, or beside a component in a registry.

use std::path::{Path, PathBuf};

use clap::Args;
use portcullis_model::oci::Reference;
use portcullis_package::{PrivateKey, Registry, Signed, detached, layout};
use serde::Serialize;

use super::{
    component,
    keys::{self, Passphrase},
    registry::{Reach, failed, reference},
};
use crate::{cli::Global, exit::Failure, output};

/// Sign a plugin: a file, or one in a registry
///
/// Beside a file the signature is FILE.sig; in a registry it lies where cosign looks for it and puts it. Signatures by
/// `cosign sign --key` and `cosign sign-blob --key` count just as well.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin sign broker.wasm --key platform.key
  portcullis plugin sign registry.example.com/plugins/broker:1.2 --key platform.key")]
pub struct Sign {
    /// A component's file, or registry/repository with a tag or a digest
    #[arg(value_name = "FILE|REFERENCE")]
    what: String,
    /// The file with the key
    #[arg(long, value_name = "PATH")]
    key: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    signed: String,
    signature: String,
    fingerprint: String,
}

impl Sign {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let key = keys::signing(&self.key, &self.passphrase)?;
        let fingerprint = fingerprint(&key)?;
        let path = Path::new(&self.what);
        let done = if path.exists() {
            let signature = portcullis_plugin::signature_of(path);
            std::fs::write(&signature, detached(&component(path)?, &key).map_err(no_key)?)?;
            Done { signed: self.what.clone(), signature: signature.display().to_string(), fingerprint }
        } else {
            let reference = reference(&self.what)?;
            let mut registry = self.reach.registry(&reference)?;
            let signed = in_registry(&mut registry, &reference, &key).await?;
            let place = signed.digest().map(|d| format!("{}:sha256-{}.sig", signed.place(), d.hex()));
            Done { signed: signed.to_string(), signature: place.unwrap_or_default(), fingerprint }
        };
        output::one(global.output, &done, |d| {
            format!("signed {}\nsignature: {}\nkey: {}\n", d.signed, d.signature, d.fingerprint)
        })
    }
}

/// Signs what a reference leads to now; gives it with its digest.
pub async fn in_registry(
    registry: &mut Registry,
    reference: &Reference,
    key: &PrivateKey,
) -> Result<Reference, Failure> {
    let (digest, manifest) = registry.manifest(reference).await.map_err(failed)?;
    layout::component(&manifest).map_err(failed)?;
    let signed = Signed::new(reference, &digest, key).map_err(no_key)?;
    registry.push_signature(&digest, &signed).await.map_err(failed)?;
    Ok(reference.at(digest))
}

/// The fingerprint of a key.
pub fn fingerprint(key: &PrivateKey) -> Result<String, Failure> {
    Ok(key.public().map_err(no_key)?.fingerprint())
}

pub fn no_key(error: portcullis_package::KeyError) -> Failure {
    Failure::new(crate::exit::Exit::Failure, "key", error.to_string())
}
