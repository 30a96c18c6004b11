//! `signin`: a one-time code for a person who has no identity provider.

use clap::Args;
use portcullis_console::api::SignInCode;
use portcullis_model::Name;

use crate::{cli::Global, exit::Failure, output};

/// Make a one-time code by which a person signs in to the pages
#[derive(Args)]
#[command(after_help = "\
Examples:
  portcullis signin --user alice

The code works once, within ten minutes. Give it to that person only: whoever types it is that person.")]
pub struct SignIn {
    /// The User who signs in with it
    #[arg(long, value_name = "NAME")]
    user: Name,
}

impl SignIn {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let code = global.client()?.sign_in_code(&self.user).await?;
        output::one(global.output, &code, show)
    }
}

fn show(code: &SignInCode) -> String {
    format!(
        "Open  {}\nType  {}\n\nThe code works once and ends {}.\n",
        code.url,
        code.code,
        output::when(Some(code.expires_ms))
    )
}
