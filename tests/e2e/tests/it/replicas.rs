//! Two gateways on one PostgreSQL: what one does the other knows, and neither needs the other.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use portcullis_e2e::{
    asker::Asker,
    echo::Echo,
    eventually,
    granting::{Granting, connect},
    http::{self, LEGACY},
    product::{Product, resource},
};
use portcullis_test_postgres::{Database, PASSWORD};
use serde_json::{Value, json};

use crate::protocol::held::{answers, call as ask, code, send};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Two gateways. Only the first one has files.
struct Pair {
    a: Product,
    b: Product,
    database: Database,
}

/// A database; none where PostgreSQL is not installed, which is said.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
async fn given(own: bool) -> Option<Database> {
    let database = if own { Database::own().await } else { Database::shared().await }.unwrap();
    if database.is_none() {
        assert!(std::env::var_os("CI").is_none(), "PostgreSQL is not installed");
        println!("skipped: PostgreSQL is not installed (cargo xtask setup)");
    }
    database
}

async fn start(database: &Database, resources: &[Value]) -> anyhow::Result<Product> {
    let store = json!({"url": database.url(), "password": {"env": "STORE_PASSWORD"}, "staleFor": "5s"});
    let settings = json!({"store": store, "sealingKey": {"env": "SEALING_KEY"}});
    Product::start_with(resources, &[("STORE_PASSWORD", PASSWORD), ("SEALING_KEY", KEY)], settings).await
}

async fn pair(own: bool, resources: &[Value]) -> Option<Pair> {
    let database = given(own).await?;
    let a = start(&database, resources).await.unwrap();
    let b = start(&database, &[]).await.unwrap();
    Some(Pair { a, b, database })
}

async fn open(echo: &Echo) -> Vec<Value> {
    vec![
        resource("User", "alice", json!({})),
        echo.open("echo", "modern"),
        resource(
            "Gateway",
            "main",
            json!({"auth": [{"plugin": "bearer-token"}], "servers": [{"server": "echo", "bareNames": true}]}),
        ),
    ]
}

async fn status(product: &Product, token: &str) -> u16 {
    http::ask(&product.url("main"), Some(token), "tools/list", json!({})).await.unwrap().status.as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_applies_the_other_serves_and_what_one_revokes_fails_at_the_other() {
    let echo = Echo::start().await.unwrap();
    let Some(Pair { a, b, .. }) = pair(false, &open(&echo).await).await else { return };
    // What the first one's files brought is there still: the second one's files are others.
    assert_eq!(status(&a, &a.token("user:alice").unwrap().1).await, 200);
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        let (id, token) = a.token("user:alice").unwrap();
        let made = Instant::now();
        // Asked for, and not tried: a credential that was refused is refused for some seconds more.
        while !b.ask(&["token", "list"], "").unwrap().to_string().contains(&id) {
            assert!(made.elapsed() < Duration::from_secs(1), "a token of the other is not known within a second");
        }
        let (one, other) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        assert_eq!(status(other, &token).await, 200);
        one.ask(&["token", "revoke", &id], "").unwrap();
        let revoked = Instant::now();
        while status(other, &token).await != 401 {
            assert!(revoked.elapsed() < Duration::from_secs(1), "a revocation is not known within a second");
        }
        slowest = slowest.max(revoked.elapsed());
        assert_eq!(status(one, &token).await, 401);
    }
    println!("a revocation was known to the other after {slowest:?} at most");
    b.ask(&["apply", "-f", "-"], &resource("Gateway", "second", json!({})).to_string()).unwrap();
    let token = b.token("user:alice").unwrap().1;
    let applied = Instant::now();
    while http::ask(&a.url("second"), Some(&token), "tools/list", json!({})).await.unwrap().status != 200 {
        assert!(applied.elapsed() < Duration::from_secs(1), "what the other applied is not served within a second");
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_dies_takes_no_call_of_the_others_along() {
    let echo = Echo::start().await.unwrap();
    let Some(Pair { mut a, b, .. }) = pair(false, &open(&echo).await).await else { return };
    let token = b.token("user:alice").unwrap().1;
    eventually("the first one knows the token", async || (status(&a, &token).await == 200).then_some(())).await;
    let (url, until) = (b.url("main"), Instant::now() + Duration::from_secs(3));
    let calling = tokio::spawn(async move {
        let mut calls = 0;
        while Instant::now() < until {
            let reply = http::call(&url, Some(&token), "echo", json!({})).await.unwrap();
            assert_eq!(reply.message()["result"]["isError"], json!(false), "{}", reply.text());
            calls += 1;
        }
        calls
    });
    a.kill().await;
    let calls = calling.await.unwrap();
    println!("{calls} calls while the other was killed, none failed");
    a.launch().await.unwrap();
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_read_by_both_and_held_calls_stay_where_they_are() {
    let asker = Asker::start().await.unwrap();
    let resources = [
        resource("User", "alice", json!({})),
        asker.resource("asker"),
        resource("Gateway", "main", json!({"servers": [{"server": "asker", "bareNames": true}]})),
    ];
    let Some(Pair { a, b, .. }) = pair(false, &resources).await else { return };
    let token = a.token("user:alice").unwrap().1;
    let authorization = format!("Bearer {token}");
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let begun = http::post(&a.url("main"), &[("authorization", &authorization)], hello.to_string()).await.unwrap();
    let session = begun.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).to_string();
    let headers = [("authorization", &*authorization), ("mcp-session-id", &session), ("mcp-protocol-version", LEGACY)];
    eventually("the other one goes on with the session", async || {
        let reply = http::post(&b.url("main"), &headers, list.clone()).await.unwrap();
        (reply.status == 200 && reply.text().contains("ask")).then_some(())
    })
    .await;

    // A call that waits for its client is the first one's.
    let arguments = json!({"who": "alice", "times": 1});
    let first = send(&a.url("main"), &token, &ask(arguments.clone(), json!({}))).await.message();
    assert_eq!(first["result"]["resultType"], "input_required", "{first}");
    let runs = asker.runs();
    let answer = ask(arguments, answers(&first["result"], "red"));
    assert_eq!(code(&send(&b.url("main"), &token, &answer).await), "outcome-unknown");
    assert_eq!(asker.runs(), runs, "it was not run again");
    let done = send(&a.url("main"), &token, &answer).await.message();
    assert_eq!(done["result"]["resultType"], "complete", "{done}");
    assert_eq!(asker.runs(), runs);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_a_server_is_renewed_once_for_both() {
    let granting = Granting::start().await.unwrap();
    let resources = [
        resource("User", "alice", json!({})),
        granting.server("granting", json!({})),
        resource(
            "Gateway",
            "main",
            json!({"auth": [{"plugin": "bearer-token"}], "servers": [{"server": "granting", "bareNames": true}]}),
        ),
    ];
    let Some(Pair { a, b, .. }) = pair(false, &resources).await else { return };
    let token = a.token("user:alice").unwrap().1;
    granting.set(json!({"ttl": 12})).await.unwrap();
    connect(&a, "granting", "user:alice", "alice").await.unwrap();
    let seen = async |product: &Product| {
        let reply = http::call(&product.url("main"), Some(&token), "whoami", json!({})).await.unwrap().message();
        let text = reply["result"]["content"][0]["text"].as_str().unwrap_or_default();
        serde_json::from_str::<Value>(text).unwrap_or_else(|_| panic!("{reply}"))
    };
    assert_eq!(seen(&a).await["sub"], "alice");
    assert_eq!(seen(&b).await["sub"], "alice", "what was connected at one serves at the other");
    // Nobody calls until it has ended; then everybody at once, at both.
    let expired = tokio::time::Instant::now() + Duration::from_secs(13);
    granting.set(json!({"ttl": 300})).await.unwrap();
    tokio::time::sleep_until(expired).await;
    let all = join_all((0..40).map(|n| seen(if n % 2 == 0 { &a } else { &b }))).await;
    let tokens: BTreeSet<&str> = all.iter().filter_map(|one| one["jti"].as_str()).collect();
    assert_eq!(tokens.len(), 1, "all calls run with the one new token");
    assert_eq!(granting.seen().await.unwrap()["refreshes"], json!(1), "40 calls at two gateways, one renewal");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_stops_changes_at_once_and_calls_after_a_while() {
    let echo = Echo::start().await.unwrap();
    let Some(Pair { a, b, mut database }) = pair(true, &open(&echo).await).await else { return };
    let token = a.token("user:alice").unwrap().1;
    eventually("both know the token", async || (status(&b, &token).await == 200).then_some(())).await;
    assert_eq!(status(&a, &token).await, 200);
    database = tokio::task::spawn_blocking(move || {
        database.server.kill().unwrap();
        database
    })
    .await
    .unwrap();
    let killed = Instant::now();
    // Warm calls go on, and are not held up.
    while killed.elapsed() < Duration::from_secs(3) {
        let began = Instant::now();
        assert_eq!(status(&a, &token).await, 200);
        assert!(began.elapsed() < Duration::from_millis(1500), "a call took {:?}", began.elapsed());
    }
    let ready = http::get(&a.page("/readyz"), &[]).await.unwrap();
    assert_eq!(ready.status, 200, "{}", ready.text());
    assert!(ready.text().contains("the store can't be reached"), "{}", ready.text());
    let refused = a.cli(&["token", "create", "--owner", "user:alice", "-o", "json"], "").unwrap();
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("store-unavailable"), "{refused}");
    // After staleFor nobody is let in any more: somebody may have been revoked elsewhere.
    let reply = eventually("calls are refused", async || {
        let reply = http::ask(&b.url("main"), Some(&token), "tools/list", json!({})).await.unwrap();
        (reply.status == 503).then_some(reply)
    })
    .await;
    assert_eq!(code(&reply), "store-unreachable");
    assert!(killed.elapsed() >= Duration::from_secs(4), "after {:?}", killed.elapsed());
    assert_eq!(http::get(&b.page("/readyz"), &[]).await.unwrap().status, 503);
    let metrics = http::get(&b.page("/metrics"), &[]).await.unwrap().text();
    assert!(metrics.contains("portcullis_store_reachable 0"), "{metrics}");

    let _running = tokio::task::spawn_blocking(move || {
        database.server.start().unwrap();
        database
    })
    .await
    .unwrap();
    // They come back by themselves.
    for gateway in [&a, &b] {
        eventually("calls go on", async || (status(gateway, &token).await == 200).then_some(())).await;
        let ready = http::get(&gateway.page("/readyz"), &[]).await.unwrap();
        assert!(ready.status == 200 && !ready.text().contains("store"), "{}", ready.text());
    }
    let id = a.token("user:alice").unwrap().0;
    a.ask(&["token", "revoke", &id], "").unwrap();
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_is_refused_at_the_start() {
    let Some(database) = given(false).await else { return };
    start(&database, &[]).await.unwrap().stop().await;
    let store = json!({"url": database.url(), "password": {"env": "STORE_PASSWORD"}});
    let other = KEY.replace("AAEC", "BBEC");
    let settings = json!({"store": store, "sealingKey": {"env": "SEALING_KEY"}});
    let environment = [("STORE_PASSWORD", PASSWORD), ("SEALING_KEY", &*other)];
    let error = Product::start_with(&[], &environment, settings).await.err().expect("it starts").to_string();
    assert!(error.contains("not among the sealing keys"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_moves_to_a_database_with_everything_that_is_sealed() {
    let echo = Echo::start().await.unwrap();
    let Some(database) = given(false).await else { return };
    let alone = json!({"sealingKey": {"env": "SEALING_KEY"}});
    let product = Product::start_with(&open(&echo).await, &[("SEALING_KEY", KEY)], alone).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    assert_eq!(status(&product, &token).await, 200);
    let password = product.home().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let data = product.data().display().to_string();
    let url = database.url();
    let copy = ["store", "copy", &data, &url, "--to-password-file", password.to_str().unwrap()];
    let locked = product.cli(&copy, "").unwrap();
    assert!(!locked.status.success(), "its gateway runs");
    let mut product = product;
    product.kill().await;
    let copied = product.ask(&copy, "").unwrap();
    assert!(copied["records"].as_u64().unwrap() > 3, "{copied}");
    let again = product.cli(&copy, "").unwrap();
    assert_eq!(again.status.code(), Some(4), "the target is not empty any more");
    let moved = start(&database, &[]).await.unwrap();
    assert_eq!(status(&moved, &token).await, 200, "the same token works there");
    moved.stop().await;
}
