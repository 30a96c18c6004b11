//! What came into the contract after its first release: state, signing, figures, patches, sessions, descriptions.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use portcullis_model::{Bytes as Size, Name, Secret};
use portcullis_plugin::{
    Assertion, Assertions, Decision, Description, GrantedSecret, Host, HostOptions, LoadError, LoadPlan, Plugin,
    PluginFailure, QuestionFacts, Read, RequestFacts, ResultFacts, Services, SessionFacts, Signed,
};
use portcullis_telemetry::Metrics;

use crate::{
    built::guest,
    guests::{call, plan, principal, request},
    unruly::{prompt, target},
};

/// Signs visibly.
struct Signer;

impl Assertions for Signer {
    fn sign(&self, _: &Secret, _: &Assertion<'_>) -> Result<Secret, String> {
        Err("not asked for".into())
    }
    fn sign_claims(&self, key: &Secret, token: &Signed<'_>) -> Result<Secret, String> {
        assert_eq!(key.expose(), b"k&y");
        Ok(Secret::new(format!("{}+{:?}", token.claims, token.key_id)))
    }
}

fn granted(component: Arc<portcullis_plugin::Component>, act: &str) -> LoadPlan {
    let mut plan = LoadPlan { config: format!(r#"{{"act":"{act}"}}"#), ..plan(component) };
    plan.grants.state = Some("16KiB".parse::<Size>().unwrap());
    plan.grants.sign = true;
    plan.services = Services { assertions: Some(Arc::new(Signer)), ..Services::default() };
    plan.secrets.insert("key".into(), GrantedSecret { value: Secret::new("k&y"), origins: Vec::new() });
    plan
}

fn quiet(metrics: &Arc<Metrics>) -> Arc<Host> {
    Host::new(HostOptions { pool_instances: 16, metrics: metrics.clone(), ..HostOptions::default() }).unwrap()
}

async fn load(act: &str) -> Arc<Plugin> {
    let host = quiet(&Metrics::new());
    host.load(granted(host.compile(guest("keeper")).await.unwrap(), act)).await.unwrap()
}

async fn told(plugin: &Plugin) -> String {
    match plugin.decide(&principal(), &request(), &call()).await {
        Ok(Decision::Deny { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn state_outlives_calls_and_versions_and_is_nobody_elses() {
    let host = quiet(&Metrics::new());
    let component = host.compile(guest("keeper")).await.unwrap();
    let ours = host.load(granted(component.clone(), "count")).await.unwrap();
    assert_eq!((told(&ours).await, told(&ours).await), ("1".into(), "2".into()));
    let next = host.load(granted(component.clone(), "count")).await.unwrap();
    drop(ours);
    assert_eq!(told(&next).await, "3", "the next version goes on with it");
    let mut theirs = granted(component.clone(), "count");
    theirs.tenant = "theirs".parse::<Name>().unwrap();
    assert_eq!(told(&host.load(theirs).await.unwrap()).await, "1", "another tenant's is another");
    let mut other = granted(component, "count");
    other.name = "other".into();
    assert_eq!(told(&host.load(other).await.unwrap()).await, "1", "another plugin's is another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_lose_no_count() {
    let plugin = load("count").await;
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let plugin = plugin.clone();
            tokio::spawn(async move { told(&plugin).await.parse::<u32>().unwrap() })
        })
        .collect();
    let mut counts = Vec::new();
    for call in calls {
        counts.push(call.await.unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn state_ends_at_its_quota() {
    let metrics = Metrics::new();
    let host = quiet(&metrics);
    let plugin = host.load(granted(host.compile(guest("keeper")).await.unwrap(), "fill")).await.unwrap();
    assert_eq!(told(&plugin).await, "Some(Quota) true Err(TooLarge) true true");
    let text = metrics.encode();
    let line = text.lines().find(|l| l.starts_with("portcullis_plugin_state_bytes")).unwrap();
    let used: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((14_000..=16 << 10).contains(&used), "{line}");
}

#[tokio::test]
async fn figures_are_the_operators_and_bounded() {
    let metrics = Metrics::new();
    let host = quiet(&metrics);
    let plugin = host.load(granted(host.compile(guest("keeper")).await.unwrap(), "flood")).await.unwrap();
    assert_eq!(plugin.decide(&principal(), &request(), &call()).await, Ok(Decision::Allow));
    let text = metrics.encode();
    assert_eq!(text.lines().filter(|l| l.starts_with("portcullis_plugin_events_total{")).count(), 100);
    let dropped = r#"portcullis_plugin_figures_dropped_total{tenant="default",plugin="guest"} 902"#;
    assert!(text.contains(dropped), "{text}");
}

#[tokio::test]
async fn a_patch_changes_what_is_sent_and_nothing_beside_it() {
    let arguments = |text: &'static str| {
        let mut call = call();
        call.arguments = Bytes::from_static(text.as_bytes());
        call
    };
    let big = arguments(r#"{"title":"x","n":123456789012345678901234567890,"f":1.10}"#);
    let decided = load("patch").await.decide(&principal(), &request(), &big).await;
    let new = r#"{"title":"new","n":123456789012345678901234567890,"f":1.10,"more":[1,2]}"#;
    assert_eq!(decided, Ok(Decision::Modify(Bytes::from_static(new.as_bytes()))));
    let denied = load("patch-and-deny").await.decide(&principal(), &request(), &call()).await;
    assert!(matches!(denied, Ok(Decision::Deny { .. })), "a patch allows nothing: {denied:?}");
    let no_object = load("patch-away").await.decide(&principal(), &request(), &call()).await;
    assert!(matches!(no_object, Err(PluginFailure::Invalid(_))), "{no_object:?}");

    let plugin = load("").await;
    let untouched = plugin.decide(&principal(), &request(), &call()).await;
    assert_eq!(untouched, Ok(Decision::Allow));
    let result = |text: &'static str| ResultFacts::new(false, Bytes::from_static(text.as_bytes()));
    let secret = result(r#"{"content":[{"type":"text","text":"secret"}]}"#);
    let reviewed = plugin.review(&principal(), &request(), &call(), &secret).await;
    let hidden = r#"{"content":[{"type":"text","text":"***"}]}"#;
    assert_eq!(reviewed, Ok(Decision::Modify(Bytes::from_static(hidden.as_bytes()))));
    let plain = result(r#"{"content":[{"type":"text","text":"plain"}]}"#);
    assert_eq!(plugin.review(&principal(), &request(), &call(), &plain).await, Ok(Decision::Allow));
    let prompted = plugin.prompt(&principal(), &request(), &prompt()).await;
    assert_eq!(prompted, Ok(Decision::Modify(Bytes::from_static(br#"{"who":"ann"}"#))));
    let question = QuestionFacts {
        server: "github".parse().unwrap(),
        method: "sampling/createMessage".into(),
        params: Bytes::from_static(b"{}"),
        tool: None,
    };
    let asked = plugin.ask(&principal(), &request(), &question).await;
    assert_eq!(asked, Ok(Decision::Modify(Bytes::from_static(br#"{"_meta":true}"#))));
}

#[tokio::test]
async fn a_client_that_comes_in_is_told_of_and_what_was_read_is_named() {
    let plugin = load("").await;
    let session = |name: Option<&str>| SessionFacts {
        occasion: "initialize",
        protocol: "2025-11-25",
        client_name: name.map(Into::into),
        client_version: Some("1.2".into()),
        capabilities: r#"{"roots":{}}"#.into(),
    };
    let (allowed, reads) = plugin.open(&principal(), &request(), &session(Some("good"))).await.unwrap();
    assert_eq!((allowed, reads), (Decision::Allow, Vec::new()));
    let mut headers = HeaderMap::new();
    headers.insert("user-agent", "x".parse().unwrap());
    let asked = RequestFacts { headers: Arc::new(headers), ..request() };
    let (denied, reads) = plugin.open(&principal(), &asked, &session(Some("headers"))).await.unwrap();
    let Decision::Deny { message, .. } = denied else { panic!("{denied:?}") };
    assert_eq!(message, r#"Initialize 2025-11-25 Some("headers") Some("1.2") {"roots":{}} Some("x")"#);
    assert_eq!(reads, [Read::Header("user-agent".into())], "a verdict must not be used for another header");
}

#[tokio::test]
async fn what_is_signed_goes_where_its_key_goes() {
    let signed = load("jwt").await.resolve(&principal(), &request(), &target()).await.unwrap();
    let value = &signed.headers[0].1;
    assert_eq!(value.value().expose(), br#"Bearer {"iss":"me"}+Some("k1")"#);
    assert!(value.is_secret() && value.label().contains("a token signed with key"));
    let signed = load("hmac").await.resolve(&principal(), &request(), &target()).await.unwrap();
    // RFC 2104 with the key `k&y` and the message `message`.
    let expected = "sha256=782e14109a7e27637ad30afb21468287b3375e20c534d0980b879cfa55e194bc";
    assert_eq!(std::str::from_utf8(signed.headers[0].1.value().expose()).unwrap(), expected);
    // A key that may not go to the target makes nothing that may.
    let host = quiet(&Metrics::new());
    let mut elsewhere = granted(host.compile(guest("keeper")).await.unwrap(), "hmac");
    elsewhere.secrets.get_mut("key").unwrap().origins = vec!["https://elsewhere.example".into()];
    let failure = host.load(elsewhere).await.unwrap().resolve(&principal(), &request(), &target()).await.unwrap_err();
    assert!(matches!(&failure, PluginFailure::Invalid(why) if why.contains("may not go")), "{failure}");
}

#[tokio::test]
async fn a_description_names_granted_issuers_only() {
    let host = quiet(&Metrics::new());
    let component = host.compile(guest("keeper")).await.unwrap();
    let describe = async |issuer: &str, granted_issuer: &str| {
        let mut plan = granted(component.clone(), "");
        plan.config = format!(r#"{{"issuer":"{issuer}"}}"#);
        plan.grants.issuers = vec![granted_issuer.to_owned()];
        host.load(plan).await.map(|plugin| plugin.description().cloned())
    };
    let idp = "https://idp.example";
    let said = describe(idp, idp).await.unwrap().unwrap();
    let documentation = Some("https://docs.example/".to_owned());
    let wanted =
        Description { authorization_servers: vec![idp.into()], scopes: vec!["tools:read".into()], documentation };
    assert_eq!(said, wanted);
    for (said, granted) in [("https://evil.example", idp), ("http://idp.example", "http://idp.example")] {
        let refused = describe(said, granted).await;
        assert!(matches!(refused, Err(LoadError::Trial(PluginFailure::Trap(_)))), "{refused:?}");
    }
}
