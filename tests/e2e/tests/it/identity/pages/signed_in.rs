//! Servers with OAuth on the page: there, back, shown, saved; and what must not be saved.

use portcullis_e2e::{
    browser::Browser,
    chromium::{Chromium, Taste},
    granting::Granting,
    http,
    product::{Product, resource},
};
use serde_json::{Value, json};

use super::signed_in as browser_of;

async fn house(granting: &Granting) -> Product {
    Product::start(&[
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        resource("User", "carol", json!({})),
        resource("Team", "blue", json!({"members": ["alice", "carol"]})),
        resource("Role", "team-admin", json!({"users": ["carol"]})),
        granting.server("granting", json!({})),
        resource("Gateway", "main", json!({"servers": [{"server": "granting", "bareNames": true}]})),
    ])
    .await
    .unwrap()
}

async fn whom(product: &Product, owner: &str) -> Value {
    let (_, token) = product.token(owner).unwrap();
    let reply = http::call(&product.url("main"), Some(&token), "whoami", json!({})).await.unwrap();
    let text = reply.message()["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// To the page that asks whether it is the right account.
async fn there_and_back(product: &Product, browser: &mut Browser, query: &str) {
    browser.go(&product.page(&format!("/servers/granting/connect{query}"))).await.unwrap();
    browser.submit("owner", &[("owner_only", "true")]).await.unwrap();
    assert!(browser.url.starts_with(&product.page("/oauth-client/callback/")), "{} {}", browser.url, browser.html);
    assert_eq!(browser.status, 200, "{}", browser.html);
}

fn connections(product: &Product) -> usize {
    product.ask(&["get", "connections"], "").unwrap()["items"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn an_account_is_shown_before_it_is_kept() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting).await;
    let mut alice = browser_of(&product, "alice").await;
    alice.go(&product.page("/servers/granting")).await.unwrap();
    assert!(alice.html.contains("You sign in with your account there"), "{}", alice.html);
    there_and_back(&product, &mut alice, "").await;
    for said in ["Is this the right account?", "alice@as.example", &granting.issuer] {
        assert!(alice.html.contains(said), "{said}: {}", alice.html);
    }
    assert_eq!(connections(&product), 0, "nothing is kept before");
    let (url, ticket) = (alice.url.clone(), alice.form("ticket").unwrap());
    alice.submit("ticket", &[("do", "discard")]).await.unwrap();
    assert_eq!((alice.url.as_str(), connections(&product)), (&*product.page("/servers/granting/connect"), 0));
    // The code, and the answer that was refused, are of no use any more.
    alice.go(&url).await.unwrap();
    assert!(alice.status == 400 && alice.html.contains("not under way any more"), "{}", alice.html);
    let body: Vec<String> = ticket.fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let sent = alice.send("POST", &product.page("/oauth-client/save"), &format!("{}&do=save", body.join("&"))).await;
    assert_eq!(sent.unwrap().status, 400);

    there_and_back(&product, &mut alice, "").await;
    alice.submit("ticket", &[("do", "save")]).await.unwrap();
    assert_eq!(alice.url, product.page("/connections/granting-alice?new=1"), "{}", alice.html);
    assert!(alice.html.contains("alice@as.example") && alice.html.contains("Works"), "{}", alice.html);
    assert_eq!(whom(&product, "user:alice").await["sub"], "alice");
    let secret = url.split("code=").nth(1).and_then(|c| c.split('&').next()).unwrap();
    assert!(!product.log().contains(secret) && !super::audit(&product).contains(secret), "no code on record");
    assert!(super::audit(&product).contains("Connection/granting-alice"));

    // The provider takes the access back: the page says what to do.
    granting.set(json!({"revoked": true, "notBefore": 99_999_999_999_u64})).await.unwrap();
    whom(&product, "user:alice").await;
    alice.go(&product.page("/connections/granting-alice")).await.unwrap();
    assert!(alice.html.contains("Its access ended") || alice.html.contains("ended its access"), "{}", alice.html);
    product.stop().await;
}

#[tokio::test]
async fn nobody_finishes_or_keeps_anothers_sign_in() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting).await;
    let (mut alice, mut bob) = (browser_of(&product, "alice").await, browser_of(&product, "bob").await);
    // Alice's way ends at the callback; bob is made to open it (security.md 21: a login of another's, planted).
    alice.stops = vec![product.page("/oauth-client/callback")];
    alice.go(&product.page("/servers/granting/connect")).await.unwrap();
    let callback = alice.submit("owner", &[("owner_only", "true")]).await.unwrap();
    bob.go(&callback).await.unwrap();
    assert_eq!(bob.status, 400, "{}", bob.html);
    alice.stops.clear();
    alice.go(&callback).await.unwrap();
    assert_eq!(alice.status, 400, "it was used up by whoever came with it");
    // Another browser of alice's is another session.
    let mut other = browser_of(&product, "alice").await;
    alice.stops = vec![product.page("/oauth-client/callback")];
    alice.go(&product.page("/servers/granting/connect")).await.unwrap();
    let callback = alice.submit("owner", &[("owner_only", "true")]).await.unwrap();
    other.go(&callback).await.unwrap();
    assert_eq!(other.status, 400, "{}", other.html);
    // Bob can't say yes to alice's account.
    alice.stops.clear();
    there_and_back(&product, &mut alice, "").await;
    let ticket = alice.form("ticket").unwrap().fields.into_iter().find(|(n, _)| n == "ticket").unwrap().1;
    bob.go(&product.page("/tokens")).await.unwrap();
    let csrf = bob.form("name").unwrap().fields.into_iter().find(|(n, _)| n == "csrf").unwrap().1;
    let body = format!("csrf={csrf}&ticket={ticket}&do=save");
    assert_eq!(bob.send("POST", &product.page("/oauth-client/save"), &body).await.unwrap().status, 400);
    assert_eq!(connections(&product), 0);
    // Carol's role ends while she is away.
    let mut carol = browser_of(&product, "carol").await;
    there_and_back(&product, &mut carol, "?owner=team:blue").await;
    let text = std::fs::read_to_string(product.home().join("resources/resources.yaml")).unwrap();
    product.write_text("resources.yaml", &text.replace("[\"carol\"]}}", "[]}}")).unwrap();
    portcullis_e2e::eventually("carol is no team-admin", || async {
        let roles = product.ask(&["get", "roles"], "").unwrap();
        (!roles.to_string().contains("carol")).then_some(())
    })
    .await;
    carol.submit("ticket", &[("do", "save")]).await.unwrap();
    assert_eq!((carol.status, connections(&product)), (403, 0), "{}", carol.html);
    product.stop().await;
}

#[tokio::test]
async fn a_link_is_for_one_person_and_says_no_more_to_others() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting).await;
    let made = product.ask(&["connect", "granting", "--owner", "user:alice"], "").unwrap();
    let link = made["link"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let mut bob = browser_of(&product, "bob").await;
    bob.go(&link).await.unwrap();
    assert_eq!(bob.status, 403);
    assert!(bob.html.contains("this link is for the user alice") && !bob.html.contains("granting"), "{}", bob.html);
    let csrf = bob.form("csrf").unwrap().fields.into_iter().find(|(n, _)| n == "csrf").unwrap().1;
    let body = format!("csrf={csrf}&owner=user:bob&owner_only=true");
    assert_eq!(bob.send("POST", &link, &body).await.unwrap().status, 403, "nor can the form be sent to it");
    // A team-admin of alice's team is not alice either.
    let mut carol = browser_of(&product, "carol").await;
    carol.go(&link).await.unwrap();
    assert_eq!(carol.status, 403);
    let mut changed = link.clone();
    changed.replace_range(changed.len() - 3..changed.len() - 2, if changed.ends_with("AAA") { "B" } else { "A" });
    let mut alice = browser_of(&product, "alice").await;
    alice.go(&format!("{changed}x")).await.unwrap();
    assert_eq!(alice.status, 404);
    alice.go(&link).await.unwrap();
    alice.submit("owner", &[("owner_only", "false")]).await.unwrap();
    alice.submit("ticket", &[("do", "save")]).await.unwrap();
    assert_eq!(whom(&product, "user:alice").await["sub"], "alice");
    // A team's link: a member may lend an account, and only who administers the team connects the team's own.
    let made = product.ask(&["connect", "granting", "--owner", "team:blue"], "").unwrap();
    let link = made["link"].as_str().unwrap().to_owned();
    alice.go(&link).await.unwrap();
    assert!(alice.status == 200 && !alice.html.contains("Team blue"), "{}", alice.html);
    carol.go(&link).await.unwrap();
    assert!(carol.html.contains("Team blue") && carol.html.contains(">Me<"), "{}", carol.html);
    bob.go(&link).await.unwrap();
    assert_eq!(bob.status, 403);
    product.stop().await;
}

#[tokio::test]
async fn in_a_real_browser_by_keyboard_in_light_and_dark() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting).await;
    let album = super::chromium::album(&product);
    for (dark, user) in [(false, "alice"), (true, "bob")] {
        let shade = if dark { "dark" } else { "light" };
        let picture = |name: &str| album.join(format!("oauth-{name}-{shade}.png"));
        let made = product.ask(&["connect", "granting", "--owner", &format!("user:{user}")], "").unwrap();
        let mut browser = Chromium::start(Taste { dark, ..Taste::default() }).await.unwrap();
        browser.go(made["link"].as_str().unwrap()).await.unwrap();
        super::chromium::sign_in(&mut browser, &product, user).await;
        browser.look(&picture("1-form")).await.unwrap();
        browser.tab("Only mine").await.unwrap();
        browser.key("Space").await.unwrap();
        browser.press("Go on to sign in").await.unwrap();
        let shown = browser.shown().await.unwrap();
        assert!(shown.text.contains("Is this the right account?"), "{} {}", shown.url, shown.text);
        browser.look(&picture("2-confirm")).await.unwrap();
        browser.press("Yes, connect it").await.unwrap();
        let shown = browser.shown().await.unwrap();
        assert!(shown.url.contains(&format!("/connections/granting-{user}")), "{} {}", shown.url, shown.text);
        browser.look(&picture("3-connected")).await.unwrap();
        assert_eq!(whom(&product, &format!("user:{user}")).await["sub"], "alice");
        // Back again with what was used up.
        browser.go(&product.page("/oauth-client/callback?state=gone&code=x")).await.unwrap();
        browser.look(&picture("4-not-under-way")).await.unwrap();
    }
    product.stop().await;
}
