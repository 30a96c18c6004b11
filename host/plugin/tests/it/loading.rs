//! What is refused when it is loaded, and in which words.

use std::os::unix::fs::PermissionsExt as _;

use portcullis_plugin::{Host, HostOptions, LoadError, LoadPlan, PluginFailure};

use crate::guests::{Guest, host, load, plan};

async fn refused(wasm: impl Into<std::sync::Arc<[u8]>>) -> LoadError {
    host().compile(wasm.into()).await.expect_err("refused")
}

#[tokio::test]
async fn what_is_no_component_is_refused_by_name() {
    assert!(matches!(refused(&b"#!/bin/sh"[..]).await, LoadError::NotAComponent(_)));
    let module = wat::parse_str("(module)").unwrap();
    assert!(matches!(refused(module).await, LoadError::NotAComponent(why) if why.contains("core module")));
    let empty = wat::parse_str("(component)").unwrap();
    assert!(matches!(refused(empty).await, LoadError::NoHook(names) if names.contains("portcullis:policy/tool-call")));
    let mut broken = Guest::default().wasm().to_vec();
    broken.truncate(broken.len() / 2);
    refused(broken).await;
}

#[tokio::test]
async fn imports_beyond_the_world_are_named() {
    let guest = Guest {
        imports: r#"(import "wasi:http/types@0.2.6" (instance)) (import "evil:net/raw@1.0.0" (instance))
                    (import "loose" (func))"#,
        ..Guest::default()
    };
    let LoadError::Imports(names) = refused(guest.wasm()).await else { panic!("another error") };
    assert_eq!(names, ["wasi:http/types@0.2.6", "evil:net/raw@1.0.0", "loose"]);
}

const REVEAL: &str = r#"
  (import "portcullis:host/secrets@0.1.0" (instance $secrets (export "secret" (type (sub resource)))))
  (alias export $secrets "secret" (type $secret))
  (import "portcullis:host/reveal@0.1.0" (instance
    (alias outer 1 $secret (type $s0)) (export "secret" (type $s (eq $s0)))
    (alias outer 1 $error (type $e0)) (export "error" (type $e (eq $e0)))
    (export "reveal" (func (param "secret" (borrow $s)) (result (result (list u8) (error $e)))))))
"#;

#[tokio::test]
async fn an_import_without_its_grant_is_refused_naming_both() {
    let host = host();
    let component = host.compile(Guest { imports: REVEAL, ..Guest::default() }.wasm()).await.unwrap();
    let error = host.load(plan(component.clone())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the component imports portcullis:host/reveal@0.1.0, which needs `reveal: true` under `grants`"
    );
    let mut granted = plan(component);
    granted.grants.reveal = true;
    assert!(matches!(host.load(granted).await, Err(LoadError::Unavailable(_))), "nothing here records reveals");
}

#[tokio::test]
async fn a_guest_that_fails_when_it_starts_is_never_a_plugin() {
    let host = host();
    let trap = load(&host, &Guest { start: "unreachable", ..Guest::default() }).await.unwrap_err();
    assert!(matches!(trap, LoadError::Trial(PluginFailure::Trap(_))), "{trap}");
    let endless = load(&host, &Guest { start: "(loop $l (br $l))", ..Guest::default() }).await.unwrap_err();
    assert!(matches!(endless, LoadError::Trial(PluginFailure::Cpu | PluginFailure::Timeout)), "{endless}");
    let component = host.compile(Guest::default().wasm()).await.unwrap();
    let config = LoadPlan { config: "{".into(), ..plan(component) };
    assert!(matches!(host.load(config).await, Err(LoadError::Invalid(_))));
    assert_eq!(host.free_instances(), 64);
}

#[tokio::test]
async fn the_cache_is_private_and_its_native_code_is_no_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let options = HostOptions { cache_dir: Some(cache.clone()), pool_instances: 8, ..HostOptions::default() };
    let wasm = Guest::default().wasm();
    let first = Host::new(options.clone()).unwrap();
    let digest = first.compile(wasm.clone()).await.unwrap().digest().to_owned();
    assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    assert!(files[0].file_name().unwrap().to_string_lossy().starts_with(&digest));
    // Native code is refused as a plugin, even our own.
    assert!(matches!(refused(std::fs::read(&files[0]).unwrap()).await, LoadError::Precompiled));
    // A second host takes it from the cache and runs it.
    let second = Host::new(options.clone()).unwrap();
    let component = second.compile(wasm.clone()).await.unwrap();
    second.load(plan(component)).await.unwrap();
    // A damaged entry is compiled again.
    drop((first, second));
    std::fs::remove_file(&files[0]).unwrap();
    std::fs::write(&files[0], b"\x7fELF garbage").unwrap();
    let third = Host::new(options.clone()).unwrap();
    third.load(plan(third.compile(wasm).await.unwrap())).await.unwrap();
    // A directory that others can enter is refused.
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(Host::new(options), Err(LoadError::Host(why)) if why.contains("0700")));
}
