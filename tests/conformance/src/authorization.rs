//! The suite's scenarios for authorization servers, with ours under test: it plays the client, and somebody signs in.

use anyhow::{Context, ensure};
use portcullis_e2e::{
    browser::Browser,
    product::{Product, resource},
};
use serde_json::json;

use crate::suite::{self, Found};

/// The name of these scenarios in reports.
pub const AUTHORIZATION: &str = "authorization";

/// The scenarios that there are. One that is not run would be missed by nobody otherwise.
const SCENARIOS: [&str; 2] = ["authorization-server-metadata-endpoint", "authorization-code-grant"];

/// Runs the scenarios of a revision.
///
/// # Errors
/// Where one does not run at all.
pub async fn scenarios(revision: &str) -> anyhow::Result<Found> {
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("OAuthClient", "suite", json!({"redirectUris": ["http://127.0.0.1/callback"]})),
        resource("Gateway", "tested", json!({})),
    ])
    .await?;
    let code = product.ask(&["signin", "--user", "alice"], "")?;
    let code = code["code"].as_str().context("no code")?.to_owned();
    let visit = async |url: String| {
        let mut browser = Browser::new();
        browser.go(&url).await?;
        browser.submit("code", &[("code", &code)]).await?;
        browser.submit("decision", &[("decision", "allow")]).await?;
        ensure!(browser.status == 200, "the suite answers {}", browser.status);
        Ok(())
    };
    let found = suite::authorization(&product.page(""), "suite", &product.url("tested"), revision, visit).await?;
    product.stop().await;
    for scenario in SCENARIOS {
        ensure!(found.scenarios().contains(&scenario), "{scenario} was not run: {:?}", found.scenarios());
    }
    Ok(found)
}
