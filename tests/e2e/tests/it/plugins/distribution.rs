//! Pushed, signed, installed by digest, serving: with a real registry, which is then altered, and then gone.

use std::{fs, path::PathBuf};

use portcullis_e2e::{
    echo::Echo,
    eventually, http,
    product::{Product, resource},
    registry::{PASSWORD, Registry, USER},
};
use serde_json::{Value, json};

/// A component as any author has one, in a file.
fn component(product: &Product, name: &str) -> PathBuf {
    let found = portcullis_plugins::built_ins().iter().find(|b| b.name == name).unwrap();
    let file = product.home().join(format!("{name}.wasm"));
    fs::write(&file, found.wasm).unwrap();
    file
}

/// A command, with its own arguments as words.
fn words(product: &Product, line: &str, files: &[&PathBuf]) -> Value {
    let mut files = files.iter();
    let words: Vec<String> = line
        .split_whitespace()
        .map(|word| match word {
            "FILE" => files.next().unwrap().display().to_string(),
            other => other.to_owned(),
        })
        .collect();
    product.ask(&words.iter().map(String::as_str).collect::<Vec<_>>(), "").unwrap()
}

fn push(product: &Product, registry: &Registry, name: &str, key: Option<&PathBuf>) -> Value {
    let file = component(product, name);
    let password = registry.password_file();
    let line = format!(
        "plugin push FILE {} --username {USER} --password-file FILE",
        registry.name(&format!("plugins/{name}:1"))
    );
    match key {
        None => words(product, &line, &[&file, &password]),
        Some(key) => words(product, &format!("{line} --key FILE"), &[&file, &password, key]),
    }
}

fn key(product: &Product, name: &str) -> (PathBuf, PathBuf) {
    let place = product.home().join(name);
    words(product, "plugin keys new FILE --no-passphrase", &[&place]);
    (place.with_extension("key"), place.with_extension("pub"))
}

async fn product(echo: &Echo, trusted: &std::path::Path) -> Product {
    let resources = [
        resource("User", "alice", json!({})),
        echo.open("echo", "modern"),
        resource("Gateway", "main", json!({"servers": [{"server": "echo"}]})),
    ];
    let settings = json!({"plugins": {"keys": [{"name": "platform", "file": trusted}]}});
    Product::start_with(&resources, &[], settings).await.unwrap()
}

fn rules() -> Value {
    json!({"servers": [{"server": "echo"}], "policies": [{"plugin": "access", "config": {"rules": [
        {"effect": "deny", "when": [{"argument": "/message", "equals": "secret"}]},
        {"effect": "allow", "principals": ["user:alice"]},
    ]}}]})
}

/// Whether the policy is asked: one message passes, another does not.
async fn judged(product: &Product, alice: &str) -> Option<()> {
    let call = async |message: &str| {
        let reply =
            http::call(&product.url("main"), Some(alice), "echo__echo", json!({"message": message})).await.ok()?;
        Some(reply.text())
    };
    let (good, bad) = (call("open").await?, call("secret").await?);
    (good.contains(r#""isError":false"#) && bad.contains("rule 1")).then_some(())
}

#[tokio::test]
async fn a_plugin_is_pushed_signed_installed_by_digest_and_serves_without_its_registry() {
    let echo = Echo::start().await.unwrap();
    let mut registry = Registry::start().await.unwrap();
    let shelf = tempfile::tempdir().unwrap();
    let trusted = shelf.path().join("platform.pub");
    // Keys are made before anything trusts them: any product's command line will do.
    let author = Product::start(&[]).await.unwrap();
    let (private, public) = key(&author, "platform");
    fs::copy(&public, &trusted).unwrap();
    let pushed = push(&author, &registry, "tool-access", Some(&private));
    let digest = pushed["digest"].as_str().unwrap().to_owned();
    author.stop().await;

    let mut product = product(&echo, &trusted).await;
    let alice = product.token("user:alice").unwrap().1;
    let password = registry.password_file();
    let line = format!(
        "plugin install {} --name access --key FILE --username {USER} --password-file FILE --login {USER} --login-password-file FILE",
        registry.name("plugins/tool-access:1")
    );
    let tried = words(&product, &format!("{line} --dry-run"), &[&trusted, &password, &password]);
    assert_eq!((&tried["dryRun"], &tried["change"]), (&json!(true), &json!("created")), "{tried}");
    assert!(product.ask(&["get", "plugins", "access"], "").is_err(), "nothing was changed");
    let installed = words(&product, &line, &[&trusted, &password, &password]);
    let reference = installed["reference"].as_str().unwrap();
    assert!(reference.ends_with(&format!(":1@{digest}")), "{installed}");
    assert!(!installed.to_string().contains(PASSWORD));
    product.write("gateway.yaml", &[]).unwrap();
    let before =
        [resource("User", "alice", json!({})), echo.open("echo", "modern"), resource("Gateway", "main", rules())];
    product.write("resources.yaml", &before).unwrap();
    eventually("the policy of the registry is asked", || judged(&product, &alice)).await;
    assert!(product.log().contains("platform"), "who signed what runs is in the log");

    // The registry is gone, and the gateway starts again.
    registry.stop();
    product.kill().await;
    product.launch().await.unwrap();
    eventually("the kept component serves", || judged(&product, &alice)).await;
    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    assert!(metrics.contains("portcullis_plugin_fetches_total{outcome=\"kept\"} 1"), "{metrics}");
    assert!(!product.log().contains(PASSWORD));
    product.stop().await;
}

#[tokio::test]
async fn altered_unsigned_and_wrongly_signed_plugins_are_refused_saying_so() {
    let echo = Echo::start().await.unwrap();
    let registry = Registry::start().await.unwrap();
    let shelf = tempfile::tempdir().unwrap();
    let trusted = shelf.path().join("platform.pub");
    let author = Product::start(&[]).await.unwrap();
    let (private, public) = key(&author, "platform");
    let (other, _) = key(&author, "other");
    fs::copy(&public, &trusted).unwrap();

    let manifest_of = |pushed: &Value| -> Value {
        let bytes = fs::read(registry.blob(pushed["digest"].as_str().unwrap())).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let alter = |digest: &str| {
        let file = registry.blob(digest);
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&file, bytes).unwrap();
    };
    let blob = push(&author, &registry, "bearer-token", Some(&private));
    alter(manifest_of(&blob)["layers"][0]["digest"].as_str().unwrap());
    let manifest = push(&author, &registry, "call-time", Some(&private));
    let file = registry.blob(manifest["digest"].as_str().unwrap());
    let text = fs::read_to_string(&file).unwrap().replace("\"schemaVersion\":2", "\"schemaVersion\": 2");
    fs::write(&file, text).unwrap();
    let unsigned = push(&author, &registry, "jwks", None);
    let wrong = push(&author, &registry, "static", Some(&other));
    author.stop().await;

    let product = product(&echo, &trusted).await;
    let login = json!({"username": USER, "password": {"file": registry.password_file()}});
    let plugin = |name: &str, pushed: &Value| {
        resource("Plugin", name, json!({"source": {"oci": {"reference": pushed["reference"], "login": login}}}))
    };
    let plugins = [
        plugin("altered", &blob),
        plugin("replaced", &manifest),
        plugin("unsigned", &unsigned),
        plugin("foreign", &wrong),
    ];
    product.write("plugins.yaml", &plugins).unwrap();
    for (name, why) in [
        ("altered", "the component was altered"),
        ("replaced", "altered"),
        ("unsigned", "is not signed"),
        ("foreign", "signed by no key that may sign it; here may: platform"),
    ] {
        eventually(&format!("{name}: {why}"), || async {
            let told = product.ask(&["describe", "plugin", name], "").ok()?.to_string();
            told.contains(why).then_some(())
        })
        .await;
    }
    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    for outcome in ["altered", "unsigned", "wrong-key"] {
        assert!(metrics.contains(&format!("portcullis_plugin_signatures_total{{outcome=\"{outcome}\"}}")), "{metrics}");
    }
    assert!(!product.log().contains(PASSWORD));
    product.stop().await;
}
