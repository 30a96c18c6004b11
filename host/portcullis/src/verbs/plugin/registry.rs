//! How commands reach a registry: as what they say, or as `docker login` left it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use portcullis_model::{
    Secret,
    oci::{InvalidReference, Reference},
};
use portcullis_package::{Credentials, PackageError, Registry, RegistrySetting, Rules};
use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

use crate::exit::{Exit, Failure};

/// The most bytes of a file with a password.
const MAX_PASSWORD: u64 = 16 << 10;

/// How a registry is reached.
#[derive(Args)]
pub struct Reach {
    /// The user name at the registry; with --password-file only, the file holds a token
    #[arg(long, value_name = "NAME", requires = "password_file", help_heading = "Registry")]
    username: Option<String>,
    /// A file with the password or token [default: what `docker login` keeps]
    #[arg(long, value_name = "PATH", help_heading = "Registry")]
    password_file: Option<PathBuf>,
    /// Its address may be one of the own network
    #[arg(long, help_heading = "Registry")]
    private: bool,
    /// Ask over http: anybody on the way reads the password and the component. Loopback is asked so anyway
    #[arg(long, help_heading = "Registry")]
    plain_http: bool,
    /// A PEM file of certificate authorities that are trusted as well as the machine's
    #[arg(long, value_name = "PATH", help_heading = "Registry")]
    trusted_certificates: Option<PathBuf>,
}

impl Reach {
    /// A registry's repository. Nothing is sent yet.
    ///
    /// # Errors
    /// Where a file can't be read, or the registry may not be asked that way.
    pub fn registry(&self, reference: &Reference) -> Result<Registry, Failure> {
        let tls = |e: portcullis_outbound::Error| Failure::new(Exit::Failure, "tls", e.to_string());
        let client = match &self.trusted_certificates {
            None => portcullis_outbound::Client::new().map_err(tls)?,
            Some(file) => {
                let pem = fs::read(file).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
                portcullis_outbound::Client::with(portcullis_outbound::roots_and(&pem).map_err(tls)?)
            }
        };
        let setting = RegistrySetting {
            host: reference.host().to_owned(),
            private: self.private,
            plain_http: self.plain_http.then_some(true),
        };
        let rules = Rules::new(&[setting]).map_err(Failure::usage)?;
        let credentials = self.credentials(reference.host())?;
        Registry::new(Arc::clone(&client), &rules, reference, credentials).map_err(failed)
    }

    fn credentials(&self, host: &str) -> Result<Option<Credentials>, Failure> {
        match &self.password_file {
            Some(file) => Ok(Some(Credentials { username: self.username.clone(), password: secret(file)? })),
            None => Ok(kept_by_docker(host)),
        }
    }
}

/// A secret that a file holds, without a newline at its end.
///
/// # Errors
/// Where it can't be read.
pub fn secret(file: &Path) -> Result<Secret, Failure> {
    let wrong = |why: String| Failure::usage(format!("{}: {why}", file.display()));
    let size = fs::metadata(file).map_err(|e| wrong(e.to_string()))?.len();
    if size > MAX_PASSWORD {
        return Err(wrong("it is too large".to_owned()));
    }
    let bytes = Zeroizing::new(fs::read(file).map_err(|e| wrong(e.to_string()))?);
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    Ok(Secret::new(text.strip_suffix(b"\r").unwrap_or(text)))
}

/// The login that `docker login` wrote into its file. Those that it keeps with helpers are not read.
fn kept_by_docker(host: &str) -> Option<Credentials> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let directory = match env::var_os("DOCKER_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(env::var_os("HOME")?).join(".docker"),
    };
    let mut text = fs::read_to_string(directory.join("config.json")).ok()?;
    let config: Option<Value> = serde_json::from_str(&text).ok();
    text.zeroize();
    let config = config?;
    let auths = config.get("auths")?;
    // Docker's own registry is known there by its first address.
    let names = [host.to_owned(), format!("https://{host}")];
    let hub = (host == "docker.io").then(|| "https://index.docker.io/v1/".to_owned());
    let kept = names.iter().chain(&hub).find_map(|name| auths.get(name)?.get("auth")?.as_str())?;
    let pair = Zeroizing::new(STANDARD.decode(kept).ok()?);
    let at = pair.iter().position(|b| *b == b':')?;
    let username = std::str::from_utf8(&pair[..at]).ok()?.to_owned();
    Some(Credentials { username: Some(username), password: Secret::new(&pair[at + 1..]) })
}

/// A reference as people write it.
///
/// # Errors
/// What to write instead.
pub fn reference(text: &str) -> Result<Reference, Failure> {
    Reference::parse(text).map_err(|e: InvalidReference| Failure::usage(format!("{text}: {e}")))
}

/// What a registry's or signature's error means for a command.
pub fn failed(error: PackageError) -> Failure {
    let (exit, code) = match &error {
        PackageError::Reference(_) | PackageError::NoDigest(_) => (Exit::Usage, "usage"),
        PackageError::NotFound(_) => (Exit::NotFound, "not-found"),
        PackageError::Unreachable { .. } => (Exit::Failure, "registry-unreachable"),
        PackageError::Unsigned(_) => (Exit::Refused, "unsigned"),
        PackageError::WrongKey { .. } | PackageError::Signature { .. } => (Exit::Refused, "wrong-key"),
        PackageError::SignedOther(_) | PackageError::Altered { .. } => (Exit::Refused, "altered"),
        PackageError::Refused { .. } => (Exit::Refused, "registry-refuses"),
        _ => (Exit::Failure, "registry"),
    };
    let next = match &error {
        PackageError::Refused { .. } => Some("Give --username and --password-file, or run `docker login` first."),
        _ => None,
    };
    let failure = Failure::new(exit, code, error.to_string());
    match next {
        Some(next) => failure.next(next),
        None => failure,
    }
}
