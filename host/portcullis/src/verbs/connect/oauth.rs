//! `connect` of a server with OAuth: the link of the page, or a sign-in whose end is pasted here.

use portcullis_console::{
    Client,
    api::{OAuthAccount, OAuthBegin, OAuthBegun, OAuthFinish, OAuthSave},
};
use portcullis_credential::CALLBACK_PATH;
use portcullis_model::text::shown;
use url::Url;

use super::ask;
use crate::{
    cli::Global,
    exit::{Exit, Failure},
    output,
};

/// Prints the link of the page that connects the server.
pub(super) async fn link(client: &Client, global: &Global, request: &OAuthBegin) -> Result<(), Failure> {
    let begun = client.oauth_begin(request).await?;
    output::one(global.output, &begun, |begun: &OAuthBegun| {
        let link = begun.link.as_deref().unwrap_or_default();
        format!("Open this page to connect {} as {}:\n{link}\n", request.server, begun.connection)
    })
}

/// Shows where to sign in, takes the address that the browser ends at, shows the account, and saves it after a yes.
pub(super) async fn paste(client: &Client, global: &Global, request: &OAuthBegin) -> Result<(), Failure> {
    let begun = client.oauth_begin(request).await?;
    let (Some(url), Some(session)) = (begun.url, begun.session) else {
        return Err(Failure::new(Exit::Failure, "answer", "the gateway named no address to sign in at"));
    };
    let address = ask(&format!(
        "Open this address in a browser and sign in:\n\n{url}\n\nPaste the whole address that the browser ends at, whether or not it shows a page: "
    ))?;
    let finish = read(session.clone(), &address)?;
    let account = client.oauth_finish(&finish).await?;
    let question = format!("{}Save it? [yes/no]: ", describe(&account));
    if !matches!(ask(&question)?.to_ascii_lowercase().as_str(), "y" | "yes") {
        return Err(Failure::new(Exit::Failure, "not-saved", "nothing was saved"));
    }
    let saved = client.oauth_save(&OAuthSave { session, ticket: account.ticket }).await?;
    output::one(global.output, &saved, super::show)
}

/// What an authorization server wrote into the address.
fn read(session: String, address: &str) -> Result<OAuthFinish, Failure> {
    let url = Url::parse(address.trim()).map_err(|_| Failure::usage("that is no address"))?;
    let mut finish = OAuthFinish { session, state: String::new(), code: None, error: None, iss: None, mark: None };
    let behind = url.path().rsplit_once(CALLBACK_PATH).and_then(|(_, rest)| rest.strip_prefix('/'));
    finish.mark = behind.map(str::to_owned);
    for (name, value) in url.query_pairs() {
        let value = value.into_owned();
        match &*name {
            "state" => finish.state = value,
            "code" => finish.code = Some(value),
            "error" => finish.error = Some(value),
            "iss" => finish.iss = Some(value),
            _ => {}
        }
    }
    if finish.state.is_empty() {
        return Err(Failure::usage("that address holds no answer of an authorization server"));
    }
    Ok(finish)
}

fn describe(account: &OAuthAccount) -> String {
    let title = account.account.as_deref().map_or_else(|| "An account without a name".to_owned(), |t| shown(t, 200));
    let mut text = format!("{title} at {}", shown(&account.issuer, 300));
    text.push_str(&format!(", for {} as {}", account.owner, account.connection));
    if account.again {
        text.push_str(" (in place of the account that is connected)");
    }
    if !account.scopes.is_empty() {
        text.push_str(&format!("\n  granted: {}", shown(&account.scopes.join(" "), 2000)));
    }
    if !account.refused_scopes.is_empty() {
        text.push_str(&format!("\n  asked for and not granted: {}", shown(&account.refused_scopes.join(" "), 2000)));
    }
    if !account.renews {
        text.push_str("\n  it can't be renewed by itself: it has to be connected again when it ends");
    }
    text.push('\n');
    text
}
