//! OAuth on both sides: our own authorization server, with what it gives out; and those of servers, with what they give to us.

use portcullis_e2e::{
    browser::Browser,
    eventually,
    granting::{Begun, begin, browse, connect, finish, save},
    http,
    oauth::{BACK, Hand, consent, member, parameter},
};
use serde_json::{Value, json};

use super::{House, others::ENVIRONMENT, pages::signed_in};

pub async fn ours(house: &House) {
    let mut browser = signed_in(house, "alice").await;
    let (base, gateway) = (house.product.page(""), house.product.url("main"));
    let hand = Hand::register(&base, &gateway).await.unwrap();
    let ask = async |fields: &[(&str, &str)]| {
        let reply = hand.token(fields).await.unwrap();
        // Tokens go to the client that asked, and nowhere else: this is where they belong.
        if reply.status != 200 {
            house.heard("the token endpoint", format!("{:?} {}", reply.headers, reply.text()));
        }
        reply
    };
    let verifier = "v".repeat(43);
    let redeem = async |code: &str, verifier: &str| {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", BACK),
            ("code_verifier", verifier),
            ("resource", &gateway),
        ];
        ask(&fields).await
    };
    let first = redeem(&code(house, &hand, &mut browser).await, &verifier).await;
    let (access, refresh) = (member(&first, "access_token"), member(&first, "refresh_token"));
    house.plant("an access token of ours", &access);
    house.plant("a refresh token of ours", &refresh);
    let called = house.call(&access, "open__echo", json!({}), &[]).await;
    assert_eq!(called.status, 200, "{}", called.text());
    let renew = [("grant_type", "refresh_token"), ("refresh_token", &*refresh)];
    let renewed = ask(&renew).await;
    for name in ["access_token", "refresh_token"] {
        house.plant("a renewed token of ours", &member(&renewed, name));
    }
    // Replayed, and what follows; used up by the wrong verifier; made up.
    ask(&renew).await;
    house.call(&access, "open__echo", json!({}), &[]).await;
    let spoilt = code(house, &hand, &mut browser).await;
    redeem(&spoilt, &house.canary("a verifier")).await;
    redeem(&spoilt, &verifier).await;
    let made_up = house.canary("a made-up code");
    redeem(&made_up, &verifier).await;
    ask(&[("grant_type", "refresh_token"), ("refresh_token", &made_up)]).await;
    let assertion = format!("eyJhbGciOiJSUzI1NiJ9.{}.x", house.canary("an assertion"));
    let jwt = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    ask(&[("grant_type", jwt), ("assertion", &assertion), ("resource", &gateway)]).await;
    ask(&[("grant_type", "client_credentials"), ("client_assertion", &assertion), ("resource", &gateway)]).await;
    for token in [&made_up, &access] {
        let reply = hand.post("/oauth/revoke", &[("client_id", &hand.client), ("token", token)]).await.unwrap();
        house.heard("the revocation endpoint", format!("{:?} {}", reply.headers, reply.text()));
    }
    // A client with a secret: the right one, a wrong one, and one that it was given.
    let right = ENVIRONMENT.iter().find(|(name, _)| *name == "CI_SECRET").unwrap().1.to_owned();
    let agent = Hand::new(&base, "ci-secret", &gateway);
    for (secret, status) in [(right, 200), (house.canary("a wrong secret of a client"), 401)] {
        let fields = [("grant_type", "client_credentials"), ("client_secret", &*secret), ("resource", &gateway)];
        let reply = agent.token(&fields).await.unwrap();
        assert_eq!(reply.status, status, "{}", reply.text());
        match status {
            200 => house.plant("an agent's token", &member(&reply, "access_token")),
            _ => house.heard("the token endpoint", reply.text()),
        }
    }
    let wanted =
        json!({"client_name": "Kept", "redirect_uris": [BACK], "token_endpoint_auth_method": "client_secret_post"});
    let reply = http::post(&format!("{base}/oauth/register"), &[], wanted.to_string()).await.unwrap();
    let registered: Value = serde_json::from_str(&reply.text()).unwrap();
    house.plant("a registered client's secret", registered["client_secret"].as_str().expect("it gets one"));
    // The consent page and a refusal at the authorization endpoint, without their addresses.
    browser.stops = vec![BACK.to_owned()];
    browser.go(&hand.authorize(&[("prompt", "consent")])).await.unwrap();
    house.heard("the consent page", browser.html.clone());
    consent(&mut browser, &hand.authorize(&[("resource", "https://elsewhere.example")])).await.unwrap();
    house.heard("the authorization endpoint", browser.html.clone());
}

async fn code(house: &House, hand: &Hand, browser: &mut Browser) -> String {
    let code = hand.code(browser).await.unwrap();
    house.plant("a code of ours", &code);
    code
}

/// Signs in at a server's authorization server: where that ended.
async fn there(house: &House, begun: &Begun) -> String {
    house.plant("a state", &parameter(&begun.url, "state").unwrap());
    let until = parameter(&begun.url, "redirect_uri").unwrap();
    let address = browse(&begun.url, "alice", &until).await.unwrap();
    house.plant("a server's code", &parameter(&address, "code").unwrap());
    address
}

pub async fn theirs(house: &House) {
    let (product, granting) = (&house.product, &house.others.granting);
    let call = async |server: &str| house.call(&house.alice, &format!("{server}__whoami"), json!({}), &[]).await.text();
    for server in ["granting", "given"] {
        let begun = begin(product, server, "user:alice").await.unwrap();
        let address = there(house, &begun).await;
        let account = finish(product, &begun, &address).await.unwrap();
        let replayed = finish(product, &begun, &address).await.unwrap_err();
        house.heard("a replayed answer", format!("{replayed:#}"));
        let saved = save(product, &begun, &account).await.unwrap();
        house.heard("the connection that was saved", saved.to_string());
        house.heard("the account", json!({"account": account["account"], "issuer": account["issuer"]}).to_string());
        let said = call(server).await;
        assert!(said.contains("alice"), "{server}: {said}");
        house.cli(&["describe", "connection", &format!("{server}-alice")], "");
    }
    // Broken, refused by the person, not taken any more, renewed no more.
    for way in ["down", "error-200", "html-200"] {
        let begun = begin(product, "granting", "user:alice").await.unwrap();
        let address = there(house, &begun).await;
        granting.set(json!({"token": way})).await.unwrap();
        let error = finish(product, &begun, &address).await.unwrap_err();
        house.heard("a token endpoint on a bad day", format!("{error:#}"));
        granting.set(json!({"token": "ok"})).await.unwrap();
    }
    let begun = begin(product, "granting", "user:alice").await.unwrap();
    let state = parameter(&begun.url, "state").unwrap();
    house.plant("a state", &state);
    let no = format!(
        "{}?state={state}&error=access_denied&iss={}",
        parameter(&begun.url, "redirect_uri").unwrap(),
        granting.issuer
    );
    house.heard("a person who says no", format!("{:#}", finish(product, &begun, &no).await.unwrap_err()));
    granting.set(json!({"notBefore": 99_999_999_999_u64})).await.unwrap();
    call("granting").await;
    granting.set(json!({"revoked": true})).await.unwrap();
    call("given").await;
    house.cli(&["doctor"], "");
    granting.set(json!({"notBefore": 0, "revoked": false})).await.unwrap();
    let again = connect(product, "granting", "user:alice", "alice").await.unwrap();
    house.heard("an account connected again", again["account"].to_string());
    // Taken back where they came from.
    let before = granting.seen().await.unwrap()["grantsRevoked"].as_u64().unwrap();
    house.cli(&["delete", "connection", "given-alice"], "");
    eventually("its tokens are taken back", || async {
        (granting.seen().await.ok()?["grantsRevoked"].as_u64()? > before).then_some(())
    })
    .await;
}
