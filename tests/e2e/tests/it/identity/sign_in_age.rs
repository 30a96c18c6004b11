//! How long an identity provider's word counts (`maxSignInAge`): of a session, and of what a client got by a sign-in; read again where
//! something is kept of it (`loginTokens`).

use portcullis_e2e::{
    browser::Browser,
    eventually, http,
    oauth::{Hand, member},
    product::resource,
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::{exchange::audited, login_tokens::House};

/// A client that somebody let in, and its refresh token of now.
struct Client {
    hand: Hand,
    refresh: String,
    access: String,
}

impl Client {
    async fn of(house: &House, browser: &mut Browser, login: &str) -> Self {
        house.sign_in(browser, login).await;
        let hand = Hand::register(&house.product.page(""), &house.product.url("main")).await.unwrap();
        let code = hand.code(browser).await.unwrap();
        let got = hand.redeem(&code).await.unwrap();
        let (refresh, access) = (member(&got, "refresh_token"), member(&got, "access_token"));
        Self { hand, refresh, access }
    }

    /// Renews its access: the error, where it is refused.
    async fn renew(&mut self) -> Result<(), String> {
        let asked = [("grant_type", "refresh_token"), ("refresh_token", self.refresh.as_str())];
        let got = self.hand.token(&asked).await.unwrap();
        if got.status != 200 {
            return Err(member(&got, "error"));
        }
        (self.refresh, self.access) = (member(&got, "refresh_token"), member(&got, "access_token"));
        Ok(())
    }

    /// Renews until that works.
    async fn renew_until_done(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        while let Err(error) = self.renew().await {
            assert!(Instant::now() < end, "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Renews until that is refused: the error.
    async fn renew_until_refused(&mut self) -> String {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Err(error) = self.renew().await {
                return error;
            }
            assert!(Instant::now() < end, "it is renewed for ever");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn team(house: &House, group: &str) -> Value {
    resource("Team", "blue", json!({"groups": [{"issuer": house.idp.url, "group": group}]}))
}

/// Signs somebody in who is let in by a team, once that is known.
async fn eventually_in(house: &House, login: &str) {
    eventually("the team is known", async || {
        let mut fresh = Browser::new();
        fresh.go(&house.product.page("/signin/with/corp?next=/healthz")).await.unwrap();
        fresh.submit("login", &[("login", login), ("password", "x")]).await.unwrap();
        if fresh.form("prompt").is_ok() {
            fresh.submit("prompt", &[]).await.unwrap();
        }
        (fresh.url == house.product.page("/healthz")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_more_the_person_signs_in_again() {
    let house = House::build(json!({})).await;
    let team = [team(&house, "group-of-carol")];
    house.provide_with(None, json!({}), &team);
    eventually_in(&house, "carol").await;
    let mut browser = Browser::new();
    let mut client = Client::of(&house, &mut browser, "carol").await;
    for _ in 0..3 {
        assert_eq!(client.renew().await, Ok(()), "a day has not passed");
    }
    // What it said of her explains her calls as well.
    let carol = format!("external:{}#carol", house.idp.url);
    let told = house.product.ask(&["explain", "main", "--as", &carol], "").unwrap();
    let step = told["steps"].as_array().unwrap().iter().find(|step| step["name"] == "groups").unwrap().clone();
    assert_eq!(step["says"], "group-of-carol", "{told}");
    assert!(step["detail"].as_str().unwrap().contains("remembered of a client's token"), "{told}");
    let granted = told["steps"].as_array().unwrap().iter().find(|step| step["says"] == "taken for granted").unwrap();
    assert!(granted["detail"].as_str().unwrap().contains("teams: blue"), "{told}");
    let page = async |browser: &mut Browser| {
        let page = browser.send("GET", &house.product.page("/"), "").await.unwrap();
        page.headers.get("location").map(|to| to.to_str().unwrap().to_owned())
    };
    assert_eq!(page(&mut browser).await, None, "and her session is open");
    // What counts is looked up at each use.
    house.provide_with(None, json!({"maxSignInAge": "1s"}), &team);
    assert_eq!(client.renew_until_refused().await, "invalid_grant");
    let to = page(&mut browser).await;
    assert!(to.as_deref().is_some_and(|to| to.contains("/signin")), "the session of that sign-in is over: {to:?}");
    // The grant is not: only that sign-in does not carry it any more.
    house.provide_with(None, json!({"maxSignInAge": "1h"}), &team);
    client.renew_until_done().await;
    house.product.stop().await;
}

#[tokio::test]
async fn where_the_provider_can_be_asked_again_its_new_word_counts() {
    let house = House::build(json!({})).await;
    let team = [team(&house, "blues")];
    house.idp.mode("groups=blues").await.unwrap();
    // Told where it is asked who somebody is, and not in the ID token.
    house.idp.mode("told=userinfo").await.unwrap();
    house.provide_with(Some(json!({})), json!({}), &team);
    eventually_in(&house, "carol").await;
    let (mut carol, mut alice) = (Browser::new(), Browser::new());
    let mut of_carol = Client::of(&house, &mut carol, "carol").await;
    let mut of_alice = Client::of(&house, &mut alice, "alice").await;
    house.provide_with(Some(json!({})), json!({"maxSignInAge": "1s"}), &team);
    // Past the age: the provider stands by it.
    let old = Instant::now() + Duration::from_secs(4);
    while Instant::now() < old {
        assert_eq!((of_carol.renew().await, of_alice.renew().await), (Ok(()), Ok(())), "{}", house.product.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let listed = http::ask(&house.product.url("main"), Some(&of_carol.access), "tools/list", json!({})).await.unwrap();
    assert_eq!(listed.status, 200);
    // Out of the group there: out of the team here, and so nobody. Whom a User names stays.
    house.idp.mode("groups=reds").await.unwrap();
    assert_eq!(of_carol.renew_until_refused().await, "invalid_grant");
    assert_eq!(of_alice.renew().await, Ok(()));
    // It does not answer: once its last word is too old, that is said to pass.
    house.idp.mode("busy").await.unwrap();
    assert_eq!(of_alice.renew_until_refused().await, "temporarily_unavailable");
    house.idp.mode("ok").await.unwrap();
    of_alice.renew_until_done().await;
    house.product.stop().await;
}

#[tokio::test]
async fn a_provider_that_refuses_what_it_gave_ends_what_it_said_at_once() {
    let house = House::build(json!({})).await;
    let (mut alice, mut bob) = (Browser::new(), Browser::new());
    let mut first = Client::of(&house, &mut alice, "alice").await;
    let mut second = Client::of(&house, &mut alice, "alice").await;
    let mut of_bob = Client::of(&house, &mut bob, "bob").await;
    let other = second.access.clone();
    let listed = async |access: &str| {
        http::ask(&house.product.url("main"), Some(access), "tools/list", json!({})).await.unwrap().status.as_u16()
    };
    let page =
        async |browser: &Browser| browser.clone().send("GET", &house.product.page("/"), "").await.unwrap().status;
    // Old enough to be asked about again at each renewal.
    house.provide_with(Some(json!({})), json!({"maxSignInAge": "1s"}), &[]);
    let old = Instant::now() + Duration::from_secs(2);
    while Instant::now() < old {
        assert_eq!((first.renew().await, of_bob.renew().await), (Ok(()), Ok(())), "{}", house.product.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Slow and down are no refusals: what it said counts for as long as it counts.
    for trouble in ["slow", "busy"] {
        house.idp.mode(trouble).await.unwrap();
        assert_eq!(first.renew_until_refused().await, "temporarily_unavailable");
        house.idp.mode("ok").await.unwrap();
        first.renew_until_done().await;
    }
    house.provide_with(Some(json!({})), json!({"maxSignInAge": "24h"}), &[]);
    eventually("the pages are open to whom they were", async || (page(&alice).await == 200).then_some(())).await;
    assert_eq!((listed(&first.access).await, listed(&other).await), (200, 200));
    house.provide_with(Some(json!({})), json!({"maxSignInAge": "1s"}), &[]);
    // Her account is taken away there: the next to ask finds out.
    house.idp.mode("disabled=alice").await.unwrap();
    assert_eq!(first.renew_until_refused().await, "invalid_grant");
    // Though a day would not have passed: all that followed from her sign-ins is over, and she signs in again.
    house.provide_with(Some(json!({})), json!({"maxSignInAge": "24h"}), &[]);
    eventually("a day counts again", async || (page(&bob).await == 200).then_some(())).await;
    assert_eq!((listed(&first.access).await, listed(&other).await), (401, 401));
    assert_eq!(second.renew().await, Err("invalid_grant".to_owned()));
    assert_ne!(page(&alice).await, 200, "her session is over");
    assert_eq!(of_bob.renew().await, Ok(()));
    assert_eq!(listed(&of_bob.access).await, 200, "nobody else's is");
    let kept = audited(&house.product);
    let why = |event: &&Value| event["kind"] == "revocation" && event["reason"] == "refused-by-provider";
    let told: Vec<_> = kept.iter().filter(why).map(|e| e["method"].as_str().unwrap()).collect();
    assert_eq!(told, ["signin", "oauth.token"], "{kept:?}");
    // Back there, she signs in anew, and everything works.
    house.idp.mode("disabled=").await.unwrap();
    let mut again = Client::of(&house, &mut Browser::new(), "alice").await;
    assert_eq!((again.renew().await, listed(&again.access).await), (Ok(()), 200));
    assert_eq!(second.renew().await, Err("invalid_grant".to_owned()), "what ended stays so");
    house.product.stop().await;
}
