//! `plugin`: what authors of plugins and those who look after them do, a file for each.

mod inspect;
mod install;
mod keys;
mod project;
mod push;
mod registry;
mod rollback;
mod sign;
mod status;
mod tried;

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use portcullis_package::MAX_COMPONENT;
use portcullis_plugin::{Component, Host, HostOptions, LoadError};

use crate::{
    cli::Global,
    exit::{Exit, Failure},
};

/// Write, try out and look at plugins; see how those of a gateway stand, and go back
///
/// Only `install`, `status`, `rollback` and `resume` ask a gateway. `docs/plugins/guide.md` goes from nothing to a plugin that
/// serves, `docs/guides/plugin-distribution.md` from there to gateways elsewhere, `docs/plugins/operating.md` on from there.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin new token-broker
  portcullis plugin test --path token-broker")]
pub struct Plugin {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    New(project::New),
    Build(project::Build),
    Test(tried::Test),
    Bench(tried::Bench),
    Inspect(inspect::Inspect),
    Keys(keys::Keys),
    Sign(sign::Sign),
    Push(push::Push),
    Install(install::Install),
    Vendor(project::Vendor),
    Status(status::Status),
    Rollback(rollback::Rollback),
    Resume(rollback::Resume),
}

impl Plugin {
    pub async fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        match self.verb {
            Verb::Test(verb) => return verb.run(global).await,
            Verb::New(verb) => verb.run()?,
            Verb::Vendor(verb) => verb.run()?,
            Verb::Build(verb) => verb.run(global).await?,
            Verb::Bench(verb) => verb.run(global).await?,
            Verb::Inspect(verb) => verb.run(global).await?,
            Verb::Keys(verb) => verb.run(global)?,
            Verb::Sign(verb) => verb.run(global).await?,
            Verb::Push(verb) => verb.run(global).await?,
            Verb::Install(verb) => verb.run(global).await?,
            Verb::Status(verb) => verb.run(global).await?,
            Verb::Rollback(verb) => verb.run(global).await?,
            Verb::Resume(verb) => verb.run(global).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How long an author's own machine may take to compile a component; whoever waits can interrupt it.
const PATIENCE: Duration = Duration::from_secs(600);

/// The bytes of a component's file.
fn component(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
        Failure::new(exit, "unreadable", format!("{}: {error}", path.display()))
    })
}

/// A host of this command's own, and a component compiled by it as a gateway would.
async fn compile(wasm: Vec<u8>) -> Result<(Arc<Host>, Arc<Component>), Failure> {
    // Whether a gateway takes one that large is its operator's to say.
    let options = HostOptions {
        pool_instances: 32,
        max_component: MAX_COMPONENT,
        compile_timeout: PATIENCE,
        ..HostOptions::default()
    };
    let host = Host::new(options).map_err(|e| refused(&e))?;
    let component = host.compile(Arc::from(wasm)).await.map_err(|e| refused(&e))?;
    Ok((host, component))
}

fn refused(error: &LoadError) -> Failure {
    Failure::new(Exit::Refused, "refused", error.to_string())
}
