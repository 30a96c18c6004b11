//! `serve`: a gateway, until it is asked to stop.

use std::{io::IsTerminal as _, path::PathBuf, pin::Pin};

use clap::Args;
use portcullis_console::{Client, api::TokenRequest};
use portcullis_model::{Metadata, Name, Resource, Spec, spec};
use portcullis_telemetry::logs;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    assembly::Assembly,
    cli::Global,
    dumps,
    exit::{Exit, Failure},
    home, output,
    settings::Settings,
};

/// The file in the data directory that the first token is kept in where nobody looks at a terminal.
const FIRST_TOKEN: &str = "first-token";

/// Serve gateways
///
/// Without --config: on 127.0.0.1:7777, with state in the data directory of the user and resources from `resources` in it.
/// SIGTERM or Ctrl-C lets calls under way end first; a second one does not wait.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis serve
  portcullis serve --config /etc/portcullis/serve.yaml

docs/configuration.md lists the settings.")]
pub struct Serve {
    /// The server settings, a YAML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Serve {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        let settings = match &self.config {
            Some(file) => {
                Settings::read(file).map_err(|e| Failure::new(Exit::Usage, "invalid-settings", format!("{e:#}")))?
            }
            None => personal(home::data_dir()?)?,
        };
        let settings = Settings { socket: global.socket.clone().or(settings.socket.clone()), ..settings };
        let (data_dir, tenant) = (settings.data_dir.clone(), global.tenant.clone());
        run(settings, tenant, move |client, started| {
            Box::pin(async move {
                if started.first
                    && let Err(failure) = first_token(&client, &data_dir).await
                {
                    tracing::warn!(
                        reason = failure.error.message,
                        "no first token was made; use `portcullis token create`"
                    );
                }
                Ok(())
            })
        })
    }
}

/// The settings of somebody's own gateway, all in one directory.
///
/// # Errors
/// Where the directory can't be made.
pub fn personal(data_dir: PathBuf) -> Result<Settings, Failure> {
    home::private_dir(&data_dir)?;
    let resources = data_dir.join("resources");
    home::private_dir(&resources)?;
    Ok(Settings { data_dir, resources: vec![resources], ..Settings::default() })
}

/// Threads for what happens behind calls: servers and plugins that start, lists that are fetched, the admin door.
const BEHIND: usize = 2;

/// What a gateway is that has just started.
pub struct Started {
    /// Where clients connect: the URL without a slash at its end.
    pub url: String,
    /// Whether nothing was kept in its store before.
    pub first: bool,
}

/// What is done once the gateway serves.
type After = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Where it can't start, or `after` fails.
pub fn run(settings: Settings, tenant: Name, after: impl FnOnce(Client, Started) -> After) -> Result<(), Failure> {
    let settings = absolute(settings)?;
    let format: logs::Format =
        settings.log.format.parse().map_err(|e: String| Failure::new(Exit::Usage, "invalid-settings", e))?;
    logs::init(format, &settings.log.filter)
        .map_err(|e| Failure::new(Exit::Usage, "invalid-settings", e.to_string()))?;
    dumps::closed();
    // For everything but calls, which have threads of their own.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(BEHIND).enable_all().thread_name("portcullis").build()?;
    let failed = |e: anyhow::Error| Failure::new(Exit::Failure, "serve", format!("{e:#}"));
    let served = runtime.block_on(async {
        home::private_dir(&settings.data_dir)?;
        let socket = settings.socket_path();
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let assembly = tokio::select! {
            opened = Box::pin(Assembly::open(settings)) => opened.map_err(failed)?,
            () = stop.cancelled() => return Ok(()),
        };
        let started = Started { url: assembly.url(), first: assembly.is_first() };
        let after = after(Client::new(socket, tenant), started);
        let stopping = stop.clone();
        let served = Box::pin(assembly.serve(stop.clone()));
        let (served, after) = tokio::join!(served, async move {
            let done = tokio::select! {
                done = after => done,
                () = stopping.cancelled() => Ok(()),
            };
            if done.is_err() {
                stopping.cancel();
            }
            done
        });
        served.map_err(failed)?;
        after
    });
    // Blocking work that hangs, such as a dead network file system, must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    served
}

/// Servers run in directories of their own, where a relative path would mean something else.
fn absolute(mut settings: Settings) -> Result<Settings, Failure> {
    settings.data_dir = std::path::absolute(&settings.data_dir)?;
    settings.socket = settings.socket.map(std::path::absolute).transpose()?;
    settings.resources = settings.resources.iter().map(std::path::absolute).collect::<Result<_, _>>()?;
    Ok(settings)
}

/// The first signal stops gracefully, the second at once.
fn stop_on_signals(stop: CancellationToken) -> Result<(), Failure> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping once calls under way have ended; a second signal does not wait");
        stop.cancel();
        next().await;
        // The supervisors of servers end their trees when this process is gone.
        std::process::exit(i32::from(Exit::Failure as u8));
    });
    Ok(())
}

/// On the first start of an empty gateway: an administrator and a token, told to a terminal or kept in a file that only its
/// owner can read. Never in a log: in a container, standard output is one (security decision 6).
async fn first_token(client: &Client, data_dir: &std::path::Path) -> Result<(), Failure> {
    if !client.list(Some(portcullis_model::Kind::User)).await?.is_empty() || !client.tokens(None).await?.is_empty() {
        return Ok(());
    }
    let admin: Name =
        "admin".parse().map_err(|e: portcullis_model::name::InvalidName| Failure::usage(e.to_string()))?;
    let metadata = || Metadata::new(client.tenant().clone(), admin.clone());
    let user = spec::User { display_name: Some("Administrator".to_owned()), ..spec::User::default() };
    let role = spec::Role { users: vec![admin.clone()], ..spec::Role::default() };
    let set = vec![Resource::new(metadata(), Spec::User(user)), Resource::new(metadata(), Spec::Role(role))];
    client.apply(set, false).await?;
    let request = TokenRequest {
        owner: "user:admin".to_owned(),
        name: Some("first token".to_owned()),
        gateways: Vec::new(),
        admin: false,
        expires_in_s: None,
    };
    let token = client.create_token(&request).await?;
    if std::io::stdout().is_terminal() {
        output::text(&format!("\nThe first token, of user:admin, shown this once:\n\n  {}\n\n", token.token))?;
    } else {
        let file = data_dir.join(FIRST_TOKEN);
        home::write_private(&file, token.token.as_bytes())?;
        tracing::info!(file = %file.display(), "the first token, of user:admin, is in this file: move it to where it belongs");
    }
    Ok(())
}
