//! The command line: what there is to say, and which file does it.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use portcullis_console::Client;
use portcullis_model::Name;
use url::Url;

use crate::{exit::Failure, home, output::Format, remote, verbs};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line makes no sense
  3  what was named does not exist
  4  refused or denied
  5  the gateway can't be reached

With -o json errors are JSON on standard error as well: {\"error\": {\"side\", \"code\", \"message\", \"next\"}}.";

/// One endpoint in front of many MCP servers.
///
/// Portcullis says who is calling, which tools they may use, and whose credential each call carries; it runs the servers
/// that somebody has to run.
#[derive(Parser)]
#[command(name = "portcullis", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every command takes.
#[derive(Args, Clone)]
pub struct Global {
    /// The admin socket of the gateway [default: admin.sock in the data directory]
    #[arg(long, global = true, env = "PORTCULLIS_SOCKET", value_name = "PATH", help_heading = "Gateway")]
    pub socket: Option<PathBuf>,
    /// The admin listener of a gateway elsewhere, in place of the socket
    #[arg(long, global = true, env = "PORTCULLIS_ADMIN_URL", value_name = "URL", help_heading = "Gateway")]
    pub admin_url: Option<Url>,
    /// A file with the token for it; without one, PORTCULLIS_ADMIN_TOKEN holds the token
    #[arg(long, global = true, env = "PORTCULLIS_ADMIN_TOKEN_FILE", value_name = "PATH", help_heading = "Gateway")]
    pub admin_token_file: Option<PathBuf>,
    /// The tenant
    #[arg(
        long,
        global = true,
        env = "PORTCULLIS_TENANT",
        value_name = "NAME",
        default_value = "default",
        help_heading = "Gateway"
    )]
    pub tenant: Name,
    /// How answers are printed
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = "Gateway")]
    pub output: Format,
}

impl Global {
    /// The admin socket.
    ///
    /// # Errors
    /// Where nothing says which.
    pub fn socket(&self) -> Result<PathBuf, Failure> {
        Ok(match &self.socket {
            Some(socket) => socket.clone(),
            None => home::socket()?,
        })
    }

    /// A client of the gateway.
    ///
    /// # Errors
    /// Where nothing says which socket, or there is no token for the URL.
    pub fn client(&self) -> Result<Client, Failure> {
        match &self.admin_url {
            None => Ok(Client::new(self.socket()?, self.tenant.clone())),
            Some(url) => remote::client(url, self.admin_token_file.as_deref(), &self.tenant),
        }
    }
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "made once")]
enum Verb {
    Quickstart(verbs::quickstart::Quickstart),
    Serve(verbs::serve::Serve),
    Apply(verbs::apply::Apply),
    Get(verbs::get::Get),
    Describe(verbs::describe::Describe),
    Delete(verbs::delete::Delete),
    Connect(verbs::connect::Connect),
    Token(verbs::token::Token),
    Signin(verbs::signin::SignIn),
    Call(verbs::call::Call),
    Logs(verbs::logs::Logs),
    Plugin(verbs::plugin::Plugin),
    Crds(verbs::crds::Crds),
    Restart(verbs::restart::Restart),
    Stop(verbs::stop::Stop),
    Start(verbs::start::Start),
    Scale(verbs::scale::Scale),
    Render(verbs::render::Render),
    Doctor(verbs::doctor::Doctor),
    Explain(verbs::explain::Explain),
    Store(verbs::store::Store),
    DemoServer(verbs::demo_server::DemoServer),
    Bridge(verbs::bridge::Bridge),
    /// The small parent of a server's process; started by the gateway, with pipes that only it can give.
    #[command(hide = true)]
    Supervise,
    /// Compiles a component; started by the gateway, with limits and pipes that only it gives.
    #[command(hide = true)]
    CompileComponent,
}

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    let Cli { global, verb } = Cli::parse();
    let json = global.output == Format::Json;
    match perform(&global, verb) {
        Ok(code) => code,
        Err(failure) => failure.tell(json),
    }
}

fn perform(global: &Global, verb: Verb) -> Result<ExitCode, Failure> {
    let done = |result: Result<(), Failure>| result.map(|()| ExitCode::SUCCESS);
    match verb {
        Verb::Quickstart(v) => done(v.run(global)),
        Verb::Serve(v) => done(v.run(global)),
        Verb::DemoServer(v) => done(v.run()),
        Verb::Bridge(v) => done(v.run()),
        Verb::Crds(v) => done(v.run(global)),
        Verb::CompileComponent => Err(Failure::usage("`compile-component` is started by the gateway only")),
        Verb::Supervise => Err(Failure::usage("`supervise` is started by the gateway only")),
        Verb::Apply(v) => done(client(v.run(global))),
        Verb::Get(v) => done(client(v.run(global))),
        Verb::Describe(v) => done(client(v.run(global))),
        Verb::Delete(v) => done(client(v.run(global))),
        Verb::Connect(v) => done(client(v.run(global))),
        Verb::Token(v) => done(client(v.run(global))),
        Verb::Signin(v) => done(client(v.run(global))),
        Verb::Call(v) => client(v.run(global)),
        Verb::Plugin(v) => client(v.run(global)),
        Verb::Logs(v) => done(client(v.run(global))),
        Verb::Restart(v) => done(client(v.run(global))),
        Verb::Stop(v) => done(client(v.run(global))),
        Verb::Start(v) => done(client(v.run(global))),
        Verb::Scale(v) => done(client(v.run(global))),
        Verb::Render(v) => done(client(v.run(global))),
        Verb::Doctor(v) => client(v.run(global)),
        Verb::Explain(v) => client(v.run(global)),
        Verb::Store(v) => v.run(global),
    }
}

/// Runs a client's future. One thread is enough to wait for one answer.
pub fn client<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
