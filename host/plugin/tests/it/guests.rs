//! Guests as component text: a tool-call policy (and a list filter) whose body is given, so that each test shows its crime.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use portcullis_model::{
    Name, Principal, Span, Subject,
    spec::{Grants, Isolation, Limits},
};
use portcullis_plugin::{
    Attributes, CallFacts, Component, Host, HostOptions, LoadError, LoadPlan, Plugin, RequestFacts, Services,
};

/// The types that a policy shares with the host, and core functions to drop what was lent.
const HEAD: &str = r#"
  (import "portcullis:types/context@0.1.0" (instance $ctx
    (export "caller" (type (sub resource)))
    (export "call" (type (sub resource)))))
  (alias export $ctx "caller" (type $caller))
  (alias export $ctx "call" (type $call))
  (import "portcullis:types/error@0.1.0" (instance $err
    (type $d (record (field "code" string) (field "message" string)))
    (export "denial" (type $denial (eq $d)))
    (type $u (record (field "url" string) (field "message" string)))
    (export "url-info" (type $url-info (eq $u)))
    (type $o (option u16))
    (type $s (record (field "status" $o) (field "message" string)))
    (export "upstream-error" (type $upstream-error (eq $s)))
    (type $e (variant (case "invalid-config" string) (case "denied" $denial) (case "not-found") (case "expired")
      (case "needs-consent" $url-info) (case "upstream" $upstream-error) (case "timeout")
      (case "unavailable" string) (case "other" string)))
    (export "error" (type (eq $e)))))
  (alias export $err "denial" (type $denial))
  (alias export $err "error" (type $error))
  (import "portcullis:policy/decision@0.1.0" (instance $dec
    (alias outer 1 $denial (type $denial0))
    (type $b (list u8))
    (type $p (variant (case "whole" $b) (case "other" string)))
    (export "patch" (type $patch (eq $p)))
    (type $d (variant (case "allow") (case "deny" $denial0) (case "modify" $patch)
      (case "require-approval" string) (case "other" string)))
    (export "decision" (type (eq $d)))))
  (alias export $dec "decision" (type $decision))
  (core func $drop-caller (canon resource.drop $caller))
  (core func $drop-call (canon resource.drop $call))
"#;

/// A policy. `decide` is the body of a core function of two handles (locals 0 and 1) that gives the address of the answer;
/// `memory` is its memory, `start` the body of the module's start function; `imports` and `exports` are more lines of the component, `core` of its module.
pub(crate) struct Guest<'a> {
    pub(crate) imports: &'a str,
    pub(crate) with: &'a str,
    pub(crate) core: &'a str,
    pub(crate) memory: &'a str,
    pub(crate) start: &'a str,
    pub(crate) decide: &'a str,
    pub(crate) exports: &'a str,
}

impl Default for Guest<'_> {
    fn default() -> Self {
        Self { imports: "", with: "", core: "", memory: MEMORY, start: "", decide: ALLOW, exports: "" }
    }
}

const MEMORY: &str = r#"(memory (export "memory") 48)"#;

/// Drops both handles and answers `ok(allow)`: all zero.
pub(crate) const ALLOW: &str = "(call $drop-caller (local.get 0)) (call $drop-call (local.get 1)) (i32.const 1024)";

/// Drops both handles and answers `ok(deny)` with an empty code and no words.
pub(crate) const DENY: &str = "(call $drop-caller (local.get 0)) (call $drop-call (local.get 1))
    (i32.store (i32.const 1028) (i32.const 1)) (i32.const 1024)";

impl Guest<'_> {
    pub(crate) fn wasm(&self) -> Arc<[u8]> {
        let Self { imports, with, core, memory, start, decide, exports } = self;
        let text = format!(
            r#"(component {HEAD} {imports}
  (core module $m
    (import "host" "drop-caller" (func $drop-caller (param i32)))
    (import "host" "drop-call" (func $drop-call (param i32)))
    {core}
    {memory}
    (global $at (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $at (i32.and (i32.add (global.get $at) (i32.const 15)) (i32.const -16)))
      (global.get $at)
      (global.set $at (i32.add (global.get $at) (local.get 3))))
    (func $start {start})
    (start $start)
    (func (export "decide") (param i32 i32) (result i32) {decide}))
  (core instance $i (instantiate $m (with "host" (instance
    (export "drop-caller" (func $drop-caller)) (export "drop-call" (func $drop-call)) {with}))))
  (type $ft (func (param "caller" (borrow $caller)) (param "call" (borrow $call)) (result (result $decision (error $error)))))
  (func $decide (type $ft)
    (canon lift (core func $i "decide") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $hook (export "decide" (func $decide)))
  (export "portcullis:policy/tool-call@0.1.0" (instance $hook)) {exports})"#
        );
        wat::parse_str(&text).expect("the guest's text is valid").into()
    }
}

/// A list filter that answers with these positions.
pub(crate) fn filter(positions: &[u32]) -> Arc<[u8]> {
    let data: String = positions.iter().flat_map(|p| p.to_le_bytes()).map(|b| format!("\\{b:02x}")).collect();
    let count = positions.len();
    let text = format!(
        r#"(component {HEAD}
  (import "portcullis:policy/lists@0.1.0" (instance $lists (export "listing" (type (sub resource)))))
  (alias export $lists "listing" (type $listing))
  (core func $drop-listing (canon resource.drop $listing))
  (core module $m
    (import "host" "drop-caller" (func $drop-caller (param i32)))
    (import "host" "drop-listing" (func $drop-listing (param i32)))
    (memory (export "memory") 16)
    (data (i32.const 2048) "{data}")
    (global $at (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $at (i32.and (i32.add (global.get $at) (i32.const 15)) (i32.const -16)))
      (global.get $at)
      (global.set $at (i32.add (global.get $at) (local.get 3))))
    (func (export "filter") (param i32 i32) (result i32)
      (call $drop-caller (local.get 0))
      (call $drop-listing (local.get 1))
      (i32.store (i32.const 1028) (i32.const 2048))
      (i32.store (i32.const 1032) (i32.const {count}))
      (i32.const 1024)))
  (core instance $i (instantiate $m (with "host" (instance
    (export "drop-caller" (func $drop-caller)) (export "drop-listing" (func $drop-listing))))))
  (func $filter (param "caller" (borrow $caller)) (param "listing" (borrow $listing))
    (result (result (list u32) (error $error)))
    (canon lift (core func $i "filter") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $hook (export "filter" (func $filter)))
  (export "portcullis:policy/list-filter@0.1.0" (instance $hook)))"#
    );
    wat::parse_str(&text).expect("the filter's text is valid").into()
}

pub(crate) fn host() -> Arc<Host> {
    Host::new(HostOptions { pool_instances: 64, ..HostOptions::default() }).expect("a host")
}

pub(crate) fn plan(component: Arc<Component>) -> LoadPlan {
    LoadPlan {
        name: "guest".into(),
        tenant: tenant(),
        component,
        config: "{}".into(),
        grants: Grants::default(),
        secrets: Default::default(),
        limits: Limits { cpu: Span::millis(20), wall: Span::seconds(10), ..Limits::default() },
        isolation: Isolation::Call,
        services: Services::default(),
    }
}

pub(crate) async fn load(host: &Arc<Host>, guest: &Guest<'_>) -> Result<Arc<Plugin>, LoadError> {
    host.load(plan(host.compile(guest.wasm()).await?)).await
}

pub(crate) async fn load_warm(host: &Arc<Host>, guest: &Guest<'_>) -> Arc<Plugin> {
    let component = host.compile(guest.wasm()).await.expect("compiles");
    host.load(LoadPlan { isolation: Isolation::Tenant, ..plan(component) }).await.expect("loads")
}

pub(crate) fn tenant() -> Name {
    Name::default_tenant()
}

pub(crate) fn principal() -> Arc<Principal> {
    user("alice")
}

pub(crate) fn user(name: &str) -> Arc<Principal> {
    Arc::new(Principal::new(tenant(), Subject::User(name.parse().unwrap())))
}

pub(crate) fn request() -> RequestFacts {
    RequestFacts {
        gateway: "main".parse().unwrap(),
        request_id: "r-1".into(),
        headers: Arc::default(),
        deadline: std::time::Instant::now() + Duration::from_secs(30),
        attributes: Attributes::default(),
    }
}

pub(crate) fn call() -> CallFacts {
    CallFacts {
        server: "github".parse().unwrap(),
        tool: "create_issue".into(),
        exposed_tool: "github__create_issue".into(),
        arguments: Bytes::from_static(br#"{"title":"x"}"#),
    }
}
