//! Each built-in plugin as it ships: the embedded component, in the real host, with its default grants. Which answer is
//! right is settled by the plugins' own tests; here it has to survive the way through the contract.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "it/policies.rs"]
mod policies;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use portcullis_model::{
    Name, Principal, PrincipalKind, Secret, Span, Subject,
    spec::{Grants, Isolation, Limits},
};
use portcullis_plugin::{
    Asserted, Attributes, AuthRequest, BoxFuture, CallFacts, ConnectionFacts, Connections, Decision, Host, HostOptions,
    Item, Jwt, JwtError, JwtRules, ListKind, LoadPlan, Outcome, Plugin, PluginFailure, RequestFacts, Services,
    TargetFacts, TokenFacts, TokenLookupError, Tokens, Verdict, VerifiedJwt,
};
use serde_json::{Value, json};

/// What the house behind the plugins answers.
struct House;

impl Tokens for House {
    fn lookup(&self, _: &Name, _: &Name, token: &Secret) -> Result<TokenFacts, TokenLookupError> {
        match token.expose() {
            b"pcl_good" => {
                Ok(TokenFacts { id: "1".into(), subject: Subject::User(name("ann")), expires_ms: Some(5_000) })
            }
            b"pcl_revoked" => Err(TokenLookupError::Revoked),
            _ => Err(TokenLookupError::NotOurs),
        }
    }
}

impl Jwt for House {
    fn unverified_issuer(&self, token: &Secret) -> Option<String> {
        token.expose().starts_with(b"jwt").then(|| "https://idp.example".to_owned())
    }

    fn verify<'a>(&'a self, token: &'a Secret, rules: &'a JwtRules) -> BoxFuture<'a, Result<VerifiedJwt, JwtError>> {
        Box::pin(async move {
            assert_eq!(
                (rules.issuer.as_str(), rules.audiences.as_slice()),
                ("https://idp.example", &["gw".to_owned()][..])
            );
            assert_eq!((rules.leeway_seconds, rules.token_type.as_deref()), (5, Some("at+jwt")));
            if token.expose() == b"jwt.expired" {
                return Err(JwtError::Expired);
            }
            Ok(VerifiedJwt {
                issuer: rules.issuer.clone(),
                subject: "248".into(),
                expires_ms: 9_000,
                claims: json!({"sub": "248", "roles": {"all": ["dev", "ops"]}, "name": "Ann", "level": 3}),
            })
        })
    }
}

impl Connections for House {
    fn candidates(&self, _: &Principal, _: &Name, _: Option<&Name>) -> Vec<ConnectionFacts> {
        let connection = |id: &str, owner_kind, owner: &str| ConnectionFacts {
            id: name(id),
            owner_kind,
            owner: owner.into(),
            owner_only: false,
            healthy: true,
            created_ms: 1,
        };
        vec![
            connection("shared", PrincipalKind::Organization, ""),
            connection("bobs", PrincipalKind::User, "bob"),
            connection("blues", PrincipalKind::Team, "blue"),
        ]
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn principal(user: &str, teams: &[&str]) -> Arc<Principal> {
    let mut principal = Principal::new(Name::default_tenant(), Subject::User(name(user)));
    principal.teams = teams.iter().map(|team| name(team)).collect();
    Arc::new(principal)
}

async fn load(built_in: &str, config: Value, issuers: &[&str], isolation: Isolation) -> Arc<Plugin> {
    let issuers = issuers.iter().map(|&issuer| issuer.to_owned()).collect();
    load_granted(built_in, config, Grants { issuers, ..Grants::default() }, isolation).await
}

/// With grants beside those that it has by default.
async fn load_granted(built_in: &str, config: Value, grants: Grants, isolation: Isolation) -> Arc<Plugin> {
    let found = portcullis_plugins::built_ins().iter().find(|one| one.name == built_in).unwrap();
    let host = Host::new(HostOptions { pool_instances: 8, ..HostOptions::default() }).unwrap();
    host.load(LoadPlan {
        name: built_in.into(),
        tenant: Name::default_tenant(),
        component: host.compile(Arc::from(found.wasm)).await.unwrap(),
        config: config.to_string(),
        grants: Grants { tokens: found.tokens, connections: found.connections, ..grants },
        secrets: Default::default(),
        limits: Limits { cpu: Span::millis(500), wall: Span::seconds(20), ..Limits::default() },
        isolation,
        services: Services {
            tokens: Some(Arc::new(House)),
            jwt: Some(Arc::new(House)),
            connections: Some(Arc::new(House)),
            ..Services::default()
        },
    })
    .await
    .unwrap()
}

fn request() -> RequestFacts {
    RequestFacts {
        gateway: name("main"),
        request_id: "r-1".into(),
        headers: Arc::default(),
        deadline: Instant::now() + Duration::from_secs(30),
        attributes: Attributes::default(),
    }
}

async fn resolve(plugin: &Plugin, who: &Arc<Principal>, connection: Option<&str>) -> Outcome {
    let target = TargetFacts {
        server: name("github"),
        url: "https://github.example/mcp".into(),
        connection: connection.map(name),
        settings: Arc::default(),
    };
    plugin.resolve(who, &request(), &target).await.unwrap().outcome
}

async fn authenticate(plugin: &Plugin, bearer: Option<&str>) -> Verdict {
    let request = AuthRequest {
        tenant: Name::default_tenant(),
        gateway: name("main"),
        method: "POST".into(),
        path: "/mcp/main".into(),
        peer: "192.0.2.1".into(),
        headers: Arc::default(),
        bearer: bearer.map(Secret::new),
        certificate: None,
    };
    plugin.authenticate(&request).await.unwrap()
}

async fn decide(
    plugin: &Plugin,
    who: &Arc<Principal>,
    tool: &str,
    arguments: &'static str,
) -> Result<Decision, PluginFailure> {
    let call = CallFacts {
        server: name("github"),
        tool: tool.into(),
        exposed_tool: format!("github__{tool}").into(),
        arguments: Bytes::from_static(arguments.as_bytes()),
    };
    plugin.decide(who, &request(), &call).await
}

#[tokio::test]
async fn call_time_chooses_among_what_the_house_offers() {
    let plugin = load("call-time", json!({}), &[], Isolation::Call).await;
    assert!(plugin.hooks().resolver && !plugin.suspends());
    assert_eq!(resolve(&plugin, &principal("ann", &["blue"]), None).await, Outcome::Use { connection: name("blues") });
    assert_eq!(resolve(&plugin, &principal("ann", &[]), None).await, Outcome::Use { connection: name("shared") });
    assert_eq!(resolve(&plugin, &principal("bob", &["blue"]), None).await, Outcome::Use { connection: name("bobs") });
    let anonymous = Arc::new(Principal::anonymous(Name::default_tenant()));
    assert!(matches!(resolve(&plugin, &anonymous, None).await, Outcome::Missing(need) if need.contains("github")));
}

#[tokio::test]
async fn static_uses_what_the_assignment_names() {
    let plugin = load("static", json!({}), &[], Isolation::Call).await;
    let ann = principal("ann", &[]);
    assert_eq!(resolve(&plugin, &ann, Some("shared")).await, Outcome::Use { connection: name("shared") });
    assert!(matches!(resolve(&plugin, &ann, Some("gone")).await, Outcome::Missing(need) if need.contains("\"gone\"")));
    assert!(matches!(resolve(&plugin, &ann, None).await, Outcome::Missing(_)));
}

#[tokio::test]
async fn bearer_token_adopts_tokens_of_ours() {
    let plugin = load("bearer-token", json!({}), &[], Isolation::Call).await;
    assert!(plugin.hooks().provider && !plugin.suspends());
    let Verdict::Accepted { principal, expires_ms, .. } = authenticate(&plugin, Some("pcl_good")).await else {
        panic!("not accepted")
    };
    assert!(
        matches!(principal.who, Asserted::Token(TokenFacts { subject: Subject::User(user), .. }) if user.as_str() == "ann")
    );
    assert_eq!(expires_ms, Some(5_000));
    let Verdict::Challenge { parameters, message } = authenticate(&plugin, Some("pcl_revoked")).await else {
        panic!("not challenged")
    };
    assert!(parameters.starts_with("error=\"invalid_token\"") && message.contains("revoked"));
    assert!(matches!(authenticate(&plugin, Some("else")).await, Verdict::NotMine { .. }));
    assert!(matches!(authenticate(&plugin, None).await, Verdict::NotMine { .. }));
}

#[tokio::test]
async fn jwks_maps_claims_of_granted_issuers() {
    let config = json!({"issuers": [{
        "issuer": "https://idp.example", "audience": ["gw"], "leewaySeconds": 5, "tokenType": "at+jwt",
        "claims": {"groups": "/roles/all", "keep": ["level"]}, "requireClaims": {"level": 3},
    }]});
    let plugin = load("jwks", config, &["https://idp.example"], Isolation::Call).await;
    assert!(plugin.suspends(), "keys may have to be fetched");
    let Verdict::Accepted { principal, .. } = authenticate(&plugin, Some("jwt.good")).await else {
        panic!("not accepted")
    };
    assert!(
        matches!(&principal.who, Asserted::External { issuer, subject } if issuer == "https://idp.example" && subject == "248")
    );
    assert_eq!(
        (principal.display_name.as_deref(), principal.groups.as_slice()),
        (Some("Ann"), &["dev".to_owned(), "ops".to_owned()][..])
    );
    let level = principal.claims.iter().find(|(claim, _)| claim == "level").map(|(_, value)| value.as_f64());
    assert_eq!(level, Some(Some(3.0)));
    assert!(
        matches!(authenticate(&plugin, Some("jwt.expired")).await, Verdict::Challenge { message, .. } if message.contains("expired"))
    );
    assert!(matches!(authenticate(&plugin, Some("pcl_good")).await, Verdict::NotMine { .. }));
}

#[tokio::test]
async fn tool_access_lists_and_decides_fresh_and_warm() {
    let config = json!({"rules": [
        {"effect": "deny", "tools": ["delete_*"], "message": "ask the platform team"},
        {"effect": "allow", "principals": ["team:blue"], "when": [{"argument": "/owner", "startsWith": "blue-"}]},
    ]});
    for isolation in [Isolation::Call, Isolation::Tenant] {
        let plugin = load("tool-access", config.clone(), &[], isolation).await;
        assert!(plugin.hooks().tool_call && plugin.hooks().list_filter && !plugin.suspends());
        let (blue, red) = (principal("ann", &["blue"]), principal("bob", &["red"]));
        let items: Vec<Item<'_>> =
            ["delete_repo", "create_issue", "get"].iter().map(|tool| Item { server: "github", name: tool }).collect();
        for _ in 0..3 {
            assert_eq!(plugin.filter(&blue, &request(), ListKind::Tools, &items).await.unwrap(), [1, 2]);
            assert_eq!(plugin.filter(&red, &request(), ListKind::Tools, &items).await.unwrap(), Vec::<u32>::new());
            assert_eq!(decide(&plugin, &blue, "get", r#"{"owner":"blue-inc"}"#).await.unwrap(), Decision::Allow);
            for (who, tool, arguments, word) in [
                (&blue, "get", r#"{"owner":"red-inc"}"#, "with these arguments"),
                (&blue, "delete_repo", r#"{"owner":"blue-inc"}"#, "ask the platform team (rule 1)"),
                (&red, "get", r#"{"owner":"blue-inc"}"#, "no rule lets user:bob"),
            ] {
                let decision = decide(&plugin, who, tool, arguments).await.unwrap();
                assert!(
                    matches!(&decision, Decision::Deny { code, message } if code == "not-allowed" && message.contains(word)),
                    "{decision:?}"
                );
            }
        }
    }
}
