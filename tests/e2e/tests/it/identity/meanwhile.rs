//! What changes while somebody is at work: a team, a connection; and clocks that don't agree.

use portcullis_e2e::{
    echo::Echo,
    eventually,
    http::{self, LEGACY, Reply},
    product::{Product, resource},
    swap::Running,
};
use serde_json::{Value, json};

const AUDIENCE: &str = "https://gateway.example/mcp";

struct House {
    echo: Echo,
    provider: Running,
    product: Product,
}

/// The team blue: bob by name, frank by a group of the provider.
fn team(issuer: &str, members: &[&str], groups: &[&str]) -> Value {
    let groups: Vec<Value> = groups.iter().map(|g| json!({"issuer": issuer, "group": g})).collect();
    resource("Team", "blue", json!({"members": members, "groups": groups}))
}

async fn house() -> House {
    let echo = Echo::start().await.unwrap();
    let provider = Running::provider(0).await.unwrap();
    let issuer = provider.url.clone();
    let rules = json!({"issuers": [{"issuer": issuer, "audience": [AUDIENCE], "claims": {"groups": "groups"}}]});
    let jwks = json!({"source": {"builtIn": "jwks"}, "grants": {"issuers": [issuer]}, "config": rules});
    let auth = json!([{"plugin": "bearer-token"}, {"plugin": "jwks"}]);
    let resources = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        resource("Plugin", "jwks", jwks),
        echo.guarded("vault", "modern"),
        resource("Gateway", "main", json!({"auth": auth, "servers": [{"server": "vault"}]})),
    ];
    let product = Product::start_with(&resources, &[], json!({"allowPrivateIssuers": true})).await.unwrap();
    product.write("team.yaml", &[team(&issuer, &["alice", "bob"], &["blue"])]).unwrap();
    eventually("the team is there", || async {
        product.ask(&["get", "teams"], "").ok()?.to_string().contains("blue").then_some(())
    })
    .await;
    product.ask(&["connect", "vault", "--owner", "team:blue", "--owner-only", "true"], "canary-blue").unwrap();
    House { echo, provider, product }
}

/// A session of 2025-11-25.
struct Session<'h> {
    product: &'h Product,
    authorization: String,
    id: String,
}

impl<'h> Session<'h> {
    async fn open(product: &'h Product, token: &str) -> Self {
        let authorization = format!("Bearer {token}");
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": LEGACY,
            "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
        let reply = http::post(&product.url("main"), &[("authorization", &*authorization)], hello.to_string()).await;
        let id = reply.unwrap().headers["mcp-session-id"].to_str().unwrap().to_owned();
        Self { product, authorization, id }
    }

    async fn call(&self) -> Reply {
        let params = json!({"name": "vault__whoami", "arguments": {}});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let headers =
            [("authorization", &*self.authorization), ("mcp-session-id", &*self.id), ("mcp-protocol-version", LEGACY)];
        http::post(&self.product.url("main"), &headers, message.to_string()).await.unwrap()
    }
}

/// Membership is read at each call: no session and no remembered verdict outlives it.
#[tokio::test]
async fn whoever_leaves_a_team_in_the_middle_of_a_session_runs_under_nothing_of_it() {
    let House { echo, provider, product } = house().await;
    let issuer = provider.url.clone();
    let (_, bob) = product.token("user:bob").unwrap();
    let frank = provider.token("frank", &[AUDIENCE], "&group=blue").await.unwrap();
    eventually("the provider's people are known", || async {
        let reply = http::call(&product.url("main"), Some(&frank), "vault__whoami", json!({})).await.ok()?;
        reply.text().contains("Bearer canary-blue").then_some(())
    })
    .await;
    let (by_name, by_group) = (Session::open(&product, &bob).await, Session::open(&product, &frank).await);
    for session in [&by_name, &by_group] {
        let reply = session.call().await;
        assert!(reply.text().contains("Bearer canary-blue"), "{}", reply.text());
    }
    product.write("team.yaml", &[team(&issuer, &["alice"], &["green"])]).unwrap();
    eventually("bob is no member", || async {
        (!product.ask(&["get", "teams"], "").ok()?.to_string().contains("bob")).then_some(())
    })
    .await;
    let before = echo.seen().len();
    for session in [&by_name, &by_group] {
        let reply = session.call().await;
        assert!(!reply.text().contains("canary-blue"), "{}", reply.text());
        assert!(
            reply.status != 200 || reply.text().contains("missing-credential"),
            "{} {}",
            reply.status,
            reply.text()
        );
    }
    let carried = echo.seen().iter().skip(before).any(|s| s.headers.contains_key("authorization"));
    assert!(!carried, "nothing of the team's went out");
    product.stop().await;
}

/// A connection that goes while calls run under it: each call is answered, and none that comes afterwards carries its secret.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods, reason = "nobody's call waits for this worker but this test's")]
async fn a_connection_that_is_deleted_while_it_is_in_use_serves_nobody_afterwards() {
    let House { echo, provider: _provider, product } = house().await;
    let (_, alice) = product.token("user:alice").unwrap();
    let url = product.url("main");
    let call = async || http::call(&url, Some(&alice), "vault__whoami", json!({})).await.unwrap();
    assert!(call().await.text().contains("Bearer canary-blue"));
    let many = futures_util::future::join_all((0..30).map(|_| call()));
    let delete = async {
        // In the middle of them: what the command line waits for, the others don't.
        tokio::task::yield_now().await;
        tokio::task::block_in_place(|| product.ask(&["delete", "connection", "vault-team-blue"], "").unwrap())
    };
    let (answers, _) = tokio::join!(many, delete);
    for answer in answers {
        let text = answer.text();
        assert!(text.contains("Bearer canary-blue") || text.contains("missing-credential"), "{text}");
    }
    let before = echo.seen().len();
    for _ in 0..5 {
        assert!(call().await.text().contains("missing-credential"));
    }
    assert!(!echo.seen().iter().skip(before).any(|s| s.headers.contains_key("authorization")));
    product.stop().await;
}

/// Half a minute is forgiven in either direction, since no two clocks agree; more is not.
#[tokio::test]
async fn a_providers_clock_may_be_a_little_wrong_and_not_more() {
    let House { echo: _echo, provider, product } = house().await;
    let taken = async |more: &str| {
        let token = provider.token("frank", &[AUDIENCE], &format!("&group=blue{more}")).await.unwrap();
        http::call(&product.url("main"), Some(&token), "vault__whoami", json!({})).await.unwrap().status
    };
    eventually("the provider's people are known", || async { (taken("").await == 200).then_some(()) }).await;
    for (more, status) in [("&life=-8", 200), ("&from=8", 200), ("&life=-90", 401), ("&from=90", 401)] {
        assert_eq!(taken(more).await, status, "{more}");
    }
    product.stop().await;
}
