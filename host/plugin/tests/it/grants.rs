//! Each interface that a plugin may import: which grant it needs, and that it is refused, counted and named without it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use portcullis_model::spec::Grants;
use portcullis_plugin::{Host, HostOptions, LoadError, LoadPlan};
use portcullis_telemetry::Metrics;
use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

use crate::{declared::asking, guests::plan, released::services};

/// The grant that an interface needs, as a refusal names it, and what metrics call it; none where it needs none. Every interface of
/// `wit/` that a component can import stands here.
fn needed(interface: &str) -> Option<(&'static str, &'static str)> {
    Some(match interface {
        "host/http" | "host/token-request" => ("http: [..]", "http"),
        "host/reveal" => ("reveal: true", "reveal"),
        "host/state" => ("state: 64KiB", "state"),
        "host/signing" => ("sign: true", "sign"),
        // `identity` is about tokens, and the trial imports all of an interface that another one uses.
        "auth/tokens" | "auth/identity" => ("tokens: true", "tokens"),
        "auth/jwt" => ("issuers: [..]", "issuer"),
        "credential/connections" => ("connections: true", "connections"),
        "credential/caller-token" => ("callerToken: true", "caller-token"),
        "host/config"
        | "host/log"
        | "host/metrics"
        | "host/secrets"
        | "types/context"
        | "types/error"
        | "auth/request"
        | "auth/resource-metadata"
        | "credential/target"
        | "credential/resolution"
        | "credential/earlier"
        | "policy/decision"
        | "policy/results"
        | "policy/requests"
        | "policy/lists"
        | "policy/sessions" => return None,
        other => panic!("{other} is new: say here which grant it needs"),
    })
}

pub(crate) fn everything() -> Grants {
    Grants {
        http: vec!["https://x.example".into()],
        reveal: true,
        tokens: true,
        issuers: vec!["https://idp.example".into()],
        connections: true,
        caller_token: true,
        state: Some("64KiB".parse().unwrap()),
        sign: true,
        ..Grants::default()
    }
}

/// The contract, and the interfaces of each package that are no hooks.
pub(crate) fn contract() -> (Resolve, Vec<String>) {
    let mut resolve = Resolve::new();
    let mut interfaces = Vec::new();
    for package in ["types", "host", "auth", "credential", "policy"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit").join(package).join(format!("{package}.wit"));
        let text = std::fs::read_to_string(&path).unwrap();
        let id = resolve.push_source(package, &text).unwrap();
        let found = &resolve.packages[id];
        let exported: Vec<_> = found
            .worlds
            .values()
            .flat_map(|world| resolve.worlds[*world].exports.keys().map(|key| resolve.name_world_key(key)))
            .collect();
        for name in found.interfaces.keys() {
            let full = format!("portcullis:{package}/{name}@0.1.0");
            if !exported.contains(&full) {
                interfaces.push(format!("{package}/{name}"));
            }
        }
    }
    (resolve, interfaces)
}

/// A policy that imports all of an interface, and does nothing with it.
pub(crate) fn importing(resolve: &Resolve, interface: &str) -> Arc<[u8]> {
    let mut resolve = resolve.clone();
    let text = format!(
        "package trial:one@0.1.0;\nworld one {{ import portcullis:{interface}@0.1.0; export portcullis:policy/tool-call@0.1.0; }}"
    );
    let id = resolve.push_source("one", &text).unwrap();
    let world = resolve.packages[id].worlds["one"];
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap().into()
}

#[tokio::test]
async fn every_import_is_free_or_refused_without_its_grant() {
    let metrics = Metrics::new();
    let host =
        Host::new(HostOptions { pool_instances: 8, metrics: metrics.clone(), ..HostOptions::default() }).unwrap();
    let (resolve, interfaces) = contract();
    assert!(interfaces.len() > 20, "{interfaces:?}");
    let mut denied: BTreeMap<&str, u32> = BTreeMap::new();
    for interface in &interfaces {
        let component = host.compile(importing(&resolve, interface)).await.unwrap();
        let load = async |grants: Grants| {
            host.load(LoadPlan { grants, services: services(), ..plan(component.clone()) }).await.map(drop)
        };
        match needed(interface) {
            None => assert!(load(Grants::default()).await.is_ok(), "{interface} needs nothing"),
            Some((grant, capability)) => {
                let refused = load(Grants::default()).await;
                let named = if interface == "auth/identity" { "auth/tokens" } else { interface };
                let named = format!("portcullis:{named}@0.1.0");
                assert!(
                    matches!(&refused, Err(LoadError::Ungranted { interface, grant: said })
                        if *interface == named && *said == grant),
                    "{interface}: {refused:?}"
                );
                *denied.entry(capability).or_default() += 1;
                let mut without = everything();
                match capability {
                    "http" => without.http.clear(),
                    "reveal" => without.reveal = false,
                    "state" => without.state = None,
                    "sign" => without.sign = false,
                    "tokens" => without.tokens = false,
                    "issuer" => without.issuers.clear(),
                    "connections" => without.connections = false,
                    _ => without.caller_token = false,
                }
                assert!(load(without).await.is_err(), "all other grants are no help: {interface}");
                *denied.entry(capability).or_default() += 1;
                let granted = load(everything()).await;
                assert!(granted.is_ok(), "{interface}: {granted:?}");
            }
        }
    }
    let text = metrics.encode();
    for (capability, count) in denied {
        let line = format!(
            "portcullis_plugin_capability_denied_total{{tenant=\"default\",plugin=\"guest\",capability=\"{capability}\"}} {count}"
        );
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn what_a_manifest_does_not_ask_for_is_not_handed_out_though_it_is_granted() {
    let host = Host::new(HostOptions { pool_instances: 8, ..HostOptions::default() }).unwrap();
    let (resolve, interfaces) = contract();
    let mut tried = 0;
    for interface in &interfaces {
        let Some((grant, _)) = needed(interface) else { continue };
        let asked = grant.split(':').next().unwrap();
        let wasm = importing(&resolve, interface);
        let load = async |wants: serde_json::Value| {
            let component = host.compile(asking(&wasm, &wants)).await.unwrap();
            host.load(LoadPlan { grants: everything(), services: services(), ..plan(component) }).await
        };
        let refused = load(json!([{"grant": "roles", "reason": "another one"}])).await;
        assert!(
            matches!(&refused, Err(LoadError::Unasked { grant: said, .. }) if *said == grant),
            "{interface}: {refused:?}"
        );
        let loaded = load(json!([{"grant": asked, "reason": "it is used"}])).await.unwrap();
        let got = serde_json::to_value(loaded.grants()).unwrap();
        assert_eq!(got.as_object().unwrap().keys().collect::<Vec<_>>(), [asked], "{interface}: and nothing else");
        assert_eq!(loaded.withheld().len(), 7, "{interface}: {:?}", loaded.withheld());
        tried += 1;
    }
    assert!(tried > 6, "{tried}");
}

#[tokio::test]
async fn a_secret_that_is_not_asked_for_by_its_name_is_not_there() {
    let (dir, manager) = (tempfile::tempdir().unwrap(), crate::manager::manager());
    std::fs::write(dir.path().join("key"), "k").unwrap();
    let wasm = crate::guests::Guest::default().wasm();
    let wants = json!([
        {"grant": "secrets", "what": "key", "reason": "proves"}, {"grant": "state", "reason": "counts"},
    ]);
    std::fs::write(dir.path().join("guard.wasm"), asking(&wasm, &wants)).unwrap();
    let from = json!({"from": {"file": dir.path().join("key")}});
    let spec = json!({"source": {"file": {"path": "guard.wasm"}}, "grants": {"secrets": {"key": from, "other": from}}});
    let place = crate::manager::place("guard", None);
    let resources = [crate::manager::resource("guard", dir.path(), spec)];
    assert!(crate::manager::reconcile(&manager, &resources, &[&place]).await.is_empty());
    let plugin = manager.get(&place).unwrap().plugin;
    assert_eq!(plugin.grants().secrets.keys().collect::<Vec<_>>(), ["key"]);
    // An operator is told both.
    let standing = manager.standing(&crate::guests::tenant(), &"guard".parse().unwrap()).unwrap();
    assert_eq!(
        (standing.withheld, standing.ungranted),
        (vec!["secrets other".to_owned()], vec!["state (counts)".to_owned()])
    );
}
