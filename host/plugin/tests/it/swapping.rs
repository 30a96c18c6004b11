//! The built-in `idp-exchange` and `passthrough` behind the host: where callers' tokens and what comes of them may go.

use std::{net::SocketAddr, sync::Arc};

use portcullis_model::{CallerToken, Principal, Secret, TokenOrigin};
use portcullis_plugin::{
    GrantedSecret, Host, LoadError, LoadPlan, Outcome, Passed, Plugin, PluginError, PluginFailure, Read, Rejection,
    Resolution, Services, TargetFacts,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    built::built_in,
    guests::{host, plan, principal, request},
    outgoing::server,
    unruly::target,
};

fn caller(audiences: &[&str]) -> Arc<Principal> {
    let mut principal = Principal::clone(&principal());
    principal.bearer = Some(Arc::new(CallerToken {
        secret: Secret::new("SUBJECT-TOKEN"),
        origin: TokenOrigin::Presented,
        issuer: "https://idp.example".into(),
        audiences: audiences.iter().map(|a| (*a).to_owned()).collect(),
        expires_ms: None,
        bound: false,
        token_type: None,
        digest: [7; 32],
    }));
    Arc::new(principal)
}

fn exchange_plan(host_plan: LoadPlan, address: SocketAddr) -> LoadPlan {
    let mut plan = host_plan;
    plan.name = "idp-exchange".into();
    plan.grants.caller_token = true;
    plan.grants.http = vec![format!("http://{address}")];
    plan.grants.http_private = true;
    let secret = GrantedSecret { value: Secret::new("s3cret"), origins: plan.grants.http.clone() };
    plan.secrets.insert("idp".into(), secret);
    plan.services = Services { http: Some(portcullis_outbound::Client::new().unwrap()), ..Services::default() };
    plan
}

fn settings(address: SocketAddr) -> Value {
    json!({"tokenEndpoint": format!("http://{address}/token"), "client": {"id": "me", "secret": "idp"}})
}

fn at(settings: Value) -> TargetFacts {
    TargetFacts { settings: Arc::new(settings.as_object().unwrap().clone()), ..target() }
}

async fn exchange(host: &Arc<Host>, address: SocketAddr) -> Arc<Plugin> {
    let component = host.compile(built_in("idp-exchange")).await.unwrap();
    host.load(exchange_plan(plan(component), address)).await.unwrap()
}

async fn go(body: &'static str) -> (Result<Resolution, PluginFailure>, mpsc::Receiver<String>) {
    let (address, hear) = server(body, false).await;
    let plugin = exchange(&host(), address).await;
    assert!(plugin.suspends() && plugin.hooks().refresher && plugin.hooks().on_rejected);
    (plugin.resolve(&caller(&[]), &request(), &at(settings(address))).await, hear)
}

#[tokio::test]
async fn a_swapped_token_is_placed_and_never_read() {
    let (answer, mut hear) = go(r#"{"access_token": "NEW-TOKEN", "token_type": "Bearer", "expires_in": 60}"#).await;
    let answer = answer.unwrap();
    assert_eq!(answer.outcome, Outcome::Headers);
    let (name, value) = &answer.headers[0];
    assert_eq!((name.as_str(), value.value().expose()), ("authorization", &b"Bearer NEW-TOKEN"[..]));
    assert!(value.is_secret() && !value.is_callers() && answer.passed.is_none());
    assert!(answer.reads.contains(&Read::CallerToken), "the answer belongs to this token: {:?}", answer.reads);
    assert!(answer.expires_ms.is_some() && !format!("{answer:?}").contains("NEW-TOKEN"));
    let asked = hear.recv().await.unwrap();
    assert!(asked.starts_with("POST /token ") && asked.contains("authorization: Basic bWU6czNjcmV0\r\n"), "{asked}");
    assert!(asked.contains("subject_token=SUBJECT-TOKEN&"), "{asked}");
}

#[tokio::test]
async fn what_an_endpoint_repeats_is_not_passed_on() {
    let body = r#"{"error": "invalid_client", "error_description": "no: SUBJECT-TOKEN and s3cret"}"#;
    let failure = go(body).await.0.unwrap_err();
    assert!(matches!(&failure, PluginFailure::Error(PluginError::Upstream { status: Some(200), .. })), "{failure}");
    let said = format!("{failure} {failure:?}");
    assert!(!said.contains("SUBJECT-TOKEN") && !said.contains("s3cret"), "{said}");
}

#[tokio::test]
async fn a_token_goes_to_granted_endpoints_only() {
    let (address, mut hear) = server("{}", false).await;
    let host = host();
    let plugin = exchange(&host, address).await;
    let mut elsewhere = settings(address);
    elsewhere["tokenEndpoint"] = json!("https://evil.example/token");
    let failure = plugin.resolve(&caller(&[]), &request(), &at(elsewhere)).await.unwrap_err();
    assert!(matches!(failure, PluginFailure::Error(PluginError::InvalidConfig(_))), "{failure}");
    // The client's secret is for another origin.
    let component = host.compile(built_in("idp-exchange")).await.unwrap();
    let mut other = exchange_plan(plan(component.clone()), address);
    other.secrets.get_mut("idp").unwrap().origins = vec!["https://idp.example".into()];
    let plugin = host.load(other).await.unwrap();
    let failure = plugin.resolve(&caller(&[]), &request(), &at(settings(address))).await.unwrap_err();
    assert!(format!("{failure}").contains("may not go there"), "{failure}");
    assert!(hear.try_recv().is_err(), "nothing was sent");
    // Without a grant it is no plugin.
    for (missing, grant) in [(0, "callerToken: true"), (1, "http: [..]")] {
        let mut plan = exchange_plan(plan(component.clone()), address);
        match missing {
            0 => plan.grants.caller_token = false,
            _ => plan.grants.http.clear(),
        }
        let refused = host.load(plan).await;
        assert!(matches!(&refused, Err(LoadError::Ungranted { grant: said, .. }) if *said == grant), "{refused:?}");
    }
}

#[tokio::test]
async fn who_has_no_token_of_a_provider_is_told_so() {
    let (address, mut hear) = server("{}", false).await;
    let plugin = exchange(&host(), address).await;
    let mut ours = Principal::clone(&principal());
    ours.token = Some("t1".into());
    for (who, code) in [(principal(), "no-token"), (Arc::new(ours), "not-exchangeable")] {
        let failure = plugin.resolve(&who, &request(), &at(settings(address))).await.unwrap_err();
        assert!(
            matches!(&failure, PluginFailure::Error(PluginError::Denied { code: said, .. }) if said == code),
            "{failure}"
        );
    }
    assert!(hear.try_recv().is_err());
}

#[tokio::test]
async fn an_answer_is_followed_up() {
    let (address, _hear) = server(r#"{"access_token": "NEXT", "token_type": "Bearer"}"#, false).await;
    let plugin = exchange(&host(), address).await;
    let (who, target, earlier) = (caller(&[]), at(settings(address)), portcullis_plugin::Earlier::default());
    let refreshed = plugin.refresh(&who, &request(), &target, &earlier).await.unwrap();
    assert_eq!(refreshed.headers[0].1.value().expose(), b"Bearer NEXT");
    let next = plugin.rejected(&who, &request(), &target, &earlier).await.unwrap();
    assert!(matches!(next, Rejection::Retry(new) if new.headers[0].1.value().expose() == b"Bearer NEXT"));
}

async fn pass(
    grants: fn(&mut LoadPlan),
    who: &Arc<Principal>,
    target: &TargetFacts,
) -> Result<Resolution, PluginFailure> {
    let host = host();
    let mut plan = plan(host.compile(built_in("passthrough")).await.unwrap());
    plan.grants.caller_token = true;
    plan.grants.passthrough = true;
    grants(&mut plan);
    host.load(plan).await.unwrap().resolve(who, &request(), target).await
}

#[tokio::test]
async fn a_callers_token_is_passed_on_by_grant_and_rule() {
    let url = target().url.to_string();
    assert!(url.starts_with("https://"), "{url}");
    let answer = pass(|_| {}, &caller(&["gateway", &url]), &target()).await.unwrap();
    assert_eq!(answer.passed, Some(Passed { exception: None }), "to be audited");
    assert_eq!(answer.headers[0].1.value().expose(), b"Bearer SUBJECT-TOKEN");
    let excepted = at(json!({"allowAudience": {"reason": "OPS-12"}}));
    let answer = pass(|_| {}, &caller(&["gateway"]), &excepted).await.unwrap();
    assert_eq!(answer.passed, Some(Passed { exception: Some("OPS-12".into()) }));
    let denied = pass(|_| {}, &caller(&["gateway"]), &target()).await.unwrap_err();
    assert!(matches!(denied, PluginFailure::Error(PluginError::Denied { .. })), "{denied}");
    // Whatever the plugin thinks: without the grant the host places it nowhere.
    let ungranted = pass(|plan| plan.grants.passthrough = false, &caller(&["gateway", &url]), &target()).await;
    assert!(matches!(ungranted, Err(PluginFailure::Invalid(_))), "{ungranted:?}");
}
