//! A guest with the standard library that misbehaves in every hook: the worst outcome is a failure of that call.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use portcullis_model::{Span, spec::Limits};
use portcullis_plugin::{
    AuthRequest, Decision, Earlier, Host, HostOptions, Item, ListKind, LoadError, LoadPlan, Outcome, Plugin,
    PluginFailure, PromptFacts, PromptPurpose, QuestionFacts, ReadFacts, ReadPurpose, ResultFacts, SessionFacts,
    TargetFacts, Verdict,
};
use portcullis_telemetry::Metrics;

use crate::{
    built::guest,
    guests::{call, plan, principal, request, tenant},
};

/// What [`every_hook`] asks, as metrics call it.
const HOOKS: [&str; 11] = [
    "tool-call",
    "tool-result",
    "list-filter",
    "resource-read",
    "prompt-get",
    "server-request",
    "resolve",
    "authenticate",
    "refresh",
    "rejected",
    "session",
];

fn limits() -> Limits {
    Limits { cpu: Span::millis(20), wall: Span::seconds(10), ..Limits::default() }
}

async fn load(host: &Arc<Host>, act: &str) -> Arc<Plugin> {
    let component = host.compile(guest("unruly")).await.unwrap();
    assert!(!component.suspends(), "it waits for nobody, so it runs on the worker itself");
    let config = format!(r#"{{"act": "{act}"}}"#);
    host.load(LoadPlan { config, limits: limits(), ..plan(component) }).await.unwrap()
}

pub(crate) fn target() -> TargetFacts {
    TargetFacts {
        server: "github".parse().unwrap(),
        url: "https://api.github.example/mcp".into(),
        connection: None,
        settings: Arc::default(),
    }
}

pub(crate) fn auth_request(bearer: Option<&str>) -> AuthRequest {
    AuthRequest {
        tenant: tenant(),
        gateway: "main".parse().unwrap(),
        method: "POST".into(),
        path: "/mcp/main".into(),
        peer: "192.0.2.1".into(),
        headers: Arc::default(),
        bearer: bearer.map(portcullis_model::Secret::new),
        certificate: None,
    }
}

pub(crate) fn read() -> ReadFacts {
    ReadFacts {
        server: "github".parse().unwrap(),
        uri: "file:///a".into(),
        exposed_uri: "gh+file:///a".into(),
        purpose: ReadPurpose::Subscribe,
    }
}

pub(crate) fn prompt() -> PromptFacts {
    PromptFacts {
        server: "github".parse().unwrap(),
        prompt: "greet".into(),
        exposed_prompt: "github__greet".into(),
        arguments: Bytes::from_static(br#"{"who":"bob"}"#),
        purpose: PromptPurpose::Get,
    }
}

fn question() -> QuestionFacts {
    QuestionFacts {
        server: "github".parse().unwrap(),
        method: "elicitation/create".into(),
        params: Bytes::from_static(br#"{"message":"your password?"}"#),
        tool: Some("create_issue".into()),
    }
}

fn session() -> SessionFacts {
    SessionFacts {
        occasion: "request",
        protocol: "2026-07-28",
        client_name: None,
        client_version: None,
        capabilities: "{}".into(),
    }
}

/// How each hook ends, in the order of [`HOOKS`]. On a worker of tokio, where a
/// panic of the host would show as a failed task.
async fn every_hook(plugin: &Arc<Plugin>) -> Vec<Result<(), PluginFailure>> {
    let plugin = Arc::clone(plugin);
    let work = tokio::spawn(async move {
        let (principal, request, call) = (principal(), request(), call());
        let result = ResultFacts::new(true, Bytes::from_static(b"{\"content\":[]}"));
        let entry = |server| Item { server, name: "a" };
        let items = [entry("github"), entry("gitlab"), entry("github")];
        vec![
            plugin.decide(&principal, &request, &call).await.map(|d| assert_eq!(d, Decision::Allow)),
            plugin.review(&principal, &request, &call, &result).await.map(|decision| {
                assert_eq!(decision, Decision::Deny { code: "seen".into(), message: "true 14".into() });
            }),
            plugin.filter(&principal, &request, ListKind::Tools, &items).await.map(|kept| assert_eq!(kept, [0, 2])),
            plugin.read(&principal, &request, &read()).await.map(|decision| {
                let message = "Subscribe github file:///a gh+file:///a".into();
                assert_eq!(decision, Decision::Deny { code: "seen".into(), message });
            }),
            plugin.prompt(&principal, &request, &prompt()).await.map(|decision| {
                let new = Bytes::from_static(br#"{"was":"greet Get","who":"bob"}"#);
                assert_eq!(decision, Decision::Modify(new));
            }),
            plugin.ask(&principal, &request, &question()).await.map(|decision| {
                let message = "elicitation/create in Some(\"create_issue\"): your password?".into();
                assert_eq!(decision, Decision::Deny { code: "seen".into(), message });
            }),
            plugin.resolve(&principal, &request, &target()).await.map(|r| assert_eq!(r.outcome, Outcome::None)),
            plugin.authenticate(&auth_request(None)).await.map(|v| assert!(matches!(v, Verdict::Anonymous { .. }))),
            plugin.refresh(&principal, &request, &target(), &Earlier::default()).await.map(drop),
            plugin.rejected(&principal, &request, &target(), &Earlier::default()).await.map(drop),
            plugin.open(&principal, &request, &session()).await.map(|(d, _)| assert_eq!(d, Decision::Allow)),
        ]
    });
    work.await.expect("the host does not panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_turn_of_every_hook() {
    let host = Host::new(HostOptions { pool_instances: 16, ..HostOptions::default() }).unwrap();
    for act in ["nothing", "print"] {
        let plugin = load(&host, act).await;
        assert!(every_hook(&plugin).await.iter().all(Result::is_ok), "{act}");
    }
    assert_eq!(host.free_instances(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_sleeps_and_exits_are_traps_of_every_hook() {
    let host = Host::new(HostOptions { pool_instances: 16, ..HostOptions::default() }).unwrap();
    for act in ["panic", "sleep", "exit"] {
        let plugin = load(&host, act).await;
        for (at, outcome) in every_hook(&plugin).await.into_iter().enumerate() {
            assert!(matches!(outcome, Err(PluginFailure::Trap(_))), "{act} of hook {at}: {outcome:?}");
        }
    }
    assert_eq!(host.free_instances(), 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_and_hoards_of_every_hook_are_stopped_and_named() {
    let metrics = Metrics::new();
    let options = HostOptions { pool_instances: 16, metrics: metrics.clone(), ..HostOptions::default() };
    let host = Host::new(options).unwrap();
    for (act, expected) in [("loop", PluginFailure::Cpu), ("grow", PluginFailure::Memory)] {
        let plugin = load(&host, act).await;
        for (at, outcome) in every_hook(&plugin).await.into_iter().enumerate() {
            assert_eq!(outcome, Err(expected.clone()), "{act} of hook {at}");
        }
    }
    let plugin = load(&host, "fail").await;
    for outcome in every_hook(&plugin).await {
        assert!(matches!(&outcome, Err(PluginFailure::Error(e)) if e.to_string() == "in words"), "{outcome:?}");
    }
    assert_eq!(metrics.plugin_instances.get(), 0, "none is left behind");

    let text = metrics.encode();
    let count = |series: &str| {
        let found = text.lines().find(|l| l.contains(series)).unwrap_or_else(|| panic!("no {series} in\n{text}"));
        found.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
    };
    for hook in HOOKS {
        assert_eq!(count(&format!("plugin=\"guest\",hook=\"{hook}\",outcome=\"failed\"")), 3);
        assert_eq!(
            count(&format!("plugin_duration_seconds_count{{tenant=\"default\",plugin=\"guest\",hook=\"{hook}\"")),
            3
        );
    }
    assert_eq!(count("plugin_timeouts_total{tenant=\"default\",plugin=\"guest\",clock=\"cpu\""), 11);
    assert_eq!(count("plugin_traps_total{tenant=\"default\",plugin=\"guest\""), 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_when_it_is_asked_at_load_is_no_plugin() {
    let host = Host::new(HostOptions { pool_instances: 16, ..HostOptions::default() }).unwrap();
    let component = host.compile(guest("unruly")).await.unwrap();
    for (act, expected) in
        [("panic", None), ("sleep", None), ("loop", Some(PluginFailure::Cpu)), ("grow", Some(PluginFailure::Memory))]
    {
        let config = format!(r#"{{"act": "nothing", "describe": "{act}"}}"#);
        let refused = host.load(LoadPlan { config, limits: limits(), ..plan(component.clone()) }).await;
        let Err(LoadError::Trial(failure)) = refused else { panic!("{act}: {refused:?}") };
        match expected {
            Some(expected) => assert_eq!(failure, expected, "{act}"),
            None => assert!(matches!(failure, PluginFailure::Trap(_)), "{act}: {failure}"),
        }
    }
    assert_eq!(host.free_instances(), 16);
}

#[tokio::test]
async fn neighbours_of_a_loop_go_on() {
    let host = Host::new(HostOptions { pool_instances: 16, ..HostOptions::default() }).unwrap();
    let (bad, good) = (load(&host, "loop").await, load(&host, "nothing").await);
    let looping = tokio::spawn(async move { bad.decide(&principal(), &request(), &call()).await });
    let decided = good.decide(&principal(), &request(), &call()).await;
    assert_eq!(decided, Ok(Decision::Allow));
    let failure = tokio::time::timeout(Duration::from_secs(20), looping).await.expect("stopped").unwrap();
    assert_eq!(failure, Err(PluginFailure::Cpu));
}
