//! A caller's own token goes on to a server that it was made for, and to no other.

use portcullis_e2e::{
    http,
    parts::root,
    product::{Product, resource},
    swap::Running,
};
use serde_json::{Value, json};

use super::exchange::{audited, left_behind, ready, whoami};

const GATEWAY: &str = "https://gateway.example/mcp";
const SERVER: &str = "https://server.example/mcp";
const REASON: &str = "OPS-12: the server checks no audience";

fn server(name: &str, url: &str, settings: Value) -> Value {
    let mode = json!({"mode": "passthrough", "settings": settings});
    resource("McpServer", name, json!({"remote": {"url": url, "allowPrivate": true}, "credential": {"mode": mode}}))
}

#[tokio::test]
async fn a_token_goes_on_only_where_it_was_made_for() {
    let certificates = root().join("host/portcullis/tests/it/certificates");
    let (certificate, key) = (certificates.join("one.crt"), certificates.join("one.key"));
    let tls = format!("{}:{}", certificate.display(), key.display());
    let idp = Running::provider(0).await.unwrap();
    let strict = Running::guarded(SERVER, "authorization", &[&idp.url], Some(&tls)).await.unwrap();
    let lax = Running::guarded("-", "authorization", &[&idp.url], Some(&tls)).await.unwrap();
    let rules = json!({"issuers": [{"issuer": idp.url, "audience": [GATEWAY]}]});
    let grants = json!({"callerToken": true, "passthrough": true});
    let all = [
        resource(
            "Plugin",
            "jwks",
            json!({"source": {"builtIn": "jwks"}, "grants": {"issuers": [idp.url]}, "config": rules}),
        ),
        resource("Plugin", "passthrough", json!({"source": {"builtIn": "passthrough"}, "grants": grants})),
        // By name; by its URL; and by the operator's word.
        server("named", &strict.url, json!({"audience": [SERVER]})),
        server("by-url", &lax.url, json!({})),
        server("excepted", &lax.url, json!({"allowAudience": {"reason": REASON}})),
        resource(
            "Gateway",
            "main",
            json!({
                "auth": [{"plugin": "bearer-token"}, {"plugin": "jwks"}],
                "servers": [{"server": "named"}, {"server": "by-url"}, {"server": "excepted"}],
            }),
        ),
        resource("User", "alice", json!({})),
    ];
    let more = json!({"allowPrivateIssuers": true, "trustedCertificates": certificate});
    let product = Product::start_with(&all, &[], more).await.unwrap();

    let both = idp.token("alice", &[GATEWAY, SERVER], "").await.unwrap();
    let seen = ready(&product, &both, "named").await;
    assert_eq!((&seen["sub"], &seen["aud"]), (&json!("alice"), &json!([GATEWAY, SERVER])), "the token itself arrived");
    let by_url = idp.token("alice", &[GATEWAY, &lax.url], "").await.unwrap();
    assert_eq!(whoami(&product, &by_url, "by-url").await.unwrap()["sub"], "alice");
    let here = idp.token("alice", &[GATEWAY], "").await.unwrap();
    let bound = idp.token("alice", &[GATEWAY, SERVER, &lax.url], "&cnf=1").await.unwrap();
    let (_, ours) = product.token("user:alice").unwrap();
    for (token, server, why) in [
        (&here, "named", "made for the gateway alone"),
        (&here, "by-url", "made for the gateway alone"),
        (&both, "by-url", "made for another server"),
        (&ours, "named", "ours"),
        (&ours, "excepted", "ours"),
    ] {
        assert_eq!(whoami(&product, token, server).await.unwrap_err(), "credential-denied", "{server}: {why}");
    }
    // One that is bound to a key does not even get in without it.
    for server in ["named", "by-url", "excepted"] {
        assert_eq!(whoami(&product, &bound, server).await.unwrap_err(), "401", "{server}");
    }
    assert_eq!(strict.fixture("refused").await.unwrap()["refused"], 0, "none of them got there");
    assert_eq!(whoami(&product, &here, "excepted").await.unwrap()["aud"], json!([GATEWAY]));

    // On record before the answer, with the operator's reason, and without the token.
    let events = audited(&product);
    let passed = |server: &str| -> Vec<&Value> {
        events
            .iter()
            .filter(|e| e["kind"] == "passthrough" && e["server"] == server && e["requestId"].is_string())
            .collect()
    };
    assert!(!passed("named").is_empty() && passed("named").iter().all(|e| e["reason"].is_null()), "{events:?}");
    assert!(!passed("excepted").is_empty() && passed("excepted").iter().all(|e| e["reason"] == REASON), "{events:?}");
    let text = left_behind(&product).await;
    for token in [&both, &by_url, &here, &bound] {
        assert!(!text.contains(token.rsplit('.').next().unwrap()), "a token was left behind");
    }
    product.stop().await;
}

/// Nobody's certificate is taken on trust, and the caller is told that it is the certificate, at once.
#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_named_as_the_cause() {
    let certificates = root().join("host/portcullis/tests/it/certificates");
    let tls = format!("{}:{}", certificates.join("one.crt").display(), certificates.join("one.key").display());
    let idp = Running::provider(0).await.unwrap();
    let upstream = Running::guarded("-", "authorization", &[&idp.url], Some(&tls)).await.unwrap();
    let open = json!({"remote": {"url": upstream.url, "allowPrivate": true}});
    let resources = [
        resource("McpServer", "inside", open),
        resource("Gateway", "main", json!({"anonymous": true, "servers": [{"server": "inside"}]})),
    ];
    // Another authority's than the server's, beside those of the machine.
    let more = json!({"trustedCertificates": certificates.join("two.crt")});
    let product = Product::start_with(&resources, &[], more).await.unwrap();
    let reply = http::call(&product.url("main"), None, "inside__whoami", json!({})).await.unwrap();
    let text = reply.text();
    assert!(text.contains("server-unreachable") && text.contains("certificate"), "{text}");
    assert_eq!(upstream.fixture("refused").await.unwrap()["refused"], 0, "nothing was sent");
    product.stop().await;
}

#[tokio::test]
async fn without_the_operators_grant_nothing_is_passed_on_and_http_is_no_way() {
    let idp = Running::provider(0).await.unwrap();
    let rules = json!({"issuers": [{"issuer": idp.url, "audience": [GATEWAY]}]});
    let product = Product::start_with(
        &[resource(
            "Plugin",
            "jwks",
            json!({"source": {"builtIn": "jwks"}, "grants": {"issuers": [idp.url]}, "config": rules}),
        )],
        &[],
        json!({"allowPrivateIssuers": true}),
    )
    .await
    .unwrap();
    let apply = |resource: Value| {
        let output = product.cli(&["apply", "-f", "-"], &resource.to_string()).unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout),
        )
    };
    let (done, said) = apply(server("plain", "http://127.0.0.1:9/mcp", json!({})));
    assert!(!done && said.contains("must be https"), "{said}");
    let (done, said) = apply(server("excepted", "https://127.0.0.1:9/mcp", json!({"allowAudience": {"reason": ""}})));
    assert!(!done && said.contains("must say why"), "{said}");
    product.stop().await;
}
