//! `quickstart`: a working gateway with a real server in it, in one command.

mod texts;

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use clap::Args;
use portcullis_console::{Client, api::TokenRequest};
use portcullis_model::{Span, address::is_loopback};
use url::Url;

use crate::{
    cli::Global,
    exit::{Exit, Failure},
    home,
    mcp::{self, Mcp, TOKEN_FILE},
    output,
    settings::{Log, Settings},
    verbs::serve,
};

/// The file of resources, in `resources` of the data directory. It is the user's once it is there.
const RESOURCES: &str = "quickstart.yaml";

/// Serve a gateway with a small server in it, ready to use
///
/// Keeps everything in one directory and starts from there again the next time. What it serves is one YAML file: change it,
/// and the change is taken at once.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis quickstart
  portcullis quickstart --listen 127.0.0.1:8080
  portcullis quickstart --listen 0.0.0.0:7777 --url http://127.0.0.1:7777     # in a container
  portcullis quickstart --data-dir \"$(mktemp -d)\"     # leaves nothing behind in your home")]
pub struct Quickstart {
    /// Where to keep everything [default: $PORTCULLIS_HOME, or portcullis in the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7777")]
    listen: SocketAddr,
    /// Where clients reach it. Lets it listen beyond loopback, for a container whose port is published on loopback
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// What is logged, such as info or portcullis_gateway=debug
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

impl Quickstart {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        if let Some(url) = &self.url {
            published(url)?;
        } else if !self.listen.ip().is_loopback() {
            return Err(Failure::usage("quickstart listens on loopback only").next(
                "Use `portcullis serve --config FILE` for others; in a container, say where its port is published: `--url http://127.0.0.1:7777`.",
            ));
        }
        let data_dir = match &self.data_dir {
            Some(dir) => std::path::absolute(dir)?,
            None => home::data_dir()?,
        };
        let log = Log { filter: self.log, ..Log::default() };
        let settings = Settings {
            listen: self.listen,
            public_url: self.url.clone(),
            socket: global.socket.clone(),
            log,
            ..serve::personal(data_dir.clone())?
        };
        free(&settings)?;
        let program = std::env::current_exe()?;
        let file = data_dir.join("resources").join(RESOURCES);
        write_resources(&file, &program)?;
        let command = command(&program, &settings)?;
        let option = token_option(&settings)?;
        let (published, port) = (self.url.is_some(), self.listen.port());
        serve::run(settings, global.tenant.clone(), move |client, started| {
            Box::pin(async move {
                let url = format!("{}/mcp/default", started.url);
                // Within a container the port may be another one.
                let here = if published { format!("http://127.0.0.1:{port}/mcp/default") } else { url.clone() };
                let token = token(&client, &here, &data_dir).await?;
                output::text(&texts::welcome(&texts::Welcome {
                    url: &url,
                    token: &token,
                    command: &command,
                    option: &option,
                    resources: &file,
                    data_dir: &data_dir,
                }))
            })
        })
    }
}

/// Refuses a URL at which others than this machine's users would reach it: there is no TLS here.
fn published(url: &Url) -> Result<(), Failure> {
    if url.scheme() == "http"
        && is_loopback(url)
        && url.path() == "/"
        && url.query().is_none()
        && url.username().is_empty()
    {
        return Ok(());
    }
    Err(Failure::usage("--url: must be like http://127.0.0.1:7777, at this machine's loopback")
        .next("Use `portcullis serve --config FILE` with `publicUrl` for others."))
}

/// Refuses where a gateway runs in this directory already, or somebody else has the address: found here, it can be said
/// better than by whatever fails first.
fn free(settings: &Settings) -> Result<(), Failure> {
    let socket = settings.socket_path();
    if UnixStream::connect(&socket).is_ok() {
        let message = format!("a gateway is running in {} already", settings.data_dir.display());
        return Err(Failure::new(Exit::Refused, "already-running", message).next(format!(
            "Use that one: `PORTCULLIS_SOCKET={} portcullis doctor` says where it is. For a second one, name another place: \
             `--data-dir DIR --listen 127.0.0.1:PORT`.",
            quoted(&socket)
        )));
    }
    match TcpListener::bind(settings.listen) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let message = format!("another program listens on {}", settings.listen);
            Err(Failure::new(Exit::Refused, "address-taken", message)
                .next("Name another port, such as `--listen 127.0.0.1:7778`; with port 0, any free one is taken."))
        }
        // Whatever else is wrong with it is told where it is used.
        _ => Ok(()),
    }
}

/// Writes the resources where there are none. Those that are there are the user's; only the place of our own program is
/// kept up, because a build or an update may have moved it.
fn write_resources(file: &Path, program: &Path) -> Result<(), Failure> {
    let program = program.to_str().ok_or_else(|| Failure::usage("the path of this program is no UTF-8"))?;
    let quoted = serde_json::to_string(program).map_err(|e| Failure::new(Exit::Failure, "output", e.to_string()))?;
    match fs::read_to_string(file) {
        Ok(text) => {
            let moved = texts::with_program(&text, &quoted);
            if moved != text {
                home::write_private(file, moved.as_bytes())?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(home::write_private(file, texts::resources(&quoted).as_bytes())?)
        }
        Err(error) => Err(Failure::new(Exit::Failure, "io", format!("{}: {error}", file.display()))),
    }
}

/// The token of the last time where it still works, otherwise a new one.
async fn token(client: &Client, url: &str, data_dir: &Path) -> Result<String, Failure> {
    let file = data_dir.join(TOKEN_FILE);
    if file.is_file() {
        let kept = mcp::read_token(&file)?;
        let url = Url::parse(url).map_err(|e| Failure::new(Exit::Failure, "url", e.to_string()))?;
        if Mcp::new(url, Some(&kept), Span::seconds(10))?.tools().await.is_ok() {
            return Ok(kept.to_string());
        }
    }
    let request = TokenRequest {
        owner: "user:me".to_owned(),
        name: Some("quickstart".to_owned()),
        gateways: Vec::new(),
        admin: false,
        expires_in_s: None,
    };
    let token = client.create_token(&request).await.map_err(|error| {
        let failure = Failure::from(error);
        if failure.exit == Exit::NotFound {
            return failure
                .next(format!("quickstart needs the user `me`; delete {RESOURCES} to have it written anew."));
        }
        failure
    })?;
    home::write_private(&file, token.token.as_bytes())?;
    Ok(token.token)
}

/// How this program is called from any terminal: by its name where that finds it, otherwise by its path.
fn command(program: &Path, settings: &Settings) -> io::Result<String> {
    let in_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| dir.join("portcullis").canonicalize().ok().as_deref() == Some(program))
    });
    let name = if in_path { "portcullis".to_owned() } else { quoted(program) };
    let socket = std::path::absolute(settings.socket_path())?;
    Ok(if home::socket().is_ok_and(|usual| usual == socket) {
        name
    } else {
        format!("PORTCULLIS_SOCKET={} {name}", quoted(&socket))
    })
}

/// What `call` needs beside that: it looks for the token beside the socket, which may be elsewhere.
fn token_option(settings: &Settings) -> io::Result<String> {
    let token = settings.data_dir.join(TOKEN_FILE);
    let beside = mcp::token_beside(&std::path::absolute(settings.socket_path())?) == token;
    Ok(if beside { String::new() } else { format!(" --token-file {}", quoted(&token)) })
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@' | ',' | '=');
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn printed_paths_are_words_of_a_shell() {
        assert_eq!(quoted(Path::new("/a/b-c.sock")), "/a/b-c.sock");
        assert_eq!(quoted(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }

    #[test]
    fn the_token_is_named_where_call_would_not_find_it() {
        let dir = PathBuf::from("/data");
        let usual = Settings { data_dir: dir.clone(), ..Settings::default() };
        assert_eq!(token_option(&usual).unwrap(), "");
        let elsewhere = Settings { socket: Some("/run/admin.sock".into()), ..usual };
        assert_eq!(token_option(&elsewhere).unwrap(), " --token-file /data/token");
    }

    #[test]
    fn a_container_is_published_on_loopback_only() {
        let url = |text: &str| published(&Url::parse(text).unwrap()).is_ok();
        assert!(url("http://127.0.0.1:7777") && url("http://localhost:80") && url("http://[::1]:7777/"));
        for bad in [
            "http://10.0.0.1:7777",
            "https://127.0.0.1",
            "http://mcp.example.com",
            "http://127.0.0.1/x",
            "http://a@localhost",
        ] {
            assert!(!url(bad), "{bad}");
        }
    }

    #[test]
    fn what_the_user_changed_stays_and_our_program_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(RESOURCES);
        write_resources(&file, Path::new("/old/portcullis")).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        portcullis_console::documents::read("q", text.as_bytes()).unwrap();
        assert!(text.contains("command: \"/old/portcullis\""), "{text}");
        fs::write(&file, format!("{text}# mine\n")).unwrap();
        write_resources(&file, Path::new("/new/portcullis")).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("command: \"/new/portcullis\"") && text.ends_with("# mine\n"), "{text}");
    }
}
