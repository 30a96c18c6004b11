//! Canaries: a value that nobody else has in every secret there is, every flow and failure driven with it, and then all that left the
//! process searched for each of them: the log at its finest, metrics, audit, answers, pages, lists, and the store's files.
//!
//! A flow joins by a line in [`FLOWS`]: it plants its canaries ([`House::plant`]), and keeps what it was answered ([`House::heard`]).

mod oauth;
mod others;
mod pages;

use std::{path::Path, sync::Mutex};

use futures_util::future::BoxFuture;
use portcullis_e2e::{
    echo::Echo,
    http::{self, LEGACY, MODERN, Reply},
    product::{Product, resource},
};
use serde_json::{Value, json};

use others::Others;

/// A flow or a failure, driven with canaries.
type Flow = for<'h> fn(&'h House) -> BoxFuture<'h, ()>;

const FLOWS: &[(&str, Flow)] = &[
    ("tokens by the command line", |house| Box::pin(tokens(house))),
    ("calls under sealed, file and environment secrets", |house| Box::pin(calls(house))),
    ("callers that are turned away", |house| Box::pin(strangers(house))),
    ("a missing account, in each way it is said", |house| Box::pin(missing(house))),
    ("servers that fail", |house| Box::pin(failures(house))),
    ("the admin API over TCP", |house| Box::pin(admin(house))),
    ("one-time sign-in codes", |house| Box::pin(sign_in(house))),
    ("what does not fit a field", |house| Box::pin(misfits(house))),
    ("our authorization server: codes, tokens, secrets of clients", |house| Box::pin(oauth::ours(house))),
    ("a server's authorization server: states, codes, tokens, the client's secret", |house| {
        Box::pin(oauth::theirs(house))
    }),
    ("a token that is swapped", |house| Box::pin(others::exchange(house))),
    ("a token that is passed on", |house| Box::pin(others::passthrough(house))),
    ("Vault", |house| Box::pin(others::vault(house))),
    ("the pages", |house| Box::pin(pages::all(house))),
];

/// What may hold a canary all the same: the store keeps what is sealed, in which none can be read, so nothing is excepted.
struct House {
    echo: Echo,
    others: Others,
    product: Product,
    admin: String,
    alice: String,
    planted: Mutex<Vec<(&'static str, String)>>,
    heard: Mutex<Vec<(String, String)>>,
}

impl House {
    /// A value that is found wherever it gets.
    fn canary(&self, what: &'static str) -> String {
        let canary = format!("canary-{}-{}", self.planted.lock().unwrap().len(), "7d1f0c5e9ab3");
        self.plant(what, &canary);
        canary
    }

    /// A secret that the product made.
    fn plant(&self, what: &'static str, secret: &str) {
        self.planted.lock().unwrap().push((what, secret.to_owned()));
    }

    /// Something that left the process, where no secret belongs.
    fn heard(&self, what: impl Into<String>, words: impl Into<String>) {
        self.heard.lock().unwrap().push((what.into(), words.into()));
    }

    fn cli(&self, args: &[&str], input: &str) -> String {
        let output = self.product.cli(args, input).unwrap();
        let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        self.heard(format!("portcullis {}", args.join(" ")), words.clone());
        words
    }

    /// Makes a token without keeping what was printed: there it is shown, this once.
    fn token(&self, owner: &str, more: &[&str]) -> (String, String) {
        let made = self.product.ask(&[&["token", "create", "--owner", owner], more].concat(), "").unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        self.plant("a token", &text("token"));
        (text("id"), text("token"))
    }

    async fn send(&self, url: &str, headers: &[(&str, &str)], body: String) -> Reply {
        let reply = http::post(url, headers, body).await.unwrap();
        self.heard(format!("the answer of {url}"), format!("{:?} {}", reply.headers, reply.text()));
        reply
    }

    async fn call(&self, bearer: &str, tool: &str, capabilities: Value, more: &[(&str, &str)]) -> Reply {
        let mut message = http::modern("tools/call", json!({"name": tool, "arguments": {}}));
        message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
        let authorization = format!("Bearer {bearer}");
        let mut headers = vec![("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", tool)];
        headers.push(("authorization", &authorization));
        headers.extend(more);
        self.send(&self.product.url("main"), &headers, message.to_string()).await
    }
}

async fn tokens(house: &House) {
    let (id, token) = house.token("user:alice", &["--name", "laptop"]);
    let (other, _) = house.token("team:blue", &["--gateway", "main"]);
    house.call(&token, "open__echo", json!({}), &[]).await;
    house.cli(&["token", "list"], "");
    house.cli(&["token", "list", "--all"], "");
    house.cli(&["token", "list", "-o", "json"], "");
    house.cli(&["token", "revoke", &id], "");
    house.cli(&["token", "revoke", &other, "-o", "json"], "");
    house.call(&token, "open__echo", json!({}), &[]).await;
}

async fn calls(house: &House) {
    let sealed = house.canary("a sealed secret");
    house.cli(&["connect", "vault", "--owner", "user:alice", "--owner-only", "true"], &sealed);
    let file = house.canary("a secret in a file");
    std::fs::write(house.product.home().join("secret"), &file).unwrap();
    for server in ["vault", "infile", "inenv"] {
        // `echo`, because `whoami` answers with what it saw.
        let reply = house.call(&house.alice, &format!("{server}__echo"), json!({}), &[("cookie", "a=b")]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    // What such calls would meet.
    for server in ["vault", "infile", "inenv"] {
        let tool = format!("{server}__echo");
        for more in [&[][..], &["-o", "json"]] {
            house.cli(&[&["explain", "main", &tool, "--as", "user:alice"], more].concat(), "");
        }
    }
    house.cli(&["explain", "main", "--as", "user:alice"], "");
    // Given again, and given wrongly.
    let second = house.canary("a secret given again");
    house.cli(&["connect", "vault", "--owner", "user:alice", "--owner-only", "true"], &second);
    house.call(&house.alice, "vault__echo", json!({}), &[]).await;
}

async fn strangers(house: &House) {
    let bearer = house.canary("a bearer token of somebody else's");
    house.call(&bearer, "open__echo", json!({}), &[]).await;
    house.call(&format!("pcl_{bearer}"), "open__echo", json!({}), &[]).await;
    // Unsigned, and so nobody's.
    house.call(&format!("eyJhbGciOiJub25lIn0.{bearer}.x"), "open__echo", json!({}), &[]).await;
    let cookie = house.canary("a cookie");
    let key = house.canary("an API key");
    let more = [("cookie", &*cookie), ("x-api-key", &*key), ("proxy-authorization", &*key)];
    house.call(&house.alice, "open__echo", json!({}), &more).await;
    house.send(&house.product.page("/nowhere"), &[("authorization", &bearer)], String::new()).await;
    house.send(&house.product.url("nowhere"), &[("authorization", &bearer)], "{".to_owned()).await;
}

async fn missing(house: &House) {
    house.call(&house.alice, "absent__echo", json!({}), &[]).await;
    house.call(&house.alice, "absent__echo", json!({"elicitation": {"url": {}}}), &[]).await;
    let authorization = format!("Bearer {}", house.alice);
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": LEGACY,
        "capabilities": {"elicitation": {"url": {}}}, "clientInfo": {"name": "t", "version": "1"}}});
    let url = house.product.url("main");
    let reply = http::post(&url, &[("authorization", &authorization)], hello.to_string()).await.unwrap();
    let session = reply.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let headers = [("authorization", &*authorization), ("mcp-session-id", &*session), ("mcp-protocol-version", LEGACY)];
    let call =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "absent__echo", "arguments": {}}});
    house.send(&url, &headers, call.to_string()).await;
}

async fn failures(house: &House) {
    for server in ["refuses", "breaks", "garbage", "truncated", "wrong-id"] {
        let secret = house.canary("a secret of a server that fails");
        house.cli(&["connect", server, "--owner", "user:alice", "--owner-only", "true"], &secret);
        house.call(&house.alice, &format!("{server}__echo"), json!({}), &[]).await;
    }
}

async fn admin(house: &House) {
    let (_, key) = house.token("user:ada", &["--admin-api"]);
    let (_, member) = house.token("user:alice", &["--admin-api"]);
    let ask = async |key: &str, method: &str, path: &str, body: String| {
        let authorization = format!("Bearer {key}");
        let url = format!("{}{path}", house.admin);
        let reply = http::send(method, &url, &[("authorization", &authorization)], body).await.unwrap();
        house.heard(format!("{method} {path}"), format!("{:?} {}", reply.headers, reply.text()));
    };
    let secret = house.canary("a secret sent to the admin API");
    for owner in ["user:alice", "organization", "nobody"] {
        let connect = json!({"server": "vault", "owner": owner, "name": "by-api", "secrets": {"token": secret}, "ownerOnly": true});
        ask(&member, "POST", "/v1/connections", connect.to_string()).await;
    }
    let wrong = json!({"server": "vault", "owner": "user:alice", "secrets": {"nosuch": secret}, "values": {"token": secret}, "ownerOnly": true});
    ask(&key, "POST", "/v1/connections", wrong.to_string()).await;
    ask(&key, "POST", "/v1/connections", format!("{{\"secrets\": {{\"token\": \"{secret}\"")).await;
    for path in ["/v1/resources", "/v1/tokens", "/v1/status", "/v1/doctor", "/v1/resources/connections/by-api/describe"]
    {
        ask(&key, "GET", path, String::new()).await;
        ask(&member, "GET", path, String::new()).await;
    }
    ask(&secret, "GET", "/v1/resources", String::new()).await;
}

async fn sign_in(house: &House) {
    let made = house.product.ask(&["signin", "--user", "alice"], "").unwrap();
    let code = made["code"].as_str().unwrap().to_owned();
    assert!(!made["url"].as_str().unwrap().contains(&code), "no code in a URL");
    house.plant("a sign-in code", &code);
    let wrong = house.canary("a wrong sign-in code");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for code in [&wrong, &code] {
        let reply = http::post(&house.product.page("/signin"), &form, format!("code={code}")).await.unwrap();
        // A session's cookie is said to the browser alone.
        house.heard("the sign-in page", reply.text());
    }
    for page in ["/", "/signin", "/servers", "/connections", "/tokens", "/connect/nonsense"] {
        let reply = http::get(&house.product.page(page), &[]).await.unwrap();
        house.heard(page, format!("{:?} {}", reply.headers, reply.text()));
    }
}

async fn misfits(house: &House) {
    let secret = house.canary("a secret that does not fit");
    house.cli(&["connect", "vault", "--owner", "user:nobody", "--owner-only", "true"], &secret);
    house.cli(&["connect", "nosuch", "--owner", "user:alice", "--owner-only", "true"], &secret);
    house.cli(&["connect", "picky", "--owner", "user:alice", "--owner-only", "true"], &secret);
    house.cli(
        &["connect", "vault", "--owner", "user:alice", "--owner-only", "true"],
        &format!("{secret}\u{7}\n{secret}"),
    );
}

async fn house() -> House {
    let echo = Echo::start().await.unwrap();
    let others = Others::start().await;
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    // Before there is a house to ask for canaries: these two are of the operator's making.
    let (in_file, in_env) = ("canary-file-7d1f0c5e9ab3", "canary-env-7d1f0c5e9ab3");
    std::fs::write(&secret, in_file).unwrap();
    let mut resources = vec![
        resource("User", "alice", json!({})),
        resource("User", "ada", json!({})),
        resource("Role", "admin", json!({"users": ["ada"]})),
        resource("Team", "blue", json!({"members": ["alice"]})),
        echo.open("open", "modern"),
        echo.guarded("vault", "modern"),
        echo.guarded("absent", "modern"),
        echo.guarded("infile", "modern"),
        echo.guarded("inenv", "modern"),
        resource(
            "Connection",
            "infile-alice",
            json!({"server": "infile", "owner": {"user": "alice"}, "ownerOnly": true,
            "secrets": {"token": {"file": secret}}}),
        ),
        resource(
            "Connection",
            "inenv-alice",
            json!({"server": "inenv", "owner": {"user": "alice"}, "ownerOnly": true,
            "secrets": {"token": {"env": "CANARY"}}}),
        ),
    ];
    let failing = ["refuses", "breaks", "garbage", "truncated", "wrong-id"];
    resources.extend(failing.map(|way| echo.guarded(way, way)));
    let mut picky = echo.guarded("picky", "modern");
    picky["spec"]["fields"][0]["pattern"] = json!("[0-9]{4}");
    resources.push(picky);
    resources.extend(others.resources(&echo));
    let shown: Vec<Value> = ["open", "vault", "absent", "infile", "inenv"]
        .into_iter()
        .chain(failing)
        .chain(others::SERVERS)
        .map(|server| json!({"server": server}))
        .collect();
    let auth = json!([{"plugin": "bearer-token"}, {"plugin": "jwks"}]);
    resources.push(resource("Gateway", "main", json!({"auth": auth, "servers": shown})));
    let mut settings = json!({"adminListen": "127.0.0.1:0", "log": {"filter": "trace"}});
    others.settings(&mut settings);
    let environment = [&[("CANARY", in_env)][..], &others::ENVIRONMENT].concat();
    let product = Product::start_with(&resources, &environment, settings).await.unwrap();
    let log = product.log();
    let line = log.lines().find(|l| l.contains("the admin API is served")).expect("it says where");
    let address = line.split_once("address=").unwrap().1.split_whitespace().next().unwrap();
    let admin = format!("http://{address}");
    let alice = product.token("user:alice").unwrap().1;
    let house = House { echo, others, product, admin, alice, planted: Mutex::default(), heard: Mutex::default() };
    house.plant("a secret in a file", in_file);
    house.plant("a secret in a variable", in_env);
    for (_, secret) in others::ENVIRONMENT {
        house.plant("a secret of a client, in a variable", secret);
    }
    let alice = house.alice.clone();
    house.plant("a token", &alice);
    std::mem::forget(dir);
    house
}

/// Every file below a directory, as it lies on the disk.
fn files(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&path, found),
            Ok(kind) if kind.is_file() => {
                found.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
            }
            _ => {}
        }
    }
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

#[tokio::test]
async fn no_secret_leaves_but_to_where_it_belongs() {
    let house = house().await;
    for (_, flow) in FLOWS {
        flow(&house).await;
    }
    house.others.plant(&house).await;
    // A canary that is found nowhere may also never have been used: the server saw those that were for it.
    let seen: Vec<String> = house.echo.seen().iter().filter_map(|s| s.headers.get("authorization").cloned()).collect();
    for sort in ["a sealed secret", "a secret given again", "a secret in a file", "a secret in a variable"] {
        let planted = house.planted.lock().unwrap();
        let used = planted.iter().filter(|(what, _)| *what == sort).any(|(_, s)| seen.contains(&format!("Bearer {s}")));
        assert!(used, "{sort} was never used");
    }
    for args in [&["get", "all", "-o", "yaml"][..], &["doctor"], &["describe", "connection", "vault-alice"]] {
        house.cli(args, "");
    }
    let metrics = http::get(&house.product.page("/metrics"), &[]).await.unwrap().text();
    house.heard("the metrics", metrics);
    house.heard("the log", house.product.log());

    let mut everything: Vec<(String, Vec<u8>)> =
        house.heard.lock().unwrap().iter().map(|(what, words)| (what.clone(), words.clone().into_bytes())).collect();
    let data = house.product.data();
    files(&data.join("audit"), &mut everything);
    files(&data.join("state"), &mut everything);
    files(&data.join("run"), &mut everything);
    assert!(
        everything.iter().any(|(what, bytes)| what.contains("audit") && !bytes.is_empty()),
        "the audit is searched"
    );
    assert!(
        everything.iter().any(|(what, bytes)| what.contains("state") && !bytes.is_empty()),
        "the store is searched"
    );
    let mut found = Vec::new();
    for (sort, secret) in house.planted.lock().unwrap().iter() {
        for (what, bytes) in &everything {
            if holds(bytes, secret) {
                let at = String::from_utf8_lossy(bytes);
                let line = at.lines().find(|l| l.contains(secret.as_str())).unwrap_or_default();
                found.push(format!("{sort} is in {what}: {}", line.chars().take(400).collect::<String>()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    house.product.stop().await;
}
