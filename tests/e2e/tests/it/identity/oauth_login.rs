//! Clients that sign people in by OAuth, end to end: the official Python client in each of its ways, and what is refused.

use axum::{Json, Router, routing::get};
use portcullis_e2e::{
    browser::Browser,
    eventually, http,
    oauth::{BACK, Hand, OAuthDriver, consent, member, parameter, serve},
    product::{Product, resource},
};
use serde_json::{Value, json};

use super::exchange::audited;

async fn product(more: &[Value], settings: Value) -> Product {
    let mut resources = vec![
        resource("User", "alice", json!({})),
        resource("Agent", "ci", json!({})),
        resource(
            "McpServer",
            "time",
            json!({"process": {"command": portcullis_e2e::parts::binary(), "args": ["demo-server"]}}),
        ),
        resource(
            "Gateway",
            "main",
            json!({"title": "The main one", "servers": [{"server": "time"}], "oauth": {"scopes": [
                {"scope": "time:now", "servers": ["time"], "tools": ["time_now"]},
                {"scope": "time:all", "servers": ["time"], "tools": ["time_*"]},
            ]}}),
        ),
        resource("Gateway", "other", json!({"servers": [{"server": "time"}]})),
    ];
    resources.extend(more.iter().cloned());
    Product::start_with(&resources, &[("CLIENT_SECRET", "s3cret:of/ci %")], settings).await.unwrap()
}

async fn signed_in(product: &Product) -> Browser {
    let made = product.ask(&["signin", "--user", "alice"], "").unwrap();
    let mut browser = Browser::new();
    browser.go(&product.page("/signin?next=/healthz")).await.unwrap();
    browser.submit("code", &[("code", made["code"].as_str().unwrap())]).await.unwrap();
    assert!(browser.cookies().contains_key("portcullis"), "{}", browser.html);
    browser
}

/// Whether a token is taken at a gateway.
async fn works(product: &Product, gateway: &str, token: &str) -> bool {
    http::ask(&product.url(gateway), Some(token), "tools/list", json!({})).await.unwrap().status == 200
}

#[tokio::test]
async fn the_python_client_finds_its_way_in_and_a_person_says_yes_once() {
    let product = product(&[], json!({})).await;
    let mut client = OAuthDriver::start().unwrap();
    let connect = json!({"do": "connect", "url": product.url("other"), "tool": "time__time_now",
        "how": {"code": {"redirect": BACK, "name": "Python <i>"}}});
    let open = client.ask(connect).await.unwrap()["open"].as_str().unwrap().to_owned();
    assert_eq!(parameter(&open, "resource"), Some(product.url("other")));
    let mut browser = Browser::new();
    // Nobody has signed in: the way leads by the sign-in page and back.
    browser.stops = vec![BACK.to_owned()];
    browser.go(&open).await.unwrap();
    let code = product.ask(&["signin", "--user", "alice"], "").unwrap()["code"].as_str().unwrap().to_owned();
    browser.submit("code", &[("code", &code)]).await.unwrap();
    assert!(
        browser.html.contains("Python &lt;i&gt;") && browser.html.contains("registered itself"),
        "{}",
        browser.html
    );
    let back = browser.submit("decision", &[("decision", "allow")]).await.unwrap();
    assert_eq!(parameter(&back, "iss"), Some(product.page("")));
    let done = client.ask(json!({"back": back})).await.unwrap();
    assert_eq!(done["error"], false, "{done}");
    assert!(done["tools"].as_array().unwrap().iter().any(|t| t == "time__time_now"), "{done}");
    let tokens = &done["tokens"];
    assert!(
        tokens["access_token"].as_str().unwrap().starts_with("pcl_") && tokens["refresh_token"].is_string(),
        "{tokens}"
    );

    // The audit stream says who, and nothing anywhere holds a secret of it.
    let audit = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).unwrap_or_default();
    let log = product.log();
    for secret in [
        tokens["access_token"].as_str().unwrap(),
        tokens["refresh_token"].as_str().unwrap(),
        &parameter(&back, "code").unwrap(),
        &code,
    ] {
        assert!(!log.contains(secret) && !audit.contains(secret), "a secret was written down");
    }
    product.stop().await;
}

#[tokio::test]
async fn agents_come_by_secret_and_by_key_and_identity_assertions_buy_tokens() {
    let mut client = OAuthDriver::start().unwrap();
    let (pem, keys) = client.keys().await.unwrap();
    let (idp_pem, idp_keys) = client.keys().await.unwrap();
    let idp = serve(Router::new().route("/jwks", get(move || async move { Json(idp_keys) }))).await;
    let issuer = idp.as_str();
    let product = product(
        &[
            resource("OAuthClient", "ci-secret", json!({"agent": "ci", "secret": {"env": "CLIENT_SECRET"}})),
            resource("OAuthClient", "ci-key", json!({"agent": "ci", "keys": keys})),
            resource("OAuthClient", "desktop", json!({"secret": {"env": "CLIENT_SECRET"}})),
            resource("User", "erin", json!({"identities": [{"issuer": issuer, "subject": "e-1"}]})),
            resource(
                "IdentityProvider",
                "corp",
                json!({"issuer": issuer, "clientId": "x", "assertions": true,
                "signIn": false, "jwksUrl": format!("{idp}/jwks")}),
            ),
        ],
        json!({"allowPrivateIssuers": true}),
    )
    .await;
    let (url, base) = (product.url("other"), product.page(""));
    let call = |how: Value| json!({"do": "connect", "url": url, "tool": "time__time_now", "how": how});
    let secret = "s3cret:of/ci %";
    for method in ["client_secret_basic", "client_secret_post"] {
        let how = json!({"secret": {"id": "ci-secret", "secret": secret, "method": method, "issuer": base}});
        let done = client.ask(call(how)).await.unwrap_or_else(|e| panic!("{method}: {e}\n{}", product.log()));
        assert_eq!(done["error"], false, "{done}");
    }
    let done = client.ask(call(json!({"key": {"id": "ci-key", "pem": pem, "issuer": base}}))).await;
    let done = done.unwrap_or_else(|e| panic!("{e}\n{}", product.log()));
    assert_eq!(done["error"], false, "{done}");
    let wrong = json!({"secret": {"id": "ci-secret", "secret": "wrong", "issuer": base}});
    assert!(client.ask(call(wrong)).await.is_err());
    let how = json!({"assertion": {"id": "desktop", "secret": secret, "issuer": base, "pem": idp_pem,
        "claims": {"iss": issuer, "sub": "e-1"}}});
    let done = client.ask(call(how)).await.unwrap_or_else(|e| panic!("{e}\n{}", product.log()));
    assert_eq!(done["error"], false, "{done}");
    assert!(done["tokens"].get("refresh_token").is_none(), "the provider's word is needed each time: {done}");

    // By hand: everything that an assertion has to be.
    let hand = Hand::new(&base, "desktop", &url);
    let good = json!({"iss": issuer, "sub": "e-1", "aud": base, "client_id": "desktop", "resource": url});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let typ = Some("oauth-id-jag+jwt");
    let bad = [
        (typ, with("aud", json!("https://other.example")), "another audience"),
        (typ, with("client_id", json!("ci-secret")), "another client's"),
        (typ, with("iss", json!("https://evil.example")), "another issuer"),
        (typ, with("sub", json!("nobody")), "nobody here"),
        (typ, with("exp", json!(now - 3600)), "over"),
        (typ, with("iat", json!(now + 3600)), "made in the future"),
        (typ, with("exp", json!(now + 86_400)), "good for too long"),
        (typ, with("resource", json!(product.url("main"))), "another gateway"),
        (typ, with("jti", json!("")), "without a name of its own"),
        (Some("JWT"), good.clone(), "of another type"),
        (None, good.clone(), "of no type"),
    ];
    let exchange = async |assertion: &str| {
        hand.token(&[
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", assertion),
            ("client_secret", secret),
            ("resource", &url),
        ])
        .await
        .unwrap()
    };
    for (typ, claims, why) in bad {
        let assertion = client.sign(&idp_pem, typ, claims).await.unwrap();
        let reply = exchange(&assertion).await;
        assert_eq!((reply.status.as_u16(), member(&reply, "error").as_str()), (400, "invalid_grant"), "{why}");
    }
    let stranger = client.sign(&pem, typ, good.clone()).await.unwrap();
    assert_eq!(exchange(&stranger).await.status, 400, "signed by somebody else");
    // A clock that is a little ahead is forgiven; an assertion works once.
    let assertion = client.sign(&idp_pem, typ, with("iat", json!(now + 10))).await.unwrap();
    let reply = exchange(&assertion).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(works(&product, "other", &member(&reply, "access_token")).await);
    assert!(!works(&product, "main", &member(&reply, "access_token")).await, "for one gateway only");
    assert_eq!(exchange(&assertion).await.status, 400, "an assertion is replayed");
    product.stop().await;
}

#[tokio::test]
async fn a_replayed_code_or_refresh_token_ends_everything_that_it_gave() {
    let product = product(&[], json!({})).await;
    let mut browser = signed_in(&product).await;
    let hand = Hand::register(&product.page(""), &product.url("other")).await.unwrap();
    let code = hand.code(&mut browser).await.unwrap();
    let first = hand.redeem(&code).await.unwrap();
    assert_eq!(first.status, 200, "{}", first.text());
    let access = member(&first, "access_token");
    assert!(works(&product, "other", &access).await);
    assert!(!works(&product, "main", &access).await, "one gateway's token is refused at another");
    let again = hand.redeem(&code).await.unwrap();
    assert_eq!(member(&again, "error"), "invalid_grant");
    assert!(!works(&product, "other", &access).await, "what a replayed code gave is revoked");
    let refresh = member(&first, "refresh_token");
    let renew =
        async |token: &str| hand.token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await.unwrap();
    assert_eq!(renew(&refresh).await.status, 400);

    // The person was asked once: now a code comes without a question.
    let code = hand.code(&mut browser).await.unwrap();
    let first = hand.redeem(&code).await.unwrap();
    let second = renew(&member(&first, "refresh_token")).await;
    assert_eq!(second.status, 200, "{}", second.text());
    let newest = member(&second, "access_token");
    assert!(works(&product, "other", &newest).await && works(&product, "other", &member(&first, "access_token")).await);
    assert_eq!(renew(&member(&first, "refresh_token")).await.status, 400, "a refresh token is replayed");
    assert!(!works(&product, "other", &newest).await, "and the whole grant is over");
    assert_eq!(renew(&member(&second, "refresh_token")).await.status, 400);

    // Revoked by the client itself.
    let code = hand.code(&mut browser).await.unwrap();
    let third = hand.redeem(&code).await.unwrap();
    let access = member(&third, "access_token");
    let stranger = Hand::register(&product.page(""), &product.url("other")).await.unwrap();
    let shown = member(&third, "refresh_token");
    let revoke =
        async |who: &Hand| who.post("/oauth/revoke", &[("client_id", &who.client), ("token", &shown)]).await.unwrap();
    assert_eq!(revoke(&stranger).await.status, 200, "says nothing");
    assert!(works(&product, "other", &access).await, "and does nothing: it is another client's");
    assert_eq!(revoke(&hand).await.status, 200);
    assert!(!works(&product, "other", &access).await);

    // Somebody who is gone renews nothing.
    let code = hand.code(&mut browser).await.unwrap();
    let fourth = hand.redeem(&code).await.unwrap();
    let verifier_gone =
        hand.token(&[("grant_type", "authorization_code"), ("code", "x"), ("redirect_uri", BACK)]).await.unwrap();
    assert_eq!(verifier_gone.status, 400);
    product.write("resources.yaml", &[resource("Gateway", "other", json!({}))]).unwrap();
    eventually("her token ends with her", async || {
        (!works(&product, "other", &member(&fourth, "access_token")).await).then_some(())
    })
    .await;
    assert_eq!(renew(&member(&fourth, "refresh_token")).await.status, 400);
    product.stop().await;
}

/// What an auditor reads of the clients of `other`, without consents: kind, method, who, and why.
fn read(product: &Product) -> Vec<String> {
    let word = |event: &Value, name: &str| event[name].as_str().unwrap_or("-").to_owned();
    let ours = |event: &Value| word(event, "method").starts_with("oauth.") && event["kind"] != "grant";
    let line = |e: Value| {
        let [kind, method, caller, reason] = ["kind", "method", "caller", "reason"].map(|name| word(&e, name));
        assert_eq!(e["kind"] == "session", e["token"].is_string() && e["outcome"] == "ok", "{e}");
        format!("{kind} {method} {caller} {reason}")
    };
    audited(product).into_iter().filter(ours).map(line).collect()
}

#[tokio::test]
async fn what_clients_got_gave_back_and_were_refused_is_on_record() {
    let product = product(&[], json!({})).await;
    let mut browser = signed_in(&product).await;
    let hand = Hand::register(&product.page(""), &product.url("other")).await.unwrap();
    let unwanted = json!({"redirect_uris": ["http://evil.example/"]}).to_string();
    assert_eq!(http::send("POST", &product.page("/oauth/register"), &[], unwanted).await.unwrap().status, 400);
    let code = hand.code(&mut browser).await.unwrap();
    let first = hand.redeem(&code).await.unwrap();
    let renew =
        async |token: &str| hand.token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await.unwrap();
    let second = renew(&member(&first, "refresh_token")).await;
    assert_eq!(second.status, 200);
    assert_eq!(renew(&member(&first, "refresh_token")).await.status, 400, "used twice");
    assert_eq!(renew(&member(&second, "refresh_token")).await.status, 400, "and so over");
    let code = hand.code(&mut browser).await.unwrap();
    let third = hand.redeem(&code).await.unwrap();
    assert_eq!(hand.redeem(&code).await.unwrap().status, 400, "used twice");
    let code = hand.code(&mut browser).await.unwrap();
    let fourth = hand.redeem(&code).await.unwrap();
    let stranger = Hand::register(&product.page(""), &product.url("other")).await.unwrap();
    let revoke = async |who: &Hand, shown: String| {
        who.post("/oauth/revoke", &[("client_id", &who.client), ("token", &shown)]).await.unwrap().status
    };
    assert_eq!(revoke(&stranger, member(&fourth, "refresh_token")).await, 200, "it is another's, and nothing happens");
    assert_eq!(revoke(&hand, member(&fourth, "access_token")).await, 200);
    assert_eq!(revoke(&hand, member(&fourth, "refresh_token")).await, 200);
    let nobody = [("client_id", "nobody"), ("token", "x")];
    assert_eq!(hand.post("/oauth/revoke", &nobody).await.unwrap().status, 401);
    let told = [
        "registration oauth.register - -",
        "registration oauth.register - invalid_redirect_uri",
        "session oauth.token user:alice -",
        "session oauth.token user:alice -",
        "revocation oauth.token user:alice refresh-token-used-twice",
        "denial oauth.token - invalid_grant",
        "session oauth.token user:alice -",
        "revocation oauth.token user:alice code-used-twice",
        "session oauth.token user:alice -",
        "registration oauth.register - -",
        "revocation oauth.revoke user:alice -",
        "revocation oauth.revoke user:alice -",
        "denial oauth.revoke - invalid_client",
    ];
    eventually("all of it is written", async || (read(&product).len() >= told.len()).then_some(())).await;
    assert_eq!(read(&product), told);
    // By the client, at the gateway, and without what would be of use to a thief.
    let all = audited(&product);
    let ours = |e: &&Value| e["caller"] == "user:alice" && e["method"].as_str().unwrap().starts_with("oauth.");
    let of = |kind: &str| all.iter().filter(ours).find(|e| e["kind"] == kind).unwrap();
    for kind in ["session", "revocation"] {
        assert_eq!((&of(kind)["tool"], &of(kind)["gateway"]), (&json!(hand.client), &json!("other")), "{kind}");
    }
    let text = format!("{all:?}");
    for secret in [&first, &second, &third, &fourth].map(|got| member(got, "refresh_token")) {
        assert!(!text.contains(secret.split('.').next_back().unwrap()), "{text}");
    }
    product.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_told_to_nobody_but_the_right_one() {
    let known = resource("OAuthClient", "known", json!({"redirectUris": [BACK]}));
    let product = product(&[known], json!({})).await;
    let mut browser = signed_in(&product).await;
    let hand = Hand::register(&product.page(""), &product.url("main")).await.unwrap();
    let known = Hand::new(&product.page(""), "known", &product.url("main"));
    // Here, and not at the address that was asked for.
    let here = [
        ("redirect_uri", "https://evil.example/callback"),
        ("redirect_uri", "http://127.0.0.1:4999/callback/../evil"),
        ("redirect_uri", "http://127.0.0.1:4999/callback?x=1"),
        ("redirect_uri", "http://127.0.0.1.evil.example/callback"),
        ("redirect_uri", "http://localhost:4999/callback"),
        ("client_id", "dyn-AAAAAAAAAAAAAAAAAAAAAAAA"),
        ("client_id", "nobody"),
        ("resource", ""),
        ("resource", "https://elsewhere.example/mcp/main"),
        ("request", "eyJ"),
    ];
    for (name, value) in here {
        browser.stops =
            vec!["http://127.0.0.1:4999".to_owned(), "https://".to_owned(), "http://localhost:4999".to_owned()];
        let ended = browser.go(&hand.authorize(&[(name, value)])).await.unwrap();
        assert!(
            ended.starts_with(&product.page("/oauth/authorize")) && browser.status == 400,
            "{name}={value}: {ended}"
        );
    }
    // At the client, with `iss`, once it is known to be the client, and an operator knows it: who registers itself could ask wrongly on
    // purpose, and have us send people wherever it likes.
    let back = [
        ("code_challenge_method", "plain", "invalid_request"),
        ("code_challenge", "", "invalid_request"),
        ("response_type", "token", "unsupported_response_type"),
        ("prompt", "none", "consent_required"),
    ];
    for (name, value, error) in back {
        let ended = consent(&mut browser, &hand.authorize(&[(name, value)])).await.unwrap();
        assert!(
            ended.starts_with(&product.page("/oauth/authorize")) && browser.status == 400,
            "{name}={value}: {ended}"
        );
        assert!(browser.html.contains(error), "{}", browser.html);
        let ended = consent(&mut browser, &known.authorize(&[(name, value)])).await.unwrap();
        assert_eq!(parameter(&ended, "error").as_deref(), Some(error), "{name}={value}: {ended}");
        assert_eq!(parameter(&ended, "state").as_deref(), Some("st&te"));
        assert_eq!(parameter(&ended, "iss"), Some(product.page("")));
    }
    let mut stranger = Browser::new();
    let ended = consent(&mut stranger, &hand.authorize(&[("prompt", "none")])).await.unwrap();
    assert!(
        ended.starts_with(&product.page("/oauth/authorize")) && stranger.html.contains("login_required"),
        "{ended}"
    );
    let ended = consent(&mut stranger, &known.authorize(&[("prompt", "none")])).await.unwrap();
    assert_eq!(parameter(&ended, "error").as_deref(), Some("login_required"), "{ended}");
    // The port of a loopback address may differ, and nothing else.
    browser.stops = vec!["http://127.0.0.1:5000/callback".to_owned()];
    browser.go(&hand.authorize(&[("redirect_uri", "http://127.0.0.1:5000/callback")])).await.unwrap();
    assert!(browser.form("decision").is_ok(), "{}", browser.html);
    // A person who says no, on record.
    browser.stops = vec![BACK.to_owned()];
    browser.go(&hand.authorize(&[("prompt", "consent")])).await.unwrap();
    let ended = browser.submit("decision", &[("decision", "deny")]).await.unwrap();
    assert_eq!(parameter(&ended, "error").as_deref(), Some("access_denied"));
    let refused = |e: &Value| e["kind"] == "denial" && e["method"] == "oauth.authorize" && e["caller"] == "user:alice";
    eventually("her no is on record", async || audited(&product).iter().any(refused).then_some(())).await;
    // A code with another verifier, redirect URI, gateway or client is worth nothing, and used up.
    for wrong in [
        ("code_verifier", "w"),
        ("redirect_uri", "http://127.0.0.1:1/callback"),
        ("resource", ""),
        ("client_id", "nobody"),
    ] {
        let code = hand.code(&mut browser).await.unwrap();
        let verifier = "v".repeat(43);
        let (other, resource) = (product.url("other"), product.url("main"));
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", BACK),
            ("code_verifier", verifier.as_str()),
            ("resource", resource.as_str()),
        ];
        let value = if wrong.0 == "resource" { other.as_str() } else { wrong.1 };
        fields.retain(|(n, _)| *n != wrong.0);
        fields.push((wrong.0, value));
        let reply = hand.token(&fields).await.unwrap();
        assert!(matches!(reply.status.as_u16(), 400 | 401), "{wrong:?}: {}", reply.text());
    }
    let plain = http::send("POST", &product.page("/oauth/token"), &[], "{}").await.unwrap();
    assert_eq!(member(&plain, "error"), "invalid_request");
    product.stop().await;
}

#[tokio::test]
async fn a_challenge_says_where_to_go_and_all_scopes_at_once() {
    let product = product(&[], json!({})).await;
    let nobody = http::ask(&product.url("main"), None, "tools/list", json!({})).await.unwrap();
    let challenge = nobody.headers["www-authenticate"].to_str().unwrap();
    let place = product.page("/.well-known/oauth-protected-resource/mcp/main");
    assert_eq!((nobody.status.as_u16(), challenge), (401, format!("Bearer resource_metadata=\"{place}\"").as_str()));
    let metadata: Value = serde_json::from_str(&http::get(&place, &[]).await.unwrap().text()).unwrap();
    assert_eq!(metadata["resource"], product.url("main"));
    assert_eq!(metadata["authorization_servers"], json!([product.page("")]));
    assert_eq!(metadata["scopes_supported"], json!(["time:all", "time:now"]));
    assert_eq!(
        http::get(&product.page("/.well-known/oauth-protected-resource/mcp/none"), &[]).await.unwrap().status,
        404
    );
    // By another name of this machine, everything is said by that name, but for the issuer.
    let host = format!("localhost:{}", product.address.port());
    let metadata: Value = serde_json::from_str(&http::get(&place, &[("host", &host)]).await.unwrap().text()).unwrap();
    assert_eq!(metadata["resource"], format!("http://{host}/mcp/main"));
    assert_eq!(metadata["authorization_servers"], json!([product.page("")]));
    let server: Value = serde_json::from_str(
        &http::get(&product.page("/.well-known/oauth-authorization-server"), &[]).await.unwrap().text(),
    )
    .unwrap();
    assert_eq!(server["issuer"], product.page(""));
    assert_eq!(server["code_challenge_methods_supported"], json!(["S256"]));

    let mut browser = signed_in(&product).await;
    let hand = Hand::register(&product.page(""), &product.url("main")).await.unwrap();
    let code = hand.code(&mut browser).await.unwrap();
    let token = member(&hand.redeem(&code).await.unwrap(), "access_token");
    let refused = http::call(&product.url("main"), Some(&token), "time__time_now", json!({})).await.unwrap();
    assert_eq!(refused.status, 403, "{}", refused.text());
    let challenge = refused.headers["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains("error=\"insufficient_scope\"") && challenge.contains("scope=\"time:all time:now\""),
        "{challenge}"
    );
    let back = consent(&mut browser, &hand.authorize(&[("scope", "time:all time:now made-up")])).await.unwrap();
    let reply = hand.redeem(&parameter(&back, "code").unwrap()).await.unwrap();
    assert_eq!(member(&reply, "scope"), "time:all time:now");
    let done = http::call(&product.url("main"), Some(&member(&reply, "access_token")), "time__time_now", json!({}))
        .await
        .unwrap();
    assert_eq!(done.status, 200, "{}", done.text());
    // A token that an operator made is limited by no scope.
    let (_, own) = product.token("user:alice").unwrap();
    let done = http::call(&product.url("main"), Some(&own), "time__time_now", json!({})).await.unwrap();
    assert_eq!(done.status, 200, "{}", done.text());
    product.stop().await;
}
