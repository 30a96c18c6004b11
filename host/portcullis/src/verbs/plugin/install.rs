//! `plugin install`: from a registry's tag to a `Plugin` resource with a digest, seen and verified on the way.

use std::path::PathBuf;

use clap::Args;
use portcullis_model::{
    Kind, Metadata, Name, Resource, Spec,
    oci::Reference,
    spec::{Grants, Login, Oci, Plugin, SecretSource, Source},
};
use portcullis_package::{MAX_COMPONENT, PublicKey, Registry, Trust};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::registry::{Reach, failed, reference, secret};
use crate::{
    cli::Global,
    exit::{Exit, Failure},
    output,
};

/// Install a plugin from a registry, or another version of one
///
/// Finds out which digest a tag has now, shows what the component asks for and what it would get, and applies a Plugin resource
/// that names the digest. The gateway fetches it itself, and takes it only with a signature of a key that its own settings
/// trust. What is installed already keeps its configuration, limits and grants.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin install registry.example.com/plugins/broker:1.2 --key platform.pub --dry-run
  portcullis plugin install registry.example.com/plugins/broker:1.2 --grants grants.yaml
  portcullis plugin install registry.example.com/plugins/broker@sha256:... --name broker")]
pub struct Install {
    /// Registry and repository, with a tag or a digest
    #[arg(value_name = "REFERENCE")]
    reference: String,
    /// What the resource is called [default: the repository's last word]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// A public key that must have signed it, beside what the gateway checks
    #[arg(long, value_name = "PATH")]
    key: Option<PathBuf>,
    /// A YAML file with what it may do, as under `grants` of a Plugin
    #[arg(long, value_name = "PATH")]
    grants: Option<PathBuf>,
    /// A YAML file with its configuration
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// The gateway's own login at the registry: a user name, whose password --login-password-file or --login-password-env names
    #[arg(long, value_name = "NAME")]
    login: Option<String>,
    /// A file on the gateway's machine with the password or token
    #[arg(long, value_name = "PATH", conflicts_with = "login_password_env")]
    login_password_file: Option<PathBuf>,
    /// A variable of the gateway's environment with it
    #[arg(long, value_name = "NAME")]
    login_password_env: Option<String>,
    /// Show everything and check it, but change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    reference: String,
    bytes: usize,
    /// The fingerprint of the key that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed_by: Option<String>,
    /// How many signatures lie beside it.
    signatures: usize,
    /// What its author says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Value>,
    wants: Vec<Wish>,
    resource: Resource,
    change: String,
    dry_run: bool,
}

/// One thing that a component asks for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wish {
    grant: String,
    what: String,
    reason: String,
    granted: bool,
}

impl Install {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let asked = reference(&self.reference)?;
        let mut registry = self.reach.registry(&asked)?;
        let (pinned, wasm, signatures, signed_by) = self.seen(&mut registry, &asked).await?;
        let declared = portcullis_manifest::read(&wasm)
            .map_err(|e| Failure::new(Exit::Refused, "component", format!("the component: {e}")))?;
        let client = global.client()?;
        let name = self.named(&pinned)?;
        let before = match client.resource(Kind::Plugin, &name).await {
            Ok(resource) => Some(resource),
            Err(error) => match Failure::from(error) {
                failure if failure.exit == Exit::NotFound => None,
                failure => return Err(failure),
            },
        };
        let resource = self.resource(&pinned, name, before, global)?;
        let grants = match &resource.spec {
            Spec::Plugin(plugin) => plugin.grants.clone(),
            _ => Grants::default(),
        };
        let wants = declared.manifest.iter().flat_map(|m| m.wants.iter().flatten());
        let wants = wants
            .map(|want| Wish {
                granted: portcullis_plugin::is_granted(&grants, &want.grant, want.what.as_deref()),
                grant: want.grant.clone(),
                what: want.what.clone().unwrap_or_default(),
                reason: want.reason.clone(),
            })
            .collect();
        let answer = client.apply(vec![resource.clone()], self.dry_run).await?;
        let change = answer.items.first().map(|item| item.change.clone()).unwrap_or_default();
        let done = Done {
            reference: pinned.to_string(),
            bytes: wasm.len(),
            signed_by,
            signatures,
            manifest: declared.manifest.as_ref().and_then(|m| serde_json::to_value(m).ok()),
            wants,
            resource,
            change,
            dry_run: self.dry_run,
        };
        output::one(global.output, &done, show)
    }

    /// The component, whole and with its signature where one is asked for.
    async fn seen(
        &self,
        registry: &mut Registry,
        asked: &Reference,
    ) -> Result<(Reference, Vec<u8>, usize, Option<String>), Failure> {
        let (digest, manifest) = registry.manifest(asked).await.map_err(failed)?;
        let pinned = asked.at(digest.clone());
        let signatures = registry.signatures(&digest).await.map_err(failed)?;
        let signed_by = match &self.key {
            None => None,
            Some(file) => {
                // Exit: a public key is no secret.
                let key = PublicKey::from_pem(secret(file)?.expose());
                let key = key.map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
                let trust = Trust::only(&file.display().to_string(), key);
                Some(trust.manifest(asked, &digest, &manifest, &signatures).map_err(failed)?.fingerprint)
            }
        };
        let wasm = registry.component(&manifest, MAX_COMPONENT).await.map_err(failed)?;
        Ok((pinned, wasm, signatures.len(), signed_by))
    }

    fn named(&self, pinned: &Reference) -> Result<Name, Failure> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => {
                let last = pinned.repository().rsplit('/').next().unwrap_or_default();
                last.replace(['.', '_'], "-")
                    .parse()
                    .map_err(|_| Failure::usage(format!("{last} can't be the name of a resource")).next("Give --name."))
            }
        }
    }

    fn resource(
        &self,
        pinned: &Reference,
        name: Name,
        before: Option<Resource>,
        global: &Global,
    ) -> Result<Resource, Failure> {
        let mut resource = match before {
            // Who wrote it last, and when, is the store's to say.
            Some(resource) => {
                let mut metadata = Metadata::new(resource.metadata.namespace, resource.metadata.name);
                (metadata.labels, metadata.annotations) = (resource.metadata.labels, resource.metadata.annotations);
                Resource::new(metadata, resource.spec)
            }
            None => {
                let plugin: Plugin = serde_json::from_value(serde_json::json!({ "source": { "builtIn": "" } }))
                    .map_err(|e| Failure::new(Exit::Failure, "resource", e.to_string()))?;
                Resource::new(Metadata::new(global.tenant.clone(), name), Spec::Plugin(plugin))
            }
        };
        let Spec::Plugin(plugin) = &mut resource.spec else {
            return Err(Failure::new(Exit::Failure, "resource", "the gateway answers with another kind"));
        };
        let kept = match &plugin.source {
            Source::Oci(oci) => oci.login.clone(),
            Source::File { .. } | Source::BuiltIn(_) => None,
        };
        plugin.source = Source::Oci(Oci { reference: pinned.to_string(), login: self.gateway_login()?.or(kept) });
        if let Some(file) = &self.grants {
            plugin.grants = yaml(file)?;
        }
        if let Some(file) = &self.config {
            plugin.config = Some(yaml(file)?);
        }
        Ok(resource)
    }

    fn gateway_login(&self) -> Result<Option<Login>, Failure> {
        let password = match (&self.login_password_file, &self.login_password_env) {
            (Some(file), _) => Some(SecretSource::File(std::path::absolute(file)?.display().to_string())),
            (None, Some(name)) => Some(SecretSource::Env(name.clone())),
            (None, None) => None,
        };
        match (password, &self.login) {
            (Some(password), username) => Ok(Some(Login { username: username.clone(), password })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Failure::usage("--login needs --login-password-file or --login-password-env")),
        }
    }
}

fn yaml<T: DeserializeOwned>(file: &PathBuf) -> Result<T, Failure> {
    let wrong = |why: String| Failure::usage(format!("{}: {why}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
    serde_saphyr::from_str(&text).map_err(|e| wrong(e.to_string()))
}

fn show(done: &Done) -> String {
    let mut out = format!("{}\n{} bytes\n", done.reference, done.bytes);
    if let Some(manifest) = &done.manifest {
        let said = |name: &str| {
            portcullis_model::text::shown(manifest.get(name).and_then(Value::as_str).unwrap_or_default(), 300)
        };
        out.push_str(&format!("it calls itself {} {}: {}\n", said("name"), said("version"), said("description")));
    }
    match (&done.signed_by, done.signatures) {
        (Some(key), _) => out.push_str(&format!("signed by the key {key}\n")),
        (None, 0) => out.push_str("warning: it is not signed, so a gateway that wants signatures will refuse it\n"),
        (None, many) => {
            out.push_str(&format!("signatures: {many}; whose they are was not checked here (--key does that)\n"))
        }
    }
    if !done.wants.is_empty() {
        let rows: Vec<Vec<String>> = done
            .wants
            .iter()
            .map(|w| {
                let granted = if w.granted { "yes" } else { "no" };
                vec![w.grant.clone(), w.what.clone(), granted.to_owned(), w.reason.clone()]
            })
            .collect();
        out.push('\n');
        out.push_str(&output::table(&["ASKS FOR", "WHICH", "GRANTED", "WHAT FOR"], &rows));
        out.push('\n');
    }
    let dry = if done.dry_run { " (dry run)" } else { "" };
    let name = &done.resource.metadata.name;
    out.push_str(&format!("{} {}{dry}\n", done.resource.key(), done.change));
    if !done.dry_run {
        out.push_str(&format!("next: portcullis describe plugin {name}\n"));
    }
    out
}
