//! The policy `webhook` and a real service: what is asked, what each answer means, and what passes while there is no verdict.

use portcullis_e2e::{
    asked::Asked,
    echo::Echo,
    eventually, http,
    product::{Product, resource},
};
use serde_json::{Value, json};

const KEY: &str = "the-key-of-the-guard-7c1f";

fn plugin(service: &Asked, more: Value, reveal: bool) -> Value {
    let origin = service.url();
    let mut config = json!({
        "url": format!("{origin}/decide"), "signingSecret": "guard", "tools": ["echo"], "timeoutMs": 1500, "claims": ["email"],
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    json!({
        "source": {"builtIn": "webhook"},
        "config": config,
        "grants": {
            "http": [origin], "httpPrivate": true, "sign": true, "state": "64KiB", "reveal": reveal,
            "secrets": {"guard": {"from": {"env": "GUARD_KEY"}, "origins": [origin]}},
        },
    })
}

struct House {
    product: Product,
    echo: Echo,
    token: String,
}

impl House {
    async fn new(service: &Asked) -> Self {
        let echo = Echo::start().await.unwrap();
        let servers = json!([{"server": "echo"}]);
        let gateway = |plugin: &str| json!({"policies": [{"plugin": plugin}], "servers": servers});
        let mut lenient = plugin(service, json!({}), true);
        lenient["onError"] = json!("allow");
        let resources = [
            resource("User", "alice", json!({})),
            echo.open("echo", "modern"),
            resource("Plugin", "guard", plugin(service, json!({}), true)),
            resource("Plugin", "blind", plugin(service, json!({}), false)),
            resource("Plugin", "lenient", lenient),
            resource("Plugin", "mistaken", plugin(service, json!({"url": "https://elsewhere.example/"}), true)),
            resource("Gateway", "main", gateway("guard")),
            resource("Gateway", "blind", gateway("blind")),
            resource("Gateway", "lenient", gateway("lenient")),
            resource("Gateway", "mistaken", gateway("mistaken")),
        ];
        let product = Product::start_with(&resources, &[("GUARD_KEY", KEY)], json!({})).await.unwrap();
        let token = product.token("user:alice").unwrap().1;
        let house = Self { product, echo, token };
        eventually("the policies are loaded", || async {
            (!house.call("lenient", "whoami", "").await.contains("fault")).then_some(())
        })
        .await;
        house
    }

    async fn call(&self, gateway: &str, tool: &str, message: &str) -> String {
        let (url, tool) = (self.product.url(gateway), format!("echo__{tool}"));
        http::call(&url, Some(&self.token), &tool, json!({"message": message})).await.unwrap().text()
    }

    /// What the server was sent in calls of `echo`.
    fn reached(&self) -> Vec<String> {
        let calls = self.echo.seen().into_iter().filter(|seen| seen.body["params"]["name"] == "echo");
        calls.map(|seen| seen.body["params"]["arguments"]["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

#[tokio::test]
async fn the_service_decides() {
    let service = Asked::guard(KEY).await.unwrap();
    let house = House::new(&service).await;
    assert!(service.seen().await.unwrap().is_empty(), "other tools pass unasked");

    house.call("main", "echo", "plain").await;
    house.call("main", "echo", "changed").await;
    assert_eq!(house.reached(), ["plain", "another"]);
    let asked = service.seen().await.unwrap();
    assert_eq!(
        (&asked[0]["caller"]["subject"], &asked[0]["server"], &asked[0]["tool"], &asked[0]["gateway"]),
        (&json!("user:alice"), &json!("echo"), &json!("echo"), &json!("main"))
    );
    assert!(asked[0]["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{}", asked[0]);

    for (message, words) in [
        ("refused", "not this"),
        ("kept refusal", "not you"),
        ("anything else", "the policy service does not allow this"),
    ] {
        let said = house.call("main", "echo", message).await;
        assert!(said.contains("denied") && said.contains(words), "{message}: {said}");
    }
    for message in ["moved", "page", "other", "broken", "slow"] {
        let said = house.call("main", "echo", message).await;
        assert!(said.contains("plugin-failed"), "{message}: {said}");
    }
    assert_eq!(house.reached(), ["plain", "another"], "nothing of that got through");
    assert!(!house.product.log().contains(KEY), "the key is in no log");
}

#[tokio::test]
async fn verdicts_are_kept_where_the_service_says_so() {
    let service = Asked::guard(KEY).await.unwrap();
    let house = House::new(&service).await;
    for _ in 0..3 {
        house.call("main", "echo", "kept").await;
        assert!(house.call("main", "echo", "kept refusal").await.contains("not you"));
        house.call("main", "echo", "plain").await;
    }
    let asked: Vec<Value> = service.seen().await.unwrap().iter().map(|q| q["arguments"]["message"].clone()).collect();
    assert_eq!(asked, ["kept", "kept refusal", "plain", "plain", "plain"]);
    assert_eq!(house.reached().len(), 6);
}

#[tokio::test]
async fn without_a_verdict_nothing_passes_unless_the_operator_says_so() {
    let service = Asked::guard(KEY).await.unwrap();
    let house = House::new(&service).await;
    // Without `reveal` nobody sees what a 200 says.
    house.call("blind", "echo", "plain").await;
    assert_eq!(house.reached(), ["plain"]);
    let said = house.call("blind", "echo", "changed").await;
    assert!(said.contains("plugin-failed"), "{said}");
    assert!(house.call("blind", "echo", "refused").await.contains("plugin-failed"));
    assert!(house.call("blind", "echo", "kept refusal").await.contains("the policy service does not allow this"));
    // An origin that was not granted.
    assert!(house.call("mistaken", "echo", "plain").await.contains("plugin-failed"));
    assert_eq!(house.reached(), ["plain"]);
    drop(service);
    assert!(house.call("main", "echo", "plain").await.contains("plugin-failed"), "the service is gone");
    assert_eq!(house.reached(), ["plain"]);
    house.call("lenient", "echo", "plain").await;
    assert_eq!(house.reached(), ["plain", "plain"], "onError: allow");
}

#[tokio::test]
async fn a_service_that_has_another_key_takes_no_question() {
    let service = Asked::guard("another key").await.unwrap();
    let house = House::new(&service).await;
    let said = house.call("main", "echo", "plain").await;
    assert!(said.contains("the signature is wrong"), "{said}");
    assert!(service.seen().await.unwrap().is_empty() && house.reached().is_empty());
}
