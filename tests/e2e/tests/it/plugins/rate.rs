//! The policy `rate`: what callers read who ask too often, and that each has a bucket of their own.

use std::time::{Duration, Instant};

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    product::{Product, resource},
};
use serde_json::json;

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let echo = Echo::start().await.unwrap();
    let rate = json!({
        "source": {"builtIn": "rate"},
        "grants": {"state": "64KiB"},
        "config": {"rules": [
            {"name": "each", "per": ["caller"], "limit": 4, "every": "8s", "burst": 3, "tools": ["echo"]},
            {"name": "whoami", "per": ["team", "tool"], "limit": 1, "every": "1h", "tools": ["whoami"], "message": "Once an hour"},
        ]},
    });
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        resource("Team", "blue", json!({"members": ["alice", "bob"]})),
        echo.open("echo", "modern"),
        resource("Plugin", "rate", rate),
        resource("Gateway", "main", json!({"policies": [{"plugin": "rate"}], "servers": [{"server": "echo"}]})),
    ])
    .await
    .unwrap();
    let (alice, bob) = (product.token("user:alice").unwrap().1, product.token("user:bob").unwrap().1);
    let call = async |token: &str, tool: &str| {
        http::call(&product.url("main"), Some(token), &format!("echo__{tool}"), json!({"message": "m"}))
            .await
            .unwrap()
            .text()
    };
    eventually("the policy is loaded", || async { (!call(&alice, "odd").await.contains("fault")).then_some(()) }).await;

    let began = Instant::now();
    let mut passed = 0;
    let refused = loop {
        let said = call(&alice, "echo").await;
        if said.contains("try again in") {
            break said;
        }
        passed += 1;
        assert!(passed < 100, "she is never refused");
    };
    // One more may have come back meanwhile, on a slow machine.
    let back = usize::try_from(began.elapsed().as_secs() / 2).unwrap();
    assert!((3..=3 + back).contains(&passed), "{passed} calls passed in {:?}", began.elapsed());
    assert!(refused.contains("4 times in 8s (each); try again in"), "{refused}");
    assert!(!call(&bob, "echo").await.contains("fault"), "his bucket is his own");
    // Tokens come back.
    let until = Instant::now() + Duration::from_secs(20);
    while call(&alice, "echo").await.contains("try again in") {
        assert!(Instant::now() < until, "none came back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!call(&bob, "whoami").await.contains("fault"));
    assert!(call(&alice, "whoami").await.contains("Once an hour"), "a team shares one");
    let sent = echo.seen().iter().filter(|seen| seen.body["params"]["name"] == "whoami").count();
    assert_eq!(sent, 1, "what is refused goes nowhere");
}
