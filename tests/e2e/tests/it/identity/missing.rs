//! A call for which an account is missing: what each client is told, and that the same call works once somebody has connected.

use std::{path::Path, time::Duration};

use portcullis_e2e::{
    PATIENCE,
    driver::{Driver, Sdk, text},
    echo::Echo,
    events::Events,
    eventually,
    http::{self, LEGACY, MODERN, Reply},
    product::{Product, resource},
};
use serde_json::{Value, json};

struct House {
    echo: Echo,
    product: Product,
    alice: String,
}

async fn house() -> House {
    let echo = Echo::start().await.unwrap();
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        resource("Team", "blue", json!({"members": ["alice"]})),
        resource("Agent", "ci", json!({"team": "blue"})),
        echo.guarded("vault", "modern"),
        echo.guarded("locked", "refuses"),
        resource("Gateway", "main", json!({"anonymous": true, "servers": [{"server": "vault"}, {"server": "locked"}]})),
    ])
    .await
    .unwrap();
    let alice = product.token("user:alice").unwrap().1;
    House { echo, product, alice }
}

impl House {
    fn connect(&self, owner: &str) {
        self.product.ask(&["connect", "vault", "--owner", owner, "--owner-only", "true"], "secret").unwrap();
    }

    async fn send(&self, token: Option<&str>, message: &Value, more: &[(&str, &str)]) -> Reply {
        let authorization = token.map(|t| format!("Bearer {t}"));
        let mut headers = more.to_vec();
        headers.extend(authorization.as_deref().map(|a| ("authorization", a)));
        http::post(&self.product.url("main"), &headers, message.to_string()).await.unwrap()
    }

    /// A call of the modern era, by a client that can be asked this.
    async fn modern(&self, token: Option<&str>, tool: &str, capabilities: Value, more: Value) -> Value {
        let mut message = http::modern("tools/call", json!({"name": tool, "arguments": {}}));
        message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
        for (name, value) in more.as_object().unwrap() {
            message["params"][name] = value.clone();
        }
        let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", tool)];
        self.send(token, &message, &headers).await.message()
    }

    /// A session of 2025-11-25, or of an earlier revision.
    async fn session(&self, version: &str, capabilities: Value) -> Session<'_> {
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": version,
            "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}}});
        let reply = self.send(Some(&self.alice), &hello, &[]).await;
        let id = reply.headers["mcp-session-id"].to_str().unwrap().to_owned();
        Session { house: self, id, version: version.to_owned() }
    }
}

struct Session<'h> {
    house: &'h House,
    id: String,
    version: String,
}

impl Session<'_> {
    async fn call(&self, id: u64, tool: &str) -> Value {
        let message =
            json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {}}});
        let headers = [("mcp-session-id", &*self.id), ("mcp-protocol-version", &*self.version)];
        self.house.send(Some(&self.house.alice), &message, &headers).await.message()
    }
}

const OPENS: fn() -> Value = || json!({"elicitation": {"url": {}}});

fn link(text: &str) -> &str {
    let start = text.find("http://").expect("a link");
    let end = text[start..].find([' ', '"']).map_or(text.len(), |n| start + n);
    &text[start..end]
}

#[tokio::test]
async fn a_client_of_2026_is_asked_to_open_the_page_and_its_next_try_runs() {
    let house = house().await;
    let asked = house.modern(Some(&house.alice), "vault__whoami", OPENS(), json!({})).await;
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required", "{asked}");
    let (key, request) = result["inputRequests"].as_object().unwrap().iter().next().expect("a question");
    assert_eq!((&request["method"], &request["params"]["mode"]), (&json!("elicitation/create"), &json!("url")));
    let url = request["params"]["url"].as_str().unwrap();
    assert!(url.starts_with(&house.product.page("/connect/")), "{url}");
    let message = request["params"]["message"].as_str().unwrap();
    assert!(message.contains("vault") && message.contains("user:alice"), "{message}");
    // The link says nothing to whoever finds it.
    for word in ["alice", "vault", "main"] {
        assert!(!url.contains(word), "{url}");
    }

    // The person is still at the page when the client comes back: the call waits, and runs when the account is there.
    let again = json!({"inputResponses": {key: {"action": "accept"}}});
    let retry = house.modern(Some(&house.alice), "vault__whoami", OPENS(), again.clone());
    let connect = async {
        // Long enough for a call that does not wait to be answered.
        let waiting = || async {
            let metrics = http::get(&house.product.page("/metrics"), &[]).await.ok()?.text();
            metrics.contains("portcullis_connecting 1").then_some(())
        };
        eventually("the call waits", waiting).await;
        house.connect("user:alice");
    };
    let (answered, ()) = tokio::join!(retry, connect);
    assert!(answered.to_string().contains("Bearer secret"), "{answered}");
    // What it said of the page is not the server's business.
    let seen = house.echo.seen();
    let sent = seen.iter().rfind(|s| s.method == "tools/call").expect("it was called");
    assert!(sent.body["params"].get("inputResponses").is_none(), "{}", sent.body);
    house.product.stop().await;
}

#[tokio::test]
async fn whoever_does_not_open_the_page_is_not_asked_again() {
    let house = house().await;
    let asked = house.modern(Some(&house.alice), "vault__whoami", OPENS(), json!({})).await;
    let key = asked["result"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    for action in ["decline", "cancel"] {
        let answer = json!({"inputResponses": {&key: {"action": action}}});
        let told = house.modern(Some(&house.alice), "vault__whoami", OPENS(), answer).await;
        assert_eq!(told["result"]["isError"], true, "{told}");
    }
    house.product.stop().await;
}

#[tokio::test]
async fn everybody_else_gets_the_link_in_words() {
    let house = house().await;
    // Clients that can be asked nothing, or forms only; and the tool that stands in place of a server's own.
    for (capabilities, tool) in [
        (json!({}), "vault__whoami"),
        (json!({"elicitation": {"form": {}}}), "vault__whoami"),
        (json!({"sampling": {}}), "vault__connect"),
    ] {
        let told = house.modern(Some(&house.alice), tool, capabilities, json!({})).await;
        let result = &told["result"];
        assert_eq!(result["isError"], true, "{told}");
        let words = result["content"][0]["text"].as_str().unwrap();
        for part in ["vault", "user:alice", "then retry", "portcullis connect vault --owner user:alice"] {
            assert!(words.contains(part), "{part}: {words}");
        }
        assert!(link(words).starts_with(&house.product.page("/connect/")), "{words}");
        assert_eq!(result["_meta"]["portcullis.dev/fault"]["code"], "missing-credential");
    }
    // A list holds no link: it is kept, and links end.
    let list = http::ask(&house.product.url("main"), Some(&house.alice), "tools/list", json!({})).await.unwrap();
    assert!(list.text().contains("vault__connect") && !list.text().contains("/connect/"), "{}", list.text());
    // Nobody in particular has no account.
    let told = house.modern(None, "vault__whoami", OPENS(), json!({})).await;
    assert_eq!(told["result"]["isError"], true, "{told}");
    assert!(!told.to_string().contains("/connect/"), "{told}");
    // A token of a team, of an agent: whose page it is, in words.
    for (owner, who) in [
        ("team:blue", "a member of the team blue"),
        ("agent:ci", "an administrator, or one of the team of the agent ci if it has one,"),
    ] {
        let token = house.product.token(owner).unwrap().1;
        let told = house.modern(Some(&token), "vault__whoami", json!({}), json!({})).await.to_string();
        assert!(told.contains(who) && told.contains("/connect/"), "{told}");
    }
    house.product.stop().await;
}

#[tokio::test]
async fn a_client_of_2025_gets_the_error_that_names_the_page_and_hears_when_the_account_is_there() {
    let house = house().await;
    let session = house.session(LEGACY, OPENS()).await;
    let authorization = format!("Bearer {}", house.alice);
    let headers = [
        ("authorization", &*authorization),
        ("mcp-session-id", &*session.id),
        ("mcp-protocol-version", LEGACY),
        ("accept", "text/event-stream"),
    ];
    let mut stream = Events::open("GET", &house.product.url("main"), &headers, String::new()).await.unwrap();
    let told = session.call(1, "vault__whoami").await;
    assert_eq!(told["error"]["code"], -32042, "{told}");
    let page = &told["error"]["data"]["elicitations"][0];
    assert_eq!(page["mode"], "url");
    assert!(page["url"].as_str().unwrap().starts_with(&house.product.page("/connect/")), "{page}");
    let id = page["elicitationId"].as_str().unwrap().to_owned();
    house.connect("user:alice");
    let complete = tokio::time::timeout(PATIENCE, async {
        loop {
            let (_, message) = stream.message().await.unwrap().expect("the stream goes on");
            if message["method"] == "notifications/elicitation/complete" {
                return message.to_string();
            }
        }
    });
    let complete = complete.await.expect("it is told");
    assert!(complete.contains(&id), "{complete}");
    let ran = session.call(2, "vault__whoami").await;
    assert!(ran.to_string().contains("Bearer secret"), "{ran}");

    // Earlier revisions, and clients that open no pages, get words.
    for (version, capabilities) in [("2025-06-18", OPENS()), (LEGACY, json!({"elicitation": {}}))] {
        let session = house.session(version, capabilities).await;
        let told = session.call(1, "locked__whoami").await;
        assert_eq!(told["result"]["isError"], true, "{told}");
        assert!(told.to_string().contains("/connect/"), "{told}");
    }
    house.product.stop().await;
}

#[tokio::test]
async fn what_the_server_refuses_is_said_with_the_link_that_mends_it() {
    let house = house().await;
    house.product.ask(&["connect", "locked", "--owner", "user:alice", "--owner-only", "true"], "old").unwrap();
    let told = house.modern(Some(&house.alice), "locked__whoami", OPENS(), json!({})).await;
    let fault = &told["result"]["_meta"]["portcullis.dev/fault"];
    assert_eq!(fault["code"], "server-refused-credential", "{told}");
    assert!(fault["next"].as_str().unwrap().contains("/connect/"), "{told}");
    // A tool's own error stays one, whatever its words.
    house.connect("user:alice");
    let own = house.modern(Some(&house.alice), "vault__nosuch", OPENS(), json!({})).await;
    assert!(!own.to_string().contains("/connect/"), "{own}");
    house.product.stop().await;
}

/// The official clients, in both eras: each opens the page, the account is connected meanwhile, and the call is answered.
#[tokio::test]
async fn the_official_clients_open_the_page_and_go_on() {
    for (sdk, mode) in
        [(Sdk::Python, "2026-07-28"), (Sdk::Node, "2026-07-28"), (Sdk::Python, "legacy"), (Sdk::Node, "legacy")]
    {
        let house = house().await;
        let opened = house.product.home().join("opened");
        let url = house.product.url("main");
        let mut client = Driver::opening(sdk, &url, &house.alice, mode, &opened).await.unwrap();
        let call = client.call("vault__whoami", json!({}));
        let outcome = if mode == "legacy" {
            let error = call.await.expect_err("it is told which page").to_string();
            assert!(error.contains("-32042") && error.contains("/connect/"), "{sdk:?}: {error}");
            house.connect("user:alice");
            client.call("vault__whoami", json!({})).await
        } else {
            let connect = async {
                eventually("the client opens the page", || async { page(&opened) }).await;
                house.connect("user:alice");
            };
            tokio::join!(call, connect).0
        };
        let outcome = outcome.unwrap_or_else(|e| panic!("{sdk:?} {mode}: {e}"));
        assert!(text(&outcome).contains("Bearer secret"), "{sdk:?} {mode}: {outcome}");
        client.close().await.unwrap();
        house.product.stop().await;
    }
}

fn page(opened: &Path) -> Option<String> {
    let text = std::fs::read_to_string(opened).ok()?;
    text.contains("/connect/").then_some(text)
}

/// Somebody who never finishes at the page is asked again after a while; nothing is kept waiting for ever.
#[tokio::test]
async fn a_call_that_waits_for_a_person_ends() {
    let house = house().await;
    let asked = house.modern(Some(&house.alice), "vault__whoami", OPENS(), json!({})).await;
    let key = asked["result"]["inputRequests"].as_object().unwrap().keys().next().unwrap().clone();
    let again = json!({"inputResponses": {&key: {"action": "accept"}}});
    let waited = tokio::time::timeout(
        Duration::from_secs(40),
        house.modern(Some(&house.alice), "vault__whoami", OPENS(), again),
    );
    let told = waited.await.expect("it ends");
    assert_eq!(told["result"]["resultType"], "input_required", "{told}");
    house.product.stop().await;
}
