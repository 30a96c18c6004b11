//! `store`: what concerns the store as a whole.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use portcullis_store::copy::{self, CopyError, Place};
use serde::Serialize;

use crate::{
    cli::{self, Global},
    exit::{Exit, Failure},
    output,
    settings::{Database, Password},
};

/// Look after the store
#[derive(Args)]
pub struct Store {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Seal everything with another key
    ///
    /// Reads the sealing keys again from their file and seals every secret with the first of them, while calls go on. Put the
    /// new key before the old one, run this, and take away the keys that it says nothing needs any more.
    #[command(after_help = "\
Example:
  (openssl rand -base64 32; cat sealing.key) > new.key && chmod 600 new.key && mv new.key sealing.key
  portcullis store reseal")]
    Reseal,
    Copy(Copy),
}

/// Move state from one store to another
///
/// Each is a data directory, whose gateway must not run, or a database: postgres://USER@HOST/DATABASE. The target has to be empty.
/// Everything keeps its revision; secrets stay sealed as they are, so whoever opens the copy needs the same sealing key. What
/// was written is compared with what was read.
#[derive(Args)]
#[command(after_help = "\
Example:
  portcullis store copy /var/lib/portcullis postgres://portcullis@db.example.com/portcullis --to-password-file pw")]
struct Copy {
    /// Where state is
    #[arg(value_name = "FROM")]
    from: String,
    /// Where it goes
    #[arg(value_name = "TO")]
    to: String,
    /// The file that holds the password of the database FROM
    #[arg(long, value_name = "FILE")]
    from_password_file: Option<PathBuf>,
    /// The file that holds the password of the database TO
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,
    /// A PEM file of authorities that are trusted beside the machine's
    #[arg(long, value_name = "FILE")]
    certificates: Option<PathBuf>,
}

/// What was moved, as `-o json` has it.
#[derive(Serialize)]
struct Copied {
    records: u64,
    revision: u64,
}

impl Store {
    pub fn run(self, global: &Global) -> Result<ExitCode, Failure> {
        match self.verb {
            Verb::Reseal => cli::client(reseal(global))?,
            Verb::Copy(copy) => cli::client(copy.run(global))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn reseal(global: &Global) -> Result<(), Failure> {
    let done = global.client()?.reseal().await?;
    output::one(global.output, &done, |done| {
        let records = if done.records == 1 { "record was" } else { "records were" };
        let mut text = format!("{} {records} sealed again; all are sealed with the key {}\n", done.records, done.key);
        if !done.unneeded.is_empty() {
            text.push_str(&format!("nothing needs these keys any more: {}\n", done.unneeded.join(", ")));
        }
        text
    })
}

impl Copy {
    async fn run(self, global: &Global) -> Result<(), Failure> {
        let from = place(&self.from, self.from_password_file, self.certificates.clone())?;
        let to = place(&self.to, self.to_password_file, self.certificates)?;
        let copied = Box::pin(copy::copy(&from, &to)).await.map_err(|error| {
            let refused = matches!(error, CopyError::NotEmpty(_));
            let exit = match error {
                CopyError::NotEmpty(_) => Exit::Refused,
                CopyError::Nothing => Exit::NotFound,
                _ => Exit::Failure,
            };
            let failure = Failure::new(exit, if refused { "not-empty" } else { "copy-failed" }, error.to_string());
            if refused { failure.next("Name a target without state.") } else { failure }
        })?;
        let copied = Copied { records: copied.records, revision: copied.revision.0 };
        output::one(global.output, &copied, |copied| {
            format!(
                "{} records were copied and compared; the store is at revision {}. The sealing key is not part of it: \
                 name the same one in sealingKey\n",
                copied.records, copied.revision
            )
        })
    }
}

/// A data directory or a database.
fn place(text: &str, password: Option<PathBuf>, certificates: Option<PathBuf>) -> Result<Place, Failure> {
    if !text.contains("://") {
        return Ok(Place::Directory(PathBuf::from(text).join("state")));
    }
    let database = Database { password: password.map(Password::File), certificates, ..Database::at(text) };
    let options = database.options().map_err(|e| Failure::usage(format!("{e:#}")))?;
    Ok(Place::Database(Box::new(options)))
}
