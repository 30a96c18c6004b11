//! Callers who come with a signed token of a real identity provider, and those who pretend to.

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    oidc::Oidc,
    product::{Product, resource},
};
use serde_json::{Value, json};

const AUDIENCE: &str = "https://gateway.example/mcp";

/// Unpadded base64url (RFC 4648, section 5) of a JSON value.
fn part(value: &Value) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let text = value.to_string();
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    out
}

#[tokio::test]
async fn a_real_providers_tokens_are_taken_and_forged_ones_are_not() {
    let echo = Echo::start().await.unwrap();
    let mut provider = Oidc::start(0).await.unwrap();
    let issuer = provider.issuer.clone();
    let rules = json!({"issuers": [{"issuer": issuer, "audience": [AUDIENCE]}]});
    let product = Product::start_with(
        &[
            // An identity is issuer and subject.
            resource("User", "alice", json!({"identities": [{"issuer": issuer, "subject": "alice"}]})),
            resource("Plugin", "jwks", json!({"source": {"builtIn": "jwks"}, "grants": {"issuers": [issuer]}, "config": rules})),
            echo.open("echo", "modern"),
            resource(
                "Gateway",
                "main",
                json!({
                    "auth": [{"plugin": "bearer-token"}, {"plugin": "jwks"}],
                    "policies": [{"plugin": "tool-access", "config": {"rules": [{"effect": "allow", "principals": ["user:alice"]}]}}],
                    "servers": [{"server": "echo"}],
                }),
            ),
        ],
        &[],
        json!({"allowPrivateIssuers": true}),
    )
    .await
    .unwrap();
    let url = product.url("main");
    let call = |token: String| {
        let url = url.clone();
        async move { http::call(&url, Some(&token), "echo__echo", json!({"message": "in"})).await.unwrap() }
    };
    let passes = |reply: &http::Reply| reply.status == 200 && reply.text().contains("\"isError\":false");

    let alice = provider.token("alice", AUDIENCE).await.unwrap();
    eventually("a good token is taken", || async { passes(&call(alice.clone()).await).then_some(()) }).await;
    // Known to the provider, to nobody here: who it is, is clear; what it may do, nothing.
    let bob = call(provider.token("bob", AUDIENCE).await.unwrap()).await;
    assert!(!passes(&bob) && bob.status != 401, "{} {}", bob.status, bob.text());

    let (head, rest) = alice.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let none = part(&json!({"alg": "none", "typ": "JWT"}));
    let stranger = part(&json!({"alg": "RS256", "typ": "at+jwt", "kid": "nobody"}));
    let symmetric = part(&json!({"alg": "HS256", "typ": "JWT"}));
    let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
    let bad = [
        ("wrong audience", provider.token("alice", "https://other.example/mcp").await.unwrap()),
        ("alg none", format!("{none}.{claims}.")),
        ("alg none with a signature", format!("{none}.{claims}.{signature}")),
        ("symmetric", format!("{symmetric}.{claims}.{signature}")),
        ("unknown key", format!("{stranger}.{claims}.{signature}")),
        ("a changed signature", format!("{head}.{claims}.{flipped}{}", &signature[1..])),
        ("no signature", format!("{head}.{claims}.")),
        ("truncated", alice[..alice.len() / 2].to_owned()),
    ];
    for (name, token) in bad {
        let reply = call(token).await;
        assert_eq!(reply.status, 401, "{name}: {}", reply.text());
        assert!(reply.headers.contains_key("www-authenticate"), "{name}");
    }

    // New keys: tokens signed with them are taken without a restart.
    provider.rotate().await.unwrap();
    let fresh = provider.token("alice", AUDIENCE).await.unwrap();
    eventually("a token signed with a new key is taken", || async { passes(&call(fresh.clone()).await).then_some(()) })
        .await;
    product.stop().await;
}
