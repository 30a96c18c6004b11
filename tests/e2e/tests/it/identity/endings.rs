//! What is taken back comes back by no other way: clients that people signed in with, browsers, and people who are gone.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_e2e::{
    browser::Browser,
    eventually, http,
    oauth::{BACK, Hand, member},
    product::{Product, resource},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

async fn signed_in(product: &Product) -> Browser {
    let made = product.ask(&["signin", "--user", "alice"], "").unwrap();
    let mut browser = Browser::new();
    browser.go(&product.page("/signin?next=/healthz")).await.unwrap();
    browser.submit("code", &[("code", made["code"].as_str().unwrap())]).await.unwrap();
    browser
}

/// Whether this browser is still somebody's.
async fn is_signed_in(browser: &Browser, product: &Product) -> bool {
    let mut browser = browser.clone();
    browser.stops.clear();
    let ended = browser.go(&product.page("/tokens")).await.unwrap();
    ended.ends_with("/tokens")
}

async fn works(product: &Product, token: &str) -> bool {
    http::ask(&product.url("main"), Some(token), "tools/list", json!({})).await.unwrap().status == 200
}

async fn renew(hand: &Hand, issued: &http::Reply) -> http::Reply {
    let refresh = member(issued, "refresh_token");
    hand.token(&[("grant_type", "refresh_token"), ("refresh_token", &refresh)]).await.unwrap()
}

#[tokio::test]
async fn a_client_that_is_taken_back_renews_nothing_and_neither_does_a_namesake() {
    let product = Product::start(&[resource("Gateway", "main", json!({}))]).await.unwrap();
    let alice = |title: &str| [resource("User", "alice", json!({"displayName": title}))];
    product.write("people.yaml", &alice("Alice")).unwrap();
    eventually("she is there", async || product.ask(&["get", "user", "alice"], "").ok()).await;
    let mut browser = signed_in(&product).await;
    let hand = Hand::register(&product.page(""), &product.url("main")).await.unwrap();
    let issue = async |browser: &mut Browser| {
        let code = hand.code(browser).await.unwrap();
        let issued = hand.redeem(&code).await.unwrap();
        assert_eq!(issued.status, 200, "{}", issued.text());
        issued
    };

    // One client, by the id of what it holds now; after it has renewed.
    let issued = issue(&mut browser).await;
    let issued = renew(&hand, &issued).await;
    assert_eq!(issued.status, 200, "{}", issued.text());
    let held = product.ask(&["token", "list", "--owner", "user:alice"], "").unwrap();
    let newest = held["items"].as_array().unwrap_or_else(|| held.as_array().unwrap()).last().unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    product.ask(&["token", "revoke", &newest], "").unwrap();
    assert_eq!(member(&renew(&hand, &issued).await, "error"), "invalid_grant");
    assert!(is_signed_in(&browser, &product).await, "it was one client's");

    // All that she has: her browser too.
    let issued = issue(&mut browser).await;
    product.ask(&["token", "revoke", "--owner", "user:alice"], "").unwrap();
    assert!(!works(&product, &member(&issued, "access_token")).await);
    assert_eq!(renew(&hand, &issued).await.status, 400);
    assert!(!is_signed_in(&browser, &product).await);

    // She goes, and another alice comes.
    let mut browser = signed_in(&product).await;
    let issued = issue(&mut browser).await;
    product.write("people.yaml", &[]).unwrap();
    eventually("she is gone", async || product.ask(&["get", "user", "alice"], "").is_err().then_some(())).await;
    product.write("people.yaml", &alice("Another")).unwrap();
    eventually("another is there", async || product.ask(&["get", "user", "alice"], "").ok()).await;
    assert_eq!(member(&renew(&hand, &issued).await, "error"), "invalid_grant", "an earlier alice's");
    let mut browser = signed_in(&product).await;
    browser.stops = vec![BACK.to_owned()];
    browser.go(&hand.authorize(&[])).await.unwrap();
    assert!(browser.form("decision").is_ok(), "what an earlier alice consented to is not hers: {}", browser.html);
    product.stop().await;
}

/// Unpadded base64url of the digest that a state is.
fn state(cookie: &str) -> String {
    let all = cookie.rsplit_once('.').unwrap().0;
    let digest = Sha256::new().chain_update("portcullis sign-in state 1").chain_update([0]).chain_update(all);
    URL_SAFE_NO_PAD.encode(digest.finalize())
}

async fn kept(product: &Product) -> String {
    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    let line = metrics.lines().find(|line| line.contains("kept_records") && line.contains("sign-ins by provider"));
    line.map(|line| line.rsplit(' ').next().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test]
async fn cookies_that_somebody_made_up_leave_nothing_behind() {
    let provider = json!({"title": "Corp", "issuer": "https://idp.example", "clientId": "x", "jwksUrl": "https://idp.example/jwks"});
    let product = Product::start(&[resource("IdentityProvider", "corp", provider)]).await.unwrap();
    let before = kept(&product).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    for until in [u128::from(u64::MAX), now + 60_000, now - 1] {
        let cookie = format!("{}.default.corp.{until}.", "s".repeat(43));
        let url = product.page(&format!("/signin/callback/corp?error=access_denied&state={}", state(&cookie)));
        let header = format!("portcullis-flow={cookie}");
        let reply = http::get(&url, &[("cookie", &header)]).await.unwrap();
        assert!(reply.status == 403 || reply.status == 502, "{until}: {} {}", reply.status, reply.text());
    }
    assert_eq!(kept(&product).await, before);
    // A page elsewhere that sends its visitors here locks nobody out.
    for _ in 0..60 {
        http::get(&product.page("/signin/callback/corp?state=x&code=y"), &[]).await.unwrap();
    }
    let reply = http::get(&product.page("/signin"), &[]).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let again = http::get(&product.page("/signin/callback/corp?state=x&code=y"), &[]).await.unwrap();
    assert_eq!(again.status, 403, "still told why: {}", again.text());
    for mode in ["navigate", "no-cors"] {
        let form = [("content-type", "application/x-www-form-urlencoded"), ("sec-fetch-mode", mode)];
        for _ in 0..80 {
            let reply = http::post(&product.page("/oauth/token"), &form, "grant_type=refresh_token").await.unwrap();
            assert!(!reply.text().contains("slow_down"), "{mode}");
        }
    }
    let told: Value = http::post(
        &product.page("/oauth/token"),
        &[("content-type", "application/x-www-form-urlencoded")],
        "grant_type=client_credentials",
    )
    .await
    .unwrap()
    .message();
    assert_ne!(told["error"], "slow_down", "{told}");
    product.stop().await;
}
