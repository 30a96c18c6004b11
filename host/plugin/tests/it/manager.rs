//! The manager: what serves goes on serving until something better is loaded, and nothing is loaded twice.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use portcullis_model::{
    Name, Secret,
    spec::{Grants, Plugin as Spec, SecretSource},
};
use portcullis_plugin::{
    Decision, Placed, SecretReader, Services,
    manager::{BuiltIn, Manager, Place, Resource, Trouble},
};
use serde_json::{Value, json};

use crate::{
    built::guest,
    guests::{ALLOW, Guest, call, host, principal, request, tenant},
};

pub(crate) fn manager() -> Manager {
    manager_with(Services::default())
}

pub(crate) fn manager_with(services: Services) -> Manager {
    let built_ins = portcullis_plugins::built_ins()
        .iter()
        .map(|b| BuiltIn { name: b.name, wasm: b.wasm, grants: Grants::default() })
        .collect();
    let services = Services { secrets: Some(Arc::new(Files)), ..services };
    Manager::new(host(), built_ins, services, None)
}

/// Secrets in files.
struct Files;

impl SecretReader for Files {
    fn read(&self, _: &Name, source: &SecretSource) -> Result<Secret, String> {
        let SecretSource::File(path) = source else { return Err("no file".to_owned()) };
        std::fs::read(path).map(Secret::new).map_err(|e| format!("can't read {path}: {e}"))
    }
}

pub(crate) fn place(plugin: &str, config: Option<&str>) -> Place {
    Place { tenant: tenant(), plugin: plugin.into(), config: config.map(str::to_owned) }
}

pub(crate) fn resource(name: &str, base: &Path, spec: Value) -> Resource {
    let spec: Spec = serde_json::from_value(spec).unwrap();
    Resource { tenant: tenant(), name: name.parse().unwrap(), spec, base: Some(base.to_owned()) }
}

pub(crate) async fn reconcile(manager: &Manager, resources: &[Resource], places: &[&Place]) -> Vec<Trouble> {
    let places: BTreeSet<Place> = places.iter().map(|p| (*p).clone()).collect();
    manager.reconcile(resources, &places).await
}

async fn decide(in_use: &Placed) -> Decision {
    in_use.plugin.decide(&principal(), &request(), &call()).await.unwrap()
}

#[tokio::test]
async fn a_broken_file_leaves_the_previous_plugin_serving() {
    let (dir, manager) = (tempfile::tempdir().unwrap(), manager());
    let file = dir.path().join("policy.wasm");
    let of_file = resource("policy", dir.path(), json!({"source": {"file": {"path": "policy.wasm"}}}));
    let (resources, place) = ([of_file], place("policy", None));

    // Nothing there yet: trouble, and whoever needs it refuses.
    let trouble = reconcile(&manager, &resources, &[&place]).await;
    assert!(trouble.len() == 1 && !trouble[0].previous && trouble[0].problem.contains("can't read"), "{trouble:?}");
    assert!(manager.get(&place).is_err());

    std::fs::write(&file, Guest::default().wasm()).unwrap();
    assert!(reconcile(&manager, &resources, &[&place]).await.is_empty());
    let first = manager.get(&place).unwrap();
    assert_eq!(decide(&first).await, Decision::Allow);

    for broken in [&b"garbage"[..], &wat::parse_str("(component)").unwrap(), b""] {
        std::fs::write(&file, broken).unwrap();
        let trouble = reconcile(&manager, &resources, &[&place]).await;
        assert!(trouble.len() == 1 && trouble[0].previous && trouble[0].place == place, "{trouble:?}");
        assert!(Arc::ptr_eq(&manager.get(&place).unwrap().plugin, &first.plugin));
    }

    let better = format!("(nop) {ALLOW}");
    std::fs::write(&file, Guest { decide: &better, ..Guest::default() }.wasm()).unwrap();
    assert!(reconcile(&manager, &resources, &[&place]).await.is_empty());
    let second = manager.get(&place).unwrap();
    assert!(!Arc::ptr_eq(&second.plugin, &first.plugin) && second.identity != first.identity);
    assert_eq!(decide(&first).await, Decision::Allow, "calls under way finish on the old one");

    assert!(reconcile(&manager, &resources, &[]).await.is_empty());
    assert!(manager.get(&place).is_err(), "a place that nobody names any more has no plugin");
}

#[tokio::test]
async fn the_same_stays_and_anything_else_is_another_plugin() {
    let (dir, manager) = (tempfile::tempdir().unwrap(), manager());
    let secret = dir.path().join("secret");
    std::fs::write(dir.path().join("unruly.wasm"), guest("unruly")).unwrap();
    std::fs::write(&secret, "one\n").unwrap();
    let spec = |config: Value, origins: Value, isolation: &str| {
        let from = json!({"file": secret.to_str().unwrap()});
        let grants = json!({"secrets": {"key": {"from": from, "origins": origins}}});
        json!({"source": {"file": {"path": "unruly.wasm"}}, "config": config, "grants": grants, "isolation": isolation})
    };
    let place = place("unruly", None);
    let load = async |spec: Value| {
        let trouble = reconcile(&manager, &[resource("unruly", dir.path(), spec)], &[&place]).await;
        assert!(trouble.is_empty(), "{trouble:?}");
        manager.get(&place).unwrap()
    };
    let nothing = json!({"act": "nothing"});
    let base = || spec(nothing.clone(), json!([]), "call");
    let first = load(base()).await;
    let again = load(base()).await;
    assert!(Arc::ptr_eq(&first.plugin, &again.plugin) && first.identity == again.identity);

    let mut seen = BTreeSet::from([first.identity.clone()]);
    for other in [
        spec(json!({"act": "print"}), json!([]), "call"),
        spec(nothing.clone(), json!(["https://idp.example"]), "call"),
        spec(nothing.clone(), json!([]), "tenant"),
    ] {
        assert!(seen.insert(load(other).await.identity), "a new identity");
    }
    std::fs::write(&secret, "two\n").unwrap();
    assert!(seen.insert(load(base()).await.identity), "a rotated secret");
    std::fs::write(&secret, "one\n").unwrap();
    assert_eq!(load(base()).await.identity, first.identity, "the same facts, the same identity");
    assert!(!format!("{seen:?}").contains("one"), "a digest, no secret");

    std::fs::remove_file(&secret).unwrap();
    let trouble = reconcile(&manager, &[resource("unruly", dir.path(), base())], &[&place]).await;
    assert!(trouble[0].previous && trouble[0].problem.contains("can't read"), "{trouble:?}");
}

#[tokio::test]
async fn a_place_may_have_a_configuration_of_its_own() {
    let (dir, manager) = (tempfile::tempdir().unwrap(), manager());
    let rules = |effect: &str| json!({"rules": [{"effect": effect}]});
    let of_built_in = json!({"source": {"builtIn": "tool-access"}, "config": rules("allow")});
    let resources = [resource("access", dir.path(), of_built_in)];
    let (own, strict) = (place("access", None), place("access", Some(&rules("deny").to_string())));
    assert!(reconcile(&manager, &resources, &[&own, &strict]).await.is_empty());
    assert_eq!(decide(&manager.get(&own).unwrap()).await, Decision::Allow);
    assert!(matches!(decide(&manager.get(&strict).unwrap()).await, Decision::Deny { .. }));
}

#[tokio::test]
async fn built_ins_go_by_their_name_and_strangers_are_refused_by_theirs() {
    let manager = manager();
    let (known, unknown) = (place("tool-access", Some("{}")), place("tool-acess", None));
    let trouble = reconcile(&manager, &[], &[&known, &unknown]).await;
    assert!(matches!(decide(&manager.get(&known).unwrap()).await, Decision::Deny { .. }), "its default");
    assert_eq!(trouble.len(), 1);
    let why = "there is no plugin \"tool-acess\"; built in are arguments, bearer-token, call-time, client-certificate, header-map, idp-exchange, jwks, passthrough, rate, redact, size-cap, static, tool-access, webhook";
    assert_eq!(trouble[0].problem, why);
    assert_eq!(manager.get(&unknown).unwrap_err(), why);
    // Without its grant a built-in is refused like anybody's.
    let ungranted = reconcile(&manager, &[], &[&place("bearer-token", None)]).await;
    assert!(ungranted[0].problem.contains("needs `tokens: true`"), "{ungranted:?}");
}

#[tokio::test]
async fn a_file_with_another_digest_is_refused() {
    let (dir, manager) = (tempfile::tempdir().unwrap(), manager());
    std::fs::write(dir.path().join("policy.wasm"), Guest::default().wasm()).unwrap();
    let pinned = |digest: &str| {
        let source = json!({"file": {"path": "policy.wasm", "sha256": digest}});
        [resource("policy", dir.path(), json!({ "source": source }))]
    };
    let place = place("policy", None);
    let wrong = "0".repeat(64);
    let trouble = reconcile(&manager, &pinned(&wrong), &[&place]).await;
    assert!(trouble[0].problem.contains(&format!("not {wrong}")), "{trouble:?}");
    assert!(manager.get(&place).is_err());
    let right = trouble[0].problem.split("SHA-256 ").nth(1).unwrap()[..64].to_uppercase();
    assert!(reconcile(&manager, &pinned(&right), &[&place]).await.is_empty());
    assert_eq!(manager.get(&place).unwrap().plugin.digest(), right.to_lowercase());
}

#[tokio::test]
async fn a_pipe_is_no_component() {
    let (dir, manager) = (tempfile::tempdir().unwrap(), manager());
    let pipe = dir.path().join("policy.wasm");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let of_file = resource("policy", dir.path(), json!({"source": {"file": {"path": "policy.wasm"}}}));
    let place = place("policy", None);
    let (resources, places) = ([of_file], [&place]);
    let round = reconcile(&manager, &resources, &places);
    let trouble = tokio::time::timeout(std::time::Duration::from_secs(10), round).await.expect("nobody reads it");
    assert!(trouble[0].problem.contains("no regular file"), "{trouble:?}");
}

/// A round that waits for nothing goes on without what it begins, and another one has it when it is told.
#[tokio::test]
async fn a_round_goes_on_without_what_is_under_way() {
    let (dir, manager) = (tempfile::tempdir().unwrap(), manager());
    std::fs::write(dir.path().join("policy.wasm"), Guest::default().wasm()).unwrap();
    let of_file = resource("policy", dir.path(), json!({"source": {"file": {"path": "policy.wasm"}}}));
    let (resources, place) = ([of_file], place("policy", None));
    let places = BTreeSet::from([place.clone()]);
    let mut told = manager.told();
    let mut stages = Vec::new();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while manager.get(&place).is_err() {
        assert!(std::time::Instant::now() < until, "{stages:?}");
        let troubles = manager.reconcile_within(&resources, &places, |_| std::future::ready(())).await;
        for trouble in troubles {
            let stage = trouble.under_way.expect("nothing is wrong with it");
            let standing = manager.standing(&tenant(), &"policy".parse().unwrap()).unwrap();
            assert_eq!((standing.under_way, standing.active), (Some(stage), None));
            stages.push(standing.state.as_str());
            told.changed().await.unwrap();
        }
    }
    // Each round reads the file, and may look before or after it is read; compiling takes longer than a look.
    assert!(stages.contains(&"compiling"), "{stages:?}");
    assert_eq!(decide(&manager.get(&place).unwrap()).await, Decision::Allow);
    let standing = manager.standing(&tenant(), &"policy".parse().unwrap()).unwrap();
    assert_eq!((standing.state.as_str(), standing.under_way), ("active", None));
}

#[tokio::test]
async fn what_is_deleted_serves_nobody_though_somebody_still_names_it() {
    let (dir, manager) = (tempfile::tempdir().unwrap(), manager());
    std::fs::write(dir.path().join("policy.wasm"), Guest::default().wasm()).unwrap();
    let of_file = |name: &str| resource(name, dir.path(), json!({"source": {"file": {"path": "policy.wasm"}}}));
    let (own, shadowing) = (place("policy", None), place("tool-access", None));
    let all = [of_file("policy"), of_file("tool-access")];
    assert!(reconcile(&manager, &all, &[&own, &shadowing]).await.is_empty());
    let digest = manager.get(&shadowing).unwrap().plugin.digest().to_owned();
    let trouble = reconcile(&manager, &[], &[&own, &shadowing]).await;
    assert!(trouble.len() == 1 && !trouble[0].previous && trouble[0].place == own, "{trouble:?}");
    assert!(manager.get(&own).is_err());
    // Where the name is a built-in's as well, that one serves again.
    assert_ne!(manager.get(&shadowing).unwrap().plugin.digest(), digest);
}
