//! `plugin new`, `vendor` and `build`: a plugin's project.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use portcullis_authoring::{BuildError, CreateError, Sdk, Template};
use serde::Serialize;

use super::{compile, component};
use crate::{
    cli::Global,
    exit::{Exit, Failure},
    output,
};

/// What a new plugin is.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// A credential resolver that asks an HTTP service for each caller's token
    Resolver,
    /// An auth provider that takes signed tokens of one issuer
    Provider,
    /// A policy that keeps tools from those who lack a role
    Policy,
}

/// Make a new plugin
///
/// A project that builds and tests without an edit: the plugin, its unit tests, recorded cases, and a resource that makes it serve. It
/// holds the SDK's own source, so it needs no checkout of Portcullis and goes on building with the SDK that it was written for.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin new token-broker
  portcullis plugin new only-admins-delete --template policy")]
pub struct New {
    /// Its name, and that of its folder
    #[arg(value_name = "NAME")]
    name: String,
    /// What it is
    #[arg(long, value_enum, default_value_t = Kind::Resolver)]
    template: Kind,
    /// The folder to make; one of its name where left out
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// A checkout's folder plugin-sdk, in place of the SDK's source in the project
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

impl New {
    pub fn run(self) -> Result<(), Failure> {
        let folder = self.path.unwrap_or_else(|| PathBuf::from(&self.name));
        let template = match self.template {
            Kind::Resolver => Template::Resolver,
            Kind::Provider => Template::Provider,
            Kind::Policy => Template::Policy,
        };
        let sdk = self.sdk.map_or(Sdk::Vendored, Sdk::Path);
        portcullis_authoring::create(&folder, &self.name, template, &sdk).map_err(not_created)?;
        output::text(&format!(
            "{} is a plugin now. In {}:\n  portcullis plugin test     builds it and runs its tests\n  README.md                  says the rest\n",
            self.name,
            folder.display()
        ))
    }
}

/// Bring this version's SDK into a plugin's project
///
/// Replaces `vendor/portcullis-sdk` and its macros, and nothing else. Plugins that were built with an earlier SDK go on to load; this is
/// for those that want something new.
#[derive(Args)]
#[command(after_help = "\
Example:
  portcullis plugin vendor")]
pub struct Vendor {
    /// The plugin's project
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
}

impl Vendor {
    pub fn run(self) -> Result<(), Failure> {
        portcullis_authoring::revise(&self.path).map_err(not_created)?;
        output::text("the SDK of this version is in vendor/; `portcullis plugin test` says whether all is well\n")
    }
}

fn not_created(error: CreateError) -> Failure {
    let exit = match error {
        CreateError::File { .. } => Exit::Failure,
        CreateError::NotVendored(_) | CreateError::NoSdk(_) => Exit::NotFound,
        CreateError::Name(_) | CreateError::Exists(_) => Exit::Usage,
    };
    Failure::new(exit, "plugin-project", error.to_string())
}

/// Build a plugin's component
///
/// Runs `cargo build --release --target wasm32-wasip2` in the plugin's project, and looks whether Portcullis would load what came of it.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin build
  portcullis plugin build -- --offline     # what stands behind -- goes to cargo")]
pub struct Build {
    /// The plugin's project
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// Options for cargo
    #[arg(last = true, value_name = "CARGO OPTIONS")]
    cargo: Vec<String>,
}

#[derive(Serialize)]
struct Made {
    path: String,
    digest: String,
    bytes: usize,
}

impl Build {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let path = built(&self.path, &self.cargo)?;
        let wasm = component(&path)?;
        let bytes = wasm.len();
        let (_, component) = compile(wasm).await?;
        let made = Made { path: path.display().to_string(), digest: format!("sha256:{}", component.digest()), bytes };
        output::one(global.output, &made, |made| format!("{}\n{}, {} bytes\n", made.path, made.digest, made.bytes))
    }
}

/// Builds a project's component and says where it lies.
pub(super) fn built(project: &Path, cargo: &[String]) -> Result<PathBuf, Failure> {
    portcullis_authoring::build(project, cargo).map(|built| built.path).map_err(not_built)
}

pub(super) fn not_built(error: BuildError) -> Failure {
    let exit = if matches!(error, BuildError::NoProject(_)) { Exit::NotFound } else { Exit::Failure };
    let failure = Failure::new(exit, "build", error.to_string());
    match error.next() {
        Some(next) => failure.next(next),
        None => failure,
    }
}
