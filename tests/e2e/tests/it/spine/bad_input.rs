//! Bad input gets a clear error, and nothing is lost: after each bad thing the next good call works.

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    parts::{Parts, root},
    process,
    product::{Product, resource},
};
use serde_json::{Value, json};

/// A gateway in front of our own server, with the built-in token plugin.
async fn start(more: &[Value]) -> (Echo, Product, String) {
    let echo = Echo::start().await.unwrap();
    let mut resources = vec![
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        echo.open("echo", "modern"),
        resource("Gateway", "main", json!({"servers": [{"server": "echo"}]})),
        resource("Gateway", "other", json!({"servers": [{"server": "echo"}]})),
    ];
    resources.extend_from_slice(more);
    let product = Product::start(&resources).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    works(&product, &token).await;
    (echo, product, token)
}

/// The next good call works.
async fn works(product: &Product, token: &str) {
    eventually("a good call works", || async {
        let reply =
            http::call(&product.url("main"), Some(token), "echo__echo", json!({"message": "well"})).await.ok()?;
        (reply.status == 200 && reply.text().contains("well")).then_some(())
    })
    .await;
}

fn right_headers(authorization: &str) -> Vec<(&str, &str)> {
    vec![
        ("authorization", authorization),
        ("mcp-protocol-version", http::MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo__echo"),
    ]
}

fn right_body() -> String {
    http::modern("tools/call", json!({"name": "echo__echo", "arguments": {"message": "x"}})).to_string()
}

#[tokio::test]
async fn bodies_that_are_no_messages() {
    let (echo, product, token) = start(&[]).await;
    let authorization = format!("Bearer {token}");
    let arrived = echo.seen().iter().filter(|s| s.method == "tools/call").count();
    let right = right_body();
    let deep = right.replace("{\"message\":\"x\"}", &format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("no JSON", b"hello".to_vec()),
        ("truncated", right.as_bytes()[..right.len() / 2].to_vec()),
        ("a list of nothing", b"[]".to_vec()),
        ("a number", b"7".to_vec()),
        ("no version", right.replace("\"jsonrpc\":\"2.0\",", "").into_bytes()),
        ("two methods", right.replacen('{', "{\"method\":\"tools/list\",", 1).into_bytes()),
        (
            "two names",
            right.replace("\"name\":\"echo__echo\"", "\"name\":\"echo__odd\",\"name\":\"echo__echo\"").into_bytes(),
        ),
        (
            "broken UTF-8",
            right.replace("echo__echo", "echo__\u{1}").bytes().map(|b| if b == 1 { 0xff } else { b }).collect(),
        ),
        ("deep", deep.into_bytes()),
    ];
    for (name, body) in cases {
        let reply = http::post(&product.url("main"), &right_headers(&authorization), body).await.unwrap();
        assert!(reply.status.is_client_error(), "{name}: {} {}", reply.status, reply.text());
        assert!(reply.text().contains("\"error\""), "{name}: {}", reply.text());
    }
    let enormous = right.replace("\"x\"", &format!("\"{}\"", "x".repeat(80 << 20)));
    // The connection may be closed before all of it is sent: that is an answer too.
    if let Ok(reply) = http::post(&product.url("main"), &right_headers(&authorization), enormous).await {
        assert!(reply.status.is_client_error(), "{}", reply.status);
    }
    assert_eq!(
        echo.seen().iter().filter(|s| s.method == "tools/call").count(),
        arrived,
        "none of it reached the server"
    );
    works(&product, &token).await;
    product.stop().await;
}

#[tokio::test]
async fn headers_that_do_not_say_what_the_body_says() {
    let (_echo, product, token) = start(&[]).await;
    let authorization = format!("Bearer {token}");
    let without =
        |name: &str| right_headers(&authorization).into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    let with = |name: &'static str, value: &'static str| {
        let mut headers = without(name);
        headers.push((name, value));
        headers
    };
    let cases = [
        ("no method", without("mcp-method"), -32020),
        ("another method", with("mcp-method", "tools/list"), -32020),
        ("no name", without("mcp-name"), -32020),
        ("another name", with("mcp-name", "echo__odd"), -32020),
        ("an old version", with("mcp-protocol-version", "2025-11-25"), -32020),
    ];
    for (name, headers, code) in cases {
        let reply = http::post(&product.url("main"), &headers, right_body()).await.unwrap();
        assert_eq!(reply.status, 400, "{name}: {}", reply.text());
        assert_eq!(reply.message()["error"]["code"], code, "{name}: {}", reply.text());
    }
    let future = right_body().replace(http::MODERN, "2099-01-01");
    let reply = http::post(&product.url("main"), &with("mcp-protocol-version", "2099-01-01"), future).await.unwrap();
    assert_eq!(reply.status, 400);
    assert_eq!(reply.message()["error"]["code"], -32022, "{}", reply.text());
    assert!(reply.message()["error"]["data"]["supported"].as_array().is_some_and(|s| s.contains(&json!(http::MODERN))));

    for (name, value) in [("origin", "https://evil.example"), ("host", "evil.example")] {
        let mut headers = right_headers(&authorization);
        headers.push((name, value));
        let reply = http::post(&product.url("main"), &headers, right_body()).await.unwrap();
        assert!(matches!(reply.status.as_u16(), 403 | 421), "foreign {name}: {}", reply.status);
    }
    works(&product, &token).await;
    product.stop().await;
}

#[tokio::test]
async fn tokens_that_are_not_good_here() {
    let (_echo, product, token) = start(&[]).await;
    let url = product.url("main");
    let create = |more: &[&str]| {
        let made = product.ask(&[&["token", "create", "--owner", "user:alice"], more].concat(), "").unwrap();
        made["token"].as_str().unwrap().to_owned()
    };
    let elsewhere = create(&["--gateway", "other"]);
    let brief = create(&["--expires", "1s"]);
    let (id, revoked) = product.token("user:alice").unwrap();
    product.ask(&["token", "revoke", &id], "").unwrap();
    let none_at_all = http::call(&url, None, "echo__echo", json!({})).await.unwrap();
    assert_eq!(none_at_all.status, 401);
    assert!(none_at_all.headers.contains_key("www-authenticate"));
    eventually("a token ends", || async {
        (http::call(&url, Some(&brief), "echo__echo", json!({})).await.ok()?.status == 401).then_some(())
    })
    .await;
    let unknown = format!("pcl_{}", "A".repeat(43));
    let unsigned = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIiwic3ViIjoiYWxpY2UifQ.";
    for (name, bad) in
        [("revoked", &*revoked), ("unknown", &unknown), ("garbage", "\u{7f}x"), ("alg none", unsigned), ("empty", "")]
    {
        let Ok(reply) = http::call(&url, Some(bad), "echo__echo", json!({})).await else { continue };
        assert!(matches!(reply.status.as_u16(), 400 | 401), "{name}: {} {}", reply.status, reply.text());
    }
    let foreign = http::call(&url, Some(&elsewhere), "echo__echo", json!({})).await.unwrap();
    assert!(matches!(foreign.status.as_u16(), 401 | 403), "a token of another gateway: {}", foreign.status);
    assert_eq!(http::call(&product.url("other"), Some(&elsewhere), "echo__echo", json!({})).await.unwrap().status, 200);
    works(&product, &token).await;
    product.stop().await;
}

#[tokio::test]
async fn names_and_sessions_that_nobody_knows() {
    let (_echo, product, token) = start(&[]).await;
    let reply = http::call(&product.url("nowhere"), Some(&token), "echo__echo", json!({})).await.unwrap();
    assert_eq!(reply.status, 404);
    let tool = http::call(&product.url("main"), Some(&token), "echo__nothing", json!({})).await.unwrap();
    assert!(tool.text().contains("echo__nothing") && tool.text().contains("error"), "{}", tool.text());

    let (_, bob) = product.token("user:bob").unwrap();
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": http::LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let authorization = format!("Bearer {token}");
    let url = product.url("main");
    let opened = http::post(&url, &[("authorization", &authorization)], initialize.to_string()).await.unwrap();
    assert_eq!(opened.status, 200, "{}", opened.text());
    let session = opened.headers["mcp-session-id"].to_str().unwrap().to_owned();
    assert!(session.len() < 1024);
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}).to_string();
    let with = |token: &str, session: &str, gateway: &str| {
        let (authorization, session, url, list) =
            (format!("Bearer {token}"), session.to_owned(), product.url(gateway), list.clone());
        async move {
            let headers = [
                ("authorization", &*authorization),
                ("mcp-session-id", &*session),
                ("mcp-protocol-version", http::LEGACY),
            ];
            http::post(&url, &headers, list).await.unwrap().status.as_u16()
        }
    };
    assert_eq!(with(&token, &session, "main").await, 200);
    let mut forged = session.clone().into_bytes();
    let middle = forged.len() / 2;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    assert_eq!(with(&token, "unheard-of", "main").await, 404);
    assert_eq!(with(&token, &forged, "main").await, 404, "a changed session id");
    assert_eq!(with(&bob, &session, "main").await, 404, "another person's session");
    assert_eq!(with(&token, &session, "other").await, 404, "another gateway's session");
    works(&product, &token).await;
    product.stop().await;
}

#[tokio::test]
async fn servers_that_answer_wrongly() {
    const BAD: [&str; 8] = ["garbage", "wrong-id", "truncated", "refuses", "breaks", "never", "huge", "twice"];
    let echo = Echo::start().await.unwrap();
    let mut resources = vec![resource("User", "alice", json!({})), echo.open("echo", "modern")];
    resources.extend(BAD.map(|way| {
        let mut server = echo.open(way, way);
        server["spec"]["traffic"] = json!({"timeout": "2s", "maxResponse": "1MiB"});
        server
    }));
    let shown: Vec<Value> = std::iter::once("echo").chain(BAD).map(|n| json!({"server": n})).collect();
    resources.push(resource("Gateway", "main", json!({"servers": shown})));
    let product = Product::start(&resources).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    works(&product, &token).await;
    for way in BAD {
        let tool = format!("{way}__echo");
        let listed = || async {
            let list = http::ask(&product.url("main"), Some(&token), "tools/list", json!({})).await.ok()?;
            list.text().contains(&tool).then_some(())
        };
        eventually(&format!("{tool} is listed"), listed).await;
        let Ok(reply) = http::call(&product.url("main"), Some(&token), &tool, json!({"message": "m"})).await else {
            assert_eq!(way, "huge", "only an answer that is cut off may break the connection");
            continue;
        };
        let said = reply.text();
        if way == "twice" {
            assert!(said.contains("\"isError\":false"), "the first answer counts: {said}");
            continue;
        }
        assert!(said.len() < 4 << 20, "{way}: {} bytes", said.len());
        assert!(said.contains("\"error\"") || said.contains("\"isError\":true"), "{way}: {said}");
        assert!(
            said.contains(way) && said.contains("server"),
            "{way}: the error names the server and the side: {said}"
        );
        assert!(!said.contains("internal-detail"), "{way}: what a server printed goes to nobody: {said}");
        works(&product, &token).await;
    }
    eventually("the call that nobody answers is given up", || async { (echo.abandoned() > 0).then_some(()) }).await;
    product.stop().await;
}

#[tokio::test]
async fn children_that_die_flood_and_fork() {
    let script = root().join("tests/fixtures/python/child.py");
    let spec =
        json!({"process": {"command": Parts::get().python("python"), "args": [script]}, "traffic": {"timeout": "10s"}});
    let (_echo, mut product, token) = start(&[
        resource("McpServer", "child", spec),
        resource("Gateway", "children", json!({"servers": [{"server": "child"}]})),
    ])
    .await;
    let url = product.url("children");
    let call = |tool: &str, arguments: Value| {
        let (url, token, tool) = (url.clone(), token.clone(), format!("child__{tool}"));
        async move { http::call(&url, Some(&token), &tool, arguments).await.unwrap().text() }
    };
    let result = |text: &str| serde_json::from_str::<Value>(text).unwrap()["result"]["content"][0]["text"].clone();

    let first = eventually("the child answers", || async {
        Some(result(&call("pid", json!({})).await)).filter(Value::is_string)
    })
    .await;
    assert_eq!(
        result(&call("environment", json!({"name": "PORTCULLIS_SOCKET"})).await),
        json!(""),
        "nothing is inherited"
    );
    assert_eq!(result(&call("garbage", json!({})).await), json!("after the garbage"));
    assert_eq!(result(&call("flood", json!({})).await), json!("flooded"));

    // Many callers share the child, and each gets their own answer.
    let many = (0..32).map(|n| call("sleep", json!({"seconds": 0.05, "message": format!("answer {n}")})));
    for (n, text) in futures(many).await.into_iter().enumerate() {
        assert_eq!(result(&text), json!(format!("answer {n}")));
    }

    let died = call("die", json!({})).await;
    assert!(died.contains("child") && (died.contains("\"error\"") || died.contains("\"isError\":true")), "{died}");
    let second = eventually("it is started again", || async {
        Some(result(&call("pid", json!({})).await)).filter(Value::is_string)
    })
    .await;
    assert_ne!(first, second);

    // A grandchild in a session of its own goes with the gateway, however that ends.
    let grandchild: u32 = result(&call("fork", json!({})).await).as_str().unwrap().parse().unwrap();
    assert!(process::alive(grandchild));
    product.kill().await;
    eventually("the grandchild is gone", || async { (!process::alive(grandchild)).then_some(()) }).await;

    // What was acknowledged is there after the kill.
    product.launch().await.unwrap();
    works(&product, &token).await;
    product.stop().await;
}

async fn futures(all: impl Iterator<Item = impl Future<Output = String> + Send + 'static>) -> Vec<String> {
    let tasks: Vec<_> = all.map(tokio::spawn).collect();
    let mut texts = Vec::new();
    for task in tasks {
        texts.push(task.await.unwrap());
    }
    texts
}

#[tokio::test]
async fn resources_that_make_no_sense_change_nothing() {
    let (_echo, product, token) = start(&[]).await;
    let gateway = "apiVersion: portcullis.dev/v1alpha1\nkind: Gateway\nmetadata: {name: main}\n";
    let cases = [
        ("no YAML", "apiVersion: [\n".to_owned(), ""),
        ("an unknown field", format!("{gateway}spec: {{servers: [], serverz: []}}\n"), "serverz"),
        ("an unknown kind", gateway.replace("Gateway", "Gatepost") + "spec: {}\n", "Gatepost"),
        ("a wrong type", format!("{gateway}spec: {{servers: 7}}\n"), "bad.yaml:4:"),
        ("one name twice", format!("{gateway}spec: {{servers: []}}\n---\n{gateway}spec: {{servers: []}}\n"), "main"),
        ("a bad name", gateway.replace("main", "Main!") + "spec: {}\n", "Main!"),
    ];
    for (name, text, word) in &cases {
        let path = product.home().join("bad.yaml");
        std::fs::write(&path, text).unwrap();
        let output = product.cli(&["apply", "-f", &path.display().to_string()], "").unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(2 | 4)), "{name}: {} {said}", output.status);
        assert!(said.contains(word) && said.contains("bad.yaml"), "{name}: {said}");
        // The same by the other door.
        product.write_text("bad.yaml", text).unwrap();
        eventually(&format!("{name} is refused in the log"), || async {
            product.log().contains("bad.yaml").then_some(())
        })
        .await;
        works(&product, &token).await;
    }
    // A door does not change what came in by another.
    let path = product.home().join("other-door.yaml");
    std::fs::write(&path, format!("{gateway}spec: {{servers: []}}\n")).unwrap();
    let output = product.cli(&["apply", "-f", &path.display().to_string()], "").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("resources.yaml"), "it says where to edit: {said}");
    works(&product, &token).await;
    product.stop().await;
}

#[tokio::test]
async fn plugins_that_are_none_deny() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.wasm");
    std::fs::write(&garbage, "this is no component").unwrap();
    // A component that exports nothing (component-model binary format: preamble only).
    let empty = folder.path().join("empty.wasm");
    std::fs::write(&empty, b"\0asm\x0d\0\x01\0").unwrap();
    let mut more = Vec::new();
    for (name, file) in [("garbage", &garbage), ("empty", &empty)] {
        more.push(resource("Plugin", name, json!({"source": {"file": {"path": file}}})));
        let gateway = json!({"policies": [{"plugin": name}], "servers": [{"server": "echo"}]});
        more.push(resource("Gateway", &format!("with-{name}"), gateway));
    }
    let missing = json!({"policies": [{"plugin": "nobody-wrote-this"}], "servers": [{"server": "echo"}]});
    more.push(resource("Gateway", "with-nothing", missing));
    // From the start: one team's broken plugin takes nobody else's gateway out.
    let (_echo, product, token) = start(&more).await;
    let ready = http::get(&product.page("/readyz"), &[]).await.unwrap();
    assert!(ready.status == 200 && ready.text().contains("with-garbage"), "{}", ready.text());
    for gateway in ["with-garbage", "with-empty", "with-nothing"] {
        let said = eventually("the gateway is there, and refuses", || async {
            let reply =
                http::call(&product.url(gateway), Some(&token), "echo__echo", json!({"message": "passed"})).await;
            reply.ok().filter(|r| r.status != 404).map(|r| r.text())
        })
        .await;
        assert!(!said.contains("passed") && said.contains("error"), "{gateway} fails closed: {said}");
    }
    works(&product, &token).await;
    product.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_not_counted_for_ever() {
    let echo = Echo::start().await.unwrap();
    let resources = [
        resource("User", "alice", json!({})),
        echo.open("echo", "modern"),
        echo.open("never", "never"),
        resource("Gateway", "main", json!({"servers": [{"server": "echo"}, {"server": "never"}]})),
    ];
    let product = Product::start(&resources).await.unwrap();
    let token = product.token("user:alice").unwrap().1;
    works(&product, &token).await;
    let in_flight = async || {
        let text = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
        let line = text.lines().find(|l| l.starts_with("portcullis_requests_in_flight ")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<i64>().unwrap()
    };
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let (url, token) = (product.url("main"), token.clone());
            tokio::spawn(async move { http::call(&url, Some(&token), "never__echo", json!({"message": "m"})).await })
        })
        .collect();
    eventually("five calls are under way", || async { (in_flight().await == 5).then_some(()) }).await;
    for call in &calls {
        call.abort();
    }
    eventually("nobody is counted", || async { (in_flight().await == 0).then_some(()) }).await;
    eventually("the server was told", || async { (echo.abandoned() >= 5).then_some(()) }).await;
    works(&product, &token).await;
    product.stop().await;
}

#[tokio::test]
async fn metrics_and_health_are_no_strangers_business() {
    let (_echo, product, _) = start(&[]).await;
    for (page, headers, status) in [
        ("/metrics", vec![], 200),
        ("/metrics", vec![("host", "attacker.example")], 403),
        ("/metrics", vec![("origin", "https://attacker.example")], 403),
        ("/metrics", vec![("x-forwarded-for", "203.0.113.9")], 404),
        ("/readyz", vec![], 200),
        ("/readyz", vec![("host", "attacker.example")], 403),
    ] {
        let reply = http::get(&product.page(page), &headers).await.unwrap();
        assert_eq!(reply.status, status, "{page} {headers:?}");
    }
    product.stop().await;
}

#[tokio::test]
async fn a_policy_that_fails_is_a_denial_in_the_audit() {
    // Patterns and a text that take more time to compare than a policy has, and than it may have now and then.
    let rule =
        json!({"effect": "allow", "when": [{"argument": "/message", "matches": format!("{}b", "*a".repeat(200))}]});
    let slow = json!({"rules": vec![rule; 30]});
    let gateway = json!({"policies": [{"plugin": "tool-access", "config": slow}], "servers": [{"server": "echo"}]});
    let (echo, product, token) = start(&[resource("Gateway", "strict", gateway)]).await;
    let message = json!({"message": "a".repeat(3_500_000)});
    let reply = http::call(&product.url("strict"), Some(&token), "echo__echo", message).await.unwrap();
    assert!(reply.text().contains("plugin-timeout"), "{}", reply.text());
    assert_eq!(
        echo.seen().iter().filter(|s| s.method == "tools/call").count(),
        1,
        "only the call of `start` may arrive"
    );
    // On disk before the answer: no waiting.
    let audit = std::fs::read_to_string(product.data().join("audit").join("audit.jsonl")).unwrap();
    let denied = |line: &&str| line.contains("plugin-timeout") && line.contains(r#""decision":"deny""#);
    assert!(audit.lines().any(|l| denied(&l)), "{audit}");
    product.stop().await;
}

#[tokio::test]
async fn a_policy_whose_configuration_is_wrong_lets_nobody_in() {
    let wrong = json!({"rules": [{"effect": "allow", "tools": []}]});
    let gateway = json!({"policies": [{"plugin": "tool-access", "config": wrong}], "servers": [{"server": "echo"}]});
    let (echo, product, token) = start(&[resource("Gateway", "strict", gateway)]).await;
    let reply = http::call(&product.url("strict"), Some(&token), "echo__echo", json!({"message": "x"})).await.unwrap();
    assert!(reply.text().contains("not-ready"), "{}", reply.text());
    assert_eq!(
        echo.seen().iter().filter(|s| s.method == "tools/call").count(),
        1,
        "only the call of `start` may arrive"
    );
    product.stop().await;
}

#[tokio::test]
async fn encodings_charsets_and_hosts_that_could_be_read_in_two_ways_are_refused() {
    let (echo, product, token) = start(&[]).await;
    let authorization = format!("Bearer {token}");
    for (name, value) in [("content-encoding", "gzip"), ("content-type", "application/json; charset=utf-16")] {
        let mut headers = right_headers(&authorization);
        headers.push((name, value));
        let reply = http::post(&product.url("main"), &headers, right_body()).await.unwrap();
        assert_eq!(reply.status, 415, "{name}: {}", reply.text());
        assert!(reply.text().contains("unsupported-media-type"), "{name}: {}", reply.text());
    }
    let mut headers = right_headers(&authorization);
    let host = product.address.to_string();
    headers.extend([("host", host.as_str()), ("host", "localhost")]);
    let reply = http::post(&product.url("main"), &headers, right_body()).await.unwrap();
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert!(reply.text().contains("more than one host"), "{}", reply.text());
    assert_eq!(echo.seen().iter().filter(|s| s.method == "tools/call").count(), 1, "only the good call arrived");
    product.stop().await;
}
