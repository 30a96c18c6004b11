//! Plugins that get ready once: what each call starts from, what is refused meanwhile, and what is kept.

use std::sync::Arc;

use portcullis_model::{Secret, spec::Isolation};
use portcullis_plugin::{
    BoxFuture, Decision, GrantedSecret, Host, HostOptions, LoadError, LoadPlan, Outbound, OutboundError,
    OutboundRequest, OutboundResponse, Plugin, PluginError, PluginFailure,
};

use crate::{
    built::guest,
    guests::{ALLOW, Guest, call, host, plan, principal, request},
};

/// Answers nobody.
struct Silent;

impl Outbound for Silent {
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>> {
        panic!("{} was sent while getting ready", request.url)
    }
}

async fn load(host: &Arc<Host>, act: &str, isolation: Isolation) -> Result<Arc<Plugin>, LoadError> {
    let component = host.compile(guest("ready")).await.unwrap();
    let mut plan = LoadPlan { config: format!(r#"{{"act": "{act}"}}"#), isolation, ..plan(component) };
    plan.grants.http = vec!["https://granted.example".into()];
    plan.services.http = Some(Arc::new(Silent));
    let key = GrantedSecret { value: Secret::new("s3cret"), origins: vec!["https://granted.example".into()] };
    plan.secrets.insert("key".into(), key);
    host.load(plan).await
}

async fn told(plugin: &Plugin) -> String {
    match plugin.decide(&principal(), &request(), &call()).await.unwrap() {
        Decision::Deny { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_instance_starts_from_what_setup_left() {
    let host = host();
    let fresh = load(&host, "nothing", Isolation::Call).await.unwrap();
    assert!(fresh.starts_ready() && fresh.suspends());
    let first = told(&fresh).await;
    assert!(first.starts_with("prepared 1 call 1 whole true"), "{first}");
    assert_eq!(told(&fresh).await, first, "a call has left something behind");
    let warm = load(&host, "nothing", Isolation::Tenant).await.unwrap();
    told(&warm).await;
    let second = told(&warm).await;
    assert!(second.starts_with("prepared 1 call 2 whole true"), "{second}");
    assert_eq!(host.free_instances(), 63, "only the warm one is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_instances_share_nothing_but_the_beginning() {
    let host = host();
    let plugin = load(&host, "nothing", Isolation::Call).await.unwrap();
    let calls = (0..200).map(|_| {
        let plugin = Arc::clone(&plugin);
        tokio::spawn(async move { told(&plugin).await })
    });
    for told in calls.collect::<Vec<_>>() {
        let told = told.await.unwrap();
        assert!(told.starts_with("prepared 1 call 1 whole true"), "{told}");
    }
}

#[tokio::test]
async fn a_plugin_that_cannot_get_ready_is_none() {
    let host = host();
    let refused = async |act: &str| load(&host, act, Isolation::Call).await.unwrap_err();
    let said = refused("fail").await;
    assert!(matches!(&said, LoadError::Setup(PluginError::InvalidConfig(why)) if why == "act: not this one"), "{said}");
    assert!(matches!(refused("panic").await, LoadError::Trial(PluginFailure::Trap(_))));
    assert!(matches!(refused("loop").await, LoadError::Trial(PluginFailure::Cpu)));
    assert_eq!(host.free_instances(), 64);
}

#[tokio::test]
async fn nothing_is_handed_out_while_a_plugin_gets_ready() {
    let host = host();
    for act in ["secret", "http"] {
        let error = load(&host, act, Isolation::Call).await.unwrap_err();
        let LoadError::Trial(PluginFailure::Trap(why)) = &error else { panic!("{act}: {error}") };
        assert!(why.contains("while getting ready"), "{act}: {why}");
    }
}

#[tokio::test]
async fn what_is_ready_is_kept_by_component_and_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let files = || std::fs::read_dir(&cache).unwrap().count();
    let start = || {
        let cache_dir = Some(cache.clone());
        Host::new(HostOptions { cache_dir, pool_instances: 8, ..HostOptions::default() }).unwrap()
    };
    let told_by = async |act: &str| told(&load(&start(), act, Isolation::Call).await.unwrap()).await;
    let first = told_by("nothing").await;
    let kept = files();
    assert_eq!(told_by("nothing").await, first, "what it drew at random tells that it did not get ready again");
    assert_eq!(files(), kept);
    let other = told_by("other").await;
    assert!(other != first && other.contains("whole true"), "{other}");
    assert_eq!(files(), kept + 1);
    // One that fails leaves nothing that a later start would take for ready.
    assert!(load(&start(), "fail", Isolation::Call).await.is_err());
    assert!(load(&start(), "fail", Isolation::Call).await.is_err());
    assert_eq!(files(), kept + 1);
}

/// A guest as text whose `setup` sets a global, and whose hook traps where that was not done.
fn by_hand(core: &str) -> Arc<[u8]> {
    let core = format!(
        "{core} (global $ready (export \"ready\") (mut i32) (i32.const 0))
         (func (export \"prepare\") (result i32)
           (if (global.get $ready) (then unreachable))
           (global.set $ready (i32.const 1)) (i32.store (i32.const 8192) (i32.const 77)) (i32.const 1024))"
    );
    let decide = format!(
        "(if (i32.ne (global.get $ready) (i32.const 1)) (then unreachable))
         (if (i32.ne (i32.load (i32.const 8192)) (i32.const 77)) (then unreachable))
         (i32.store (i32.const 8192) (i32.const 78)) {ALLOW}"
    );
    let exports = r#"(type $pt (func (result (result (error $error)))))
      (func $prepare (type $pt) (canon lift (core func $i "prepare") (memory (core memory $i "memory"))))
      (instance $setup (export "prepare" (func $prepare)))
      (export "portcullis:types/setup@0.1.0" (instance $setup))"#;
    Guest { core: &core, decide: &decide, exports, ..Guest::default() }.wasm()
}

#[tokio::test]
async fn where_memory_cannot_be_kept_each_instance_gets_ready_by_itself() {
    let host = host();
    for (core, kept) in [
        ("", true),
        // A table that may change can't be read.
        ("(table 1 funcref) (func (table.set (i32.const 0) (ref.null func)))", false),
    ] {
        for isolation in [Isolation::Call, Isolation::Tenant] {
            let component = host.compile(by_hand(core)).await.unwrap();
            let plugin = host.load(LoadPlan { isolation, ..plan(component) }).await.unwrap();
            assert_eq!(plugin.starts_ready(), kept);
            let first = plugin.decide(&principal(), &request(), &call()).await;
            assert_eq!(first, Ok(Decision::Allow), "kept: {kept}");
            let second = plugin.decide(&principal(), &request(), &call()).await;
            // A warm instance finds what the first call wrote.
            assert_eq!(second.is_ok(), isolation == Isolation::Call, "kept: {kept}, {isolation:?}");
        }
    }
}
