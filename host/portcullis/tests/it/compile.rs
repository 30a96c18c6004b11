//! Compiling in a child of this binary: what comes of it, and what is said when a limit is met.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use portcullis_plugin::{COMPILE, CompileLimits, Compiler, Host, HostOptions, LoadError};
use portcullis_telemetry::Metrics;

use crate::support::{portcullis, run};

fn host(cache: &Path, compile_limits: CompileLimits) -> (Arc<Host>, Arc<Metrics>) {
    let metrics = Metrics::new();
    let options = HostOptions {
        cache_dir: Some(cache.to_owned()),
        compiler: Compiler::Child(env!("CARGO_BIN_EXE_portcullis").into()),
        compile_limits,
        pool_instances: 4,
        compile_timeout: Duration::from_secs(300),
        metrics: Arc::clone(&metrics),
        ..HostOptions::default()
    };
    (Host::new(options).unwrap(), metrics)
}

fn built_in(name: &str) -> Arc<[u8]> {
    Arc::from(portcullis_plugins::built_ins().iter().find(|b| b.name == name).unwrap().wasm)
}

/// A component that is small and costs a compiler much: many functions with many ways through each.
fn costly() -> Arc<[u8]> {
    let body = "(block $a (loop $b (br_if $a (i32.eqz (local.get 0))) (local.set 0 (i32.mul (local.get 0) (local.get 1))) (br $b)))";
    let function = format!("(func (param i32 i32) (local i64 i64) {})", body.repeat(20));
    let text = format!("(component (core module {}))", function.repeat(2_500));
    wat::parse_str(text).unwrap().into()
}

#[tokio::test]
async fn a_component_is_compiled_once_into_a_private_cache() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("compiled");
    let counts = |metrics: &Metrics, outcome: &str| {
        let text = metrics.encode();
        let name = format!("portcullis_plugin_compilations_total{{outcome=\"{outcome}\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&name)?.parse::<u32>().ok()).unwrap_or(0)
    };
    let (first, metrics) = host(&cache, CompileLimits::default());
    first.compile(built_in("static")).await.unwrap();
    assert!(counts(&metrics, "compiled") > 0 && counts(&metrics, "cached") == 0);
    for entry in fs::read_dir(&cache).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.path().extension().is_some_and(|e| e == "cwasm"), "{entry:?} was left behind");
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (second, metrics) = host(&cache, CompileLimits::default());
    second.compile(built_in("static")).await.unwrap();
    assert!(counts(&metrics, "compiled") == 0 && counts(&metrics, "cached") > 0);
    // One that somebody else could have written is not believed.
    for entry in fs::read_dir(&cache).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o660)).unwrap();
    }
    let (third, metrics) = host(&cache, CompileLimits::default());
    third.compile(built_in("static")).await.unwrap();
    assert!(counts(&metrics, "compiled") > 0 && counts(&metrics, "cached") == 0);
}

#[tokio::test]
async fn a_limit_ends_the_child_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("compiled");
    let said = async |limits| {
        let (host, metrics) = host(&cache, limits);
        let told = match host.compile(costly()).await {
            Err(error @ LoadError::CompileLimit(_)) => error.to_string(),
            other => panic!("{other:?}"),
        };
        // It is not tried again.
        assert_eq!(host.compile(costly()).await.unwrap_err().to_string(), told);
        assert!(metrics.encode().contains("portcullis_plugin_compilations_total{outcome=\"failed\"} 1\n"));
        told
    };
    let cpu = said(CompileLimits { cpu: Duration::from_secs(1), ..CompileLimits::default() }).await;
    assert!(cpu.contains("1s of processor time"), "{cpu}");
    let memory = said(CompileLimits { memory: 96 << 20, ..CompileLimits::default() }).await;
    assert!(memory.contains("96 MiB of memory"), "{memory}");
    let code = said(CompileLimits { code: 1 << 20, ..CompileLimits::default() }).await;
    assert!(code.contains("1 MiB of native code"), "{code}");
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "nothing is left of what was given up");
}

#[tokio::test]
async fn the_components_own_fault_is_told_in_its_words() {
    let dir = tempfile::tempdir().unwrap();
    let (host, _) = host(&dir.path().join("compiled"), CompileLimits::default());
    let broken = wat::parse_str("(component (core module (func (result i32) i64.const 1)))").unwrap();
    let error = host.compile(broken.into()).await.unwrap_err();
    assert!(matches!(&error, LoadError::Compile(why) if why.contains("type mismatch")), "{error}");
}

#[test]
fn a_child_called_by_hand_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run(dir.path(), &[COMPILE]);
    assert_eq!((ran.code, &*ran.err), (4, "this is started by the gateway only\n"));
    // What is native code already is not passed through.
    let mut child = portcullis(dir.path());
    let native = dir.path().join("native");
    fs::write(&native, b"\x7fELF").unwrap();
    let input = fs::File::open(&native).unwrap();
    let out = child.args([COMPILE, "10", "1000000000", "1000000"]).stdin(input).output().unwrap();
    assert_eq!((out.status.code(), out.stdout.len()), (Some(3), 0));
}
