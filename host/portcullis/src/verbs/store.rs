//! `store`: what concerns the store as a whole.

use clap::{Args, Subcommand};

use crate::{cli::Global, exit::Failure, output};

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
}

impl Store {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        match self.verb {
            Verb::Reseal => {
                let done = global.client()?.reseal().await?;
                output::one(global.output, &done, |done| {
                    let records = if done.records == 1 { "record was" } else { "records were" };
                    let mut text =
                        format!("{} {records} sealed again; all are sealed with the key {}\n", done.records, done.key);
                    if !done.unneeded.is_empty() {
                        text.push_str(&format!("nothing needs these keys any more: {}\n", done.unneeded.join(", ")));
                    }
                    text
                })
            }
        }
    }
}
