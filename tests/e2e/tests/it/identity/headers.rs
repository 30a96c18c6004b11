//! Headers and pinned arguments of an assignment, configured and seen at the server.

use portcullis_e2e::{
    echo::{Echo, Seen},
    http::{self, MODERN},
    product::{Product, resource},
};
use serde_json::{Value, json};

fn main(assignment: &Value) -> Value {
    let mut server = json!({"server": "vault", "bareNames": true});
    for (name, value) in assignment.as_object().unwrap() {
        server[name] = value.clone();
    }
    resource("Gateway", "main", json!({"servers": [server]}))
}

async fn call(product: &Product, token: &str, tool: &str, more: &[(&str, &str)], arguments: Value) {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", tool),
        ("authorization", &*authorization),
    ];
    headers.extend(more);
    let message = http::modern("tools/call", json!({"name": tool, "arguments": arguments}));
    let reply = http::post(&product.url("main"), &headers, message.to_string()).await.unwrap();
    assert!(reply.text().contains("\"isError\":false"), "{}", reply.text());
}

fn last(echo: &Echo, tool: &str) -> Seen {
    let seen = echo.seen();
    seen.into_iter().rfind(|s| s.method == "tools/call" && s.body["params"]["name"] == tool).expect("it was called")
}

#[tokio::test]
async fn headers_pass_from_a_list_under_fixed_ones_under_the_credential() {
    let echo = Echo::start().await.unwrap();
    let mut vault = echo.guarded("vault", "modern");
    // The credential stands in a header of its own choice as well, which the client may not write over.
    vault["spec"]["credential"]["place"].as_array_mut().unwrap().push(json!({"field": "token", "header": "X-Account"}));
    vault["spec"]["traffic"] = json!({"pinnedArguments": {"*": {"message": "of the server", "region": "eu"}}});
    let assignment = json!({
        "passHeaders": ["X-Trace", "X-Team", "X-Account"],
        "headers": {"X-Team": "blue", "X-Stage": "all"},
        "pinnedArguments": {"ec*": {"message": "of the assignment"}},
        "tools": {"whoami": {
            "headers": {"X-Stage": "one"},
            "passHeaders": ["X-Only"],
            "pinnedArguments": {"message": "of the tool"},
        }},
    });
    let product = Product::start(&[resource("User", "alice", json!({})), vault, main(&assignment)]).await.unwrap();
    product.ask(&["connect", "vault", "--owner", "user:alice", "--owner-only", "true"], "secret").unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    let sent = [
        ("x-trace", "t-1"),
        ("x-team", "red"),
        ("x-account", "somebody else"),
        ("x-only", "o"),
        ("cookie", "session=1"),
        ("x-other", "z"),
        ("x-forwarded-for", "10.9.8.7"),
    ];

    call(&product, &token, "echo", &sent, json!({"message": "mine", "n": 1})).await;
    let seen = last(&echo, "echo");
    let header = |seen: &Seen, name: &str| seen.headers.get(name).cloned();
    let of = |text: &str| Some(text.to_owned());
    assert_eq!(header(&seen, "x-trace"), of("t-1"));
    assert_eq!(header(&seen, "x-team"), of("blue"), "a fixed header stands over the client's");
    assert_eq!(header(&seen, "x-stage"), of("all"));
    assert_eq!(header(&seen, "x-account"), of("secret"), "nothing stands over a credential");
    assert_eq!(header(&seen, "authorization"), of("Bearer secret"));
    for gone in ["x-only", "cookie", "x-other", "x-forwarded-for"] {
        assert_eq!(header(&seen, gone), None, "{gone}");
    }
    let arguments = &seen.body["params"]["arguments"];
    assert_eq!(*arguments, json!({"message": "of the assignment", "n": 1, "region": "eu"}));

    call(&product, &token, "whoami", &sent, json!({})).await;
    let seen = last(&echo, "whoami");
    assert_eq!(header(&seen, "x-stage"), of("one"), "a tool's own stands over the assignment's");
    assert_eq!(header(&seen, "x-only"), of("o"));
    assert_eq!(header(&seen, "x-trace"), of("t-1"));
    assert_eq!(seen.body["params"]["arguments"]["message"], "of the tool");
    product.stop().await;
}

#[tokio::test]
async fn what_is_a_credential_is_refused_where_it_is_configured() {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&[echo.open("vault", "modern")]).await.unwrap();
    for assignment in [
        json!({"passHeaders": ["Authorization"]}),
        json!({"passHeaders": ["Cookie"]}),
        json!({"passHeaders": ["Mcp-Session-Id"]}),
        json!({"headers": {"Connection": "x"}}),
        json!({"headers": {"X-Key": "two\nlines"}}),
        json!({"tools": {"echo": {"passHeaders": ["Transfer-Encoding"]}}}),
    ] {
        let file = product.home().join("bad.json");
        std::fs::write(&file, main(&assignment).to_string()).unwrap();
        let refused = product.cli(&["apply", "-f", file.to_str().unwrap()], "").unwrap();
        assert_eq!(refused.status.code(), Some(4), "{assignment}: {}", String::from_utf8_lossy(&refused.stderr));
    }
    product.stop().await;
}
