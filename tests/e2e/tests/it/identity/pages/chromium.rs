//! The pages in a real browser: by keyboard alone, without scripts, light and dark, each page checked with axe-core.

use std::path::PathBuf;

use portcullis_e2e::{
    chromium::{Chromium, Taste},
    echo::Echo,
    http,
    product::Product,
};
use serde_json::json;

use super::{carried, house};

/// Where pictures are kept: for whoever looks at them, where the variable says so, and otherwise gone with the test.
pub fn album(product: &Product) -> PathBuf {
    let place =
        std::env::var_os("PORTCULLIS_TEST_PICTURES").map_or_else(|| product.home().join("pictures"), Into::into);
    std::fs::create_dir_all(&place).unwrap();
    place
}

pub async fn sign_in(browser: &mut Chromium, product: &Product, user: &str) {
    let code = product.ask(&["signin", "--user", user], "").unwrap()["code"].as_str().unwrap().to_owned();
    browser.write("Code", &code).await.unwrap();
    browser.press("Sign in").await.unwrap();
}

#[tokio::test]
async fn a_server_is_connected_by_keyboard_without_scripts_in_light_and_dark() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let album = album(&product);
    for (dark, user) in [(false, "alice"), (true, "carol")] {
        let shade = if dark { "dark" } else { "light" };
        let picture = |name: &str| album.join(format!("{name}-{shade}.png"));
        let mut browser = Chromium::start(Taste { dark, ..Taste::default() }).await.unwrap();
        browser.go(&product.page("/servers")).await.unwrap();
        browser.look(&picture("1-sign-in")).await.unwrap();
        sign_in(&mut browser, &product, user).await;
        let shown = browser.shown().await.unwrap();
        assert_eq!(shown.url, product.page("/servers"), "back where it was wanted");
        browser.look(&picture("2-servers")).await.unwrap();
        browser.press("Notes").await.unwrap();
        browser.look(&picture("3-server")).await.unwrap();
        browser.press("Connect Notes").await.unwrap();
        if user == "carol" {
            browser.look(&picture("4-for-whom")).await.unwrap();
            browser.press("Me").await.unwrap();
        }
        browser.look(&picture("5-form")).await.unwrap();
        browser.write("Access token", "wrong").await.unwrap();
        browser.press("Connect").await.unwrap();
        let shown = browser.shown().await.unwrap();
        assert!(shown.text.contains("There is a problem"), "{}", shown.text);
        browser.look(&picture("6-wrong")).await.unwrap();
        // The summary leads to what is wrong.
        browser.tab("Say whose calls").await.unwrap();
        browser.key("Enter").await.unwrap();
        assert_eq!(browser.shown().await.unwrap().focus, "owner-only");
        browser.go(&product.page(&format!("/servers/notes/connect?owner=user:{user}"))).await.unwrap();
        browser.write("Access token", &format!("tok_{user}")).await.unwrap();
        browser.tab("Region").await.unwrap();
        browser.key("ArrowDown").await.unwrap();
        browser.tab("Only mine").await.unwrap();
        browser.key("Space").await.unwrap();
        browser.press("Connect").await.unwrap();
        let shown = browser.shown().await.unwrap();
        assert!(shown.url.contains(&format!("/connections/notes-{user}")), "{} {}", shown.url, shown.text);
        assert!(shown.text.contains("Connected."), "{}", shown.text);
        browser.look(&picture("7-connected")).await.unwrap();

        let (_, token) = product.token(&format!("user:{user}")).unwrap();
        http::call(&product.url("main"), Some(&token), "notes__echo", json!({"text": "x"})).await.unwrap();
        assert_eq!(carried(&echo), (Some(format!("Bearer tok_{user}")), Some("eu".to_owned())));

        for (name, path) in [
            ("8-home", "/"),
            ("9-connections", "/connections"),
            ("10-tokens", "/tokens"),
            ("11-setup", "/setup"),
            ("12-disconnect", &*format!("/connections/notes-{user}/disconnect")),
            ("13-not-found", "/connections/nothing"),
        ] {
            browser.go(&product.page(path)).await.unwrap();
            browser.look(&picture(name)).await.unwrap();
        }
    }
    product.stop().await;
}

#[tokio::test]
async fn pages_fit_a_narrow_window() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let album = album(&product);
    let mut browser = Chromium::start(Taste { width: Some(360), ..Taste::default() }).await.unwrap();
    browser.go(&product.page("/")).await.unwrap();
    sign_in(&mut browser, &product, "alice").await;
    for (name, path) in [
        ("home", "/"),
        ("servers", "/servers"),
        ("form", "/servers/notes/connect"),
        ("tokens", "/tokens"),
        ("setup", "/setup"),
    ] {
        browser.go(&product.page(path)).await.unwrap();
        browser.look(&album.join(format!("narrow-{name}.png"))).await.unwrap();
        assert!(!browser.shown().await.unwrap().wide, "{path} has to be moved sideways");
    }
    product.stop().await;
}
