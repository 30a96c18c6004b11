//! Programs that can't set `Authorization`: a token of ours in a header, whose name is the operator's choice.

use portcullis_e2e::{
    echo::Echo,
    eventually,
    http::{self, MODERN},
    product::{Product, resource},
};
use serde_json::json;

#[tokio::test]
async fn a_key_comes_in_the_header_that_the_gateway_names_and_goes_no_further() {
    let echo = Echo::start().await.unwrap();
    let vault = echo.guarded("vault", "modern");
    let gateway = |name: &str, more: &[(&str, serde_json::Value)]| {
        let mut spec = json!({"servers": [{"server": "vault", "bareNames": true}]});
        for (field, value) in more {
            spec[*field] = value.clone();
        }
        resource("Gateway", name, spec)
    };
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        vault,
        gateway("usual", &[]),
        gateway("own", &[("apiKeyHeader", json!("X-Team-Key"))]),
    ])
    .await
    .unwrap();
    product.ask(&["connect", "vault", "--owner", "user:alice", "--owner-only", "true"], "secret").unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    let ask = async |gateway: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "whoami")];
        all.extend(headers);
        let message = http::modern("tools/call", json!({"name": "whoami", "arguments": {}}));
        let reply = http::post(&product.url(gateway), &all, message.to_string()).await.unwrap();
        (reply.status.as_u16(), reply.text().contains("\"isError\":false"))
    };
    eventually("the server is there", || async {
        (ask("usual", &[("x-api-key", &token)]).await == (200, true)).then_some(())
    })
    .await;
    assert_eq!(ask("own", &[("x-team-key", &token)]).await, (200, true));
    for (gateway, headers) in [
        ("usual", vec![("x-team-key", &*token)]),
        ("own", vec![("x-api-key", &*token)]),
        // Nobody can say which is meant.
        ("own", vec![("x-team-key", &*token), ("x-team-key", "pcl_x")]),
        // A bearer token is the one that counts, also where it is wrong.
        ("own", vec![("x-team-key", &*token), ("authorization", "Bearer pcl_wrong")]),
    ] {
        assert_eq!(ask(gateway, &headers).await.0, 401, "{gateway} {headers:?}");
    }
    // Both: the gateway's own header is the one.
    assert_eq!(ask("own", &[("x-team-key", &token), ("x-api-key", "pcl_wrong")]).await, (200, true));
    for seen in echo.seen() {
        let leaked = seen.headers.iter().any(|(name, value)| name == "x-team-key" || value.contains(&token));
        assert!(!leaked, "a key reached a server: {:?}", seen.headers);
    }
    assert!(!product.log().contains(&token));

    let apply = |spec: serde_json::Value| {
        let output = product.cli(&["apply", "-f", "-"], &resource("Gateway", "bad", spec).to_string()).unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    for name in ["Authorization", "Cookie", "Mcp-Session-Id", "Host", "Content-Type", "X-Forwarded-For", "a b", ""] {
        let said = apply(json!({"apiKeyHeader": name}));
        assert!(said.contains("apiKeyHeader"), "{name}: {said}");
    }
    let said =
        apply(json!({"apiKeyHeader": "X-Team-Key", "servers": [{"server": "vault", "passHeaders": ["x-team-key"]}]}));
    assert!(said.contains("goes to no server"), "{said}");
    product.stop().await;
}
