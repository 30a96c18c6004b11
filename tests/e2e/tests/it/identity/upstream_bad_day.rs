//! A server with OAuth, or its authorization server, on a bad day: metadata that nobody should follow, answers that do not come,
//! and tokens that are taken back.

use std::time::{Duration, Instant};

use portcullis_e2e::{
    eventually,
    granting::{Granting, admin, begin, browse, connect, finish, parameter},
    http,
    product::{Product, resource},
};
use serde_json::{Value, json};

async fn house(granting: &Granting) -> Product {
    Product::start(&[
        resource("User", "alice", json!({})),
        granting.server("granting", json!({})),
        resource("Gateway", "main", json!({"servers": [{"server": "granting", "bareNames": true}]})),
    ])
    .await
    .unwrap()
}

async fn call(product: &Product, token: &str) -> String {
    http::call(&product.url("main"), Some(token), "whoami", json!({})).await.unwrap().text()
}

fn audited(product: &Product, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).unwrap_or_default();
    let events = text.lines().filter_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["event"].clone()));
    events.filter(|event| event["kind"] == kind).collect()
}

/// Nothing is followed to where the operator did not say that requests may go, whoever names the place.
#[tokio::test]
async fn metadata_that_is_huge_redirects_or_leads_inside_is_not_followed() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting).await;
    for (whose, way, said) in [
        ("resource", "huge", "more than"),
        ("resource", "redirect", "302"),
        ("resource", "inside", "not of the public internet"),
        ("resource", "cloud", "not of the public internet"),
        ("issuer", "huge", "more than"),
        ("issuer", "redirect", "302"),
        ("issuer", "inside", "not of the public internet"),
        ("issuer", "cloud", "not of the public internet"),
    ] {
        granting.set(json!({"resource": "", "issuer": ""})).await.unwrap();
        granting.set(json!({whose: way})).await.unwrap();
        let error = match begin(&product, "granting", "user:alice").await {
            Ok(begun) => panic!("{whose} {way}: {}", begun.url),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("oauth-discovery") && error.contains(said), "{whose} {way}: {error}");
    }
    let seen = granting.seen().await.unwrap();
    assert_eq!((&seen["lured"], &seen["registrations"]), (&json!(0), &json!(0)), "{seen}");
    granting.set(json!({"issuer": ""})).await.unwrap();
    assert!(begin(&product, "granting", "user:alice").await.is_ok(), "and then it goes on");
    product.stop().await;
}

/// One rule for fields, with a sign-in or without: by the API as by the page (`pages`), before anything leaves.
#[tokio::test]
async fn values_are_checked_before_anybody_is_sent_to_sign_in() {
    let granting = Granting::start().await.unwrap();
    let mut server = granting.server("granting", json!({}));
    server["spec"]["fields"] = json!([
        {"name": "key", "required": true, "sensitive": true, "pattern": "key_[0-9]+"},
        {"name": "site", "type": "url"},
        {"name": "region", "options": ["eu", "us"], "required": true},
    ]);
    server["spec"]["credential"]["place"] = json!([{"field": "key", "header": "X-Key"}]);
    let product = Product::start(&[resource("User", "alice", json!({})), server]).await.unwrap();
    let begin = async |values: Value, secrets: Value| {
        let request = json!({"server": "granting", "owner": "user:alice", "ownerOnly": true, "direct": true,
            "values": values, "secrets": secrets});
        admin(&product, "/v1/connections/oauth", &request).await.unwrap()
    };
    for (values, secrets, said) in [
        (json!({}), json!({"key": "key_1"}), "region: is missing"),
        (json!({"region": "eu"}), json!({}), "key: is missing"),
        (json!({"region": "moon"}), json!({"key": "key_1"}), "region: has to be one of"),
        (json!({"region": "eu"}), json!({"key": "hunter2"}), "key: has to match"),
        (json!({"region": "eu", "site": "ftp://x"}), json!({"key": "key_1"}), "site: has to be a URL"),
        (json!({"region": "eu", "key": "key_1"}), json!({}), "key: is a secret"),
        (json!({"region": "eu", "nosuch": "x"}), json!({"key": "key_1"}), "nosuch: the server asks for no such field"),
    ] {
        let reply = begin(values, secrets).await;
        let (status, error) = (reply.status, serde_json::from_slice::<Value>(&reply.body).unwrap());
        let problems: Vec<String> = error["problems"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| {
                format!("{}: {}", p["path"].as_str().unwrap_or_default(), p["message"].as_str().unwrap_or_default())
            })
            .collect();
        assert!(status == 400 && problems.iter().any(|p| p.starts_with(said)), "{said}: {status} {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let seen = granting.seen().await.unwrap();
    assert_eq!((&seen["registrations"], &seen["refused"]), (&json!(0), &json!(0)), "nobody was asked: {seen}");
    let begun = begin(json!({"region": "eu"}), json!({"key": "key_1"})).await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    product.stop().await;
}

/// Whoever waits is told in bounded time that it is the other side that does not answer.
#[tokio::test]
async fn an_authorization_server_that_does_not_answer_is_said_to_be_slow() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting).await;
    for whose in ["resource", "issuer"] {
        granting.set(json!({"resource": "", "issuer": ""})).await.unwrap();
        granting.set(json!({whose: "hang"})).await.unwrap();
        let began = Instant::now();
        let error = begin(&product, "granting", "user:alice").await.err().expect("no answer").to_string();
        assert!(error.contains("in time") || error.contains("takes too long"), "{whose}: {error}");
        assert!(began.elapsed() < Duration::from_secs(45), "{whose}: {:?}", began.elapsed());
    }
    // With the person already back: the code is used up, and nothing is kept.
    granting.set(json!({"resource": "", "issuer": ""})).await.unwrap();
    let begun = begin(&product, "granting", "user:alice").await.unwrap();
    let until = parameter(&begun.url, "redirect_uri").unwrap();
    let address = browse(&begun.url, "alice", &until).await.unwrap();
    granting.set(json!({"token": "hang"})).await.unwrap();
    let began = Instant::now();
    let error = finish(&product, &begun, &address).await.unwrap_err().to_string();
    assert!(error.contains("does not answer in time"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(finish(&product, &begun, &address).await.unwrap_err().to_string().contains("oauth-state"));
    assert_eq!(product.ask(&["get", "connections"], "").unwrap()["items"], json!([]));
    // A renewal that hangs holds up its own callers only so long, and is no refusal.
    granting.set(json!({"token": "ok", "ttl": 3})).await.unwrap();
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    granting.set(json!({"token": "hang"})).await.unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    let told = eventually("the token has ended", || async {
        let said = call(&product, &token).await;
        said.contains("could not be renewed yet").then_some(said)
    })
    .await;
    assert!(!told.contains("has to be connected again"), "{told}");
    product.stop().await;
}

/// RFC 7009: what a deleted connection held is taken back where it came from; and a connection goes all the same where that fails.
#[tokio::test]
async fn a_deleted_connections_tokens_are_taken_back_at_their_authorization_server() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting).await;
    let (_, token) = product.token("user:alice").unwrap();
    let delete = || product.ask(&["delete", "connection", "granting-alice"], "").unwrap();
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    assert!(call(&product, &token).await.contains("alice"));
    delete();
    eventually("the grant is taken back", || async {
        (granting.seen().await.ok()?["grantsRevoked"] != json!(0)).then_some(())
    })
    .await;
    let taken = eventually("it is on record", || async { audited(&product, "revocation").pop() }).await;
    assert_eq!(
        (&taken["connection"], &taken["server"], &taken["outcome"]),
        (&json!("granting-alice"), &json!("granting"), &json!("revoked"))
    );

    // Down: nobody waits for it, and it is tried again.
    granting.set(json!({"revocation": "down"})).await.unwrap();
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    let before = granting.seen().await.unwrap();
    let began = Instant::now();
    delete();
    assert!(began.elapsed() < Duration::from_secs(5), "nobody waits: {:?}", began.elapsed());
    assert!(call(&product, &token).await.contains("no connected account"));
    eventually("it was asked", || async {
        (granting.seen().await.ok()?["revocations"].as_array()?.len() > before["revocations"].as_array()?.len())
            .then_some(())
    })
    .await;
    granting.set(json!({"revocation": "ok"})).await.unwrap();
    eventually("it is taken back at the next attempt", || async {
        (granting.seen().await.ok()?["grantsRevoked"].as_u64()? > before["grantsRevoked"].as_u64()?).then_some(())
    })
    .await;
    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    assert!(metrics.contains("portcullis_upstream_oauth_revocations_total{outcome=\"revoked\"}"), "{metrics}");
    product.stop().await;
}
