//! Signing in by an identity provider: npm `oidc-provider`, and what a bad one or a thief sends.

use axum::{Json, Router, routing};
use portcullis_e2e::{
    browser::Browser,
    eventually, http,
    oauth::{parameter, serve},
    oidc::Login,
    product::{Product, resource},
};
use serde_json::{Value, json};

fn idp(issuer: &str, more: Value) -> Value {
    let mut spec = json!({"title": "Corp", "issuer": issuer, "clientId": "portcullis",
        "clientSecret": {"env": "IDP_SECRET"}, "scopes": ["profile", "groups"], "groupsClaim": "groups"});
    for (name, value) in more.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    resource("IdentityProvider", "corp", spec)
}

/// Goes to the provider and signs in there as somebody: where that ended.
async fn sign_in(product: &Product, browser: &mut Browser, login: &str) -> String {
    browser.go(&product.page("/signin/with/corp?next=/healthz")).await.unwrap();
    let mut ended = browser.submit("login", &[("login", login), ("password", "x")]).await.unwrap();
    if browser.form("prompt").is_ok() {
        ended = browser.submit("prompt", &[]).await.unwrap();
    }
    ended
}

fn session(browser: &mut Browser, product: &Product) -> Option<String> {
    browser.url = product.page("/");
    browser.cookies().get("portcullis").cloned()
}

#[tokio::test]
async fn people_sign_in_at_their_provider_and_are_who_it_says() {
    let user = |issuer: &str| resource("User", "alice", json!({"identities": [{"issuer": issuer, "subject": "a-1"}]}));
    let product =
        Product::start_with(&[resource("User", "bob", json!({}))], &[("IDP_SECRET", Login::SECRET)], json!({}))
            .await
            .unwrap();
    let corp = Login::start(&product.page("/signin/callback/corp")).await.unwrap();
    let issuer = corp.issuer.clone();
    let team = resource("Team", "blue", json!({"groups": [{"issuer": issuer, "group": "group-of-b-2"}]}));
    product.write("resources.yaml", &[idp(&issuer, json!({})), user(&issuer), team.clone()]).unwrap();
    eventually("the button is there", async || {
        let page = http::get(&product.page("/signin"), &[]).await.unwrap().text();
        page.contains("Sign in with Corp").then_some(())
    })
    .await;

    let mut alice = Browser::new();
    let ended = sign_in(&product, &mut alice, "a-1").await;
    assert_eq!(ended, product.page("/healthz"), "{}", alice.html);
    assert!(session(&mut alice, &product).is_some());
    // Somebody without a user, who belongs to a team by a group; and somebody who is nobody here.
    let mut member = Browser::new();
    sign_in(&product, &mut member, "b-2").await;
    assert!(session(&mut member, &product).is_some(), "{}", member.html);
    let mut nobody = Browser::new();
    sign_in(&product, &mut nobody, "c-3").await;
    assert_eq!((nobody.status, session(&mut nobody, &product)), (403, None), "{}", nobody.html);
    assert!(nobody.html.contains("unknown-person"));
    // Out of the team in the middle of the session.
    product.write("resources.yaml", &[idp(&issuer, json!({})), user(&issuer)]).unwrap();
    eventually("the session is over", async || {
        let page = member.clone().send("GET", &product.page("/signin"), "").await.unwrap();
        (page.status == 200).then_some(())
    })
    .await;
    // Unless the operator says that anybody may.
    product.write("resources.yaml", &[idp(&issuer, json!({"anybody": true})), user(&issuer)]).unwrap();
    eventually("strangers are let in", async || {
        let mut stranger = Browser::new();
        sign_in(&product, &mut stranger, "c-3").await;
        session(&mut stranger, &product)
    })
    .await;

    // A thief with the answer but without the browser's cookie, and the browser itself a second time.
    let mut browser = Browser::new();
    browser.stops = vec![product.page("/signin/callback/")];
    browser.go(&product.page("/signin/with/corp")).await.unwrap();
    browser.submit("login", &[("login", "a-1"), ("password", "x")]).await.unwrap();
    if browser.form("prompt").is_ok() && !browser.url.contains("/signin/callback/") {
        browser.submit("prompt", &[]).await.unwrap();
    }
    let back = browser.url.clone();
    assert!(parameter(&back, "code").is_some(), "{back}");
    let mut thief = Browser::new();
    assert_eq!(thief.send("GET", &back, "").await.unwrap().status, 403);
    // Another sign-in of the thief's own does not fit either: the victim can't be made to be the thief, nor the other way.
    thief.stops = vec![issuer.clone()];
    thief.go(&product.page("/signin/with/corp")).await.unwrap();
    assert_eq!(thief.send("GET", &back, "").await.unwrap().status, 403);
    let flow = session_cookie(&mut browser, &product);
    for place in ["/signin/callback/other", "/t/acme/signin/callback/corp"] {
        let other = back.replace("/signin/callback/corp", place);
        assert_eq!(browser.send("GET", &other, "").await.unwrap().status, 403, "another provider's place: {place}");
        browser.put_cookie(&back, "portcullis-flow", &flow);
    }
    // Another tenant's provider of the same name comes back to a place of its own.
    let mut of_acme = idp(&issuer, json!({}));
    of_acme["metadata"]["namespace"] = json!("acme");
    product.write("acme.yaml", &[of_acme]).unwrap();
    let to = eventually("acme's provider is there", async || {
        let away = Browser::new().send("GET", &product.page("/signin/with/corp?tenant=acme"), "").await.unwrap();
        away.headers.get("location").map(|to| to.to_str().unwrap().to_owned())
    })
    .await;
    assert_eq!(parameter(&to, "redirect_uri"), Some(product.page("/t/acme/signin/callback/corp")));
    browser.put_cookie(&back, "portcullis-flow", &flow);
    let mixed = format!("{back}&iss=https%3A%2F%2Fevil.example");
    let mixed = mixed.replace(&format!("&iss={}", urlencode(&issuer)), "");
    assert_eq!(browser.send("GET", &mixed, "").await.unwrap().status, 403, "another issuer's answer");
    browser.put_cookie(&back, "portcullis-flow", &flow);
    assert_eq!(browser.send("GET", &back, "").await.unwrap().status, 200);
    browser.put_cookie(&back, "portcullis-flow", &flow);
    assert_eq!(browser.send("GET", &back, "").await.unwrap().status, 403, "the state is replayed");
    product.stop().await;
}

fn session_cookie(browser: &mut Browser, product: &Product) -> String {
    browser.url = product.page("/");
    browser.cookies()["portcullis-flow"].clone()
}

fn urlencode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[tokio::test]
async fn people_of_another_tenant_come_back_to_a_place_of_its_own() {
    let product = Product::start_with(&[], &[("IDP_SECRET", Login::SECRET)], json!({})).await.unwrap();
    let corp = Login::start(&product.page("/t/acme/signin/callback/corp")).await.unwrap();
    let mut provider = idp(&corp.issuer, json!({"anybody": true}));
    provider["metadata"]["namespace"] = json!("acme");
    product.write("acme.yaml", &[provider]).unwrap();
    eventually("acme's people sign in", async || {
        let mut browser = Browser::new();
        browser.go(&product.page("/signin/with/corp?tenant=acme&next=/healthz")).await.unwrap();
        if browser.form("login").is_err() {
            return None;
        }
        let mut ended = browser.submit("login", &[("login", "z-1"), ("password", "x")]).await.unwrap();
        if browser.form("prompt").is_ok() {
            ended = browser.submit("prompt", &[]).await.unwrap();
        }
        assert_eq!(ended, product.page("/healthz"), "{}", browser.html);
        session(&mut browser, &product)
    })
    .await;
    product.stop().await;
}

#[tokio::test]
async fn a_provider_that_is_down_or_answers_nonsense_signs_nobody_in() {
    let token = routing::post(|| async { Json(json!({"error": "server_error", "id_token": null})) });
    let fake = Router::new().route("/token", token);
    let base = serve(fake.clone()).await;
    let metadata = json!({"issuer": base, "authorization_endpoint": format!("{base}/authorize"),
        "token_endpoint": format!("{base}/token"), "jwks_uri": format!("{base}/jwks")});
    let served = metadata.clone();
    // The same address can't be served twice, so the metadata of this provider is another one's at first.
    let liar = serve(
        Router::new().route("/.well-known/openid-configuration", routing::get(move || async move { Json(served) })),
    )
    .await;
    let down = "http://127.0.0.1:9";
    let product = Product::start_with(
        &[
            resource("User", "alice", json!({})),
            idp(&liar, json!({})),
            resource("IdentityProvider", "down", json!({"issuer": down, "clientId": "x"})),
        ],
        &[("IDP_SECRET", "x")],
        json!({}),
    )
    .await
    .unwrap();
    for name in ["corp", "down"] {
        let mut browser = Browser::new();
        browser.go(&product.page(&format!("/signin/with/{name}"))).await.unwrap();
        assert_eq!(browser.status, 502, "{name}: {}", browser.html);
        assert!(
            browser.html.contains("provider-unavailable") && !browser.html.contains("127.0.0.1:"),
            "{}",
            browser.html
        );
    }
    assert_eq!(http::get(&product.page("/signin/with/nobody"), &[]).await.unwrap().status, 404);
    // 200 with an error where a token should be.
    let own = std::sync::Arc::new(std::sync::Mutex::new(Value::Null));
    let shown = own.clone();
    let honest = serve(fake.route(
        "/.well-known/openid-configuration",
        routing::get(move || async move { Json(shown.lock().unwrap().clone()) }),
    ))
    .await;
    *own.lock().unwrap() = json!({"issuer": honest, "authorization_endpoint": format!("{honest}/authorize"),
        "token_endpoint": format!("{honest}/token"), "jwks_uri": format!("{honest}/jwks")});
    product.write("resources.yaml", &[idp(&honest, json!({}))]).unwrap();
    let mut browser = Browser::new();
    browser.stops = vec![format!("{honest}/authorize")];
    let url = eventually("the provider is known", async || {
        let mut fresh = browser.clone();
        let url = fresh.go(&product.page("/signin/with/corp")).await.unwrap();
        url.starts_with(&honest).then_some((url, fresh))
    })
    .await;
    let (url, mut browser) = url;
    let state = parameter(&url, "state").unwrap();
    let back =
        browser.send("GET", &product.page(&format!("/signin/callback/corp?code=x&state={state}")), "").await.unwrap();
    assert_eq!(back.status, 502, "{}", back.text());
    assert!(!back.headers.iter().any(|(n, v)| n == "set-cookie" && v.to_str().unwrap().starts_with("portcullis=")));
    product.stop().await;
}
