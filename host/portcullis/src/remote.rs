//! Commands that ask a gateway elsewhere: its admin listener, with a token.

use std::{env, path::Path, sync::Arc};

use portcullis_console::Client;
use portcullis_model::{Name, Secret, address::is_loopback};
use url::Url;
use zeroize::Zeroize as _;

use crate::exit::{Exit, Failure};

/// The variable that holds the token.
const TOKEN: &str = "PORTCULLIS_ADMIN_TOKEN";

/// A client of the admin listener at this URL.
///
/// # Errors
/// Where the URL is none, would send the token in the clear, or there is no token.
pub fn client(url: &Url, token_file: Option<&Path>, tenant: &Name) -> Result<Client, Failure> {
    let plain = url.path() == "/" && url.query().is_none() && url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !plain {
        return Err(Failure::usage(format!(
            "--admin-url: {url} is not a URL such as https://gateway.example.com:7778"
        )));
    }
    if url.scheme() == "http" && !is_loopback(url) {
        return Err(Failure::usage("--admin-url: a token is sent over https only, but to this machine")
            .next("Use https, or a tunnel that ends on loopback."));
    }
    let tls = portcullis_outbound::roots().map_err(|e| Failure::new(Exit::Failure, "tls", e.to_string()))?;
    Ok(Client::remote(url.clone(), token(token_file)?, Arc::new(tls), tenant.clone()))
}

fn token(file: Option<&Path>) -> Result<Secret, Failure> {
    let mut text = match file {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|e| Failure::usage(format!("the token file {}: {e}", file.display())))?,
        None => env::var(TOKEN).map_err(|_| {
            Failure::usage("--admin-url needs a token for the admin API").next(format!(
                "Set {TOKEN} or --admin-token-file; `portcullis token create --owner user:NAME --admin-api` makes one."
            ))
        })?,
    };
    let token = Secret::new(text.trim().as_bytes());
    text.zeroize();
    Ok(token)
}
