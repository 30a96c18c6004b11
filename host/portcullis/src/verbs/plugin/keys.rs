//! `plugin keys`: keys that sign plugins.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use portcullis_model::Secret;
use portcullis_package::{KeyError, PrivateKey, PublicKey};
use serde::Serialize;
use zeroize::Zeroizing;

use super::registry::secret;
use crate::{
    cli::Global,
    exit::{Exit, Failure},
    home, output,
};

/// Make and look at keys that sign plugins
#[derive(Args)]
pub struct Keys {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    New(New),
    Show(Show),
}

/// Make a key: NAME.key, which signs, and NAME.pub, which the gateway's `plugins.keys` names
///
/// ECDSA on P-256. Any other such key in PEM will do as well, of `openssl ecparam -name prime256v1 -genkey` for one.
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis plugin keys new platform
  portcullis plugin keys new ci --no-passphrase         # a machine's, kept as its other secrets are")]
struct New {
    /// The files' name, without an ending; it may have directories
    #[arg(value_name = "NAME")]
    name: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
    /// Let the file alone be enough to sign
    #[arg(long, conflicts_with = "passphrase_file")]
    no_passphrase: bool,
}

/// Show a key's fingerprint and its public half
#[derive(Args)]
struct Show {
    /// A public or private key
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

/// Where a key's passphrase comes from.
#[derive(Args)]
pub struct Passphrase {
    /// A file with the key's passphrase [default: asked for, where somebody can answer]
    #[arg(long, value_name = "PATH")]
    pub passphrase_file: Option<PathBuf>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key_file: Option<PathBuf>,
    fingerprint: String,
    public_key: String,
}

impl Keys {
    pub fn run(self, global: &Global) -> Result<(), Failure> {
        match self.verb {
            Verb::New(new) => new.run(global),
            Verb::Show(show) => {
                let pem = secret(&show.file)?;
                // Exit: a public key is no secret; the file may hold either.
                let public = match PublicKey::from_pem(pem.expose()) {
                    Ok(public) => public,
                    Err(_) => open(&pem, &show.file, &show.passphrase)?.public().map_err(|e| wrong(&show.file, e))?,
                };
                let made = Made {
                    private_key: None,
                    public_key_file: None,
                    fingerprint: public.fingerprint(),
                    public_key: public.to_pem(),
                };
                output::one(global.output, &made, |m| format!("fingerprint: {}\n\n{}", m.fingerprint, m.public_key))
            }
        }
    }
}

impl New {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let ending = |end: &str| {
            let mut name = self.name.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let (private, public_file) = (ending(".key"), ending(".pub"));
        for file in [&private, &public_file] {
            if file.exists() {
                return Err(Failure::new(Exit::Refused, "exists", format!("{} is there already", file.display()))
                    .next("Choose another name: what a lost key signed can't be signed again."));
            }
        }
        let passphrase = match (&self.passphrase.passphrase_file, self.no_passphrase) {
            (_, true) => None,
            (Some(file), false) => Some(secret(file)?),
            (None, false) => Some(asked_twice()?),
        };
        if passphrase.as_ref().is_some_and(Secret::is_empty) {
            return Err(Failure::usage("the passphrase is empty").next("Say --no-passphrase, if that is meant."));
        }
        let key = PrivateKey::generate().map_err(|e| wrong(&private, e))?;
        let public = key.public().map_err(|e| wrong(&private, e))?;
        let pem = key.to_pem(passphrase.as_ref()).map_err(|e| wrong(&private, e))?;
        // Exit: the key's own file, 0600, encrypted unless its owner said otherwise.
        home::write_private(&private, pem.expose())?;
        std::fs::write(&public_file, public.to_pem())?;
        let made = Made {
            private_key: Some(private),
            public_key_file: Some(public_file),
            fingerprint: public.fingerprint(),
            public_key: public.to_pem(),
        };
        output::one(global.output, &made, |m| {
            let file = |path: &Option<PathBuf>| path.as_deref().unwrap_or(Path::new("")).display().to_string();
            let (private, public) = (file(&m.private_key), file(&m.public_key_file));
            format!(
                "{private} signs; keep it as you keep passwords.\n{public} is what gateways trust:\n\n  plugins:\n    keys:\n    - name: NAME\n      file: {public}\n\nfingerprint: {}\n",
                m.fingerprint
            )
        })
    }
}

/// Reads a key that signs, from a file.
///
/// # Errors
/// Why it can't be used.
pub fn signing(file: &Path, passphrase: &Passphrase) -> Result<PrivateKey, Failure> {
    open(&secret(file)?, file, passphrase)
}

fn open(pem: &Secret, file: &Path, passphrase: &Passphrase) -> Result<PrivateKey, Failure> {
    let given = passphrase.passphrase_file.as_deref().map(secret).transpose()?;
    match PrivateKey::from_pem(pem, given.as_ref()) {
        Err(KeyError::NoPassphrase) if std::io::stdin().is_terminal() => {
            let typed = ask(&format!("Passphrase of {} (not shown): ", file.display()))?;
            PrivateKey::from_pem(pem, Some(&typed)).map_err(|e| wrong(file, e))
        }
        other => other.map_err(|e| wrong(file, e)),
    }
}

fn wrong(file: &Path, error: KeyError) -> Failure {
    let failure = Failure::new(Exit::Failure, "key", format!("{}: {error}", file.display()));
    match error {
        KeyError::NoPassphrase => failure.next("Give --passphrase-file, or run it in a terminal."),
        _ => failure,
    }
}

fn ask(prompt: &str) -> Result<Secret, Failure> {
    Ok(Secret::new(Zeroizing::new(rpassword::prompt_password(prompt)?).as_bytes()))
}

fn asked_twice() -> Result<Secret, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nobody can be asked for a passphrase here")
            .next("Give --passphrase-file, or say --no-passphrase."));
    }
    let first = Zeroizing::new(rpassword::prompt_password("New passphrase (not shown): ")?);
    let second = Zeroizing::new(rpassword::prompt_password("Once more: ")?);
    if *first != *second {
        return Err(Failure::usage("the two are not the same"));
    }
    Ok(Secret::new(first.as_bytes()))
}
