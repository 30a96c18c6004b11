//! The pages: every one of them after something secret went into a form.

use portcullis_e2e::{browser::Browser, oauth::parameter};

use super::House;

/// A browser in which somebody has signed in, with its session's cookie planted.
pub async fn signed_in(house: &House, user: &str) -> Browser {
    let made = house.product.ask(&["signin", "--user", user], "").unwrap();
    let code = made["code"].as_str().unwrap();
    house.plant("a sign-in code", code);
    let mut browser = Browser::new();
    browser.go(&house.product.page("/signin?next=/tokens")).await.unwrap();
    browser.submit("code", &[("code", code)]).await.unwrap();
    let cookies = browser.cookies();
    house.plant("a session", cookies.get("portcullis").expect("a session"));
    browser
}

pub async fn all(house: &House) {
    let page = |path: &str| house.product.page(path);
    let heard = |browser: &Browser| {
        house.heard(browser.url.split('?').next().unwrap_or_default(), browser.html.clone());
    };
    let mut browser = signed_in(house, "alice").await;
    // Given wrongly, then rightly; and once more for what is there.
    let wrong = house.canary("a secret that does not fit a form");
    browser.go(&page("/servers/notes/connect")).await.unwrap();
    browser.submit("f.token", &[("f.token", &wrong), ("f.region", "moon")]).await.unwrap();
    assert_eq!(browser.status, 400, "{}", browser.html);
    heard(&browser);
    let right = format!("tok_{}", house.canary("a secret in a form"));
    for _ in 0..2 {
        browser.go(&page("/servers/notes/connect")).await.unwrap();
        let good = [("f.token", &*right), ("f.region", "eu"), ("owner_only", "true")];
        browser.submit("f.token", &good).await.unwrap();
        assert!(browser.url.contains("/connections/notes-alice"), "{} {}", browser.url, browser.html);
        heard(&browser);
    }
    // A token is shown once to who made it: that page is where it belongs.
    browser.go(&page("/tokens")).await.unwrap();
    browser.submit("name", &[("name", "canary"), ("days", "7")]).await.unwrap();
    let token = browser.html.split("pcl_").nth(1).and_then(|t| t.split('<').next()).expect("a token is shown");
    house.plant("a token made on the page", &format!("pcl_{token}"));
    // There and back at a server's authorization server, to the question whether it is the right account: it is not, then it is.
    for answer in ["discard", "save"] {
        browser.go(&page("/servers/granting/connect")).await.unwrap();
        browser.submit("owner", &[("owner_only", "true")]).await.unwrap();
        for name in ["code", "state"] {
            let secret = parameter(&browser.url, name).unwrap_or_else(|| panic!("{} {}", browser.url, browser.html));
            house.plant("what a browser brought back", &secret);
        }
        heard(&browser);
        browser.submit("ticket", &[("do", answer)]).await.unwrap();
        heard(&browser);
    }
    for path in [
        "/",
        "/servers",
        "/servers/notes",
        "/servers/granting",
        "/connections",
        "/connections/notes-alice",
        "/connections/granting-alice",
        "/tokens",
        "/setup",
        "/oauth-client/callback?state=x&code=y",
        "/oauth-client/AAAAAAAAAAAAAAAA/metadata.json",
        "/servers/notes/connect?connection=notes-alice",
    ] {
        browser.go(&page(path)).await.unwrap();
        heard(&browser);
    }
}
