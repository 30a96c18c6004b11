//! Where a connection's values go, and how secrets and keys are exchanged while calls run.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    parts::{Parts, root},
    process,
    product::{Product, resource},
};
use serde_json::{Value, json};

/// Writes sealing keys, the first one first.
fn write_keys(file: &Path, keys: &[&str]) {
    let aside = file.with_extension("new");
    fs::write(&aside, keys.join("\n")).unwrap();
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(aside, file).unwrap();
}

const OLD: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const NEW: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const WRONG: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";

/// Calls, again and again, until told to stop; each answer has to carry a token of alice's.
async fn load(url: String, token: String, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Vec<String> {
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let answer = match http::call(&url, Some(&token), "vault__whoami", json!({})).await {
            Ok(reply) => reply.text(),
            Err(error) => error.to_string(),
        };
        if !answer.contains("Bearer canary-alice-") {
            wrong.push(answer);
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    wrong
}

#[tokio::test]
async fn keys_and_secrets_are_exchanged_under_load_without_a_failed_call() {
    let echo = Echo::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sealing.key");
    write_keys(&file, &[OLD]);
    let house = [
        resource("User", "alice", json!({})),
        echo.guarded("vault", "modern"),
        resource("Gateway", "main", json!({"servers": [{"server": "vault"}]})),
    ];
    let mut product = Product::start_with(&house, &[], json!({"sealingKey": {"file": file}})).await.unwrap();
    let connect = |product: &Product, secret: &str| {
        let done = product.cli(&["connect", "vault", "--owner", "user:alice", "--owner-only", "true"], secret).unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    connect(&product, "canary-alice-1\n");
    let (_, token) = product.token("user:alice").unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(load(product.url("main"), token.clone(), Arc::clone(&stop), Arc::clone(&done))))
        .collect();
    let more = async || {
        let from = done.load(Ordering::Relaxed);
        eventually("calls go on", || async { (done.load(Ordering::Relaxed) > from + 40).then_some(()) }).await;
    };
    more().await;
    let reseal = |product: &Product| product.ask(&["store", "reseal"], "");

    // Too early: nothing changes.
    write_keys(&file, &[NEW]);
    let refused = reseal(&product).unwrap_err().to_string();
    assert!(refused.contains("s/default/") && refused.contains("Put that key back"), "{refused}");
    more().await;

    write_keys(&file, &[NEW, OLD]);
    let sealed = reseal(&product).unwrap();
    assert!(sealed["records"].as_u64().unwrap() >= 2, "the connection's and the session key: {sealed}");
    assert_eq!(sealed["unneeded"].as_array().map(Vec::len), Some(1), "{sealed}");
    more().await;
    connect(&product, "canary-alice-2\n");
    more().await;
    write_keys(&file, &[NEW]);
    let again = reseal(&product).unwrap();
    assert_eq!((&again["records"], &again["key"]), (&json!(0), &sealed["key"]));
    more().await;

    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Vec::<String>::new());
    }
    // Across a restart, with the new key alone; and not at all with another.
    product.kill().await;
    product.launch().await.unwrap();
    let answer = http::call(&product.url("main"), Some(&token), "vault__whoami", json!({})).await.unwrap().text();
    assert!(answer.contains("Bearer canary-alice-2"), "{answer}");
    product.kill().await;
    write_keys(&file, &[WRONG]);
    let refused = product.launch().await.unwrap_err().to_string();
    assert!(refused.contains("which is not among the sealing keys"), "{refused}");
    assert!(!product.log().contains("canary-") && ![OLD, NEW].iter().any(|key| product.log().contains(key)));
}

#[tokio::test]
async fn each_place_of_a_value_is_where_its_server_looks() {
    let echo = Echo::start().await.unwrap();
    let field = |name: &str| json!({"name": name, "required": true, "sensitive": true});
    let script = root().join("tests/fixtures/python/child.py");
    let remote = resource(
        "McpServer",
        "remote",
        json!({
            "remote": {"url": echo.url("modern"), "allowPrivate": true},
            "fields": [field("token"), field("key"), {"name": "site", "required": true}],
            "credential": {"place": [
                {"field": "token", "header": "Authorization", "prefix": "Token "},
                {"field": "key", "header": "X-Api-Key"},
                {"field": "site", "header": "X-Site"},
            ]},
        }),
    );
    let process = resource(
        "McpServer",
        "process",
        json!({
            "process": {"command": Parts::get().python("python"), "args": [script, "--site=${field.site}"]},
            "fields": [field("token"), field("key"), field("pass"), {"name": "site", "default": "example"}],
            "credential": {"place": [
                {"field": "token", "env": "TOKEN", "prefix": "t:"},
                {"field": "key", "file": "KEY_FILE"},
                {"field": "pass", "argument": "--pass={}", "allowInProcessList": true},
            ]},
        }),
    );
    let product = Product::start(&[
        resource("User", "alice", json!({})),
        remote,
        process,
        resource("Gateway", "main", json!({"servers": [{"server": "remote"}, {"server": "process"}]})),
    ])
    .await
    .unwrap();
    let connect = |args: &[&str], secrets: &str| {
        let fixed = ["--owner", "user:alice", "--owner-only", "true"];
        let done = product.cli(&[&["connect"], args, &fixed[..]].concat(), secrets).unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let secrets = json!({"token": "canary-token", "key": "canary-key"}).to_string();
    connect(&["remote", "--value", "site=eu", "--secrets-json"], &secrets);
    let secrets = json!({"token": "canary-token", "key": "canary-key", "pass": "canary-pass"}).to_string();
    connect(&["process", "--secrets-json"], &secrets);
    let (_, token) = product.token("user:alice").unwrap();
    let url = product.url("main");
    let text = async |tool: &str, arguments: Value| {
        let reply = http::call(&url, Some(&token), tool, arguments).await.unwrap().message();
        reply["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned()
    };

    text("remote__whoami", json!({})).await;
    let seen = echo.seen().into_iter().rfind(|s| s.method == "tools/call").unwrap().headers;
    let header = |name: &str| seen.get(name).map(String::as_str);
    assert_eq!(header("authorization"), Some("Token canary-token"));
    assert_eq!((header("x-api-key"), header("x-site")), (Some("canary-key"), Some("eu")));

    assert_eq!(text("process__environment", json!({"name": "TOKEN"})).await, "t:canary-token");
    assert_eq!(text("process__environment", json!({"name": "PORTCULLIS_SOCKET"})).await, "");
    let arguments: Value = serde_json::from_str(&text("process__arguments", json!({})).await).unwrap();
    assert_eq!(arguments, json!(["--site=example", "--pass=canary-pass"]));
    let file: Value = serde_json::from_str(&text("process__file", json!({"name": "KEY_FILE"})).await).unwrap();
    assert_eq!(file, json!({"mode": "0o600", "content": "canary-key"}));
    // Neither the gateway nor what it starts leaves a core dump, which would hold all of that.
    let mut running = process::descendants(product.pid());
    assert!(running.len() > 1, "the server and its supervisors: {running:?}");
    running.insert(product.pid());
    for pid in running {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
        let most: Vec<&str> =
            core.split_whitespace().filter(|w| w.parse::<u64>().is_ok() || *w == "unlimited").collect();
        assert!(most.iter().all(|m| matches!(*m, "0" | "1")), "{}: {core}", process::command(pid));
    }
    assert!(!product.log().contains("canary-"));
    product.stop().await;
}

#[tokio::test]
async fn a_later_person_of_the_same_name_gets_nothing_of_the_earlier_one() {
    let echo = Echo::start().await.unwrap();
    let house =
        [echo.guarded("vault", "modern"), resource("Gateway", "main", json!({"servers": [{"server": "vault"}]}))];
    let product = Product::start(&house).await.unwrap();
    let arrives = || product.write("people.yaml", &[resource("User", "alice", json!({}))]).unwrap();
    let token = async || eventually("alice is there", || async { product.token("user:alice").ok() }).await.1;
    let connect = |secret: &str| {
        let done = product.cli(&["connect", "vault", "--owner", "user:alice", "--owner-only", "true"], secret).unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let whoami = async |token: &str| {
        let url = product.url("main");
        http::call(&url, Some(token), "vault__whoami", json!({})).await.unwrap().text()
    };
    arrives();
    let first = token().await;
    connect("canary-first\n");
    assert!(whoami(&first).await.contains("canary-first"));

    fs::remove_file(product.home().join("resources/people.yaml")).unwrap();
    eventually("alice is gone", || async { product.token("user:alice").is_err().then_some(()) }).await;
    arrives();
    let second = token().await;
    let refused = whoami(&second).await;
    assert!(refused.contains("missing-credential") && !refused.contains("canary-"), "{refused}");
    connect("canary-second\n");
    assert!(whoami(&second).await.contains("canary-second"));
    product.stop().await;
}
