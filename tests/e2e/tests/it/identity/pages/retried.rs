//! From the link in a tool's error to the call that works: an official client is told, a person follows the link in a real browser,
//! and the same client calls again.

use portcullis_e2e::{
    chromium::{Chromium, Taste},
    driver::{Driver, Sdk, text},
    echo::Echo,
    eventually,
    granting::Granting,
    http,
    oidc::Login,
    product::{Product, resource},
};
use serde_json::json;

use super::{
    chromium::{album, sign_in},
    house,
};

/// The link that the client's model reads.
async fn told(client: &mut Driver, tool: &str) -> String {
    let outcome = client.call(tool, json!({})).await.unwrap();
    assert_eq!(outcome["isError"], true, "{outcome}");
    let words = text(&outcome).to_owned();
    let start = words.find("http://").unwrap_or_else(|| panic!("no link: {words}"));
    words[start..].split([' ', '"', '\n']).next().unwrap().trim_end_matches(['.', ',']).to_owned()
}

#[tokio::test]
async fn a_form_behind_the_link_of_a_tool_error_makes_the_same_call_work() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let album = album(&product);
    let (_, token) = product.token("user:alice").unwrap();
    let mut client = Driver::connect(Sdk::Python, &product.url("main"), Some(&token), "2026-07-28").await.unwrap();
    let link = told(&mut client, "notes__whoami").await;
    assert!(link.starts_with(&product.page("/connect/")), "{link}");

    let mut browser = Chromium::start(Taste { dark: true, ..Taste::default() }).await.unwrap();
    browser.go(&link).await.unwrap();
    sign_in(&mut browser, &product, "alice").await;
    let shown = browser.shown().await.unwrap();
    assert_eq!(shown.url, link, "back where the link leads");
    assert!(shown.text.contains("the same call works"), "{}", shown.text);
    browser.look(&album.join("link-1-form.png")).await.unwrap();
    browser.write("Access token", "tok_alice").await.unwrap();
    browser.tab("Region").await.unwrap();
    browser.key("ArrowDown").await.unwrap();
    browser.tab("Only mine").await.unwrap();
    browser.key("Space").await.unwrap();
    browser.press("Connect").await.unwrap();
    let shown = browser.shown().await.unwrap();
    assert!(shown.url.contains("/connections/notes-alice"), "{} {}", shown.url, shown.text);

    let outcome = client.call("notes__whoami", json!({})).await.unwrap();
    assert!(outcome["isError"] != true && text(&outcome).contains("Bearer tok_alice"), "{outcome}");
    client.close().await.unwrap();
    product.stop().await;
}

#[tokio::test]
async fn a_sign_in_behind_the_link_of_a_tool_error_makes_the_same_call_work() {
    let granting = Granting::start().await.unwrap();
    let product = Product::start_with(&[], &[("IDP_SECRET", Login::SECRET)], json!({})).await.unwrap();
    let album = album(&product);
    let corp = Login::start(&product.page("/signin/callback/corp")).await.unwrap();
    let idp = json!({"title": "Corp", "issuer": corp.issuer, "clientId": "portcullis", "clientSecret": {"env": "IDP_SECRET"}});
    let all = [
        resource("IdentityProvider", "corp", idp),
        resource("User", "alice", json!({"identities": [{"issuer": corp.issuer, "subject": "a-1"}]})),
        granting.server("granting", json!({})),
        resource("Gateway", "main", json!({"servers": [{"server": "granting"}]})),
    ];
    product.write("resources.yaml", &all).unwrap();
    eventually("the button is there", async || {
        let page = http::get(&product.page("/signin"), &[]).await.unwrap().text();
        page.contains("Sign in with Corp").then_some(())
    })
    .await;
    let (_, token) = product.token("user:alice").unwrap();
    eventually("the server is behind the gateway", async || {
        let reply = http::call(&product.url("main"), Some(&token), "granting__whoami", json!({})).await.ok()?;
        reply.text().contains("/connect/").then_some(())
    })
    .await;
    let mut client = Driver::connect(Sdk::Python, &product.url("main"), Some(&token), "2026-07-28").await.unwrap();
    let link = told(&mut client, "granting__whoami").await;

    // Signed in at the company's provider, and at the server's own authorization server.
    let mut browser = Chromium::start(Taste { dark: true, ..Taste::default() }).await.unwrap();
    browser.go(&link).await.unwrap();
    browser.look(&album.join("link-oauth-1-sign-in.png")).await.unwrap();
    browser.press("Sign in with Corp").await.unwrap();
    browser.fill("input[name=login]", "a-1").await.unwrap();
    browser.fill("input[name=password]", "x").await.unwrap();
    browser.click("button[type=submit]").await.unwrap();
    if !browser.shown().await.unwrap().url.starts_with(&product.page("/")) {
        // The provider's own question whether the person agrees.
        browser.click("button[type=submit]").await.unwrap();
    }
    assert_eq!(browser.shown().await.unwrap().url, link, "back where the link leads");
    browser.look(&album.join("link-oauth-2-form.png")).await.unwrap();
    browser.tab("Only mine").await.unwrap();
    browser.key("Space").await.unwrap();
    browser.press("Go on to sign in").await.unwrap();
    let shown = browser.shown().await.unwrap();
    assert!(shown.text.contains("Is this the right account?"), "{} {}", shown.url, shown.text);
    browser.look(&album.join("link-oauth-3-confirm.png")).await.unwrap();
    browser.press("Yes, connect it").await.unwrap();
    let shown = browser.shown().await.unwrap();
    assert!(shown.url.contains("/connections/granting-alice"), "{} {}", shown.url, shown.text);

    let outcome = client.call("granting__whoami", json!({})).await.unwrap();
    assert!(outcome["isError"] != true && text(&outcome).contains("\"sub\":\"alice\""), "{outcome}");
    client.close().await.unwrap();
    product.stop().await;
}
