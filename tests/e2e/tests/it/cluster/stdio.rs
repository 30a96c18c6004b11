//! Servers on standard input and output in real pods, behind the bridge, pulled from a registry that asks who wants them: each connection
//! with a pod of its own, nothing lost when pods or gateways go, and nobody let in who can't prove that they are the gateway.

use std::{net::SocketAddr, path::PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use portcullis_e2e::{
    PATIENCE,
    cluster::Cluster,
    eventually,
    http::{self, LEGACY, Reply},
    parts::Parts,
    product::{Product, resource},
    registry::{PASSWORD, Registry, USER},
};
use portcullis_test_postgres::Database;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};

use super::servers::rights;

/// Slow machines pull and start several pods.
const LONG: std::time::Duration = std::time::Duration::from_secs(120);

/// A cluster with pods, and a registry with what they run: the bridge, and a server that nothing but an entrypoint tells how to start.
struct Stage {
    cluster: Cluster,
    registry: Registry,
    _home: tempfile::TempDir,
    kubeconfig: PathBuf,
    bridge: String,
    server: String,
}

impl Stage {
    /// None where this machine has no pods, which is said.
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    async fn set() -> Option<Self> {
        let Some(programs) = &Parts::get().bridge else {
            assert!(std::env::var_os("CI").is_none(), "the bridge is not built");
            println!("skipped: the bridge is not built (cargo xtask setup)");
            return None;
        };
        let (cluster, _) = match Cluster::with_pods().await {
            Ok(found) => found,
            Err(why) => {
                println!("skipped: {why:#}");
                return None;
            }
        };
        let registry = Registry::start().await.unwrap();
        let entrypoint = |program: &str| json!({"Entrypoint": [format!("/{program}")]});
        let bridge = programs.join("portcullis-bridge");
        let bridge = registry.push("house/bridge:1", &bridge, entrypoint("portcullis-bridge")).await.unwrap();
        let server = programs.join("bridge-fixture");
        let server = registry.push("team/server:1", &server, entrypoint("bridge-fixture")).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = cluster.account("gateway", rights(), home.path()).await.unwrap();
        // The bridge is everybody's: who runs the gateway put its login there.
        let login = json!({"auths": {registry.address.to_string(): {"username": USER, "password": PASSWORD}}});
        let secret = json!({
            "metadata": {"name": "house"}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": login.to_string()},
        });
        let secrets = cluster.api::<k8s_openapi::api::core::v1::Secret>();
        secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
        Some(Self { cluster, registry, _home: home, kubeconfig, bridge, server })
    }

    /// Settings of a gateway.
    fn settings(&self) -> Value {
        json!({"kubernetes": {
            "kubeconfig": self.kubeconfig, "namespace": self.cluster.namespace,
            "servers": {"bridge": {"image": self.bridge, "imagePullSecrets": ["house"]}},
        }})
    }

    /// A server of the image, which alone says what is started, pulled and asked with the second of two logins.
    fn server(&self, more: Value) -> Value {
        let mut spec = json!({
            "image": self.server, "transport": "stdio", "stopGrace": "20s",
            "imagePullSecrets": [
                {"login": {"registry": "registry.example", "username": "other", "password": {"env": "CANARY_OTHER"}}},
                {"login": {"registry": self.registry.address.to_string(), "username": USER, "password": {"env": "CANARY_REGISTRY"}}},
            ],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"kubernetes": spec})
    }

    /// The pods of a server that are not on their way out: name, address, and the Secret's name.
    async fn pods(&self, server: &str) -> Vec<(String, String)> {
        let list = ListParams::default().labels(&format!("portcullis.dev/server={server}"));
        let found = self.cluster.api::<Pod>().list(&list).await.unwrap().items;
        let live = found.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        live.map(|pod| (pod.metadata.name.unwrap(), pod.status.and_then(|s| s.pod_ip).unwrap_or_default())).collect()
    }

    async fn key(&self, server: &str) -> Vec<u8> {
        let list = ListParams::default().labels(&format!("portcullis.dev/server={server}"));
        let found = self.cluster.api::<k8s_openapi::api::core::v1::Secret>().list(&list).await.unwrap().items;
        found.into_iter().find_map(|secret| secret.data?.remove("bridge")).unwrap().0
    }
}

fn environment() -> [(&'static str, &'static str); 5] {
    [
        ("CANARY_ALICE", "canary-alice"),
        ("CANARY_BOB", "canary-bob"),
        ("CANARY_CAROL", "canary-carol"),
        ("CANARY_OTHER", "canary-other"),
        ("CANARY_REGISTRY", PASSWORD),
    ]
}

/// Calls until it is answered.
async fn answered(product: &Product, token: &str, tool: &str, arguments: Value) -> Value {
    let until = Instant::now() + LONG;
    let server = tool.split("__").next().unwrap();
    loop {
        let answer = http::call(&product.url("main"), Some(token), tool, arguments.clone()).await.unwrap();
        if let Some(said) = said(&answer) {
            return said;
        }
        let told = product.cli(&["describe", "server", server], "").unwrap().stdout;
        assert!(Instant::now() < until, "{}\n{}", answer.text(), String::from_utf8_lossy(&told));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

/// What the fixture's tool says.
fn said(answer: &Reply) -> Option<Value> {
    let message = (answer.status == 200).then(|| answer.message())?;
    let text = message["result"]["content"][0]["text"].as_str().filter(|_| message["result"]["isError"] != true)?;
    serde_json::from_str(text).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_standard_input_and_output_run_in_pods() {
    let Some(stage) = Stage::set().await else { return };
    let mut personal = stage.server(json!({"args": ["--site=${field.site}"]}));
    personal["fields"] =
        json!([{"name": "token", "required": true, "sensitive": true}, {"name": "site", "default": "x"}]);
    personal["credential"] = json!({"place": [
        {"field": "token", "env": "TOKEN"}, {"field": "token", "file": "TOKEN_FILE"},
        {"field": "token", "argument": "--token={}", "allowInProcessList": true},
    ]});
    let connection = |user: &str| {
        let secrets = json!({"token": {"env": format!("CANARY_{}", user.to_uppercase())}});
        let spec = json!({"server": "personal", "owner": {"user": user}, "secrets": secrets, "ownerOnly": true, "values": {"site": user}});
        resource("Connection", &format!("personal-{user}"), spec)
    };
    let users = ["alice", "bob", "carol"];
    let servers = ["shared", "personal", "dies", "nothing", "unknown"].map(|name| json!({"server": name}));
    let mut resources = vec![
        resource("McpServer", "shared", stage.server(json!({"replicas": 2}))),
        resource("McpServer", "personal", personal),
        resource("McpServer", "unknown", stage.server(json!({"image": stage.registry.name("team/other:1")}))),
        resource("McpServer", "dies", stage.server(json!({"args": ["die-at-once"]}))),
        resource("McpServer", "nothing", stage.server(json!({"command": ["/nothing"]}))),
        resource("Gateway", "main", json!({"servers": servers})),
    ];
    resources.extend(users.map(|user| resource("User", user, json!({}))));
    resources.extend(users.map(connection));
    let begun = Instant::now();
    let product = Product::start_with(&resources, &environment(), stage.settings()).await.unwrap();
    let tokens = users.map(|user| product.token(&format!("user:{user}")).unwrap().1);
    answered(&product, &tokens[0], "shared__echo", json!({"text": "x"})).await;
    println!("apply to first answered call, images pulled: {:?}", begun.elapsed());

    // Each user has a pod and a credential of their own, in whatever way it is handed over, and no server finds its bridge's key.
    let mut hosts = std::collections::BTreeSet::new();
    for (user, token) in users.iter().zip(&tokens) {
        let seen = answered(&product, token, "personal__seen", json!({})).await;
        let canary = format!("canary-{user}");
        assert_eq!((&seen["token"], &seen["file"]), (&json!(canary), &json!(canary)), "{seen}");
        assert_eq!(seen["args"], json!([format!("--site={user}"), format!("--token={canary}")]), "{seen}");
        let host = seen["host"].as_str().unwrap();
        assert!(host.starts_with(&format!("mcp-personal-personal-{user}-")), "{host}");
        assert!(hosts.insert(host.to_owned()));
        assert_eq!((&seen["found"], &seen["user"]), (&json!([]), &json!(65532)), "{seen}");
        assert!(!seen["variables"].as_array().unwrap().contains(&json!("PORTCULLIS_BRIDGE_KEY")), "{seen}");
        assert_eq!((&seen["writes"], &seen["temporary"]), (&json!(false), &json!(true)), "{seen}");
    }

    // Nobody is let in but the gateway: not who knows nothing, not who begins as a gateway does, not who has the key of another.
    let (_, address) = eventually("a shared pod has an address", || async {
        stage.pods("shared").await.into_iter().find(|(_, address)| !address.is_empty())
    })
    .await;
    let direct = format!("http://{address}:8080/mcp");
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string();
    let bearer = format!("Bearer {}", String::from_utf8(stage.key("shared").await).unwrap());
    for headers in [&[][..], &[("authorization", "Bearer x")], &[("authorization", &*bearer)]] {
        assert_eq!(http::post(&direct, headers, hello.clone()).await.unwrap().status, 401, "{headers:?}");
    }
    assert_eq!(http::get(&format!("http://{address}:8080/metrics"), &[]).await.unwrap().status, 401);
    let mut stranger = TcpStream::connect(SocketAddr::new(address.parse().unwrap(), 8080)).await.unwrap();
    stranger.write_all(&[b"\0portcullis/1\r\n\0".as_slice(), &[7; 32]].concat()).await.unwrap();
    stranger.read_exact(&mut [0; 64]).await.unwrap();
    let request = format!(
        "POST /mcp HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{hello}",
        hello.len()
    );
    stranger.write_all(&[&[0; 32], request.as_bytes()].concat()).await.unwrap();
    let mut refused = String::new();
    stranger.read_to_string(&mut refused).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");

    // What goes wrong is said in words.
    let told = |server: &str| {
        String::from_utf8_lossy(&product.cli(&["describe", "server", server], "").unwrap().stdout).into_owned()
    };
    for (server, words) in [
        ("dies", "it ended with status 3"),
        ("nothing", "its program can't be run"),
        ("unknown", "what the image starts is not known"),
    ] {
        let until = Instant::now() + LONG;
        while !told(server).contains(words) {
            assert!(Instant::now() < until, "{server}: {}", told(server));
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    let log = String::from_utf8_lossy(&product.cli(&["logs", "shared"], "").unwrap().stdout).into_owned();
    assert!(log.contains("the server answers"), "{log}");

    // Restarted under calls: none fails, and the pods that come have another key.
    let (before, key) = (stage.pods("shared").await, stage.key("shared").await);
    product.ask(&["restart", "shared"], "").unwrap();
    let (mut calls, mut failed, until) = (0, Vec::new(), Instant::now() + LONG);
    loop {
        let answer =
            http::call(&product.url("main"), Some(&tokens[0]), "shared__echo", json!({"text": calls})).await.unwrap();
        calls += 1;
        if said(&answer).is_none() {
            failed.push(answer.text());
        }
        let now = stage.pods("shared").await;
        if now.len() == 2 && now.iter().all(|(pod, _)| before.iter().all(|(old, _)| old != pod)) {
            let status = told("shared");
            if status.contains("2 of 2 pods can be called") {
                break;
            }
        }
        assert!(Instant::now() < until, "{now:?}\n{}", told("shared"));
    }
    println!("calls during a restart: {calls}, failed: {}", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    assert_ne!(key, stage.key("shared").await, "a restart changes the key");
    assert!(
        !product.log().contains("canary-") && !product.log().contains(&*String::from_utf8_lossy(&key)),
        "{}",
        product.log()
    );
    let rendered = product.ask(&["render", "shared"], "").unwrap().to_string();
    assert!(!rendered.contains(&*String::from_utf8_lossy(&stage.key("shared").await)), "{rendered}");
    product.stop().await;
}

/// A client of 2025-11-25 with a session at a gateway.
struct Client {
    url: String,
    token: String,
    session: String,
}

impl Client {
    async fn open(product: &Product, token: &str, capabilities: Value) -> Self {
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": LEGACY, "capabilities": capabilities, "clientInfo": {"name": "test", "version": "1"}}});
        let (url, token) = (product.url("main"), format!("Bearer {token}"));
        let reply = http::post(&url, &[("authorization", &token)], hello.to_string()).await.unwrap();
        let session = reply.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let client = Self { url, token, session };
        client.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await.unwrap();
        client
    }

    async fn post(&self, message: Value) -> anyhow::Result<Reply> {
        let headers =
            [("authorization", &*self.token), ("mcp-session-id", &self.session), ("mcp-protocol-version", LEGACY)];
        http::post(&self.url, &headers, message.to_string()).await
    }

    async fn call(&self, tool: &str, arguments: Value) -> Option<Value> {
        let params = json!({"name": format!("shared__{tool}"), "arguments": arguments});
        said(&self.post(json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params})).await.ok()?)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_before_one_such_server_and_one_of_them_dies() {
    let Some(database) = Database::shared().await.unwrap() else {
        assert!(std::env::var_os("CI").is_none(), "PostgreSQL is not installed");
        println!("skipped: PostgreSQL is not installed (cargo xtask setup)");
        return;
    };
    let Some(stage) = Stage::set().await else { return };
    let mut settings = stage.settings();
    settings["store"] = json!({"url": database.url(), "password": {"env": "STORE_PASSWORD"}});
    settings["sealingKey"] = json!({"env": "SEALING_KEY"});
    let mut variables = environment().to_vec();
    variables.push(("STORE_PASSWORD", portcullis_test_postgres::PASSWORD));
    variables.push(("SEALING_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="));
    let resources = [
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        resource("McpServer", "shared", stage.server(json!({}))),
        resource("Gateway", "main", json!({"servers": [{"server": "shared"}]})),
    ];
    let mut one = Product::start_with(&resources, &variables, settings.clone()).await.unwrap();
    let two = Product::start_with(&[], &variables, settings).await.unwrap();
    let (alice, bob) = (one.token("user:alice").unwrap().1, two.token("user:bob").unwrap().1);
    answered(&one, &alice, "shared__echo", json!({})).await;
    answered(&two, &bob, "shared__echo", json!({})).await;

    // Two conversations, one through each, on the one process; and one of a client that can be asked, which has a process to itself.
    let (hers, his) = (Client::open(&one, &alice, json!({})).await, Client::open(&two, &bob, json!({})).await);
    let asked = Client::open(&two, &bob, json!({"roots": {}})).await;
    let pid = async |client: &Client| client.call("keep", json!({})).await.unwrap()["pid"].clone();
    assert_eq!(pid(&hers).await, pid(&his).await);
    assert_ne!(pid(&asked).await, pid(&his).await, "what it is asked reaches nobody else");
    let mut told: Vec<String> = Vec::new();
    for round in 0..20 {
        // The same ids at the same time: each hears its own.
        let (a, b) = (format!("alice {round}"), format!("bob {round}"));
        let (heard_a, heard_b) = tokio::join!(
            hers.call("echo", json!({"text": a, "ms": round % 3})),
            his.call("echo", json!({"text": b, "ms": (round + 1) % 3})),
        );
        assert_eq!((&heard_a.unwrap()["text"], &heard_b.unwrap()["text"]), (&json!(a), &json!(b)));
        hers.call("keep", json!({"text": a})).await.unwrap();
        his.call("keep", json!({"text": b})).await.unwrap();
        told.extend([a, b]);
    }

    // The first one is killed in the middle of a call. The other one's go on, and its own client goes on once it is back.
    let going = tokio::spawn({
        let client = Client { url: his.url.clone(), token: his.token.clone(), session: his.session.clone() };
        async move {
            let mut heard = Vec::new();
            for round in 0..40 {
                let text = format!("meanwhile {round}");
                let kept = client.call("keep", json!({"text": text, "ms": 20})).await;
                heard.push((text, kept.is_some()));
            }
            heard
        }
    });
    let lost = tokio::spawn({
        let client = Client { url: hers.url.clone(), token: hers.token.clone(), session: hers.session.clone() };
        async move { client.call("keep", json!({"text": "in flight", "ms": 3000})).await }
    });
    eventually("the call is under way", || async {
        let log = two.cli(&["logs", "shared"], "").unwrap().stdout;
        String::from_utf8_lossy(&log).contains("keeping \"in flight\"").then_some(())
    })
    .await;
    one.kill().await;
    assert!(lost.await.unwrap().is_none(), "it was lost with its gateway");
    one.launch().await.unwrap();
    let meanwhile = going.await.unwrap();
    assert!(meanwhile.iter().all(|(_, heard)| *heard), "{meanwhile:?}");
    told.extend(meanwhile.into_iter().map(|(text, _)| text));

    // Everything that was answered is there, once, in the same process, through either; also what was under way.
    let until = Instant::now() + PATIENCE;
    let kept = loop {
        // What was under way when its gateway died takes its time.
        let kept = hers.call("keep", json!({})).await;
        if let Some(kept) = kept.filter(|k| k["kept"].as_array().is_some_and(|k| k.contains(&json!("in flight")))) {
            break kept;
        }
        assert!(
            Instant::now() < until,
            "her conversation does not go on, or what was under way is gone:\n{}",
            one.log()
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(kept, his.call("keep", json!({})).await.unwrap());
    let kept: Vec<&str> = kept["kept"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    told.push("in flight".to_owned());
    for text in &told {
        assert_eq!(kept.iter().filter(|k| *k == text).count(), 1, "{text}: {kept:?}");
    }
    assert_eq!(kept.len(), told.len());
    one.stop().await;
    two.stop().await;
}
