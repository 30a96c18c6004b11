//! What `portcullis explain` says of a call, beside what the call then does; and that it does nothing itself.

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    product::{Product, resource},
};
use serde_json::{Value, json};

async fn house() -> (Echo, Product) {
    let echo = Echo::start().await.unwrap();
    let rules = json!({"rules": [
        {"effect": "deny", "tools": ["odd"], "message": "not on Fridays"},
        {"effect": "allow", "principals": ["team:blue", "organization"], "servers": ["vault", "time"]},
    ]});
    let demo = json!({"command": portcullis_e2e::parts::binary(), "args": ["demo-server"]});
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        resource("User", "eve", json!({})),
        resource(
            "Team",
            "blue",
            json!({"members": ["alice", "bob"], "groups": [{"issuer": "https://login.example", "group": "eng"}]}),
        ),
        resource("User", "gina", json!({"identities": [{"issuer": "https://login.example", "subject": "g-1"}]})),
        echo.guarded("vault", "modern"),
        resource("McpServer", "time", json!({"process": demo})),
        resource(
            "Gateway",
            "main",
            json!({
                "policies": [{"plugin": "tool-access", "config": rules}],
                "servers": [
                    {"server": "vault"},
                    {"server": "time", "pinnedArguments": {"*": {"utc_offset": "+02:00"}}},
                ],
            }),
        ),
    ])
    .await
    .unwrap();
    for (owner, own) in [("user:alice", "false"), ("user:bob", "true")] {
        let args = ["connect", "vault", "--owner", owner, "--owner-only", own];
        product.ask(&args, "secret").unwrap();
    }
    (echo, product)
}

/// The answer, and whether the command says that it runs.
fn explain(product: &Product, args: &[&str]) -> (Value, bool) {
    let output = product.cli(&[&["explain", "main"], args, &["-o", "json"]].concat(), "").unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let told = serde_json::from_str(&text).unwrap_or_else(|e| {
        panic!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr));
    });
    (told, output.status.success())
}

/// The steps of a phase, as `name: says`.
fn said(told: &Value, phase: &str) -> Vec<String> {
    let steps = told["steps"].as_array().unwrap().iter().filter(|step| step["phase"] == phase);
    steps.map(|s| format!("{}: {}", s["name"].as_str().unwrap(), s["says"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn an_explanation_says_what_the_call_then_does() {
    let (echo, product) = house().await;
    let calls = || echo.seen().iter().filter(|seen| seen.method == "tools/call").count();
    // Whose account, and why.
    let (told, runs) = explain(&product, &["vault__whoami", "--as", "user:alice"]);
    assert!(runs, "{told}");
    assert_eq!((&told["connection"], &told["executedAs"]), (&json!("vault-alice"), &json!("user:alice")), "{told}");
    assert_eq!(said(&told, "decide"), ["tool-access: allow"], "{told}");
    assert_eq!(
        said(&told, "resolve"),
        ["vault-alice: 1: their own", "vault-bob: does not serve", "call-time: chooses"],
        "{told}"
    );
    assert_eq!(said(&told, "call"), ["vault: would be called"], "{told}");
    // A team's token: a member's, but not one that is owner-only.
    let (told, _) = explain(&product, &["vault__whoami", "--as", "team:blue"]);
    assert_eq!(told["connection"], "vault-alice", "{told}");
    assert_eq!(
        said(&told, "resolve"),
        ["vault-alice: 2: a current member's", "vault-bob: does not serve", "call-time: chooses"],
        "{told}"
    );
    // No account: what the call is told as well.
    product.write("eve.yaml", &[resource("Team", "red", json!({"members": ["eve"]}))]).unwrap();
    let (told, runs) = explain(&product, &["vault__whoami", "--as", "organization"]);
    assert_eq!((runs, &told["connection"]), (true, &json!("vault-alice")), "{told}");
    // Denied, with the policy's own words; and hidden.
    let (told, runs) = explain(&product, &["vault__odd", "--as", "user:alice"]);
    assert_eq!(
        (runs, &told["stopped"]["code"], &told["stopped"]["phase"]),
        (false, &json!("denied"), &json!("decide"))
    );
    assert!(told["stopped"]["message"].as_str().unwrap().contains("not on Fridays"), "{told}");
    let (told, _) = explain(&product, &["vault__whoami", "--as", "user:eve"]);
    assert_eq!(said(&told, "decide"), ["tool-access: deny", "tool-access: hides it"], "{told}");
    // Whom an identity provider knows: nothing is remembered of them, which is said; what would be, can be.
    let carol = "external:https://login.example#c-1";
    let (told, runs) = explain(&product, &["vault__whoami", "--as", carol]);
    assert!(!runs && said(&told, "authenticate").contains(&"groups: not known".to_owned()), "{told}");
    for caller in [carol, "user:gina"] {
        let (told, runs) = explain(&product, &["vault__whoami", "--as", caller, "--groups", "eng,oncall"]);
        assert!(said(&told, "authenticate").contains(&"groups: eng, oncall".to_owned()), "{told}");
        assert_eq!(
            (runs, &told["connection"]),
            (false, &json!(null)),
            "a member of the team, without an account: {told}"
        );
        assert_eq!(said(&told, "decide"), ["tool-access: allow"], "{told}");
    }
    let nobodys = product.cli(&["explain", "main", "--as", "team:blue", "--groups", "eng"], "").unwrap();
    assert!(String::from_utf8_lossy(&nobodys.stderr).contains("no identity provider says anything of team:blue"));
    // Pinned arguments.
    let arguments = r#"{"utc_offset": "+09:00"}"#;
    let (told, _) = explain(&product, &["time__time_now", "--as", "user:alice", "--arguments", arguments]);
    let step = told["steps"].as_array().unwrap().iter().find(|s| s["name"] == "pinnedArguments").unwrap();
    assert_eq!(step["changes"], json!([{"op": "replace", "path": "/utc_offset", "value": "+02:00"}]), "{told}");
    // Nothing was called, and there is no record of a call.
    assert_eq!(calls(), 0);
    let audit = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).unwrap();
    assert!(!audit.contains("vault__whoami") && !audit.contains("borrowed"), "{audit}");

    // And so it is.
    let (_, token) = product.token("user:alice").unwrap();
    let call = async |tool: &str| {
        let reply = http::call(&product.url("main"), Some(&token), tool, json!({})).await.unwrap();
        reply.message()
    };
    eventually("alice's call runs", async || {
        let answer = call("vault__whoami").await;
        (answer["result"]["isError"] != true && answer.get("error").is_none()).then_some(())
    })
    .await;
    let refused = call("vault__odd").await.to_string();
    assert!(refused.contains("not on Fridays") || refused.contains("there is no tool"), "{refused}");

    // A list that is empty says why.
    let listed = product.cli(&["call", "main", "--as", "user:eve"], "").unwrap();
    let why = String::from_utf8_lossy(&listed.stderr);
    assert!(why.contains("hides all"), "{why}");
    // What is not there.
    assert_eq!(product.cli(&["explain", "nowhere", "--as", "user:alice"], "").unwrap().status.code(), Some(3));
    let (told, _) = explain(&product, &["nothing", "--as", "user:alice"]);
    assert_eq!(told["stopped"]["code"], "unknown-tool");
    let unsaid = product.cli(&["explain", "main"], "").unwrap();
    assert!(String::from_utf8_lossy(&unsaid.stderr).contains("--as"), "nobody is guessed at the socket");
    product.stop().await;
}
