//! Another authorization server in place of ours: the gateway names it, clients log in there, its tokens are taken by its keys, and
//! those that were made for somebody else are not.

use portcullis_e2e::{
    browser::Browser,
    eventually,
    granting::Granting,
    http,
    oauth::{BACK, OAuthDriver},
    product::{Product, resource},
};
use serde_json::{Value, json};

#[tokio::test]
async fn clients_log_in_at_the_server_that_the_gateway_names() {
    let granting = Granting::start().await.unwrap();
    let issuer = granting.issuer.as_str();
    let product = Product::start_with(&[], &[], json!({"allowPrivateIssuers": true})).await.unwrap();
    let gateway = |name: &str| {
        let url = product.url(name);
        let rules = json!({"issuers": [{"issuer": issuer, "audience": [url]}]});
        let auth = json!([{"plugin": "jwks", "config": rules}]);
        let oauth = json!({"authorizationServers": [issuer]});
        resource("Gateway", name, json!({"auth": auth, "servers": [{"server": "time"}], "oauth": oauth}))
    };
    let binary = portcullis_e2e::parts::binary();
    let all = [
        resource("User", "alice", json!({"identities": [{"issuer": issuer, "subject": "alice"}]})),
        resource("McpServer", "time", json!({"process": {"command": binary, "args": ["demo-server"]}})),
        resource("Plugin", "jwks", json!({"source": {"builtIn": "jwks"}, "grants": {"issuers": [issuer]}})),
        gateway("main"),
        gateway("other"),
    ];
    product.write("resources.yaml", &all).unwrap();
    let place = product.page("/.well-known/oauth-protected-resource/mcp/main");
    let metadata: Value = eventually("the metadata names it", || async {
        let reply = http::get(&place, &[]).await.ok()?;
        serde_json::from_slice(&reply.body).ok().filter(|m: &Value| m["authorization_servers"] == json!([issuer]))
    })
    .await;
    assert_eq!(metadata["resource"], product.url("main"), "{metadata}");
    // What a gateway says of itself stands a moment before it serves.
    eventually("both gateways serve", || async {
        for name in ["main", "other"] {
            let reply = http::ask(&product.url(name), None, "tools/list", json!({})).await.ok()?;
            (reply.status == 401).then_some(())?;
        }
        Some(())
    })
    .await;

    for mut client in [OAuthDriver::start().unwrap(), OAuthDriver::start_javascript().unwrap()] {
        // This server gives no token to whoever asks for no scope, as one client does where nothing names any.
        let how = json!({"code": {"redirect": BACK, "scope": "openid email"}});
        let open = json!({"do": "session", "url": product.url("main"), "how": how});
        // The person signs in and agrees there; no page of ours is shown.
        let opened =
            client.ask_with(&mut Browser::new(), open).await.unwrap_or_else(|e| panic!("{e}\n{}", product.log()));
        let called = client.ask(json!({"do": "call", "tool": "time__time_now"})).await.unwrap();
        assert_eq!(called["error"], false, "{called}");
        let token = opened["tokens"]["access_token"].as_str().unwrap();
        assert!(!token.starts_with("pcl_"), "its own: {opened}");
        // It was made for this gateway, and for no other.
        let refused = http::ask(&product.url("other"), Some(token), "tools/list", json!({})).await.unwrap();
        assert_eq!(refused.status, 401, "{}", refused.text());
        let challenge = refused.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains("oauth-protected-resource/mcp/other"), "{challenge}");
        client.ask(json!({"do": "end"})).await.unwrap();
    }
    eventually("it is on record who called", || async {
        let audit = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).unwrap_or_default();
        audit.contains("user:alice").then_some(())
    })
    .await;
    // A token of ours is none here: no provider at this gateway knows it.
    let (_, ours) = product.token("user:alice").unwrap();
    assert_eq!(http::ask(&product.url("main"), Some(&ours), "tools/list", json!({})).await.unwrap().status, 401);
    product.stop().await;
}
