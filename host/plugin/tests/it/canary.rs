//! A plugin never sees a secret that it was not granted to read: neither in its memory nor in anything that it can say.

use std::sync::{Arc, Mutex};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use portcullis_model::{CallerToken, Principal, Secret, TokenOrigin};
use portcullis_plugin::{
    BoxFuture, Decision, GrantedSecret, Host, HostOptions, LoadPlan, Outbound, OutboundError, OutboundRequest,
    OutboundResponse, Outcome, Plugin, RequestFacts, Services, Verdict,
};
use portcullis_telemetry::Metrics;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    built::guest,
    guests::{call, plan, principal, request},
    released::services,
    unruly::{auth_request, target},
};

const KEY: &str = "CANARY-key-91c2";
const TOKEN: &str = "CANARY-token-77d0";
const COOKIE: &str = "CANARY-cookie-03ab";
const MASK: u8 = 0x5a;

/// Answers with all that it was sent.
#[derive(Default)]
struct Parrot(Mutex<Vec<(String, String)>>);

impl Outbound for Parrot {
    fn send(&self, request: OutboundRequest) -> BoxFuture<'_, Result<OutboundResponse, OutboundError>> {
        let sent = request.headers.iter().find(|(name, _)| name == "authorization");
        let sent = sent.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default();
        let sent = sent + &String::from_utf8_lossy(request.body.expose());
        self.0.lock().unwrap().push((request.url.to_string(), sent.clone()));
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", sent.parse().unwrap());
        let body = Bytes::from(serde_json::json!({"echo": sent}).to_string());
        Box::pin(async move { Ok(OutboundResponse { status: StatusCode::OK, headers, body }) })
    }
}

/// Keeps every event as text.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<String>>);

impl Subscriber for Heard {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Text<'a>(&'a mut String);
        impl Visit for Text<'_> {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0.push_str(&format!("{field}={value:?}\n"));
            }
        }
        event.record(&mut Text(&mut self.0.lock().unwrap()));
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Trial {
    plugin: Arc<Plugin>,
    parrot: Arc<Parrot>,
    metrics: Arc<Metrics>,
}

async fn trial(plant: bool) -> Trial {
    let metrics = Metrics::new();
    let host =
        Host::new(HostOptions { pool_instances: 8, metrics: metrics.clone(), ..HostOptions::default() }).unwrap();
    let parrot = Arc::new(Parrot::default());
    let masked = |text: &str| text.bytes().map(|byte| byte ^ MASK).collect::<Vec<u8>>();
    let needles: Vec<Vec<u8>> =
        [KEY, TOKEN, COOKIE].into_iter().flat_map(|s| [masked(s), masked(&STANDARD.encode(s))]).collect();
    let config = serde_json::json!({"url": "https://granted.example/", "needles": needles, "plant": plant});
    let mut plan = LoadPlan { config: config.to_string(), ..plan(host.compile(guest("canary")).await.unwrap()) };
    plan.limits.cpu = portcullis_model::Span::seconds(2);
    plan.grants.http = vec!["https://granted.example".into()];
    plan.grants.caller_token = true;
    plan.grants.sign = true;
    let origins = plan.grants.http.clone();
    plan.secrets.insert("key".into(), GrantedSecret { value: Secret::new(KEY), origins });
    plan.services = Services { http: Some(parrot.clone()), ..services() };
    Trial { plugin: host.load(plan).await.unwrap(), parrot, metrics }
}

fn asked() -> RequestFacts {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    headers.insert("cookie", COOKIE.parse().unwrap());
    headers.insert("x-api-key", TOKEN.parse().unwrap());
    RequestFacts { headers: Arc::new(headers), ..request() }
}

fn caller() -> Arc<Principal> {
    let mut caller = Principal::clone(&principal());
    caller.bearer = Some(Arc::new(CallerToken {
        secret: Secret::new(TOKEN),
        origin: TokenOrigin::Presented,
        issuer: "https://idp.example".into(),
        audiences: Vec::new(),
        expires_ms: None,
        bound: false,
        token_type: None,
        digest: [7; 32],
    }));
    Arc::new(caller)
}

fn clean(text: &str, where_from: &str) {
    for canary in [KEY, TOKEN, COOKIE] {
        assert!(!text.contains(canary), "{canary} in {where_from}: {text}");
        assert!(!text.contains(&STANDARD.encode(canary)), "{canary} in base64 in {where_from}: {text}");
    }
}

async fn decided(trial: &Trial, request: &RequestFacts) -> String {
    match trial.plugin.decide(&caller(), request, &call()).await {
        Ok(Decision::Deny { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn secrets_are_neither_in_a_guests_memory_nor_in_what_it_says() {
    let trial = trial(false).await;
    let heard = Heard::default();
    let _guard = tracing::subscriber::set_default(heard.clone());
    let request = asked();
    let decided = decided(&trial, &request).await;
    assert!(decided.starts_with("found 0; 200 "), "{decided}");
    clean(&decided, "a decision");
    let resolved = trial.plugin.resolve(&caller(), &request, &target()).await.unwrap();
    let Outcome::Missing(resolved) = resolved.outcome else { panic!("{resolved:?}") };
    assert!(resolved.starts_with("found 0; 200 "), "{resolved}");
    clean(&resolved, "a resolution");
    let mut knock = auth_request(Some(TOKEN));
    knock.headers = Arc::clone(&request.headers);
    let Verdict::Refused(refused) = trial.plugin.authenticate(&knock).await.unwrap() else { panic!("not refused") };
    assert!(refused.starts_with("found 0; Denied"), "a token to be verified goes nowhere: {refused}");
    clean(&refused, "a verdict");
    clean(&format!("{:?}", request.attributes.all()), "what was noted");
    clean(&trial.metrics.encode(), "the metrics");
    let heard = heard.0.lock().unwrap().clone();
    assert!(heard.contains("200 "), "it logged and printed: {heard}");
    clean(&heard, "the log");
    // The secrets did go where they may.
    let sent = trial.parrot.0.lock().unwrap().clone();
    assert_eq!(sent.len(), 4, "{sent:?}");
    assert!(sent.iter().all(|(url, _)| url == "https://granted.example/"));
    assert!(sent[0].1.ends_with(KEY) && sent[1].1 == KEY && sent[2].1.ends_with(TOKEN), "{sent:?}");
}

#[tokio::test]
async fn what_is_in_memory_is_found() {
    // The same guest, after it has written the canaries down itself: the search works.
    let said = decided(&trial(true).await, &asked()).await;
    let count: usize = said.strip_prefix("found ").unwrap().split(';').next().unwrap().parse().unwrap();
    assert!(count >= 6, "{said}");
}
