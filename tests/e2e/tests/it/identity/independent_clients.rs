//! MCP clients that others wrote log in, call, renew, are thrown out and log in again: PyPI `mcp`, npm
//! `@modelcontextprotocol/client` and `rmcp`; registered by themselves, by a document, or with an identity assertion.

use portcullis_e2e::{
    PATIENCE,
    browser::Browser,
    http,
    oauth::{BACK, OAuthDriver},
    product::{Product, resource},
    swap::Running,
};
use serde_json::{Value, json};

/// How long access tokens live here: the shortest that there is, so that clients renew them while a test waits.
const LIFE: &str = "2s";
const SECRET: &str = "exchange-secret";

async fn product(resources: &[Value], environment: &[(&str, &str)], more: Value) -> Product {
    let mut settings = json!({"accessTokenLife": LIFE});
    for (name, value) in more.as_object().into_iter().flatten() {
        settings[name] = value.clone();
    }
    let mut all = vec![
        resource("User", "alice", json!({})),
        resource("Agent", "ci", json!({})),
        resource("OAuthClient", "ci-secret", json!({"agent": "ci", "secret": {"env": "CLIENT_SECRET"}})),
        resource(
            "McpServer",
            "time",
            json!({"process": {"command": portcullis_e2e::parts::binary(), "args": ["demo-server"]}}),
        ),
        resource("Gateway", "main", json!({"servers": [{"server": "time"}]})),
    ];
    all.extend(resources.iter().cloned());
    let environment: Vec<_> = environment.iter().copied().chain([("CLIENT_SECRET", SECRET)]).collect();
    Product::start_with(&all, &environment, settings).await.unwrap()
}

async fn signed_in(product: &Product) -> Browser {
    let made = product.ask(&["signin", "--user", "alice"], "").unwrap();
    let mut browser = Browser::new();
    browser.go(&product.page("/signin?next=/healthz")).await.unwrap();
    browser.submit("code", &[("code", made["code"].as_str().unwrap())]).await.unwrap();
    browser
}

fn access(answer: &Value) -> &str {
    answer["tokens"]["access_token"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

fn call() -> Value {
    json!({"do": "call", "tool": "time__time_now"})
}

/// Calls until the client holds another access token than this one: what it answered then.
async fn renewed(client: &mut OAuthDriver, browser: &mut Browser, before: &str) -> Value {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = client.ask_with(browser, call()).await.unwrap();
        assert_eq!(answer["error"], false, "{answer}");
        if access(&answer) != before {
            return answer;
        }
        assert!(tokio::time::Instant::now() < until, "its token is never renewed: {answer}");
    }
}

/// A client's whole life with a person.
async fn whole_life(product: &Product, client: &mut OAuthDriver, how: Value) {
    let mut browser = signed_in(product).await;
    let open = json!({"do": "session", "url": product.url("main"), "how": how});
    let opened = client.ask_with(&mut browser, open).await.unwrap_or_else(|e| panic!("{e}\n{}", product.log()));
    assert!(opened["tools"].as_array().unwrap().iter().any(|t| t == "time__time_now"), "{opened}");
    assert_eq!(opened["signIns"], 1, "{opened}");

    // Its token ends in the middle of the session, twice: the second renewal needs what the first one gave.
    let second = renewed(client, &mut browser, access(&opened)).await;
    let third = renewed(client, &mut browser, access(&second)).await;
    assert_eq!(third["signIns"], 1, "nobody was asked again: {third}");
    assert_ne!(third["tokens"]["refresh_token"], opened["tokens"]["refresh_token"], "refresh tokens work once");

    // Taken back by an operator: it is out at once, what it holds renews nothing, and the person has to say yes again.
    let listed = product.ask(&["token", "list", "--owner", "user:alice"], "").unwrap();
    let all = listed.as_array().or(listed["items"].as_array()).unwrap_or_else(|| panic!("{listed}"));
    let newest = all.iter().max_by_key(|t| t["createdMs"].as_u64()).unwrap();
    product.ask(&["token", "revoke", newest["id"].as_str().unwrap()], "").unwrap();
    let again = client.ask_with(&mut browser, call()).await.unwrap_or_else(|e| panic!("{e}\n{}", product.log()));
    assert_eq!((&again["error"], &again["signIns"]), (&json!(false), &json!(2)), "{again}");
    let last = renewed(client, &mut browser, access(&again)).await;
    assert_eq!(last["signIns"], 2, "{last}");
    client.ask(json!({"do": "end"})).await.unwrap();
    for answer in [&opened, &third, &last] {
        assert!(!product.log().contains(access(answer)), "a token was written down");
    }
}

#[tokio::test]
async fn the_python_client_renews_in_mid_session_and_comes_back_after_a_revocation() {
    let product = product(&[], &[], json!({})).await;
    let how = json!({"code": {"redirect": BACK, "name": "Python"}});
    whole_life(&product, &mut OAuthDriver::start().unwrap(), how).await;
    product.stop().await;
}

#[tokio::test]
async fn the_javascript_client_renews_in_mid_session_and_comes_back_after_a_revocation() {
    let product = product(&[], &[], json!({})).await;
    let how = json!({"code": {"redirect": BACK, "name": "JavaScript"}});
    let mut client = OAuthDriver::start_javascript().unwrap();
    whole_life(&product, &mut client, how).await;
    // A client with a secret, which it was given when it registered.
    let how = json!({"code": {"redirect": BACK, "method": "client_secret_basic"}});
    let mut browser = signed_in(&product).await;
    let open = json!({"do": "session", "url": product.url("main"), "how": how});
    let opened = client.ask_with(&mut browser, open).await.unwrap();
    renewed(&mut client, &mut browser, access(&opened)).await;
    client.ask(json!({"do": "end"})).await.unwrap();
    // And an agent by itself.
    let how = json!({"secret": {"id": "ci-secret", "secret": SECRET}});
    let opened = client.ask(json!({"do": "session", "url": product.url("main"), "how": how})).await.unwrap();
    let answer = client.ask(call()).await.unwrap();
    assert_eq!(answer["error"], false, "{opened} {answer}");
    product.stop().await;
}

#[tokio::test]
async fn the_rust_client_renews_in_mid_session_and_comes_back_after_a_revocation() {
    let product = product(&[], &[], json!({})).await;
    let how = json!({"code": {"redirect": BACK, "name": "Rust"}});
    whole_life(&product, &mut OAuthDriver::start_rust().unwrap(), how).await;
    product.stop().await;
}

#[tokio::test]
async fn the_rust_client_swaps_an_identity_assertion_for_a_token() {
    let idp = Running::provider(0).await.unwrap();
    let resources = [
        resource("User", "erin", json!({"identities": [{"issuer": idp.url, "subject": "e-1"}]})),
        // The same name at both, so that the assertion is for the client that shows it.
        resource("OAuthClient", "portcullis-post", json!({"secret": {"env": "CLIENT_SECRET"}})),
        resource(
            "IdentityProvider",
            "corp",
            json!({"issuer": idp.url, "clientId": "x", "assertions": true, "signIn": false, "jwksUrl": format!("{}/jwks", idp.url)}),
        ),
    ];
    let product = product(&resources, &[], json!({"allowPrivateIssuers": true})).await;
    let id_token = idp.token("e-1", &["portcullis-post"], "").await.unwrap();
    let mut client = OAuthDriver::start_rust().unwrap();
    let mut exchange = async |gateway: &str| {
        let command = json!({"do": "assertion", "idp": idp.url, "idToken": id_token, "issuer": product.page(""),
            "resource": product.url(gateway), "id": "portcullis-post", "secret": SECRET});
        client.ask(command).await.map(|said| said["access_token"].as_str().unwrap().to_owned())
    };
    let first = exchange("main").await.unwrap_or_else(|e| panic!("{e}\n{}", product.log()));
    let taken = async |token: &str| {
        http::ask(&product.url("main"), Some(token), "tools/list", json!({})).await.unwrap().status.as_u16()
    };
    assert_eq!(taken(&first).await, 200);
    assert!(exchange("nowhere").await.is_err(), "for a gateway that is not there");
    // Taken back: the next one costs another assertion, and works.
    product.ask(&["token", "revoke", "--owner", "user:erin"], "").unwrap();
    assert_eq!(taken(&first).await, 401);
    assert_eq!(taken(&exchange("main").await.unwrap()).await, 200);
    product.stop().await;
}

#[tokio::test]
async fn clients_with_a_metadata_document_need_no_registration() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let document = Running::document(BACK, &ca).await.unwrap();
    let trusted = [("SSL_CERT_FILE", ca.to_str().unwrap())];
    let product = product(&[], &trusted, json!({"allowPrivateClients": true, "clientRegistration": false})).await;
    let clients = [OAuthDriver::start(), OAuthDriver::start_javascript(), OAuthDriver::start_rust()];
    for mut client in clients.map(Result::unwrap) {
        let how = json!({"code": {"redirect": BACK, "document": document.url}});
        whole_life(&product, &mut client, how).await;
    }
    product.stop().await;
}
