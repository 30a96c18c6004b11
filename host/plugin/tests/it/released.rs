//! Plugins that were built against released contracts load and answer as they did. Their sources stand beside them in
//! `tests/fixtures/plugins`.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use portcullis_model::{CallerToken, Name, Principal, Secret, Subject, TokenOrigin};
use portcullis_plugin::{
    Assertion, Assertions, BoxFuture, CallFacts, ClientCertificate, ConnectionFacts, Connections, Decision, Earlier,
    GrantedSecret, Host, Item, Jwt, JwtError, JwtRules, ListKind, LoadPlan, Outcome, Plugin, PluginError,
    PluginFailure, QuestionFacts, Rejection, ResultFacts, RevealAudit, Services, Signed, TargetFacts, TokenFacts,
    TokenLookupError, Tokens, Verdict, VerifiedJwt,
};
use serde_json::json;

use crate::{
    guests::{call, host, plan, principal, request},
    outgoing::server,
    unruly::{auth_request, prompt, read, target},
};

/// Every released version of the contract.
const VERSIONS: [&str; 1] = ["0.1.0"];

fn wasm(version: &str, name: &str) -> Arc<[u8]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/plugins")
        .join(version)
        .join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).into()
}

/// What the house does for them.
struct House;

impl Tokens for House {
    fn lookup(&self, _: &Name, _: &Name, token: &Secret) -> Result<TokenFacts, TokenLookupError> {
        match token.expose() {
            b"ours" => {
                Ok(TokenFacts { id: "t1".into(), subject: Subject::User("ann".parse().unwrap()), expires_ms: None })
            }
            b"revoked" => Err(TokenLookupError::Revoked),
            _ => Err(TokenLookupError::NotOurs),
        }
    }
}

impl Jwt for House {
    fn unverified_issuer(&self, token: &Secret) -> Option<String> {
        (token.expose() != b"garbage").then(|| "https://idp.example".into())
    }
    fn verify<'a>(&'a self, token: &'a Secret, rules: &'a JwtRules) -> BoxFuture<'a, Result<VerifiedJwt, JwtError>> {
        assert_eq!((rules.audiences.as_slice(), rules.leeway_seconds), (&["portcullis".to_owned()][..], 5));
        Box::pin(async move {
            match token.expose() {
                b"expired" => Err(JwtError::Expired),
                _ => Ok(VerifiedJwt {
                    issuer: rules.issuer.clone(),
                    subject: "bob".into(),
                    expires_ms: 7,
                    claims: json!({"email": "bob@example.com"}),
                }),
            }
        })
    }
}

impl Connections for House {
    fn candidates(&self, _: &Principal, _: &Name, _: Option<&Name>) -> Vec<ConnectionFacts> {
        vec![ConnectionFacts {
            id: "anns".parse().unwrap(),
            owner_kind: portcullis_model::PrincipalKind::User,
            owner: "ann".into(),
            owner_only: false,
            healthy: true,
            created_ms: 1,
        }]
    }
}

impl RevealAudit for House {
    fn revealed(&self, _: &Name, _: &str, _: &str) -> bool {
        true
    }
}

impl Assertions for House {
    fn sign(&self, _: &Secret, _: &Assertion<'_>) -> Result<Secret, String> {
        Err("not here".into())
    }
    fn sign_claims(&self, _: &Secret, _: &Signed<'_>) -> Result<Secret, String> {
        Err("not here".into())
    }
}

pub(crate) fn services() -> Services {
    Services {
        tokens: Some(Arc::new(House)),
        jwt: Some(Arc::new(House)),
        connections: Some(Arc::new(House)),
        http: Some(portcullis_outbound::Client::new().unwrap()),
        audit: Some(Arc::new(House)),
        assertions: Some(Arc::new(House)),
        ..Services::default()
    }
}

async fn load(host: &Arc<Host>, version: &str, name: &str, origin: &str) -> Arc<Plugin> {
    let component = host.compile(wasm(version, name)).await.unwrap_or_else(|e| panic!("{name} of {version}: {e}"));
    let mut plan = LoadPlan { config: r#"{"word":"hello"}"#.into(), services: services(), ..plan(component) };
    plan.grants.tokens = true;
    plan.grants.issuers = vec!["https://idp.example".into(), "https://ca.example".into()];
    plan.grants.roles = vec!["member".parse().unwrap()];
    plan.grants.connections = true;
    plan.grants.caller_token = true;
    plan.grants.passthrough = true;
    plan.grants.reveal = true;
    plan.grants.http = vec![origin.to_owned()];
    plan.grants.http_private = true;
    let origins = vec![origin.to_owned(), "https://api.github.example".to_owned()];
    plan.secrets.insert("key".into(), GrantedSecret { value: Secret::new("k&y"), origins });
    host.load(plan).await.unwrap_or_else(|e| panic!("{name} of {version}: {e}"))
}

fn denied(decision: Result<Decision, PluginFailure>) -> String {
    match decision {
        Ok(Decision::Deny { code, message }) if code == "told" => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_released_policy_answers_in_every_hook() {
    for version in VERSIONS {
        let host = host();
        let plugin = load(&host, version, "policy", "https://x.example").await;
        let hooks = plugin.hooks();
        assert!(hooks.tool_call && hooks.tool_result && hooks.resource_read && hooks.prompt_get);
        assert!(hooks.server_request && hooks.list_filter && !hooks.session);
        assert!(plugin.starts_ready() && !plugin.suspends());
        let mut who = Principal::clone(&principal());
        who.teams = vec!["blue".parse().unwrap()];
        who.claims.insert("email".into(), json!("alice@example.com"));
        let (who, asked) = (Arc::new(who), request());
        let head = |attribute: &str| {
            format!(
                "hello: default user:alice User [\"blue\"] [] [] Some(Text(\"alice@example.com\")) None {attribute}; "
            )
        };
        assert_eq!(
            denied(plugin.decide(&who, &asked, &call()).await),
            head("Some(Text(\"by policy\"))") + "main github create_issue github__create_issue r-1"
        );
        let answer = async |word: &str| {
            let arguments = Bytes::from(json!({"answer": word}).to_string());
            plugin.decide(&who, &asked, &CallFacts { arguments, ..call() }).await
        };
        assert_eq!(answer("allow").await, Ok(Decision::Allow));
        assert_eq!(answer("modify").await, Ok(Decision::Modify(Bytes::from_static(br#"{"modified":true}"#))));
        assert_eq!(answer("approve").await, Ok(Decision::RequireApproval("this".into())));
        assert_eq!(answer("fail").await, Err(PluginFailure::Error(PluginError::Unavailable("not now".into()))));
        let seen = head("Some(Text(\"by policy\"))");
        let result = ResultFacts::new(true, Bytes::from_static(b"{\"content\":[]}"));
        assert_eq!(
            denied(plugin.review(&who, &asked, &call(), &result).await),
            seen.clone() + "create_issue true 14 {\"content\":[]}"
        );
        assert_eq!(
            denied(plugin.read(&who, &asked, &read()).await),
            seen.clone() + "main github file:///a gh+file:///a Subscribe r-1"
        );
        assert_eq!(
            denied(plugin.prompt(&who, &asked, &prompt()).await),
            seen.clone() + "main github greet github__greet Get 13 {\"who\":\"bob\"} \"bob\""
        );
        let question = QuestionFacts {
            server: "github".parse().unwrap(),
            method: "elicitation/create".into(),
            params: Bytes::from_static(br#"{"message":"m"}"#),
            tool: None,
        };
        assert_eq!(
            denied(plugin.ask(&who, &asked, &question).await),
            seen + "main github elicitation/create None 15 {\"message\":\"m\"} \"m\""
        );
        let items = ["a", "hidden", "b"].map(|name| Item { server: "github", name });
        assert_eq!(plugin.filter(&who, &asked, ListKind::Tools, &items).await, Ok(vec![0, 2]));
        assert_eq!(asked.attributes.all().len(), 4, "what its hooks noted");
    }
}

#[tokio::test]
async fn a_released_resolver_has_all_that_it_imports() {
    for version in VERSIONS {
        let (address, _hear) =
            server(r#"{"token": "fresh", "access_token": "at", "token_type": "Bearer"}"#, false).await;
        let host = host();
        let plugin = load(&host, version, "resolver", &format!("http://{address}")).await;
        assert!(plugin.hooks().refresher && plugin.hooks().on_rejected && plugin.suspends());
        let mut who = Principal::clone(&principal());
        who.bearer = Some(Arc::new(CallerToken {
            secret: Secret::new("callers"),
            origin: TokenOrigin::Presented,
            issuer: "https://idp.example".into(),
            audiences: vec!["https://api.github.example/mcp".into()],
            expires_ms: None,
            bound: false,
            token_type: None,
            digest: [7; 32],
        }));
        let who = Arc::new(who);
        let at = |act: &str| {
            let url =
                if matches!(act, "http" | "token") { format!("http://{address}/x") } else { target().url.to_string() };
            let settings = json!({"act": act}).as_object().unwrap().clone();
            TargetFacts { url: url.into(), settings: Arc::new(settings), ..target() }
        };
        let resolve = async |act: &str| plugin.resolve(&who, &request(), &at(act)).await.unwrap();
        assert_eq!(resolve("connection").await.outcome, Outcome::Use { connection: "anns".parse().unwrap() });
        assert_eq!(resolve("nothing").await.outcome, Outcome::None);
        assert_eq!(resolve("reveal").await.outcome, Outcome::Missing("k&y".into()));
        for (act, header) in [
            ("caller-token", &b"Bearer callers"[..]),
            ("secret", b"k=ayZ5"),
            ("http", b"fresh"),
            ("token", b"Bearer at"),
        ] {
            let resolution = resolve(act).await;
            let (_, value) = resolution.headers.last().unwrap();
            assert_eq!(value.value().expose(), header, "{act}");
            assert_eq!(resolution.expires_ms, Some(1_000_010));
        }
        let kept = resolve("secret").await.kept;
        assert_eq!(kept[0].1.value().expose(), b"k%26y");
        let earlier = Earlier { expires_ms: Some(1), kept: kept.into() };
        let refreshed = plugin.refresh(&who, &request(), &at("secret"), &earlier).await.unwrap();
        assert_eq!(refreshed.outcome, Outcome::Headers);
        let next = plugin.rejected(&who, &request(), &at("secret"), &earlier).await.unwrap();
        assert!(matches!(next, Rejection::Reconnect(what) if what == "again"));
    }
}

#[tokio::test]
async fn a_released_provider_knows_everybody() {
    for version in VERSIONS {
        let host = host();
        let plugin = load(&host, version, "provider", "https://x.example").await;
        assert!(plugin.hooks().provider && !plugin.hooks().described && plugin.description().is_none());
        let ask = async |bearer| plugin.authenticate(&auth_request(bearer)).await.unwrap();
        assert!(matches!(ask(None).await, Verdict::NotMine { .. }));
        assert!(matches!(ask(Some("ours")).await, Verdict::Accepted { .. }));
        let Verdict::Accepted { principal, expires_ms, .. } = ask(Some("theirs")).await else { panic!("not accepted") };
        assert_eq!((principal.roles.len(), expires_ms), (1, Some(7)));
        assert_eq!(principal.claims, [("email".to_owned(), json!("bob@example.com"))]);
        for (token, why) in [("revoked", "Revoked"), ("expired", "Expired")] {
            assert!(matches!(ask(Some(token)).await, Verdict::Challenge { message, .. } if message == why));
        }
        assert!(matches!(ask(Some("garbage")).await, Verdict::Refused(why) if why == "no token"));
        let mut shown = auth_request(None);
        shown.certificate = Some(Arc::new(ClientCertificate {
            fingerprint: [1; 32],
            subject: vec![("CN".into(), "ci".into())],
            issuer: Vec::new(),
            uris: vec!["spiffe://x/ci".into()],
            dns_names: Vec::new(),
            emails: Vec::new(),
            expires_ms: 1,
        }));
        let Verdict::Accepted { principal, .. } = plugin.authenticate(&shown).await.unwrap() else { panic!("refused") };
        assert_eq!(principal.groups, ["ci", "spiffe://x/ci"]);
    }
}
