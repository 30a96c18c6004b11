//! The built-in plugins behind the host that serves them: each hook of each, end to end.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use portcullis_model::{Name, Principal, PrincipalKind, Secret, Span, Subject, spec::Isolation};
use portcullis_plugin::{
    Asserted, BoxFuture, CallFacts, ConnectionFacts, Connections, Decision, Host, HostOptions, Item, Jwt, JwtError,
    JwtRules, ListKind, LoadError, LoadPlan, Outcome, Plugin, PluginError, PluginFailure, Read, ReadFacts, TargetFacts,
    TokenFacts, TokenLookupError, Tokens, Verdict, VerifiedJwt,
};
use portcullis_telemetry::Metrics;
use serde_json::json;

use crate::{
    built::built_in,
    guests::{call, host, plan, principal, request, tenant},
    unruly::{auth_request, prompt, read, target},
};

async fn load(
    host: &Arc<Host>,
    name: &str,
    config: serde_json::Value,
    with: impl FnOnce(&mut LoadPlan),
) -> Arc<Plugin> {
    let mut plan = plan(host.compile(built_in(name)).await.unwrap());
    plan.name = name.to_owned();
    plan.config = config.to_string();
    with(&mut plan);
    host.load(plan).await.unwrap()
}

/// Offers what it holds, as if the caller might have all of it.
struct Book(Vec<ConnectionFacts>);

impl Connections for Book {
    fn candidates(&self, _: &Principal, _: &Name, _: Option<&Name>) -> Vec<ConnectionFacts> {
        self.0.clone()
    }
}

fn connection(id: &str, owner_kind: PrincipalKind, owner: &str) -> ConnectionFacts {
    ConnectionFacts {
        id: id.parse().unwrap(),
        owner_kind,
        owner: owner.into(),
        owner_only: false,
        healthy: true,
        created_ms: 1,
    }
}

async fn resolver(name: &str, connections: Vec<ConnectionFacts>) -> Arc<Plugin> {
    load(&host(), name, json!({}), |plan| {
        plan.grants.connections = true;
        plan.services.connections = Some(Arc::new(Book(connections)));
    })
    .await
}

#[tokio::test]
async fn static_uses_the_connection_that_the_assignment_names() {
    let plugin = resolver("static", vec![connection("bot", PrincipalKind::Organization, "")]).await;
    assert!(!plugin.suspends());
    let resolve = async |named: Option<&str>| {
        let target = TargetFacts { connection: named.map(|n| n.parse().unwrap()), ..target() };
        plugin.resolve(&principal(), &request(), &target).await.unwrap()
    };
    let found = resolve(Some("bot")).await;
    assert_eq!(found.outcome, Outcome::Use { connection: "bot".parse().unwrap() });
    assert!(found.headers.is_empty() && found.reads.contains(&Read::Connections));
    assert!(matches!(resolve(Some("gone")).await.outcome, Outcome::Missing(why) if why.contains("\"gone\"")));
    assert!(matches!(resolve(None).await.outcome, Outcome::Missing(why) if why.contains("names no connection")));
}

#[tokio::test]
async fn call_time_follows_who_is_calling() {
    let connections = vec![
        connection("org", PrincipalKind::Organization, ""),
        connection("blue", PrincipalKind::Team, "blue"),
        connection("bobs", PrincipalKind::User, "bob"),
        connection("alices", PrincipalKind::User, "alice"),
    ];
    let plugin = resolver("call-time", connections).await;
    let resolve = async |subject: Subject, teams: &[&str]| {
        let mut who = Principal::new(tenant(), subject);
        who.teams = teams.iter().map(|t| t.parse().unwrap()).collect();
        match plugin.resolve(&Arc::new(who), &request(), &target()).await.unwrap().outcome {
            Outcome::Use { connection } => connection.to_string(),
            other => format!("{other:?}"),
        }
    };
    let user = |name: &str| Subject::User(name.parse().unwrap());
    assert_eq!(resolve(user("alice"), &["blue"]).await, "alices");
    assert_eq!(resolve(user("carol"), &["blue"]).await, "blue");
    assert_eq!(resolve(user("carol"), &[]).await, "org", "never another person's");
    assert_eq!(resolve(Subject::Team("blue".parse().unwrap()), &[]).await, "blue");
    assert!(resolve(Subject::Agent("ci".parse().unwrap()), &[]).await.starts_with("Missing"));
}

/// Tokens whose text says what they are.
struct Wallet;

impl Tokens for Wallet {
    fn lookup(&self, _: &Name, gateway: &Name, token: &Secret) -> Result<TokenFacts, TokenLookupError> {
        match token.expose() {
            b"pcl_good" if gateway.as_str() == "main" => Ok(TokenFacts {
                id: "t1".into(),
                subject: Subject::User("alice".parse().unwrap()),
                expires_ms: Some(5_000),
            }),
            b"pcl_revoked" => Err(TokenLookupError::Revoked),
            b"pcl_down" => Err(TokenLookupError::Unavailable("store".into())),
            _ => Err(TokenLookupError::NotOurs),
        }
    }
}

#[tokio::test]
async fn bearer_token_knows_our_tokens_and_no_others() {
    let plugin = load(&host(), "bearer-token", json!({}), |plan| {
        plan.grants.tokens = true;
        plan.services.tokens = Some(Arc::new(Wallet));
    })
    .await;
    let ask = async |bearer| plugin.authenticate(&auth_request(bearer)).await;
    let Ok(Verdict::Accepted { principal, expires_ms: Some(5_000), .. }) = ask(Some("pcl_good")).await else {
        panic!("not accepted");
    };
    assert!(matches!(principal.who, Asserted::Token(facts) if facts.id == "t1"));
    assert!(matches!(ask(None).await, Ok(Verdict::NotMine { .. })));
    assert!(matches!(ask(Some("eyJ.somebody.elses")).await, Ok(Verdict::NotMine { .. })));
    let refused = ask(Some("pcl_revoked")).await;
    assert!(matches!(&refused, Ok(Verdict::Challenge { message, .. }) if message.contains("revoked")), "{refused:?}");
    assert!(matches!(ask(Some("pcl_down")).await, Err(PluginFailure::Error(PluginError::Unavailable(_)))));
}

const ISSUER: &str = "https://idp.example";

/// Verifies by script, after having waited; a token is `ISSUER TEXT`.
#[derive(Default)]
struct Notary {
    rules: Mutex<Vec<JwtRules>>,
    waiting: tokio::sync::Notify,
}

impl Jwt for Notary {
    fn unverified_issuer(&self, token: &Secret) -> Option<String> {
        let text = std::str::from_utf8(token.expose()).ok()?;
        Some(text.split_once(' ')?.0.to_owned())
    }

    fn verify<'a>(&'a self, token: &'a Secret, rules: &'a JwtRules) -> BoxFuture<'a, Result<VerifiedJwt, JwtError>> {
        Box::pin(async move {
            self.rules.lock().unwrap().push(rules.clone());
            // Suspends the guest at least once.
            tokio::task::yield_now().await;
            match std::str::from_utf8(token.expose()).unwrap().split_once(' ').unwrap().1 {
                "good" => Ok(VerifiedJwt {
                    issuer: ISSUER.into(),
                    subject: "ann".into(),
                    expires_ms: 9_000,
                    claims: json!({"sub": "ann", "groups": ["eng", "ops"], "name": "Ann", "dept": 7}),
                }),
                "expired" => Err(JwtError::Expired),
                "endless" => {
                    self.waiting.notify_one();
                    std::future::pending().await
                }
                _ => Err(JwtError::Unavailable("keys".into())),
            }
        })
    }
}

async fn jwks(host: &Arc<Host>, notary: &Arc<Notary>, granted: &str) -> Arc<Plugin> {
    jwks_with(host, notary, granted, |_| {}).await
}

async fn jwks_with(
    host: &Arc<Host>,
    notary: &Arc<Notary>,
    granted: &str,
    with: impl FnOnce(&mut LoadPlan),
) -> Arc<Plugin> {
    let config = json!({"issuers": [{"issuer": ISSUER, "audience": ["portcullis"], "leewaySeconds": 10,
        "claims": {"groups": "groups", "displayName": "name", "keep": ["dept"]}}]});
    load(host, "jwks", config, |plan| {
        plan.grants.issuers = vec![granted.to_owned()];
        plan.services.jwt = Some(Arc::clone(notary) as _);
        with(plan);
    })
    .await
}

#[tokio::test]
async fn jwks_waits_for_the_verification_and_says_who_it_is() {
    let (host, notary) = (host(), Arc::<Notary>::default());
    let plugin = jwks(&host, &notary, ISSUER).await;
    assert!(plugin.suspends());
    let ask = async |text: &str| plugin.authenticate(&auth_request(Some(text))).await;
    let Ok(Verdict::Accepted { principal, expires_ms, .. }) = ask("https://idp.example good").await else {
        panic!("not accepted");
    };
    assert!(matches!(&principal.who, Asserted::External { issuer, subject } if issuer == ISSUER && subject == "ann"));
    assert_eq!((expires_ms, principal.display_name.as_deref()), (Some(9_000), Some("Ann")));
    assert_eq!(principal.groups, ["eng", "ops"]);
    assert_eq!(principal.claims, [("dept".to_owned(), json!(7.0))]);
    let rules = notary.rules.lock().unwrap()[0].clone();
    assert_eq!(
        (rules.issuer.as_str(), &rules.audiences[..], rules.leeway_seconds),
        (ISSUER, &["portcullis".into()][..], 10)
    );
    assert!(matches!(ask("https://other.example good").await, Ok(Verdict::NotMine { .. })));
    assert!(matches!(ask("https://idp.example expired").await, Ok(Verdict::Challenge { .. })));
    let unavailable = ask("https://idp.example down").await;
    assert!(matches!(unavailable, Err(PluginFailure::Error(PluginError::Unavailable(_)))), "{unavailable:?}");
    assert_eq!(host.free_instances(), 64);
}

#[tokio::test]
async fn jwks_can_speak_for_no_issuer_that_was_not_granted() {
    let metrics = Metrics::new();
    let host =
        Host::new(HostOptions { pool_instances: 16, metrics: metrics.clone(), ..HostOptions::default() }).unwrap();
    let notary = Arc::<Notary>::default();
    let plugin = jwks(&host, &notary, "https://another.example").await;
    let verdict = plugin.authenticate(&auth_request(Some("https://idp.example good"))).await;
    assert!(!matches!(verdict, Ok(Verdict::Accepted { .. } | Verdict::Anonymous { .. })), "{verdict:?}");
    assert!(notary.rules.lock().unwrap().is_empty(), "nothing was verified");
    let text = metrics.encode();
    assert!(
        text.contains("plugin_capability_denied_total{tenant=\"default\",plugin=\"jwks\",capability=\"issuer\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn jwks_gives_no_role_that_was_not_granted() {
    let roles = json!({"claim": "groups", "map": {"eng": "operator", "ops": "admin"}});
    let config = json!({"issuers": [{"issuer": ISSUER, "audience": ["portcullis"], "claims": {"roles": roles}}]});
    for (granted, given) in [(&["operator", "admin"][..], Some(2)), (&["operator"], None), (&[], None)] {
        let (host, notary) = (host(), Arc::<Notary>::default());
        let plugin = load(&host, "jwks", config.clone(), |plan| {
            plan.grants.issuers = vec![ISSUER.to_owned()];
            plan.grants.roles = granted.iter().map(|role| role.parse().unwrap()).collect();
            plan.services.jwt = Some(Arc::clone(&notary) as _);
        })
        .await;
        let verdict = plugin.authenticate(&auth_request(Some("https://idp.example good"))).await;
        let roles = match &verdict {
            Ok(Verdict::Accepted { principal, .. }) => Some(principal.roles.len()),
            _ => None,
        };
        assert_eq!(roles, given, "{granted:?}: {verdict:?}");
    }
}

#[tokio::test]
async fn a_suspended_call_that_nobody_waits_for_is_gone() {
    let (host, notary) = (host(), Arc::<Notary>::default());
    let plugin = jwks(&host, &notary, ISSUER).await;
    let waiting = tokio::spawn({
        let plugin = plugin.clone();
        async move { plugin.authenticate(&auth_request(Some("https://idp.example endless"))).await }
    });
    notary.waiting.notified().await;
    assert_eq!(host.free_instances(), 63);
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(host.free_instances(), 64);
    let next = plugin.authenticate(&auth_request(Some("https://idp.example good"))).await;
    assert!(matches!(next, Ok(Verdict::Accepted { .. })), "{next:?}");
}

#[tokio::test]
async fn a_suspended_call_ends_after_its_wait() {
    let (host, notary) = (host(), Arc::<Notary>::default());
    let plugin = jwks_with(&host, &notary, ISSUER, |plan| plan.limits.wait = Span::millis(30)).await;
    let verdict = plugin.authenticate(&auth_request(Some("https://idp.example endless"))).await;
    assert_eq!(verdict.unwrap_err(), PluginFailure::Timeout);
    assert_eq!(host.free_instances(), 64);
}

#[tokio::test]
async fn tool_access_lists_what_may_be_called_and_no_more() {
    let config = json!({"rules": [
        {"effect": "deny", "tools": ["delete_*"], "message": "deleting is for humans"},
        {"effect": "allow", "principals": ["user:alice"], "servers": ["github"]},
        {"effect": "allow", "principals": ["team:blue"], "servers": ["files"],
         "when": [{"argument": "/path", "matches": "/tmp/*"}]},
    ]});
    for isolation in [Isolation::Call, Isolation::Tenant] {
        let plugin = load(&host(), "tool-access", config.clone(), |plan| plan.isolation = isolation).await;
        let mut bob = Principal::new(tenant(), Subject::User("bob".parse().unwrap()));
        bob.teams = vec!["blue".parse().unwrap()];
        let (alice, bob) = (principal(), Arc::new(bob));
        let decide = async |who: &Arc<Principal>, server: &str, tool: &str, arguments: &'static str| {
            let arguments = Bytes::from_static(arguments.as_bytes());
            let call = CallFacts { server: server.parse().unwrap(), tool: tool.into(), arguments, ..call() };
            match plugin.decide(who, &request(), &call).await.unwrap() {
                Decision::Allow => "allowed".to_owned(),
                Decision::Deny { code, message } => format!("{code}: {message}"),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(decide(&alice, "github", "create_issue", "{}").await, "allowed");
        assert_eq!(decide(&alice, "github", "delete_repo", "{}").await, "not-allowed: deleting is for humans (rule 1)");
        assert!(
            decide(&bob, "github", "create_issue", "{}").await.starts_with("not-allowed: no rule lets user:bob use")
        );
        assert_eq!(decide(&bob, "files", "read", r#"{"path": "/tmp/x"}"#).await, "allowed");
        assert!(decide(&bob, "files", "read", r#"{"path": "/etc/passwd"}"#).await.contains("with these arguments"));

        let items = [("github", "create_issue"), ("github", "delete_repo"), ("files", "read")]
            .map(|(server, name)| Item { server, name });
        assert_eq!(plugin.filter(&alice, &request(), ListKind::Tools, &items).await.unwrap(), [0]);
        assert_eq!(plugin.filter(&bob, &request(), ListKind::Tools, &items).await.unwrap(), [2]);
        assert_eq!(plugin.filter(&bob, &request(), ListKind::Tools, &[]).await.unwrap(), [0_u32; 0]);
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_at_load_naming_the_place() {
    let host = host();
    let mut plan = plan(host.compile(built_in("tool-access")).await.unwrap());
    plan.config = json!({"rules": [{"effect": "allow", "tools": []}]}).to_string();
    let refused = host.load(plan).await.unwrap_err();
    assert!(matches!(refused, LoadError::Setup(_)), "{refused}");
    assert!(refused.to_string().contains("rules[0].tools"), "{refused}");
}

#[tokio::test]
async fn tool_access_decides_on_resources_and_prompts_as_well() {
    let config = json!({"rules": [{"effect": "allow", "resources": ["file:///a"], "tools": ["*"]}]});
    let plugin = load(&host(), "tool-access", config, |_| {}).await;
    let decide = async |uri: &str| {
        let read = ReadFacts { uri: uri.into(), ..read() };
        plugin.read(&principal(), &request(), &read).await.unwrap()
    };
    assert_eq!(decide("file:///a").await, Decision::Allow);
    assert!(matches!(decide("file:///b").await, Decision::Deny { .. }));
    assert!(matches!(plugin.prompt(&principal(), &request(), &prompt()).await, Ok(Decision::Deny { .. })));
    let items = ["file:///a", "file:///b"].map(|name| Item { server: "github", name });
    for (kind, kept) in [(ListKind::Resources, &[0][..]), (ListKind::Prompts, &[]), (ListKind::Tools, &[0, 1])] {
        assert_eq!(plugin.filter(&principal(), &request(), kind, &items).await.unwrap(), kept, "{kind:?}");
    }
}

#[tokio::test]
async fn a_list_of_twenty_thousand_tools_is_filtered_in_one_call() {
    let config = json!({"rules": [{"effect": "allow", "principals": ["*"], "tools": ["get_*"]}]});
    let plugin = load(&host(), "tool-access", config, |_| {}).await;
    let names: Vec<String> =
        (0..20_000).map(|i| if i % 2 == 0 { format!("get_{i}") } else { format!("delete_{i}") }).collect();
    let items: Vec<Item<'_>> = names.iter().map(|name| Item { server: "big", name }).collect();
    let kept = plugin.filter(&principal(), &request(), ListKind::Tools, &items).await.unwrap();
    assert_eq!(kept.len(), 10_000);
    assert!(kept.iter().all(|at| at % 2 == 0));
}
