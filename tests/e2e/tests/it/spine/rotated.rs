//! Secrets that somebody else exchanges: in files that the gateway watches.

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    product::{Product, resource},
};
use serde_json::json;

#[tokio::test]
async fn a_secret_that_is_exchanged_in_its_file_is_carried_by_the_next_call() {
    let echo = Echo::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "canary-first\n").unwrap();
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        echo.guarded("vault", "modern"),
        resource(
            "Connection",
            "vault-alice",
            json!({"server": "vault", "owner": {"user": "alice"}, "secrets": {"token": {"file": file}}, "ownerOnly": true}),
        ),
        resource("Gateway", "main", json!({"servers": [{"server": "vault"}]})),
    ])
    .await
    .unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    let url = product.url("main");
    let seen = async || http::call(&url, Some(&token), "vault__whoami", json!({})).await.unwrap().text();
    eventually("the first secret is carried", || async { seen().await.contains("canary-first").then_some(()) }).await;

    // Aside and renamed, as a secret's mount and every careful program does.
    let aside = folder.path().join("token.new");
    std::fs::write(&aside, "canary-second\n").unwrap();
    std::fs::rename(aside, &file).unwrap();
    eventually("the second secret is carried", || async { seen().await.contains("canary-second").then_some(()) }).await;
    assert!(!seen().await.contains("canary-first"));
    assert!(!product.log().contains("canary-"));
    product.stop().await;
}
