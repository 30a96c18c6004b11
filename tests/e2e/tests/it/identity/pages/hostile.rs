//! What must not work: foreign forms, texts of strangers that would run, too much of anything, two who come at once.

use portcullis_e2e::{echo::Echo, http, product::Product, product::resource};
use serde_json::json;

use super::{GOOD, carried, house, signed_in};

#[tokio::test]
async fn nothing_is_connected_by_a_forged_form() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let (mut alice, mut bob) = (signed_in(&product, "alice").await, signed_in(&product, "bob").await);
    let url = product.page("/servers/notes/connect");
    bob.go(&url).await.unwrap();
    let of_bob = bob.form("f.token").unwrap().fields.into_iter().find(|(n, _)| n == "csrf").unwrap().1;
    let body = |csrf: &str| format!("{csrf}owner=user:alice&f.token=tok_evil&f.region=eu&owner_only=false");
    for (what, csrf) in
        [("no token", String::new()), ("another's", format!("csrf={of_bob}&")), ("empty", "csrf=&".to_owned())]
    {
        let sent = alice.send("POST", &url, &body(&csrf)).await.unwrap();
        assert_eq!(sent.status, 403, "{what}");
    }
    // The right token, from a page of somebody else's.
    alice.go(&url).await.unwrap();
    let own = alice.form("f.token").unwrap().fields.into_iter().find(|(n, _)| n == "csrf").unwrap().1;
    let cookie = alice.cookies().iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join("; ");
    let form = ("content-type", "application/x-www-form-urlencoded");
    for foreign in
        [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")]
    {
        let headers = [form, ("cookie", cookie.as_str()), foreign];
        let sent = http::post(&url, &headers, body(&format!("csrf={own}&"))).await.unwrap();
        assert_eq!(sent.status, 403, "{foreign:?}");
    }
    // As another sort of body, too large, or by nobody.
    let json = [("content-type", "application/json"), ("cookie", cookie.as_str())];
    assert_eq!(http::post(&url, &json, body(&format!("csrf={own}&"))).await.unwrap().status, 415);
    let large = format!("csrf={own}&f.token={}", "x".repeat(100_000));
    let sent = http::post(&url, &[form, ("cookie", cookie.as_str())], large).await.unwrap();
    assert!(sent.status.as_u16() == 413, "{}", sent.status);
    let sent = http::post(&url, &[form], body(&format!("csrf={own}&"))).await.unwrap();
    assert!(sent.status.is_redirection() && sent.headers["location"].to_str().unwrap().starts_with("/signin"));
    assert_eq!(product.ask(&["get", "connections"], "").unwrap()["items"], json!([]));
    product.stop().await;
}

#[tokio::test]
async fn texts_of_strangers_stay_texts_and_no_page_can_be_framed() {
    let echo = Echo::start().await.unwrap();
    let mut all = house(&echo);
    let evil = "\"><script>alert(1)</script><img src=x onerror=alert(2)>";
    all.push(resource(
        "McpServer",
        "evil",
        json!({
            "title": evil, "description": evil,
            "remote": {"url": echo.url("modern"), "allowPrivate": true},
            "fields": [
                {"name": "a", "title": evil, "description": evil, "default": evil},
                {"name": "b", "title": "B", "options": [evil, "fine"], "required": true},
            ],
        }),
    ));
    let product = Product::start(&all).await.unwrap();
    let mut alice = signed_in(&product, "alice").await;
    let given = [("f.a", "'\"><svg/onload=alert(3)>"), ("f.b", "<b>"), ("owner_only", "true")];
    alice.go(&product.page("/servers/evil/connect")).await.unwrap();
    alice.submit("f.a", &given).await.unwrap();
    let mut pages = vec![alice.html.clone()];
    alice.submit("f.a", &[given[0], ("f.b", evil), given[2]]).await.unwrap();
    assert!(alice.url.contains("/connections/"), "{}", alice.html);
    pages.push(alice.html.clone());
    for page in ["/servers", "/servers/evil", "/servers?q=%22%3E%3Cscript%3E", "/setup", "/", "/connections", "/tokens"]
    {
        alice.go(&product.page(page)).await.unwrap();
        pages.push(alice.html.clone());
        let reply = alice.send("GET", &product.page(page), "").await.unwrap();
        let header = |name: &str| reply.headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let policy = header("content-security-policy");
        for part in ["default-src 'none'", "frame-ancestors 'none'", "form-action 'self'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{page}: {policy}");
        }
        assert!(!policy.contains("script-src") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(header("x-frame-options"), "DENY", "{page}");
        assert_eq!(header("cache-control"), "no-store", "{page}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{page}");
    }
    for page in pages {
        for bad in ["<script>", "<img src", "<svg", "onerror=alert(2)>\"", "<b>"] {
            assert!(!page.contains(bad), "{bad}: {page}");
        }
    }
    product.stop().await;
}

#[tokio::test]
async fn two_who_connect_at_once_each_get_their_own() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let (mut alice, mut bob) = (signed_in(&product, "alice").await, signed_in(&product, "bob").await);
    let url = product.page("/servers/notes/connect");
    alice.go(&url).await.unwrap();
    bob.go(&url).await.unwrap();
    let (of_alice, of_bob) =
        ([&GOOD[..], &[("f.token", "tok_a")]].concat(), [&GOOD[..], &[("f.token", "tok_b")]].concat());
    let (one, two) = tokio::join!(alice.submit("f.token", &of_alice), bob.submit("f.token", &of_bob));
    assert!(one.unwrap().contains("notes-alice") && two.unwrap().contains("notes-bob"));
    for (user, token) in [("alice", "tok_a"), ("bob", "tok_b")] {
        let (_, text) = product.token(&format!("user:{user}")).unwrap();
        http::call(&product.url("main"), Some(&text), "notes__echo", json!({"text": "x"})).await.unwrap();
        assert_eq!(carried(&echo).0, Some(format!("Bearer {token}")));
    }
    // The same form once more is the same connection with new secrets, not another one.
    alice.go(&url).await.unwrap();
    alice.submit("f.token", &[&GOOD[..], &[("f.token", "tok_again")]].concat()).await.unwrap();
    let all = product.ask(&["get", "connections"], "").unwrap();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(2), "{all}");
    product.stop().await;
}

#[tokio::test]
async fn made_up_links_and_names_lead_nowhere() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&house(&echo)).await.unwrap();
    let mut alice = signed_in(&product, "alice").await;
    let (long, traversal) = (format!("/connect/{}", "A".repeat(2000)), "/servers/..%2f..%2fconnections/connect");
    let paths = [
        "/connect/x",
        "/connect/AQAAAAEAAAA",
        &long,
        traversal,
        "/servers/%00/connect",
        "/servers/NOTES",
        "/connections/..%2f",
    ];
    for path in paths {
        let reply = alice.send("GET", &product.page(path), "").await.unwrap();
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
    }
    let reply = alice.send("GET", &product.page("/servers/free/connect"), "").await.unwrap();
    assert_eq!(reply.status, 403, "there is nothing to connect");
    // Whoever has not signed in is led to the sign-in page and back, and nowhere else.
    for path in ["/servers/notes/connect?owner=user:alice", "/connect/AQAAAAEAAAA", "/connections"] {
        let reply = http::get(&product.page(path), &[]).await.unwrap();
        let to = reply.headers["location"].to_str().unwrap();
        assert!(reply.status.is_redirection() && to.starts_with("/signin?next=%2F"), "{path}: {to}");
    }
    product.stop().await;
}
