//! Plugins that fail for many: they are not asked for a while. And instances that are used again, by whom.

use std::sync::Arc;

use portcullis_model::spec::Isolation;
use portcullis_plugin::{Decision, Host, LoadError, LoadPlan, Plugin, PluginFailure};

use crate::{
    built::built_in,
    guests::{ALLOW, Guest, call, host, plan, request, user},
};

async fn load(host: &Arc<Host>, decide: &str, isolation: Isolation) -> Arc<Plugin> {
    let component = host.compile(Guest { decide, ..Guest::default() }.wasm()).await.unwrap();
    host.load(LoadPlan { isolation, ..plan(component) }).await.unwrap()
}

async fn by(plugin: &Plugin, who: &str) -> Result<Decision, PluginFailure> {
    plugin.decide(&user(who), &request(), &call()).await
}

#[tokio::test]
async fn a_plugin_that_traps_for_several_callers_is_not_asked_for_a_while() {
    let plugin = load(&host(), "(unreachable)", Isolation::Tenant).await;
    for who in ["ann", "bob", "ann", "bob", "ann", "bob"] {
        assert!(matches!(by(&plugin, who).await, Err(PluginFailure::Trap(_))));
    }
    assert_eq!(plugin.quarantine(), None, "two callers could be two who want it to be gone");
    assert!(matches!(by(&plugin, "eve").await, Err(PluginFailure::Trap(_))));
    assert!(plugin.quarantine().is_some_and(|q| q.failures == 7));
    let refused = by(&plugin, "fay").await.unwrap_err();
    assert_eq!(refused, PluginFailure::Quarantined);
    assert!(refused.is_fault(), "so that onError holds");
}

#[tokio::test]
async fn with_a_fresh_instance_for_each_call_a_trap_is_that_call_s_alone() {
    let plugin = load(&host(), "(unreachable)", Isolation::Call).await;
    for who in 0..20 {
        assert!(matches!(by(&plugin, &format!("u{who}")).await, Err(PluginFailure::Trap(_))));
    }
    assert_eq!(plugin.quarantine(), None);
}

#[tokio::test]
async fn used_up_processor_time_counts_in_any_isolation() {
    let plugin = load(&host(), "(loop $l (br $l)) (unreachable)", Isolation::Call).await;
    for who in ["ann", "bob", "eve", "fay", "guy"] {
        assert_eq!(by(&plugin, who).await, Err(PluginFailure::Cpu));
    }
    assert!(plugin.quarantine().is_some());
}

/// Traps at each third call of an instance.
fn counting() -> Guest<'static> {
    Guest {
        core: "(global $n (mut i32) (i32.const 0))",
        decide: "(global.set $n (i32.add (global.get $n) (i32.const 1)))
                 (if (i32.ge_u (global.get $n) (i32.const 3)) (then unreachable))
                 (call $drop-caller (local.get 0)) (call $drop-call (local.get 1)) (i32.const 1024)",
        ..Guest::default()
    }
}

#[tokio::test]
async fn instances_are_shared_by_those_who_say_so_and_are_alike() {
    let host = host();
    let made = async |tenant: &str, config: &str, isolation: Isolation| {
        let component = host.compile(counting().wasm()).await.unwrap();
        let plan = LoadPlan { tenant: tenant.parse().unwrap(), config: config.into(), isolation, ..plan(component) };
        host.load(plan).await.unwrap()
    };
    let red = made("red", "{}", Isolation::Shared).await;
    let blue = made("blue", "{}", Isolation::Shared).await;
    let other = made("blue", r#"{"a":1}"#, Isolation::Shared).await;
    let own = made("blue", "{}", Isolation::Tenant).await;
    assert!(by(&red, "ann").await.is_ok() && by(&blue, "bob").await.is_ok());
    assert!(by(&other, "ann").await.is_ok() && by(&own, "ann").await.is_ok());
    assert!(by(&other, "ann").await.is_ok() && by(&own, "ann").await.is_ok(), "they have instances of their own");
    assert!(matches!(by(&red, "ann").await, Err(PluginFailure::Trap(_))), "the third call of one instance");
    assert!(by(&blue, "ann").await.is_ok(), "which is gone");
    drop((red, blue, other, own));
    assert_eq!(host.free_instances(), 64);
}

#[tokio::test]
async fn nothing_that_holds_secrets_is_shared() {
    let host = host();
    let component = host.compile(built_in("static")).await.unwrap();
    let mut resolver = LoadPlan { isolation: Isolation::Shared, ..plan(component) };
    resolver.grants.connections = true;
    resolver.services.connections = Some(Arc::new(Nobody));
    let refused = host.load(resolver).await;
    assert!(matches!(&refused, Err(LoadError::Invalid(why)) if why.contains("can't share")), "{refused:?}");
    let component = host.compile(Guest { decide: ALLOW, ..Guest::default() }.wasm()).await.unwrap();
    let mut reveals = LoadPlan { isolation: Isolation::Shared, ..plan(component) };
    reveals.grants.reveal = true;
    assert!(matches!(host.load(reveals).await, Err(LoadError::Invalid(why)) if why.contains("reveal")));
}

struct Nobody;

impl portcullis_plugin::Connections for Nobody {
    fn candidates(
        &self,
        _: &portcullis_model::Principal,
        _: &portcullis_model::Name,
        _: Option<&portcullis_model::Name>,
    ) -> Vec<portcullis_plugin::ConnectionFacts> {
        Vec::new()
    }
}
