//! New versions of a policy under a load of real calls: swapped, half written, broken, tried, given to some, gone back from. No
//! call fails.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use portcullis_e2e::{
    echo::Echo,
    eventually,
    guests::guest,
    http,
    product::{Product, resource},
};
use serde_json::{Value, json};

use super::{place, version};

/// Callers at once, each somebody else.
const CALLERS: usize = 8;

struct House {
    product: Product,
    /// Resources that stay.
    rest: Vec<Value>,
    dir: PathBuf,
}

impl House {
    async fn start(echo: &Echo) -> Self {
        let mut rest: Vec<Value> = (0..CALLERS)
            .map(|n| resource("User", &format!("u{n}"), json!({})))
            .chain([echo.open("echo", "modern")])
            .collect();
        let nobody = json!({"plugin": "tool-access", "mode": "monitor", "config": {"default": "deny"}});
        let policies = json!([{"plugin": "guard"}, nobody]);
        rest.push(resource("Gateway", "main", json!({"policies": policies, "servers": [{"server": "echo"}]})));
        let product = Product::start(&rest).await.unwrap();
        let dir = product.home().join("components");
        std::fs::create_dir(&dir).unwrap();
        Self { product, rest, dir }
    }

    fn file(&self, name: &str) -> Value {
        json!({"file": {"path": self.dir.join(name)}})
    }

    /// Writes the plugin's resource.
    fn write(&self, spec: Value) {
        let mut all = self.rest.clone();
        all.push(resource("Plugin", "guard", spec));
        self.product.write("resources.yaml", &all).unwrap();
    }

    fn status(&self) -> Value {
        self.product.ask(&["plugin", "status", "guard"], "").unwrap_or_default()
    }

    /// Waits until the plugin stands so.
    async fn stands(&self, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || async { Some(self.status()).filter(|status| so(status)) }).await
    }

    /// Waits until this many further calls were made.
    async fn calls(&self, load: &Load, more: usize) {
        let before = load.done.load(SeqCst);
        eventually("more calls", || async { (load.done.load(SeqCst) >= before + more).then_some(()) }).await;
    }
}

/// Calls without end.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(product: &Product) -> Self {
        let (stop, done, failed): (Arc<AtomicBool>, Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>) = Default::default();
        let task = |n: usize| {
            let (stop, done, failed) = (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&failed));
            let (url, token) = (product.url("main"), product.token(&format!("user:u{n}")).unwrap().1);
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let said = http::call(&url, Some(&token), "echo__echo", json!({"message": "x"})).await;
                    let said = said.map_or_else(|e| e.to_string(), |reply| reply.text());
                    if !said.contains(r#""isError":false"#) {
                        failed.lock().unwrap().push(said);
                    }
                    done.fetch_add(1, SeqCst);
                }
            })
        };
        let tasks = (0..CALLERS).map(task).collect();
        Self { stop, done, failed, tasks }
    }

    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        let failed = std::mem::take(&mut *self.failed.lock().unwrap());
        (self.done.load(SeqCst), failed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_come_and_go_under_load_and_no_call_fails() {
    let echo = Echo::start().await.unwrap();
    let house = House::start(&echo).await;
    let ready = http::get(&house.product.page("/readyz"), &[]).await.unwrap().text();
    assert!(ready.contains("Gateway/main"), "a gateway lacks what it has to ask: {ready}");
    place(&house.dir.join("guard.wasm"), &version(1));
    let allow = json!({"default": "allow"});
    let spec = |file: &str| json!({"source": house.file(file), "config": allow});
    house.write(spec("guard.wasm"));
    let first = house.stands("the first version", |s| s["state"] == "active").await;
    assert_eq!(first["active"], first["desired"]);
    // The gateway is compiled a moment after its plugin stands.
    eventually("nothing is missing", || async {
        let ready = http::get(&house.product.page("/readyz"), &[]).await.unwrap().text();
        ready.contains(r#""missing":[]"#).then_some(())
    })
    .await;
    let load = Load::start(&house.product);
    house.calls(&load, 20).await;

    // Swapped.
    place(&house.dir.join("guard.wasm"), &version(2));
    let second = house.stands("the second", |s| s["state"] == "active" && s["active"] != first["active"]).await;
    house.calls(&load, 20).await;

    // Written in place, half of it first.
    let third = version(3);
    std::fs::write(house.dir.join("guard.wasm"), &third[..third.len() / 2]).unwrap();
    let half = house.stands("half a version is told", |s| s["state"] == "previous").await;
    assert_eq!(half["active"], second["active"], "{half}");
    house.calls(&load, 20).await;
    std::fs::write(house.dir.join("guard.wasm"), &third).unwrap();
    let third = house.stands("the third", |s| s["state"] == "active" && s["active"] != second["active"]).await;
    house.calls(&load, 20).await;

    // A configuration that fits its schema, and that it does not take.
    let unclear = json!({"rules": [{"effect": "allow", "principals": ["nobody knows whom"]}]});
    house.write(json!({"source": house.file("guard.wasm"), "config": unclear}));
    let bad = house.stands("the configuration is told", |s| s["state"] == "previous").await;
    assert_eq!(bad["active"], third["active"], "{bad}");
    house.calls(&load, 20).await;
    house.write(spec("guard.wasm"));
    house.stands("as before", |s| s["state"] == "active").await;

    // Beside the active version: it would deny everything, and denies nothing.
    place(&house.dir.join("next.wasm"), &version(4));
    let mut tried = spec("guard.wasm");
    tried["candidate"] = json!({"source": house.file("next.wasm"), "config": {"default": "deny"}});
    house.write(tried.clone());
    let told = house.stands("differences", |s| s["candidate"]["differences"][0].is_object()).await;
    let difference = &told["candidate"]["differences"][0];
    assert_eq!((&difference["kind"], &difference["active"]), (&json!("decision"), &json!("allow")), "{told}");
    assert_eq!((&difference["server"], &difference["name"]), (&json!("echo"), &json!("echo")), "{told}");
    house.calls(&load, 20).await;

    // For half of the callers.
    tried["candidate"]["config"] = allow.clone();
    tried["candidate"]["share"] = json!(50);
    house.write(tried);
    house.stands("a share", |s| s["candidate"]["share"] == 50 && s["candidate"]["asked"] == true).await;
    house.calls(&load, 40).await;
    let metrics = http::get(&house.product.page("/metrics"), &[]).await.unwrap().text();
    let counted = |name: &str, labels: &str| metrics.lines().any(|l| l.starts_with(name) && l.contains(labels));
    assert!(
        counted("portcullis_plugin_calls_total", r#"plugin="guard@candidate",hook="tool-call",outcome="ok""#),
        "{metrics}"
    );
    assert!(counted("portcullis_plugin_shadow_total", r#"plugin="guard",difference="decision""#), "{metrics}");
    assert!(counted("portcullis_plugin_transitions_total", r#"plugin="guard",to="candidate""#), "{metrics}");

    // For everybody, and back, and forward again.
    house.write(spec("next.wasm"));
    let fourth = house.stands("the fourth", |s| s["state"] == "active" && s["active"] != third["active"]).await;
    house.calls(&load, 20).await;
    let back = house.product.ask(&["plugin", "rollback", "guard"], "").unwrap();
    assert_eq!((&back["state"], &back["active"]), (&json!("rolled-back"), &third["active"]), "{back}");
    assert_eq!(back["desired"], fourth["active"]);
    house.calls(&load, 20).await;
    let described = house.product.ask(&["describe", "plugin", "guard"], "").unwrap().to_string();
    assert!(described.contains("RolledBack"), "{described}");
    let forward = house.product.ask(&["plugin", "resume", "guard"], "").unwrap();
    assert_eq!((&forward["state"], &forward["active"]), (&json!("active"), &fourth["active"]), "{forward}");
    house.calls(&load, 20).await;

    let (calls, failed) = load.end().await;
    assert!(failed.is_empty(), "{} of {calls} calls failed, such as {}", failed.len(), failed[0]);

    // The policy that only watches would have denied each of them.
    let metrics = http::get(&house.product.page("/metrics"), &[]).await.unwrap().text();
    assert!(metrics.contains(r#"plugin="tool-access",hook="tool-call",answer="deny""#), "{metrics}");
    let watched = eventually("the record of what would have been denied", || async {
        let audit = std::fs::read_to_string(house.product.data().join("audit/audit.jsonl")).ok()?;
        audit.lines().find(|l| l.contains(r#""kind":"monitored""#)).map(str::to_owned)
    })
    .await;
    for part in [r#""plugin":"tool-access""#, r#""decision":"deny""#, r#""tool":"echo__echo""#, r#""caller":"user:u"#] {
        assert!(watched.contains(part), "{watched}");
    }
}

#[tokio::test]
async fn a_rollback_survives_a_restart_and_a_file_that_was_written_over() {
    let echo = Echo::start().await.unwrap();
    let mut house = House::start(&echo).await;
    let spec = json!({"source": house.file("guard.wasm"), "config": {"default": "allow"}});
    let mut active = Vec::new();
    for number in [1, 2] {
        place(&house.dir.join("guard.wasm"), &version(number));
        house.write(spec.clone());
        let before = active.last().cloned().unwrap_or_default();
        let stands = house.stands("a version", |s| s["state"] == "active" && s["active"] != before).await;
        active.push(stands["active"].clone());
    }
    house.product.ask(&["plugin", "rollback", "guard"], "").unwrap();
    house.product.kill().await;
    house.product.launch().await.unwrap();
    let back = house.stands("it is still rolled back", |s| s["state"] == "rolled-back").await;
    assert_eq!(back["active"], active[0], "{back}");
    // Nothing further back: refused, and what serves goes on serving.
    let refused = house.product.cli(&["plugin", "rollback", "guard"], "").unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("no earlier version"));
    assert_eq!(house.status()["active"], active[0]);
}

#[tokio::test]
async fn a_plugin_that_fails_for_many_is_not_asked_for_a_while() {
    let echo = Echo::start().await.unwrap();
    let house = House::start(&echo).await;
    let unruly = |act: &str| {
        json!({"source": {"file": {"path": guest("unruly")}}, "config": {"act": act}, "isolation": "tenant",
            "grants": {"issuers": ["https://idp.example"]}})
    };
    house.write(unruly("panic"));
    house.stands("it serves", |s| s["state"] == "active").await;
    let callers: Vec<String> = (0..CALLERS).map(|n| house.product.token(&format!("user:u{n}")).unwrap().1).collect();
    let call = async |token: &str| {
        let url = house.product.url("main");
        http::call(&url, Some(token), "echo__echo", json!({"message": "x"})).await.unwrap().text()
    };
    // One caller may fail as often as they like; many are its fault.
    for _ in 0..10 {
        let said = call(&callers[0]).await;
        assert!(said.contains("plugin-failed"), "{said}");
    }
    assert_eq!(house.status()["quarantine"], Value::Null);
    let next = AtomicUsize::new(1);
    let said = eventually("quarantine", || async {
        let said = call(&callers[next.fetch_add(1, SeqCst) % CALLERS]).await;
        said.contains("plugin-quarantined").then_some(said)
    })
    .await;
    assert!(said.contains("retryAfterMs"), "{said}");
    let status = house.status();
    assert_eq!(status["quarantine"]["places"], 1, "{status}");
    let described = house.product.ask(&["describe", "plugin", "guard"], "").unwrap().to_string();
    assert!(described.contains("Quarantined"), "{described}");
    let metrics = async || http::get(&house.product.page("/metrics"), &[]).await.unwrap().text();
    let now = |text: &str| text.contains("portcullis_plugin_quarantined{tenant=\"default\",plugin=\"guard\"} 1");
    assert!(now(&metrics().await));
    // Another version begins anew.
    house.write(unruly("nothing"));
    house.stands("out of quarantine", |s| s["state"] == "active" && s["quarantine"].is_null()).await;
    eventually("the figure", || async { (!now(&metrics().await)).then_some(()) }).await;
}
