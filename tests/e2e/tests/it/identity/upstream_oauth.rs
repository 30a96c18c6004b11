//! A server that wants OAuth: connected, called, renewed, refused, and attacked.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use portcullis_e2e::{
    eventually,
    granting::{Granting, begin, browse, connect, finish, parameter, save},
    http::{self, Reply},
    product::{Product, resource},
};
use serde_json::{Value, json};

/// A gateway in front of the server, for alice and bob.
async fn house(granting: &Granting, more: Value) -> Product {
    Product::start(&[
        resource("User", "alice", json!({})),
        resource("User", "bob", json!({})),
        granting.server("granting", more),
        resource(
            "Gateway",
            "main",
            json!({"auth": [{"plugin": "bearer-token"}], "servers": [{"server": "granting", "bareNames": true}]}),
        ),
    ])
    .await
    .unwrap()
}

async fn call(product: &Product, token: &str, tool: &str) -> Reply {
    http::call(&product.url("main"), Some(token), tool, json!({})).await.unwrap()
}

/// Whom the server saw; panics where it saw nobody.
async fn seen(product: &Product, token: &str) -> Value {
    let reply = call(product, token, "whoami").await;
    let message = reply.message();
    let text = message["result"]["content"][0]["text"].as_str().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_else(|_| panic!("{message}"))
}

/// What a call is refused with.
async fn refused(product: &Product, token: &str) -> String {
    let message = call(product, token, "whoami").await.message();
    assert_ne!(message["result"]["isError"], json!(false), "{message}");
    message.to_string()
}

#[tokio::test]
async fn an_account_is_connected_called_and_renewed_once_for_all() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting, json!({})).await;
    let (_, token) = product.token("user:alice").unwrap();
    let missing = refused(&product, &token).await;
    assert!(missing.contains("no connected account for user:alice"), "{missing}");

    // Life 12 s: it is renewed from about 9.6 s on, and is not sent any more after 11.4 s.
    granting.set(json!({"ttl": 12})).await.unwrap();
    let account = connect(&product, "granting", "user:alice", "alice").await.unwrap();
    assert_eq!(account["account"], "alice@as.example");
    assert_eq!(account["issuer"], granting.issuer);
    assert_eq!(account["renews"], true);
    let first = seen(&product, &token).await;
    assert_eq!(first["sub"], "alice");
    let before = granting.seen().await.unwrap();
    assert_eq!((&before["registrations"], &before["refreshes"]), (&json!(1), &json!(0)), "{before}");

    // Nobody calls until it has ended; then everybody at once.
    let expired = tokio::time::Instant::now() + Duration::from_secs(13);
    granting.set(json!({"ttl": 300})).await.unwrap();
    tokio::time::sleep_until(expired).await;
    let all = join_all((0..100).map(|_| seen(&product, &token))).await;
    let tokens: BTreeSet<&str> = all.iter().filter_map(|one| one["jti"].as_str()).collect();
    assert_eq!(tokens.len(), 1, "all calls run with the one new token");
    assert!(!tokens.contains(first["jti"].as_str().unwrap()));
    assert_eq!(granting.seen().await.unwrap()["refreshes"], json!(1), "100 calls, one renewal");

    // The refresh token was rotated: the second renewal needs the one that the first one brought. The server refuses the
    // token long before its end, as after a revocation.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    granting.set(json!({"notBefore": now})).await.unwrap();
    let again = join_all((0..20).map(|_| seen(&product, &token))).await;
    assert!(again.iter().all(|one| one["sub"] == "alice"));
    assert_eq!(
        granting.seen().await.unwrap()["refreshes"],
        json!(2),
        "refused calls are sent again with one new token"
    );

    // It is there after a restart, and so is the client that was registered.
    let mut product = product;
    product.kill().await;
    product.launch().await.unwrap();
    assert_eq!(seen(&product, &token).await["sub"], "alice");
    assert_eq!(granting.seen().await.unwrap()["registrations"], json!(1));
    product.stop().await;
}

#[tokio::test]
async fn a_token_is_renewed_ahead_of_its_end_without_anybody_waiting() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting, json!({})).await;
    let (_, token) = product.token("user:alice").unwrap();
    granting.set(json!({"ttl": 20})).await.unwrap();
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    // A call every so often: none of them may come too late, and one of them begins the renewal.
    let until = tokio::time::Instant::now() + Duration::from_secs(26);
    let mut tokens = BTreeSet::new();
    while tokio::time::Instant::now() < until {
        tokens.insert(seen(&product, &token).await["jti"].as_str().unwrap().to_owned());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(tokens.len(), 2, "one renewal in 26 s of a token of 20 s");
    let what = granting.seen().await.unwrap();
    assert_eq!((&what["refreshes"], &what["refused"]), (&json!(1), &json!(1)), "the server saw no old token: {what}");
    product.stop().await;
}

#[tokio::test]
async fn a_refused_renewal_asks_the_owner_and_nothing_else_does() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting, json!({})).await;
    let (_, token) = product.token("user:alice").unwrap();
    granting.set(json!({"ttl": 4})).await.unwrap();
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    assert_eq!(seen(&product, &token).await["sub"], "alice");

    // What a tool says is its own business, whatever words stand in it.
    let words = call(&product, &token, "broken").await.message().to_string();
    assert!(words.contains("please log in") && !words.contains("has to be connected again"), "{words}");

    // An authorization server that is down, slow, or talks nonsense is no refusal.
    for (mode, what) in [("down", "503"), ("html-200", "something that is no token"), ("error-200", "invalid_scope")] {
        granting.set(json!({"token": mode})).await.unwrap();
        let fault = eventually("the token has ended", || async {
            let message = call(&product, &token, "whoami").await.message().to_string();
            message.contains("could not be renewed yet").then_some(message)
        })
        .await;
        assert!(!fault.contains("has to be connected again"), "{fault}");
        // Between attempts the reason of the last one is told.
        eventually("the reason is told", || async { refused(&product, &token).await.contains(what).then_some(()) })
            .await;
    }
    granting.set(json!({"token": "ok", "ttl": 4})).await.unwrap();
    eventually("it works again by itself", || async {
        let message = call(&product, &token, "whoami").await.message().to_string();
        message.contains("alice").then_some(())
    })
    .await;

    // Revoked there: refused for good.
    let used = granting.seen().await.unwrap()["refreshes"].as_u64().unwrap();
    granting.set(json!({"revoked": true})).await.unwrap();
    let fault = eventually("the renewal is refused", || async {
        let message = call(&product, &token, "whoami").await.message().to_string();
        message.contains("has to be connected again").then_some(message)
    })
    .await;
    assert!(fault.contains("invalid_grant") && fault.contains("user:alice"), "{fault}");
    assert_eq!(granting.seen().await.unwrap()["refreshes"].as_u64().unwrap(), used);
    // It is on record, for operators and after a restart, and is not asked for again.
    let mut product = product;
    product.kill().await;
    product.launch().await.unwrap();
    let described = product.ask(&["describe", "connection", "granting-alice"], "").unwrap().to_string();
    assert!(described.contains("Reconnect"), "{described}");
    let doctor = String::from_utf8(product.cli(&["doctor", "-o", "json"], "").unwrap().stdout).unwrap();
    assert!(doctor.contains("Connect it again"), "{doctor}");
    assert!(refused(&product, &token).await.contains("has to be connected again"));

    // Connecting again mends it.
    granting.set(json!({"revoked": false, "ttl": 300})).await.unwrap();
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    assert_eq!(seen(&product, &token).await["sub"], "alice");
    product.stop().await;
}

#[tokio::test]
async fn two_people_connect_at_once_and_each_calls_as_themselves() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting, json!({})).await;
    let ((_, alice), (_, bob)) = (product.token("user:alice").unwrap(), product.token("user:bob").unwrap());
    let (one, two) = tokio::join!(
        connect(&product, "granting", "user:alice", "alice"),
        connect(&product, "granting", "user:bob", "bob")
    );
    assert_eq!(
        (&one.unwrap()["account"], &two.unwrap()["account"]),
        (&json!("alice@as.example"), &json!("bob@as.example"))
    );
    let both = join_all((0..20).map(|n| seen(&product, if n % 2 == 0 { &alice } else { &bob }))).await;
    for (n, one) in both.iter().enumerate() {
        assert_eq!(one["sub"], if n % 2 == 0 { "alice" } else { "bob" });
    }

    // Another account behind the same connection: nothing of the first one is used.
    connect(&product, "granting", "user:alice", "carol").await.unwrap();
    assert_eq!(seen(&product, &alice).await["sub"], "carol");

    // A connection that is deleted while it is in use serves nobody from then on, and its tokens are gone.
    let calls = join_all((0..10).map(|_| call(&product, &alice, "whoami")));
    let deleted = async { product.ask(&["delete", "connection", "granting-alice"], "").unwrap() };
    let (_, _) = tokio::join!(calls, deleted);
    assert!(refused(&product, &alice).await.contains("no connected account"));
    assert_eq!(seen(&product, &bob).await["sub"], "bob");
    let metrics = http::get(&product.page("/metrics"), &[]).await.unwrap().text();
    assert!(metrics.contains("portcullis_upstream_oauth_grants 1"), "{metrics}");
    product.stop().await;
}

#[tokio::test]
async fn whoever_mixes_up_replays_or_steals_gets_nothing() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting, json!({})).await;
    let back = |url: &str| parameter(url, "redirect_uri").unwrap();

    // The answer of another authorization server (RFC 9207), before its code goes anywhere.
    granting.set(json!({"iss": "https://evil.example"})).await.unwrap();
    let begun = begin(&product, "granting", "user:alice").await.unwrap();
    let address = browse(&begun.url, "alice", &back(&begun.url)).await.unwrap();
    let error = finish(&product, &begun, &address).await.unwrap_err().to_string();
    assert!(error.contains("another authorization server"), "{error}");
    assert_eq!(granting.seen().await.unwrap()["codes"], json!(0));
    granting.set(json!({"iss": ""})).await.unwrap();

    // Without the `iss` that it says it always sends.
    let begun = begin(&product, "granting", "user:alice").await.unwrap();
    let address = browse(&begun.url, "alice", &back(&begun.url)).await.unwrap();
    let cut = address.split("&iss=").next().unwrap();
    assert!(finish(&product, &begun, cut).await.is_err());

    // At another one's callback: with all that its answer should say, and an `iss` that nobody could tell from the right one.
    let begun = begin(&product, "granting", "user:alice").await.unwrap();
    let address = browse(&begun.url, "alice", &back(&begun.url)).await.unwrap();
    let own = back(&begun.url);
    let (callback, mark) = own.rsplit_once('/').unwrap();
    assert!(callback.ends_with("/oauth-client/callback") && mark.len() == 16, "{own}");
    let elsewhere = address.replace(mark, "AAAAAAAAAAAAAAAA");
    let before = granting.seen().await.unwrap()["codes"].clone();
    let error = finish(&product, &begun, &elsewhere).await.unwrap_err().to_string();
    assert!(error.contains("another authorization server"), "{error}");
    assert_eq!(granting.seen().await.unwrap()["codes"], before, "its code went nowhere");

    // The state works once, and for the browser that began.
    let begun = begin(&product, "granting", "user:alice").await.unwrap();
    let other = begin(&product, "granting", "user:bob").await.unwrap();
    let address = browse(&begun.url, "alice", &back(&begun.url)).await.unwrap();
    let account = finish(&product, &begun, &address).await.unwrap();
    let error = finish(&product, &begun, &address).await.unwrap_err().to_string();
    assert!(error.contains("oauth-state"), "a replayed state: {error}");
    assert!(save(&product, &other, &account).await.is_err(), "somebody else's account");
    assert!(
        save(&product, &begun, &account).await.is_err(),
        "the ticket was used up by whoever should not have had it"
    );
    let address = browse(&other.url, "bob", &back(&other.url)).await.unwrap();
    assert!(finish(&product, &begun, &address).await.is_err(), "another browser's answer");
    assert!(finish(&product, &other, &address).await.is_err(), "it was used up");

    // A made-up state, and a refusal by the person.
    let begun = begin(&product, "granting", "user:alice").await.unwrap();
    assert!(finish(&product, &begun, "http://x/?state=made-up&code=x").await.is_err());
    let state = parameter(&begun.url, "state").unwrap();
    let said = format!("{}?state={state}&error=access_denied&iss={}", back(&begun.url), granting.issuer);
    let error = finish(&product, &begun, &said).await.unwrap_err().to_string();
    assert!(error.contains("access_denied"), "{error}");

    // What the address holds is what the standards want.
    let url = begin(&product, "granting", "user:alice").await.unwrap().url;
    assert_eq!(parameter(&url, "code_challenge_method").as_deref(), Some("S256"));
    assert_eq!(parameter(&url, "resource").as_deref(), Some(&*granting.url));
    assert!(parameter(&url, "scope").unwrap().contains("offline_access"));

    // Nothing of it is in the log or in the audit stream.
    let log = product.log();
    let audit = std::fs::read_to_string(product.data().join("audit/audit.jsonl")).unwrap();
    for secret in [parameter(&address, "code").unwrap(), parameter(&url, "state").unwrap()] {
        assert!(!log.contains(&secret) && !audit.contains(&secret));
    }
    product.stop().await;
}

#[tokio::test]
async fn a_crash_between_renewal_and_saving_loses_no_connection() {
    for grace in [0, 60] {
        let granting = Granting::start().await.unwrap();
        let mut product = house(&granting, json!({})).await;
        let (_, token) = product.token("user:alice").unwrap();
        granting.set(json!({"ttl": 15, "grace": grace})).await.unwrap();
        connect(&product, "granting", "user:alice", "alice").await.unwrap();
        let first = seen(&product, &token).await;
        granting.set(json!({"holdRefresh": true})).await.unwrap();
        eventually("the renewal was carried out and never told", || async {
            let _ = call(&product, &token, "whoami").await;
            (granting.seen().await.unwrap()["held"] != json!(0)).then_some(())
        })
        .await;
        product.kill().await;
        granting.set(json!({"holdRefresh": false})).await.unwrap();
        product.launch().await.unwrap();
        // What was saved is what was there before; it is renewed anew.
        assert_eq!(first["sub"], "alice");
        let end = eventually("it has ended and was renewed or refused", || async {
            let message = call(&product, &token, "whoami").await.message().to_string();
            let renewed = message.contains("alice") && !message.contains(first["jti"].as_str().unwrap());
            (renewed || message.contains("has to be connected again")).then_some(message)
        })
        .await;
        if grace > 0 {
            assert!(!end.contains("has to be connected again"), "an authorization server with a grace period: {end}");
        } else {
            assert!(end.contains("has to be connected again"), "one without: {end}");
            connect(&product, "granting", "user:alice", "alice").await.unwrap();
            assert_eq!(seen(&product, &token).await["sub"], "alice");
        }
        product.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_wants_more_says_so_and_gets_it_after_a_yes() {
    let granting = Granting::start().await.unwrap();
    let product = house(&granting, json!({})).await;
    let (_, token) = product.token("user:alice").unwrap();
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    assert_eq!(seen(&product, &token).await["scope"], "tools");
    granting.set(json!({"needs": "write"})).await.unwrap();
    let fault = refused(&product, &token).await;
    assert!(fault.contains("wants more") && fault.contains("write"), "{fault}");
    let begun = begin(&product, "granting", "user:alice").await.unwrap();
    let asked = parameter(&begun.url, "scope").unwrap();
    assert!(asked.split(' ').any(|s| s == "write") && asked.split(' ').any(|s| s == "tools"), "the union: {asked}");
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    assert_eq!(seen(&product, &token).await["scope"], "tools write");

    // What was granted already is not asked for again and again.
    granting.set(json!({"needs": "never"})).await.unwrap();
    assert!(refused(&product, &token).await.contains("wants more"));
    product.stop().await;
}

#[tokio::test]
async fn a_given_client_is_used_where_it_belongs_only() {
    let granting = Granting::start().await.unwrap();
    let evil = Granting::start().await.unwrap();
    let secret = json!({"clientId": "given", "clientSecret": {"env": "GIVEN_SECRET"}});
    let resources = |server: Value| {
        vec![
            resource("User", "alice", json!({})),
            server,
            resource(
                "Gateway",
                "main",
                json!({"auth": [{"plugin": "bearer-token"}], "servers": [{"server": "granting", "bareNames": true}]}),
            ),
        ]
    };
    let environment = [("GIVEN_SECRET", "given-client-secret-of-the-operator")];
    let product = Product::start_with(&resources(granting.server("granting", secret.clone())), &environment, json!({}))
        .await
        .unwrap();
    let (_, token) = product.token("user:alice").unwrap();
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    assert_eq!(seen(&product, &token).await["sub"], "alice");
    let what = granting.seen().await.unwrap();
    assert_eq!(
        (&what["registrations"], &what["authentication"]),
        (&json!(0), &json!(["client_secret_post"])),
        "{what}"
    );

    // The server says that it belongs to another authorization server now: the secret does not go there.
    product.write("resources.yaml", &resources(evil.server("granting", secret))).unwrap();
    let error = eventually("the server was changed", || async {
        match begin(&product, "granting", "user:alice").await {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    })
    .await;
    assert!(error.contains(&evil.issuer) && error.contains(&granting.issuer), "{error}");
    assert_eq!(evil.seen().await.unwrap()["codes"], json!(0));
    // Its connection was made for the old address.
    assert!(refused(&product, &token).await.contains("suspended"));
    product.stop().await;
}

#[tokio::test]
async fn where_clients_prove_themselves_by_a_key_the_gateway_signs() {
    let granting = Granting::start_for("private_key_jwt").await.unwrap();
    let product = house(&granting, json!({})).await;
    let (_, token) = product.token("user:alice").unwrap();
    granting.set(json!({"ttl": 4})).await.unwrap();
    connect(&product, "granting", "user:alice", "alice").await.unwrap();
    let first = seen(&product, &token).await;
    assert_eq!(first["sub"], "alice");
    eventually("it is renewed, by the key again", || async {
        (seen(&product, &token).await["jti"] != first["jti"]).then_some(())
    })
    .await;
    let what = granting.seen().await.unwrap();
    let methods = what["authentication"].as_array().unwrap();
    assert!(methods.len() >= 2 && methods.iter().all(|m| m == "private_key_jwt"), "{what}");
    assert_eq!(what["registrations"], json!(1), "{what}");
    product.stop().await;
}
