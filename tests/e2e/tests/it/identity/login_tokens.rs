//! Callers who hold a token of ours, because their client logged in here and they signed in at their identity provider: servers are
//! called in their name with what was kept of that sign-in. And everything that ends it.

use portcullis_e2e::{
    browser::Browser,
    eventually, http,
    oauth::{BACK, Hand, OAuthDriver, member},
    product::{Product, resource},
    swap::Running,
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::exchange::{left_behind, ready, settings, whoami};

const SERVER: &str = "https://server.example/mcp";
const SECRET: &str = "exchange-secret";

/// What is set up around one provider that people sign in by and that swaps their tokens.
pub(super) struct House {
    pub(super) idp: Running,
    _others: Vec<Running>,
    pub(super) product: Product,
    resources: Vec<Value>,
}

fn provider(idp: &str, login_tokens: Option<Value>) -> Value {
    let mut spec = json!({"title": "Corp", "issuer": idp, "clientId": "portcullis", "clientSecret": {"env": "EXCHANGE_SECRET"},
        "scopes": ["groups"], "groupsClaim": "groups"});
    if let Some(kept) = login_tokens {
        spec["loginTokens"] = kept;
    }
    resource("IdentityProvider", "corp", spec)
}

fn exchanged(name: &str, url: &str, settings: Value) -> Value {
    let mode = json!({"mode": "idp-exchange", "settings": settings});
    resource("McpServer", name, json!({"remote": {"url": url, "allowPrivate": true}, "credential": {"mode": mode}}))
}

impl House {
    pub(super) async fn build(login_tokens: Value) -> Self {
        let environment = [("EXCHANGE_SECRET", SECRET), ("AS_SECRET", "as-secret")];
        let product = Product::start_with(&[], &environment, json!({"allowPrivateIssuers": true})).await.unwrap();
        let idp = Running::signing_in(&product.page("/signin/callback/corp")).await.unwrap();
        let authlib = Running::authlib(&idp.url).await.unwrap();
        let whom = Running::guarded(SERVER, "authorization", &[&idp.url], None).await.unwrap();
        let second = Running::guarded(SERVER, "authorization", &[&idp.url], None).await.unwrap();
        let jagged = Running::guarded(SERVER, "authorization", &[&authlib.url], None).await.unwrap();
        let mut jag = settings(&idp.url);
        jag["flow"] = json!("id-jag");
        jag["audience"] = json!([authlib.url]);
        jag["resource"] = json!([SERVER]);
        jag["then"] = json!({
            "tokenEndpoint": format!("{}/token", authlib.url),
            "client": {"id": "gateway-at-as", "secret": "as"},
        });
        let origins = [&idp.url, &authlib.url];
        let secrets = json!({
            "idp": {"from": {"env": "EXCHANGE_SECRET"}, "origins": origins},
            "as": {"from": {"env": "AS_SECRET"}, "origins": origins},
        });
        let grants = json!({"callerToken": true, "http": origins, "httpPrivate": true, "secrets": secrets});
        let resources = vec![
            resource("User", "alice", json!({"identities": [{"issuer": idp.url, "subject": "alice"}]})),
            resource("User", "bob", json!({"identities": [{"issuer": idp.url, "subject": "bob"}]})),
            resource("Plugin", "idp-exchange", json!({"source": {"builtIn": "idp-exchange"}, "grants": grants})),
            exchanged("whom", &whom.url, settings(&idp.url)),
            exchanged("second", &second.url, settings(&idp.url)),
            exchanged("jag", &jagged.url, jag),
            resource(
                "Gateway",
                "main",
                json!({"servers": [{"server": "whom"}, {"server": "second"}, {"server": "jag"}]}),
            ),
        ];
        let house = Self { idp, _others: vec![authlib, whom, second, jagged], product, resources };
        house.provide(Some(login_tokens));
        eventually("the button is there", async || {
            let page = http::get(&house.product.page("/signin"), &[]).await.unwrap().text();
            page.contains("Sign in with Corp").then_some(())
        })
        .await;
        eventually("the gateway is there", async || {
            let reply = http::ask(&house.product.url("main"), None, "tools/list", json!({})).await.unwrap();
            (reply.status == 401).then_some(())
        })
        .await;
        house
    }

    fn provide(&self, login_tokens: Option<Value>) {
        self.provide_with(login_tokens, json!({}), &[]);
    }

    /// The provider with more in its `spec`, and more resources.
    pub(super) fn provide_with(&self, login_tokens: Option<Value>, spec: Value, resources: &[Value]) {
        let mut all = self.resources.clone();
        let mut provider = provider(&self.idp.url, login_tokens);
        provider["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        all.push(provider);
        all.extend(resources.iter().cloned());
        self.product.write("resources.yaml", &all).unwrap();
    }

    /// A browser in which somebody has signed in at the provider.
    pub(super) async fn sign_in(&self, browser: &mut Browser, login: &str) {
        browser.stops.clear();
        browser.go(&self.product.page("/signin/with/corp?next=/healthz")).await.unwrap();
        // The provider knows its own session, and asks nobody again.
        if browser.form("login").is_ok() {
            browser.submit("login", &[("login", login), ("password", "x")]).await.unwrap();
        }
        if browser.form("prompt").is_ok() {
            browser.submit("prompt", &[]).await.unwrap();
        }
        assert_eq!(browser.url, self.product.page("/healthz"), "{}", browser.html);
    }

    /// A client by hand logs in as whoever has signed in with this browser: its access token.
    async fn token(&self, browser: &mut Browser) -> String {
        let hand = Hand::register(&self.product.page(""), &self.product.url("main")).await.unwrap();
        let code = hand.code(browser).await.unwrap();
        member(&hand.redeem(&code).await.unwrap(), "access_token")
    }

    /// The official Python client logs in as whoever has signed in with this browser: its access token.
    async fn client(&self, browser: &mut Browser) -> String {
        let mut client = OAuthDriver::start().unwrap();
        let how = json!({"code": {"redirect": BACK}});
        let open = json!({"do": "session", "url": self.product.url("main"), "how": how});
        let opened = client.ask_with(browser, open).await;
        let opened = opened.unwrap_or_else(|e| panic!("{e}\n{}", self.product.log()));
        let called = client.ask(json!({"do": "call", "tool": "whom__whoami"})).await.unwrap();
        assert_eq!(called["error"], false, "{called}\n{}", self.product.log());
        opened["tokens"]["access_token"].as_str().unwrap().to_owned()
    }

    async fn asked(&self, grant: &str) -> usize {
        self.idp.asked().await.unwrap().iter().filter(|a| a["grant"].as_str().unwrap().ends_with(grant)).count()
    }
}

#[tokio::test]
async fn who_logged_in_here_reaches_servers_as_who_they_are_at_their_provider() {
    let mut house = House::build(json!({})).await;
    let (mut alice, mut bob) = (Browser::new(), Browser::new());
    house.sign_in(&mut alice, "alice").await;
    house.sign_in(&mut bob, "bob").await;
    let token = house.client(&mut alice).await;
    let other = house.client(&mut bob).await;
    let seen = ready(&house.product, &token, "whom").await;
    assert_eq!((&seen["sub"], &seen["act"]["sub"]), (&json!("alice"), &json!("portcullis")));
    assert_eq!(whoami(&house.product, &other, "whom").await.unwrap()["sub"], "bob");
    // ID-JAG, to an independent authorization server.
    let seen = ready(&house.product, &token, "jag").await;
    assert_eq!((&seen["sub"], &seen["client_id"]), (&json!("alice"), &json!("gateway-at-as")));
    // Warm calls ask nobody.
    let before = house.asked("token-exchange").await;
    let calls: Vec<_> = (0..20).map(|_| whoami(&house.product, &token, "whom")).collect();
    assert!(futures_util::future::join_all(calls).await.into_iter().all(|seen| seen.unwrap()["sub"] == "alice"));
    assert_eq!(house.asked("token-exchange").await, before);
    // The first page says what is kept.
    alice.go(&house.product.page("/")).await.unwrap();
    assert!(
        alice.html.contains("A token of Corp is kept") && alice.html.contains("renewed by itself"),
        "{}",
        alice.html
    );

    // A token that an operator made for her stands for no sign-in.
    let (_, made) = house.product.token("user:alice").unwrap();
    assert_eq!(whoami(&house.product, &made, "whom").await.unwrap_err(), "credential-denied");
    // Nothing of it was written down, but sealed: and so it is there after a restart.
    let text = left_behind(&house.product).await;
    assert!(
        !text.contains("eyJ"),
        "a token was written down: {:?}",
        text.find("eyJ").map(|at| &text[at - 200..at + 60])
    );
    house.product.kill().await;
    house.product.launch().await.unwrap();
    assert_eq!(ready(&house.product, &token, "second").await["sub"], "alice");
    house.product.stop().await;
}

#[tokio::test]
async fn a_sign_in_is_renewed_once_for_all_when_somebody_needs_it() {
    let house = House::build(json!({})).await;
    // The sign-in's own token and all that it was swapped for end before anybody calls again.
    house.idp.mode("id-life=40").await.unwrap();
    house.idp.mode("life=5").await.unwrap();
    let mut alice = Browser::new();
    house.sign_in(&mut alice, "alice").await;
    let ended = Instant::now() + Duration::from_secs(36);
    let token = house.client(&mut alice).await;
    assert_eq!(house.asked("refresh_token").await, 0);
    house.idp.mode("id-life=300").await.unwrap();
    house.idp.mode("life=300").await.unwrap();
    tokio::time::sleep_until(ended).await;
    assert_eq!(house.asked("refresh_token").await, 0, "nobody is kept signed in who calls nothing");
    let calls: Vec<_> =
        (0..20).map(|n| whoami(&house.product, &token, if n % 2 == 0 { "second" } else { "jag" })).collect();
    for seen in futures_util::future::join_all(calls).await {
        assert_eq!(seen.unwrap()["sub"], "alice");
    }
    let asked = house.idp.asked().await.unwrap();
    assert_eq!(house.asked("refresh_token").await, 1, "twenty calls, one renewal: {asked:?}\n{}", house.product.log());
    house.product.stop().await;
}

#[tokio::test]
async fn signing_out_switching_off_and_the_provider_end_it_at_once() {
    let house = House::build(json!({})).await;
    let mut alice = Browser::new();
    house.sign_in(&mut alice, "alice").await;
    let token = house.client(&mut alice).await;
    let call = async || whoami(&house.product, &token, "whom").await;
    assert_eq!(call().await.unwrap()["sub"], "alice");

    // Signed out on the page: the client's own token still works, and this server can't be called with it any more.
    alice.go(&house.product.page("/")).await.unwrap();
    alice.submit("csrf", &[]).await.unwrap();
    assert!(alice.url.starts_with(&house.product.page("/signin")), "{}", alice.url);
    assert_eq!(call().await.unwrap_err(), "credential-denied", "at the very next call");
    let listed = http::ask(&house.product.url("main"), Some(&token), "tools/list", json!({})).await.unwrap();
    assert_eq!(listed.status, 200);
    // Signed in again: the client need not log in again.
    house.sign_in(&mut alice, "alice").await;
    assert_eq!(call().await.unwrap()["sub"], "alice");

    // The operator wants none kept any more.
    house.provide(None);
    eventually("none is used", async || (call().await == Err("credential-denied".to_owned())).then_some(())).await;
    house.provide(Some(json!({})));
    eventually("it was forgotten, too", async || {
        alice
            .clone()
            .send("GET", &house.product.page("/"), "")
            .await
            .unwrap()
            .text()
            .contains("No token of Corp")
            .then_some(())
    })
    .await;
    assert_eq!(call().await.unwrap_err(), "credential-denied");
    house.sign_in(&mut alice, "alice").await;
    assert_eq!(call().await.unwrap()["sub"], "alice");

    // The provider ends the sign-in: said when a new token is needed, and not before.
    house.idp.mode("id-life=3").await.unwrap();
    house.sign_in(&mut alice, "alice").await;
    let over = Instant::now() + Duration::from_secs(2);
    assert_eq!(call().await.unwrap()["sub"], "alice");
    house.idp.mode("busy").await.unwrap();
    tokio::time::sleep_until(over).await;
    let code = whoami(&house.product, &token, "second").await.unwrap_err();
    assert_eq!(code, "credential-unavailable", "a provider that is down is no refusal");
    house.idp.mode("ended").await.unwrap();
    eventually("it is over", async || {
        (whoami(&house.product, &token, "second").await == Err("credential-denied".to_owned())).then_some(())
    })
    .await;
    assert_eq!(call().await.unwrap_err(), "401", "and with it what the client got by that sign-in");
    house.product.stop().await;
}

#[tokio::test]
async fn nothing_is_kept_that_is_not_asked_for() {
    let house = House::build(json!({"refresh": false})).await;
    house.idp.mode("id-life=3").await.unwrap();
    let mut alice = Browser::new();
    house.sign_in(&mut alice, "alice").await;
    let over = Instant::now() + Duration::from_secs(2);
    let token = house.token(&mut alice).await;
    tokio::time::sleep_until(over).await;
    assert_eq!(whoami(&house.product, &token, "second").await.unwrap_err(), "credential-denied");
    assert_eq!(house.asked("refresh_token").await, 0);
    // A provider's resource that says nothing of tokens keeps none.
    house.provide(None);
    eventually("it is known that none are kept", async || {
        let page = alice.clone().send("GET", &house.product.page("/"), "").await.unwrap().text();
        (!page.contains("Your sign-in")).then_some(())
    })
    .await;
    house.sign_in(&mut alice, "alice").await;
    assert_eq!(whoami(&house.product, &token, "second").await.unwrap_err(), "credential-denied");
    let said = |spec: Value| {
        let output = house.product.cli(&["apply", "-f", "-"], &resource("IdentityProvider", "bad", spec).to_string());
        let output = output.unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    };
    let spec = |more: Value| {
        let mut spec = json!({"issuer": "https://i.example", "clientId": "c"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let text = said(spec(json!({"loginTokens": {"parameters": {"redirect_uri": "https://evil.example"}}})));
    assert!(text.contains("is set by Portcullis"), "{text}");
    assert!(said(spec(json!({"signIn": false, "loginTokens": {}}))).contains("nobody signs in"));
    house.product.stop().await;
}
