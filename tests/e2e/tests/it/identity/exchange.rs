//! Each caller reaches each server as themselves, by a token that an identity provider swaps for theirs: real providers, a server
//! that checks what it gets by the provider's keys, and everything that can go wrong on the way.

use std::path::Path;

use portcullis_e2e::{
    eventually, http,
    product::{Product, resource},
    swap::Running,
};
use serde_json::{Value, json};

/// Whom callers' tokens are for.
const GATEWAY: &str = "https://gateway.example/mcp";
/// Whom swapped tokens are for.
const SERVER: &str = "https://server.example/mcp";
/// The client's secret, searched for in all that the product leaves behind.
const SECRET: &str = "exchange-secret";

/// Settings of `idp-exchange` at a provider.
pub fn settings(provider: &str) -> Value {
    json!({
        "tokenEndpoint": format!("{provider}/token"),
        "client": {"id": "portcullis", "secret": "idp"},
        "audience": [SERVER],
        "scope": "tools",
    })
}

/// A server that is called with a swapped token.
fn server(name: &str, url: &str, settings: Value) -> Value {
    resource(
        "McpServer",
        name,
        json!({
            "remote": {"url": url, "allowPrivate": true},
            "credential": {"mode": {"mode": "idp-exchange", "settings": settings}},
        }),
    )
}

/// The providers' people may come in, and their tokens may be swapped there.
fn plugins(issuer: &str, endpoints: &[&str], key: Option<&Path>) -> Vec<Value> {
    let origins: Vec<&str> = endpoints.to_vec();
    let mut secrets = json!({
        "idp": {"from": {"env": "EXCHANGE_SECRET"}, "origins": origins},
        "as": {"from": {"env": "AS_SECRET"}, "origins": origins},
    });
    if let Some(key) = key {
        secrets["key"] = json!({"from": {"file": key}, "origins": origins});
    }
    let rules = json!({"issuers": [{"issuer": issuer, "audience": [GATEWAY]}]});
    vec![
        resource(
            "Plugin",
            "jwks",
            json!({"source": {"builtIn": "jwks"}, "grants": {"issuers": [issuer]}, "config": rules}),
        ),
        resource(
            "Plugin",
            "idp-exchange",
            json!({
                "source": {"builtIn": "idp-exchange"},
                "grants": {"callerToken": true, "http": origins, "httpPrivate": true, "secrets": secrets},
            }),
        ),
    ]
}

fn gateway(servers: &[&str]) -> Value {
    let servers: Vec<Value> = servers.iter().map(|s| json!({"server": s})).collect();
    resource("Gateway", "main", json!({"auth": [{"plugin": "bearer-token"}, {"plugin": "jwks"}], "servers": servers}))
}

async fn start(resources: &[Value]) -> Product {
    let environment = [("EXCHANGE_SECRET", SECRET), ("AS_SECRET", "as-secret")];
    Product::start_with(resources, &environment, json!({"allowPrivateIssuers": true})).await.unwrap()
}

/// What a call of `whoami` comes to: the claims that the server saw, or the refusal's code.
pub async fn whoami(product: &Product, token: &str, server: &str) -> Result<Value, String> {
    let reply = http::call(&product.url("main"), Some(token), &format!("{server}__whoami"), json!({})).await.unwrap();
    if reply.status == 401 {
        return Err("401".to_owned());
    }
    let result = reply.message()["result"].clone();
    let text = result["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    if result["isError"] == json!(false) {
        return Ok(serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")));
    }
    let code = &result["_meta"]["portcullis.dev/fault"]["code"];
    Err(code.as_str().map_or_else(|| reply.text(), str::to_owned))
}

/// The same, once the product has loaded all that it needs.
pub async fn ready(product: &Product, token: &str, server: &str) -> Value {
    eventually("a call is answered", || async { whoami(product, token, server).await.ok() }).await
}

/// All that the product left behind: its log, its metrics, its data directory with the audit stream.
pub async fn left_behind(product: &Product) -> String {
    fn files(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() && path.ends_with("compiled") => {}
                path if path.is_dir() => files(&path, all),
                path => all.push_str(&String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default())),
            }
        }
    }
    let mut all = product.log();
    all.push_str(&http::get(&product.page("/metrics"), &[]).await.unwrap().text());
    files(&product.data(), &mut all);
    all
}

/// Nothing of a token is in a text: neither the whole nor its signature.
fn assert_absent(token: &str, text: &str) {
    assert!(!text.contains(token), "the whole token");
    assert!(!text.contains(token.rsplit('.').next().unwrap()), "its signature");
}

/// The audit stream's events, as far as they are written.
pub fn audited(product: &Product) -> Vec<Value> {
    let text = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["event"].clone())).collect()
}

#[tokio::test]
async fn each_caller_reaches_the_server_as_themselves() {
    let idp = Running::provider(0).await.unwrap();
    let upstream = Running::guarded(SERVER, "authorization", &[&idp.url], None).await.unwrap();
    let mut all = plugins(&idp.url, &[&idp.url], None);
    all.push(resource("User", "alice", json!({"identities": [{"issuer": idp.url, "subject": "alice"}]})));
    all.extend([server("whom", &upstream.url, settings(&idp.url)), gateway(&["whom"])]);
    let product = start(&all).await;
    let alice = idp.token("alice", &[GATEWAY], "").await.unwrap();
    let bob = idp.token("bob", &[GATEWAY], "").await.unwrap();

    let seen = ready(&product, &alice, "whom").await;
    assert_eq!(
        (&seen["sub"], &seen["act"]["sub"], &seen["aud"]),
        (&json!("alice"), &json!("portcullis"), &json!([SERVER]))
    );
    assert_eq!(whoami(&product, &bob, "whom").await.unwrap()["sub"], "bob");
    // Each caller's is kept until it ends, and nobody gets another's.
    let before = idp.asked().await.unwrap().len();
    let tasks: Vec<_> = (0..40).map(|n| whoami(&product, if n % 2 == 0 { &alice } else { &bob }, "whom")).collect();
    for (n, claims) in futures_util::future::join_all(tasks).await.into_iter().enumerate() {
        assert_eq!(claims.unwrap()["sub"], if n % 2 == 0 { "alice" } else { "bob" });
    }
    assert_eq!(idp.asked().await.unwrap().len(), before, "warm calls ask nobody");
    // Another token of the same caller is swapped by itself.
    let again = idp.token("alice", &[GATEWAY], "").await.unwrap();
    assert_eq!(whoami(&product, &again, "whom").await.unwrap()["sub"], "alice");
    assert_eq!(idp.asked().await.unwrap().len(), before + 1);
    eventually("it is on record under whose account calls ran", || async {
        let events = audited(&product);
        let ran = |who: &str| events.iter().any(|e| e["kind"] == "call" && e["executedAs"] == who);
        (ran("user:alice") && ran(&format!("external:{}#bob", idp.url))).then_some(())
    })
    .await;

    // Who was let in by a token of ours, or by none, has none to swap.
    let (_, ours) = product.token("user:alice").unwrap();
    assert_eq!(whoami(&product, &ours, "whom").await.unwrap_err(), "credential-denied");
    // One that is bound to a key gets nobody in who does not show it; nor does one that is over.
    let bound = idp.token("alice", &[GATEWAY], "&cnf=1").await.unwrap();
    assert_eq!(whoami(&product, &bound, "whom").await.unwrap_err(), "401");
    let over = idp.token("alice", &[GATEWAY], "&life=-60").await.unwrap();
    assert_eq!(whoami(&product, &over, "whom").await.unwrap_err(), "401");
    let blocked = idp.token("blocked", &[GATEWAY], "").await.unwrap();
    assert_eq!(whoami(&product, &blocked, "whom").await.unwrap_err(), "credential-denied");

    let text = left_behind(&product).await;
    for token in [&alice, &bob, &again, &bound, &blocked] {
        assert_absent(token, &text);
    }
    assert!(!text.contains(SECRET), "the client's secret");
    assert!(text.contains("portcullis_plugin_token_requests_total"), "token requests are counted");
    product.stop().await;
}

#[tokio::test]
async fn a_token_that_the_server_took_back_is_swapped_once_more() {
    let idp = Running::provider(0).await.unwrap();
    let upstream = Running::guarded(SERVER, "authorization", &[&idp.url], None).await.unwrap();
    let mut all = plugins(&idp.url, &[&idp.url], None);
    all.extend([server("whom", &upstream.url, settings(&idp.url)), gateway(&["whom"])]);
    let product = start(&all).await;
    let alice = idp.token("alice", &[GATEWAY], "").await.unwrap();
    let first = ready(&product, &alice, "whom").await;
    let asked = idp.asked().await.unwrap().len();
    upstream.fixture("revoke").await.unwrap();
    let calls: Vec<_> = (0..10).map(|_| whoami(&product, &alice, "whom")).collect();
    for claims in futures_util::future::join_all(calls).await {
        assert_ne!(claims.unwrap()["jti"], first["jti"], "with a new token, and nobody saw the refusal");
    }
    assert_eq!(idp.asked().await.unwrap().len(), asked + 1, "one swap for all who were refused");
    // A server that takes none at all is told so by its refusal, without asking again and again.
    upstream.fixture("revoke").await.unwrap();
    assert_eq!(whoami(&product, &alice, "whom").await.unwrap_err(), "server-refused-credential");
    product.stop().await;
}

#[tokio::test]
async fn clients_prove_who_they_are_and_tokens_go_where_the_server_wants_them() {
    let idp = Running::provider(0).await.unwrap();
    let upstream = Running::guarded(SERVER, "authorization", &[&idp.url], None).await.unwrap();
    let badge = Running::guarded(SERVER, "x-badge", &[&idp.url], None).await.unwrap();
    let behalf = Running::guarded("api://server", "authorization", &[&idp.url], None).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("client.pem");
    std::fs::write(&pem, http::get(&format!("{}/fixture/client.pem", idp.url), &[]).await.unwrap().body).unwrap();
    let with = |change: fn(&mut Value)| {
        let mut settings = settings(&idp.url);
        change(&mut settings);
        settings
    };
    let mut all = plugins(&idp.url, &[&idp.url], Some(&pem));
    all.extend([
        server(
            "post",
            &upstream.url,
            with(|s| s["client"] = json!({"id": "portcullis-post", "auth": "post", "secret": "idp"})),
        ),
        server(
            "key",
            &upstream.url,
            with(|s| s["client"] = json!({"id": "portcullis-key", "auth": "private-key-jwt", "key": "key"})),
        ),
        server("badge", &badge.url, with(|s| s["place"] = json!({"header": "X-Badge", "field": "/badge/jwt"}))),
        server(
            "behalf",
            &behalf.url,
            with(|s| {
                s["flow"] = json!("on-behalf-of");
                s["audience"] = json!([]);
                s["scope"] = json!("api://server/.default");
            }),
        ),
        server("wrong", &upstream.url, with(|s| s["client"]["id"] = json!("nobody"))),
        gateway(&["post", "key", "badge", "behalf", "wrong"]),
    ]);
    let product = start(&all).await;
    let alice = idp.token("alice", &[GATEWAY], "").await.unwrap();
    for (name, client) in
        [("post", "portcullis-post"), ("key", "portcullis-key"), ("badge", "portcullis"), ("behalf", "portcullis")]
    {
        let seen = ready(&product, &alice, name).await;
        assert_eq!((&seen["sub"], &seen["act"]["sub"]), (&json!("alice"), &json!(client)), "{name}");
        assert_eq!(seen["badge"].as_bool().unwrap_or(false), name == "badge");
    }
    // The operator's mistake is not the caller's, and what the provider said is for the log.
    let refused = http::call(&product.url("main"), Some(&alice), "wrong__whoami", json!({})).await.unwrap().message();
    let fault = &refused["result"]["_meta"]["portcullis.dev/fault"];
    assert_eq!(fault["code"], "credential-resolver-failed");
    let (log, request) = (product.log(), fault["requestId"].as_str().unwrap());
    let line = log.lines().find(|line| line.contains(request)).expect("the log has it by the request's id");
    assert!(line.contains("invalid_client") && line.contains("idp-exchange"), "the log says why: {line}");
    product.stop().await;
}

#[tokio::test]
async fn an_id_jag_takes_both_steps_to_an_independent_server() {
    let idp = Running::provider(0).await.unwrap();
    let authlib = Running::authlib(&idp.url).await.unwrap();
    let upstream = Running::guarded(SERVER, "authorization", &[&authlib.url], None).await.unwrap();
    let mut jag = settings(&idp.url);
    jag["flow"] = json!("id-jag");
    jag["audience"] = json!([authlib.url]);
    jag["resource"] = json!([SERVER]);
    jag["then"] = json!({
        "tokenEndpoint": format!("{}/token", authlib.url),
        "client": {"id": "gateway-at-as", "secret": "as"},
    });
    let mut stolen = jag.clone();
    stolen["audience"] = json!(["https://another.example"]);
    let mut all = plugins(&idp.url, &[&idp.url, &authlib.url], None);
    all.extend([
        server("jag", &upstream.url, jag),
        server("stolen", &upstream.url, stolen),
        gateway(&["jag", "stolen"]),
    ]);
    let product = start(&all).await;
    let alice = idp.token("alice", &[GATEWAY], "").await.unwrap();
    let seen = ready(&product, &alice, "jag").await;
    assert_eq!(
        (&seen["sub"], &seen["iss"], &seen["client_id"]),
        (&json!("alice"), &json!(authlib.url), &json!("gateway-at-as"))
    );
    // An assertion for another server is taken by nobody.
    assert_eq!(whoami(&product, &alice, "stolen").await.unwrap_err(), "credential-denied");
    assert_absent(&alice, &left_behind(&product).await);
    product.stop().await;
}

#[tokio::test]
async fn an_independent_exchange_server_swaps_tokens() {
    let idp = Running::idpyoidc(&[SERVER]).await.unwrap();
    let upstream = Running::guarded("-", "authorization", &[&idp.url], None).await.unwrap();
    let mut strange = settings(&idp.url);
    strange["audience"] = json!(["https://not-granted.example"]);
    let mut all = plugins(&idp.url, &[&idp.url], None);
    all.extend([
        server("whom", &upstream.url, settings(&idp.url)),
        server("strange", &upstream.url, strange),
        gateway(&["whom", "strange"]),
    ]);
    let product = start(&all).await;
    let signed_in =
        http::get(&format!("{}/sign-in?user=alice&audience={}", idp.url, "https%3A%2F%2Fgateway.example%2Fmcp"), &[])
            .await
            .unwrap();
    let token: Value = serde_json::from_slice(&signed_in.body).unwrap();
    let token = token["access_token"].as_str().unwrap();
    let seen = ready(&product, token, "whom").await;
    assert_eq!((&seen["sub"], &seen["client_id"]), (&json!("alice"), &json!("portcullis")));
    // The server's own policy says no to another audience.
    assert!(whoami(&product, token, "strange").await.is_err());
    product.stop().await;
}

#[tokio::test]
async fn a_provider_on_a_bad_day_refuses_and_tells_nothing() {
    let idp = Running::provider(0).await.unwrap();
    let upstream = Running::guarded(SERVER, "authorization", &[&idp.url], None).await.unwrap();
    let mut all = plugins(&idp.url, &[&idp.url], None);
    all.extend([server("whom", &upstream.url, settings(&idp.url)), gateway(&["whom"])]);
    let mut elsewhere = resource("Gateway", "main", json!({"servers": []}));
    elsewhere["metadata"]["namespace"] = json!("other");
    all.push(elsewhere);
    let product = start(&all).await;
    ready(&product, &idp.token("alice", &[GATEWAY], "").await.unwrap(), "whom").await;
    for (mode, code) in [
        ("error200", "credential-denied"),
        ("redirect", "credential-resolver-failed"),
        ("huge", "credential-resolver-failed"),
        ("html", "credential-resolver-failed"),
        ("busy", "credential-unavailable"),
        ("slow", "credential-unavailable"),
        ("echo", "credential-denied"),
    ] {
        idp.mode(mode).await.unwrap();
        // Somebody else each time: who did not answer a caller a moment ago is not asked again for the same at once.
        let token = idp.token(mode, &[GATEWAY], "").await.unwrap();
        let reply = http::call(&product.url("main"), Some(&token), "whom__whoami", json!({})).await.unwrap();
        let text = reply.text();
        assert!(text.contains(&format!("\"{code}\"")), "{mode}: {text}");
        assert_absent(&token, &text);
        assert_absent(&token, &left_behind(&product).await);
        assert!(!text.contains("never-use-this") && !text.contains("said with 200"), "{mode}: {text}");
    }
    idp.mode("ok").await.unwrap();
    assert!(!idp.asked().await.unwrap().iter().any(|a| a["grant"] == "a redirect was followed"));
    let token = idp.token("alice", &[GATEWAY], "").await.unwrap();
    assert!(whoami(&product, &token, "whom").await.is_ok(), "and then it goes on");
    // A token of one tenant's people is nobody's at another tenant's gateway.
    let other = http::call(&product.page("/t/other/mcp/main"), Some(&token), "whom__whoami", json!({})).await.unwrap();
    assert_eq!(other.status, 401, "{}", other.text());

    drop(idp);
    let kept = whoami(&product, &token, "whom").await;
    assert!(kept.is_ok(), "what was swapped holds while the provider is away: {kept:?}");
    product.stop().await;
}

#[tokio::test]
async fn a_process_can_not_be_given_a_swapped_token() {
    let idp = Running::provider(0).await.unwrap();
    let product = start(&plugins(&idp.url, &[&idp.url], None)).await;
    let process = json!({"process": {"command": "true"}, "credential": {"mode": {"mode": "idp-exchange", "settings": settings(&idp.url)}}});
    let apply = |resource: Value| {
        let output = product.cli(&["apply", "-f", "-"], &resource.to_string()).unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout),
        )
    };
    let (done, said) = apply(resource("McpServer", "local", process));
    assert!(!done && said.contains("needs a server over HTTP"), "{said}");
    let (done, said) = apply(resource("McpServer", "local", json!({"process": {"command": "true"}})));
    assert!(done, "{said}");
    let mode = json!({"mode": "idp-exchange", "settings": settings(&idp.url)});
    let (done, said) =
        apply(resource("Gateway", "main", json!({"servers": [{"server": "local", "credential": mode}]})));
    assert!(!done && said.contains("needs a server over HTTP"), "{said}");
    let mut wrong = settings(&idp.url);
    wrong["client"] = json!({"id": "p"});
    let mode = json!({"mode": "idp-exchange", "settings": wrong});
    let (done, said) =
        apply(resource("Gateway", "main", json!({"servers": [{"server": "local", "credential": mode}]})));
    assert!(!done && said.contains("settings.client.secret"), "{said}");
    product.stop().await;
}
