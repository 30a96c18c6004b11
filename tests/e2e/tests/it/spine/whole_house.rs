//! Three users of two teams call seven real servers through two gateways, each with their own credential.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use portcullis_e2e::{
    driver::{Driver, Sdk, text},
    echo::Echo,
    eventually, http,
    product::{Product, resource},
    servers,
};
use serde_json::{Value, json};

/// A secret of each user, searched for at the end in all that left the process.
const SECRETS: [(&str, &str); 3] =
    [("alice", "canary-alice-3fa1"), ("bob", "canary-bob-77c2"), ("carol", "canary-carol-90de")];

/// Everybody may use everything but what `denied` says of one tool's arguments; blue sees less of the office.
fn policy(denied: &[Value]) -> Value {
    let mut rules = denied.to_vec();
    rules.push(json!({"effect": "allow", "principals": ["team:red"]}));
    rules.push(json!({"effect": "allow", "principals": ["team:blue"], "servers": ["time", "memory", "git", "everything", "vault"]}));
    json!([{"plugin": "tool-access", "config": {"rules": rules}}])
}

fn secret_files() -> Value {
    json!({"effect": "deny", "servers": ["filesystem"], "when": [{"argument": "/path", "matches": "*secret*"}]})
}

fn gateways(denied: &[Value]) -> Vec<Value> {
    let shown = |names: &[&str]| names.iter().map(|n| json!({"server": n})).collect::<Vec<_>>();
    vec![
        resource(
            "Gateway",
            "office",
            json!({"policies": policy(denied), "servers": shown(&["everything", "filesystem", "memory", "thinking", "time"])}),
        ),
        resource(
            "Gateway",
            "lab",
            json!({"policies": policy(denied), "servers": shown(&["git", "fetch", "time", "everything", "vault"])}),
        ),
    ]
}

/// What stands besides the gateways: people, the seven servers, and one that tells which credential it saw.
fn house(echo: &Echo, folder: &std::path::Path) -> Vec<Value> {
    let mut all = vec![
        resource("Team", "red", json!({"members": ["alice", "bob"]})),
        resource("Team", "blue", json!({"members": ["carol"]})),
        echo.guarded("vault", "modern"),
    ];
    all.extend(SECRETS.map(|(user, _)| resource("User", user, json!({}))));
    for server in servers::all(folder) {
        let mut made = server.resource(&folder.join("memory.json"));
        if server.name == "everything" {
            // Its tool `get-env` shows the environment: a real server that proves whose secret it was started with.
            made["spec"]["fields"] = json!([{"name": "token", "required": true, "sensitive": true}]);
            made["spec"]["credential"] = json!({"place": [{"field": "token", "env": "ACCOUNT_TOKEN"}]});
        }
        all.push(made);
    }
    all
}

async fn ok(client: &mut Driver, tool: &str, arguments: Value) -> String {
    let result = client.call(tool, arguments).await.unwrap_or_else(|e| panic!("{tool}: {e}"));
    assert_ne!(result["isError"], json!(true), "{tool}: {result}");
    text(&result)
}

#[tokio::test]
async fn three_users_of_two_teams_call_seven_servers_through_two_gateways() {
    let folder = tempfile::tempdir().unwrap();
    servers::prepare(folder.path()).unwrap();
    let echo = Echo::start().await.unwrap();
    let mut resources = house(&echo, folder.path());
    resources.extend(gateways(&[secret_files()]));
    let product = Product::start(&resources).await.unwrap();

    let mut tokens = Vec::new();
    for (user, secret) in SECRETS {
        for server in ["everything", "vault"] {
            let owner = format!("user:{user}");
            product.ask(&["connect", server, "--owner", &owner, "--owner-only", "true"], secret).unwrap();
        }
        tokens.push(product.token(&format!("user:{user}")).unwrap());
    }

    // Both official clients, both eras.
    let clients = [
        (Sdk::Python, "auto", http::MODERN),
        (Sdk::Node, "legacy", http::LEGACY),
        (Sdk::Node, "2026-07-28", http::MODERN),
    ];
    let mut office = Vec::new();
    let mut lab = Vec::new();
    for ((sdk, mode, version), (_, token)) in clients.into_iter().zip(&tokens) {
        let client = Driver::connect(sdk, &product.url("office"), Some(token), mode).await.unwrap();
        assert_eq!(client.version, version);
        office.push(client);
        lab.push(Driver::connect(sdk, &product.url("lab"), Some(token), mode).await.unwrap());
    }

    // Each sees their own tools. Servers start in the background, so the first lists may be short.
    for (user, (client, count)) in
        office.iter_mut().zip([13 + 14 + 9 + 1 + 2, 13 + 14 + 9 + 1 + 2, 13 + 9 + 2]).enumerate()
    {
        let mut names = Vec::new();
        let until = tokio::time::Instant::now() + 2 * portcullis_e2e::PATIENCE;
        while names.len() != count && tokio::time::Instant::now() < until {
            names = client.names().await.unwrap();
        }
        assert_eq!(names.len(), count, "user {user}: {names:?}");
        let of = |server: &str| names.iter().filter(|n| n.starts_with(&format!("{server}__"))).count();
        assert_eq!(of("filesystem"), if user == 2 { 0 } else { 14 });
        assert_eq!(of("memory"), 9);
    }

    // Each call carries the caller's own credential, and the upstream proves it.
    for (at, (_, secret)) in SECRETS.iter().enumerate() {
        let others: Vec<&str> = SECRETS.iter().map(|(_, s)| *s).filter(|s| s != secret).collect();
        for (place, tool) in
            [("office", "everything__get-env"), ("lab", "everything__get-env"), ("lab", "vault__whoami")]
        {
            let client = if place == "office" { &mut office[at] } else { &mut lab[at] };
            let seen = ok(client, tool, json!({})).await;
            assert!(seen.contains(secret), "{tool}: {seen}");
            assert!(others.iter().all(|o| !seen.contains(o)), "{tool}: {seen}");
        }
    }

    // Every one of the seven servers answers.
    let files = folder.path().join("files");
    let public = json!({"path": files.join("public.txt")});
    assert!(ok(&mut office[0], "filesystem__read_text_file", public.clone()).await.contains("for everybody"));
    let entity = json!({"entities": [{"name": "gate", "entityType": "thing", "observations": ["it closes"]}]});
    ok(&mut office[2], "memory__create_entities", entity).await;
    assert!(ok(&mut office[0], "memory__read_graph", json!({})).await.contains("it closes"));
    let thought = json!({"thought": "one", "nextThoughtNeeded": false, "thoughtNumber": 1, "totalThoughts": 1});
    ok(&mut office[1], "thinking__sequentialthinking", thought).await;
    assert!(
        ok(&mut office[2], "time__get_current_time", json!({"timezone": "Europe/Vienna"})).await.contains("Vienna")
    );
    let repository = json!({"repo_path": folder.path().join("repository")});
    ok(&mut lab[2], "git__git_status", repository).await;
    assert!(ok(&mut lab[0], "fetch__fetch", json!({"url": echo.url("page")})).await.contains("hello from the page"));

    // A policy denies one call by its arguments, and says so.
    let refused = office[0].call("filesystem__read_text_file", json!({"path": files.join("secret.txt")})).await;
    let refused = refused.map_or_else(|e| e.to_string(), |r| r.to_string());
    assert!(refused.contains("policy") && !refused.contains("for nobody"), "{refused}");
    // What a caller may not see they may not call either.
    let hidden = office[2].call("filesystem__read_text_file", public).await;
    let hidden = hidden.map_or_else(|e| e.to_string(), |r| r.to_string());
    assert!(!hidden.contains("for everybody"), "{hidden}");

    // A revoked token fails at once, in an open session too.
    let (id, token) = &tokens[1];
    product.ask(&["token", "revoke", id], "").unwrap();
    assert!(office[1].call("time__get_current_time", json!({"timezone": "UTC"})).await.is_err());
    let reply = http::call(&product.url("office"), Some(token), "time__get_current_time", json!({"timezone": "UTC"}))
        .await
        .unwrap();
    assert_eq!(reply.status, 401);

    // A policy that is written anew takes effect under load, and no call fails.
    let failed = hot_reload(&product, &tokens[0].1, &resources, &echo, folder.path()).await;
    assert_eq!(failed, 0, "calls failed while a policy was exchanged");

    // Nobody's secret left the process but towards the server that it was for.
    let audit = audited(&product).await;
    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    let told = product.ask(&["get", "connections"], "").unwrap().to_string();
    for (_, secret) in SECRETS {
        for (place, words) in [("log", &product.log()), ("audit", &audit), ("metrics", &metrics), ("get", &told)] {
            assert!(!words.contains(secret), "a secret is in the {place}");
        }
    }
    for (_, token) in &tokens {
        assert!(!product.log().contains(token) && !audit.contains(token), "a token is in the log or the audit");
    }
    for client in office.into_iter().chain(lab) {
        // The revoked one may end with an error.
        let _ = client.close().await;
    }
    product.stop().await;
}

/// The audit stream, once it says of each user's call under whose connection it ran, and of the denial who was denied.
async fn audited(product: &Product) -> String {
    eventually("the audit stream holds every call", || async {
        let text = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).ok()?;
        let records: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        // `executedAs` ends in the owner of the connection that it names.
        let holds = |wanted: &[(&str, &str)]| {
            records.iter().any(|record| {
                let event = &record["event"];
                wanted.iter().all(|(field, value)| event[field].as_str().is_some_and(|found| found.ends_with(value)))
            })
        };
        let own = SECRETS.iter().all(|(user, _)| {
            let who = format!("user:{user}");
            holds(&[
                ("kind", "call"),
                ("tool", "vault__whoami"),
                ("caller", &who),
                ("executedAs", &who),
                ("decision", "allow"),
            ])
        });
        let denied = holds(&[("caller", "user:alice"), ("tool", "filesystem__read_text_file"), ("decision", "deny")]);
        (own && denied).then_some(text)
    })
    .await
}

/// Exchanges the policy while calls are under way: the calls go on, and what it denies now is denied. Gives the failed calls.
async fn hot_reload(
    product: &Product,
    token: &str,
    resources: &[Value],
    echo: &Echo,
    folder: &std::path::Path,
) -> usize {
    let done = Arc::new(AtomicBool::new(false));
    let (failed, called) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (done, failed, called) = (done.clone(), failed.clone(), called.clone());
            let (url, token) = (product.url("lab"), token.to_owned());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let reply = http::call(&url, Some(&token), "vault__echo", json!({"message": "on"})).await;
                    called.fetch_add(1, Ordering::Relaxed);
                    if !reply.is_ok_and(|r| r.status == 200 && r.text().contains("\"isError\":false")) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    let off = || async { http::call(&product.url("lab"), Some(token), "vault__echo", json!({"message": "off"})).await };
    assert!(off().await.unwrap().text().contains("\"isError\":false"), "allowed before");
    let before = called.load(Ordering::Relaxed);

    let more = json!({"effect": "deny", "servers": ["vault"], "when": [{"argument": "/message", "equals": "off"}]});
    let mut changed = house(echo, folder);
    changed.extend(gateways(&[secret_files(), more]));
    assert_ne!(changed, resources);
    product.write("resources.yaml", &changed).unwrap();
    eventually("the new policy denies", || async {
        let text = off().await.unwrap().text();
        (text.contains("policy") && !text.contains("\"isError\":false")).then_some(())
    })
    .await;
    // The load has to have met both policies.
    let reloaded = called.load(Ordering::Relaxed);
    eventually("calls go on under the new policy", || async {
        (called.load(Ordering::Relaxed) > reloaded + 20).then_some(())
    })
    .await;
    assert!(reloaded > before);
    done.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    failed.load(Ordering::Relaxed)
}
