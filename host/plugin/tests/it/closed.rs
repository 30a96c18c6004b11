//! Files and sockets of WASI, imported by guests that want something of them: there is nothing to be had, and each attempt is counted.

use portcullis_plugin::{Decision, Host, HostOptions, LoadError, PluginFailure};
use portcullis_telemetry::Metrics;

use crate::guests::{ALLOW, Guest, call, host, load, plan, principal, request};

/// Imports, and a core module whose memory what they give is written to.
const FILES: &str = r#"
  (import "wasi:filesystem/types@0.2.0" (instance $files
    (export "descriptor" (type $d (sub resource)))
    (type $c (enum "would-block" "access" "no-entry"))
    (export "error-code" (type $code (eq $c)))
    (export "[method]descriptor.open-at" (func (param "self" (borrow $d)) (param "path" string)
      (result (result (own $d) (error $code)))))
    (export "[method]descriptor.stat-size" (func (param "self" (borrow $d)) (result u64)))))
  (alias export $files "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
    (alias outer 1 $descriptor (type $d0))
    (export "descriptor" (type $d (eq $d0)))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))"#;
const SOCKETS: &str = r#"
  (import "wasi:sockets/network@0.2.9" (instance $network
    (export "network" (type (sub resource)))
    (type $c (enum "unknown" "access-denied" "not-supported"))
    (export "error-code" (type (eq $c)))))
  (alias export $network "network" (type $net))
  (alias export $network "error-code" (type $error-code))
  (import "wasi:sockets/instance-network@0.2.9" (instance $instance-network
    (alias outer 1 $net (type $n0)) (export "network" (type $n (eq $n0)))
    (export "instance-network" (func (result (own $n))))))
  (import "wasi:sockets/tcp@0.2.9" (instance $tcp
    (export "tcp-socket" (type $s (sub resource)))
    (alias outer 1 $error-code (type $c0)) (export "error-code" (type $code (eq $c0)))
    (export "[method]tcp-socket.start-listen" (func (param "self" (borrow $s)) (result (result (error $code)))))
    (export "a-door-of-its-own" (func (result u32)))))
  (alias export $tcp "tcp-socket" (type $tcp-socket))
  (import "wasi:sockets/tcp-create-socket@0.2.9" (instance $create
    (alias outer 1 $tcp-socket (type $s0)) (export "tcp-socket" (type $s (eq $s0)))
    (alias outer 1 $error-code (type $c0)) (export "error-code" (type $code (eq $c0)))
    (type $f (enum "ipv4" "ipv6")) (export "ip-address-family" (type $family (eq $f)))
    (export "create-tcp-socket" (func (param "family" $family) (result (result (own $s) (error $code)))))))
  (import "wasi:sockets/ip-name-lookup@0.2.9" (instance $lookup
    (alias outer 1 $net (type $n0)) (export "network" (type $n (eq $n0)))
    (alias outer 1 $error-code (type $c0)) (export "error-code" (type $code (eq $c0)))
    (export "resolve-address-stream" (type $stream (sub resource)))
    (export "resolve-addresses" (func (param "network" (borrow $n)) (param "name" string)
      (result (result (own $stream) (error $code)))))))"#;
const LIBC: &str = r#"
  (core module $libc (memory (export "memory") 48)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))
  (core instance $libc (instantiate $libc))"#;

/// What a guest does that calls one function of an interface: `params` are its core parameters, `body` what is done with it.
struct Attempt {
    interface: &'static str,
    function: &'static str,
    params: &'static str,
    body: &'static str,
}

impl Attempt {
    fn wasm(&self, imports: &str) -> std::sync::Arc<[u8]> {
        let Self { interface, function, params, body } = self;
        let imports = format!(
            r#"{imports}{LIBC}
  (core func $f (canon lower (func ${interface} "{function}") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))"#
        );
        let core = format!(r#"(import "host" "f" (func $f {params})) (import "host" "memory" (memory 48))"#);
        let guest = Guest {
            imports: &imports,
            with: r#"(export "f" (func $f)) (export "memory" (memory $libc "memory"))"#,
            core: &core,
            memory: r#"(export "memory" (memory 0))"#,
            decide: &format!("{body} {ALLOW}"),
            ..Guest::default()
        };
        guest.wasm()
    }
}

/// Runs it, and says how it ended and how often something was denied.
async fn tried(wasm: std::sync::Arc<[u8]>, counted: &str) -> (Result<Decision, PluginFailure>, u64) {
    let metrics = Metrics::new();
    let options = HostOptions { pool_instances: 8, metrics: metrics.clone(), ..HostOptions::default() };
    let host = Host::new(options).unwrap();
    let plugin = host.load(plan(host.compile(wasm).await.unwrap())).await.expect("it loads");
    let ended = plugin.decide(&principal(), &request(), &call()).await;
    assert_eq!(host.free_instances(), 8);
    let text = metrics.encode();
    let line =
        format!("plugin_capability_denied_total{{tenant=\"default\",plugin=\"guest\",capability=\"{counted}\"}} ");
    let count = text.lines().find_map(|l| l.split(&line).nth(1)?.parse::<f64>().ok()).unwrap_or(0.0);
    (ended, count as u64)
}

#[tokio::test]
async fn there_is_no_folder() {
    let attempt = Attempt {
        interface: "preopens",
        function: "get-directories",
        params: "(param i32)",
        // More than none would be a way in.
        body: "(i32.store (i32.const 2052) (i32.const 7)) (call $f (i32.const 2048))
               (if (i32.load (i32.const 2052)) (then unreachable))",
    };
    assert_eq!(tried(attempt.wasm(FILES), "files").await, (Ok(Decision::Allow), 0));
}

#[tokio::test]
async fn a_socket_is_refused_with_the_error_that_says_so() {
    let attempt = Attempt {
        interface: "create",
        function: "create-tcp-socket",
        params: "(param i32 i32)",
        // `err`, and of its cases the second: access-denied.
        body: "(call $f (i32.const 0) (i32.const 2048))
               (if (i32.ne (i32.load8_u (i32.const 2048)) (i32.const 1)) (then unreachable))
               (if (i32.ne (i32.load8_u (i32.const 2052)) (i32.const 1)) (then unreachable))",
    };
    assert_eq!(tried(attempt.wasm(SOCKETS), "sockets").await, (Ok(Decision::Allow), 1));
}

#[tokio::test]
async fn what_has_no_error_to_give_traps() {
    for (interface, function) in [("instance-network", "instance-network"), ("tcp", "a-door-of-its-own")] {
        let attempt = Attempt { interface, function, params: "(result i32)", body: "(drop (call $f))" };
        let (ended, denied) = tried(attempt.wasm(SOCKETS), "sockets").await;
        assert!(matches!(&ended, Err(PluginFailure::Trap(why)) if why.contains("a file or a socket")), "{ended:?}");
        assert_eq!(denied, 1, "{function}");
    }
}

/// Whatever takes a handle can't be called: there is none, and one can't be made up.
#[tokio::test]
async fn a_made_up_handle_is_none() {
    let attempts = [
        (FILES, "files", "[method]descriptor.open-at", "(param i32 i32 i32 i32)"),
        (FILES, "files", "[method]descriptor.stat-size", "(param i32) (result i64)"),
        (SOCKETS, "tcp", "[method]tcp-socket.start-listen", "(param i32 i32)"),
        (SOCKETS, "lookup", "resolve-addresses", "(param i32 i32 i32 i32)"),
    ];
    for (imports, interface, function, params) in attempts {
        for handle in [0, 1, 7, u32::MAX] {
            let rest = match params {
                "(param i32 i32 i32 i32)" => "(i32.const 0) (i32.const 4) (i32.const 2048)",
                "(param i32 i32)" => "(i32.const 2048)",
                _ => "",
            };
            let called = format!("(call $f (i32.const {}) {rest})", handle as i32);
            let called = if params.contains("result") { format!("(drop {called})") } else { called };
            let body: &'static str = Box::leak(called.into_boxed_str());
            let attempt = Attempt { interface, function, params, body };
            let (ended, _) = tried(attempt.wasm(imports), "none").await;
            assert!(matches!(ended, Err(PluginFailure::Trap(_))), "{function} of {handle}: {ended:?}");
        }
    }
}

#[tokio::test]
async fn an_endless_row_of_attempts_ends_with_the_calls_time_and_floods_no_log() {
    let attempt = Attempt {
        interface: "create",
        function: "create-tcp-socket",
        params: "(param i32 i32)",
        body: "(loop $l (call $f (i32.const 0) (i32.const 2048)) (br $l))",
    };
    let (ended, denied) = tried(attempt.wasm(SOCKETS), "sockets").await;
    assert_eq!(ended, Err(PluginFailure::Cpu));
    assert!(denied > 1, "{denied}");
}

#[tokio::test]
async fn other_shapes_and_versions_are_not_loaded() {
    let host = host();
    let imports = r#"(import "wasi:sockets/udp@0.2.0" (instance (export "back-door" (type (sub resource)))))"#;
    let refused = load(&host, &Guest { imports, ..Guest::default() }).await.unwrap_err();
    assert!(matches!(refused, LoadError::Link(_)), "{refused}");
    let imports = r#"(import "wasi:filesystem/types@0.3.0" (instance)) (import "wasi:sockets/raw@0.2.0" (instance))
                     (import "wasi:http/types@0.2.0" (instance))"#;
    let refused = host.compile(Guest { imports, ..Guest::default() }.wasm()).await.unwrap_err();
    let LoadError::Imports(names) = refused else { panic!("{refused}") };
    assert_eq!(names, ["wasi:filesystem/types@0.3.0", "wasi:sockets/raw@0.2.0", "wasi:http/types@0.2.0"]);
    let wasm = Guest { imports: &format!("{FILES}{SOCKETS}"), ..Guest::default() }.wasm();
    let component = host.compile(wasm).await.unwrap();
    assert_eq!(component.closed().count(), 7, "each by name: {:?}", component.closed().collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_larger_than_the_operator_allows_is_refused() {
    let wasm = Guest::default().wasm();
    let options = |max| HostOptions { pool_instances: 4, max_component: max, ..HostOptions::default() };
    let small = Host::new(options(wasm.len() - 1)).unwrap();
    let refused = small.compile(wasm.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("plugins.maxComponent"), "{refused}");
    let enough = Host::new(options(wasm.len())).unwrap();
    enough.compile(wasm).await.unwrap();
}
