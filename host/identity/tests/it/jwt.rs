//! JWTs of an issuer on loopback: what is accepted, what is refused, and what happens while the issuer misbehaves.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_identity::{JwtOptions, JwtService};
use portcullis_model::Secret;
use portcullis_plugin::{Jwt as _, JwtError, JwtRules};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    house::eventually,
    issuer::{Issuer, Key, Mood, encode, now},
};

fn service(options: JwtOptions) -> Arc<JwtService> {
    JwtService::new(options)
}

/// Keys are fetched again at each need.
fn eager() -> JwtOptions {
    JwtOptions { refetch: Duration::ZERO, fresh: (Duration::ZERO, Duration::ZERO), ..crate::issuer::options() }
}

async fn outcome(service: &JwtService, token: &Secret, rules: &JwtRules) -> Result<String, JwtError> {
    service.verify(token, rules).await.map(|jwt| jwt.subject)
}

#[tokio::test]
async fn good_tokens_of_each_kind_are_accepted_and_remembered() {
    let issuer = Issuer::new().await;
    let keys = [Key::ec(), Key::ed(), Key::rsa()];
    let published: Vec<Value> = keys.iter().map(|k| k.jwk(k.algorithm())).collect();
    issuer.publish(&published);
    let service = service(crate::issuer::options());
    for key in &keys {
        let claims = issuer.claims();
        let token = key.token(key.algorithm(), &claims);
        for _ in 0..2 {
            let jwt = service.verify(&token, &issuer.rules()).await.unwrap();
            assert_eq!((jwt.issuer.as_str(), jwt.subject.as_str()), (issuer.url.as_str(), "1"));
            assert_eq!(jwt.expires_ms, claims["exp"].as_u64().unwrap() * 1000);
            assert_eq!(jwt.claims, claims);
        }
    }
    // A list of audiences, no key id, decimals in times.
    let claims =
        json!({"iss":issuer.url,"sub":"2","aud":["x","them"],"exp":now() as f64 + 60.5,"nbf":now() as f64 - 0.5});
    let token = keys[0].sign(&json!({"alg":"ES256"}), &claims);
    assert_eq!(outcome(&service, &token, &issuer.rules()).await, Ok("2".to_owned()));
    assert_eq!(issuer.asked(), 1, "keys are fetched once");
    let rules = JwtRules { jwks_url: Some(format!("{}/keys", issuer.url)), ..issuer.rules() };
    assert_eq!(outcome(&service, &token, &rules).await, Ok("2".to_owned()));
}

#[tokio::test]
async fn bad_tokens_are_refused_with_their_reason() {
    let issuer = Issuer::new().await;
    let (key, stranger) = (Key::rsa(), Key::rsa());
    issuer.publish(&[key.jwk("a")]);
    let service = service(crate::issuer::options());
    let rules = issuer.rules();
    let with = |name: &str, value: Value| {
        let mut claims = issuer.claims();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value;
        }
        key.token("a", &claims)
    };
    let check = async |token: &Secret, rules: &JwtRules, expected: JwtError| {
        // Twice: neither refusal nor acceptance may be remembered wrongly.
        for _ in 0..2 {
            assert_eq!(outcome(&service, token, rules).await, Err(expected.clone()));
        }
    };
    let good = key.token("a", &issuer.claims());
    assert_eq!(outcome(&service, &good, &rules).await, Ok("1".to_owned()));

    check(&with("aud", json!("somebody")), &rules, JwtError::Audience).await;
    check(&with("aud", json!([])), &rules, JwtError::Audience).await;
    check(&with("aud", Value::Null), &rules, JwtError::Audience).await;
    check(&with("iss", json!(format!("{}/", issuer.url))), &rules, JwtError::Issuer).await;
    check(&with("iss", json!([issuer.url])), &rules, JwtError::Issuer).await;
    check(&with("iss", Value::Null), &rules, JwtError::Issuer).await;
    check(&with("exp", json!(now() - 1)), &rules, JwtError::Expired).await;
    check(&with("exp", json!("tomorrow")), &rules, JwtError::Malformed).await;
    check(&with("exp", json!(-1)), &rules, JwtError::Malformed).await;
    check(&with("exp", Value::Null), &rules, JwtError::Other("the claim exp is missing".to_owned())).await;
    check(&with("nbf", json!(now() + 60)), &rules, JwtError::NotYetValid).await;
    check(&with("sub", Value::Null), &rules, JwtError::Other("the claim sub is missing".to_owned())).await;
    check(&with("sub", json!("")), &rules, JwtError::Malformed).await;

    check(&stranger.token("a", &issuer.claims()), &rules, JwtError::Signature).await;
    check(&key.token("b", &issuer.claims()), &rules, JwtError::UnknownKey).await;
    check(&good, &JwtRules { audiences: Vec::new(), ..rules.clone() }, JwtError::Audience).await;
    check(&good, &JwtRules { algorithms: vec!["ES256".into()], ..rules.clone() }, JwtError::Algorithm("RS256".into()))
        .await;
    check(&good, &JwtRules { token_type: Some("JWT".into()), ..rules.clone() }, JwtError::TokenType).await;
    let critical = key.sign(&json!({"alg":"RS256","kid":"a","crit":["exp"]}), &issuer.claims());
    assert!(matches!(outcome(&service, &critical, &rules).await, Err(JwtError::Other(_))));

    let mut text = String::from_utf8(good.expose().to_vec()).unwrap();
    let (head, signature) = text.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let mut claims = issuer.claims();
    claims["sub"] = json!("admin");
    let changed = format!("{header}.{}.{signature}", encode(&claims));
    check(&Secret::new(changed), &rules, JwtError::Signature).await;
    text.push('x');
    assert!(outcome(&service, &Secret::new(text), &rules).await.is_err());
    for garbage in ["", "x", "a.b", "a.b.c", "...", "\u{0}.\u{0}.\u{0}"] {
        check(&Secret::new(garbage), &rules, JwtError::Malformed).await;
    }
    check(&with("pad", json!("x".repeat(17 << 10))), &rules, JwtError::Malformed).await;
}

#[tokio::test]
async fn nothing_is_signed_by_nobody_or_with_a_public_key() {
    let issuer = Issuer::new().await;
    let key = Key::rsa();
    issuer.publish(&[key.jwk("a")]);
    let service = service(crate::issuer::options());
    let check = async |header: Value, signature: &[u8], algorithm: &str| {
        let token = format!("{}.{}.{}", encode(&header), encode(&issuer.claims()), URL_SAFE_NO_PAD.encode(signature));
        let found = outcome(&service, &Secret::new(token), &issuer.rules()).await;
        assert_eq!(found, Err(JwtError::Algorithm(algorithm.to_owned())));
    };
    for none in ["none", "None", "NONE", ""] {
        check(json!({"alg":none,"kid":"a"}), b"x", none).await;
    }
    // The classic: the public key, which everybody has, taken as a shared secret.
    let header = json!({"alg":"HS256","kid":"a"});
    let message = format!("{}.{}", encode(&header), encode(&issuer.claims()));
    check(header, &hmac(key.jwk("a").to_string().as_bytes(), message.as_bytes()), "HS256").await;
    // An empty signature is no compact form at all.
    let unsigned = format!("{}.{}.", encode(&json!({"alg":"none"})), encode(&issuer.claims()));
    assert_eq!(outcome(&service, &Secret::new(unsigned), &issuer.rules()).await, Err(JwtError::Malformed));
    // A key of the token's own, in its header, counts for nothing.
    let own = Key::ec();
    let token = own.sign(&json!({"alg":"ES256","kid":"own","jwk":own.jwk("own")}), &issuer.claims());
    assert_eq!(outcome(&service, &token, &issuer.rules()).await, Err(JwtError::UnknownKey));
    assert_eq!(issuer.asked(), 1, "refused tokens cost no more than one request in ten seconds");
}

/// RFC 2104 with SHA-256, for the attack above.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..32].copy_from_slice(&Sha256::digest(key));
    let pad = |with: u8| block.map(|b| b ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

#[tokio::test]
async fn keys_rotate() {
    let issuer = Issuer::new().await;
    let (old, new) = (Key::ec(), Key::ec());
    issuer.publish(&[old.jwk("old")]);
    let lazy = service(crate::issuer::options());
    let quick = service(JwtOptions { refetch: Duration::ZERO, ..crate::issuer::options() });
    let (before, after) = (old.token("old", &issuer.claims()), new.token("new", &issuer.claims()));
    for service in [&lazy, &quick] {
        assert_eq!(outcome(service, &before, &issuer.rules()).await, Ok("1".to_owned()));
    }
    issuer.publish(&[new.jwk("new"), old.jwk("old")]);
    assert_eq!(
        outcome(&quick, &after, &issuer.rules()).await,
        Ok("1".to_owned()),
        "an unknown key makes it look again"
    );
    assert_eq!(outcome(&lazy, &after, &issuer.rules()).await, Err(JwtError::UnknownKey), "but not every moment");
    assert_eq!(outcome(&lazy, &before, &issuer.rules()).await, Ok("1".to_owned()));

    // A key that is withdrawn takes its tokens with it, remembered or not.
    issuer.publish(&[new.jwk("new")]);
    let third = Key::ec().token("third", &issuer.claims());
    assert_eq!(outcome(&quick, &third, &issuer.rules()).await, Err(JwtError::UnknownKey));
    assert_eq!(outcome(&quick, &before, &issuer.rules()).await, Err(JwtError::UnknownKey));
    assert_eq!(outcome(&quick, &after, &issuer.rules()).await, Ok("1".to_owned()));
}

#[tokio::test]
async fn two_keys_of_one_name_are_both_tried() {
    let issuer = Issuer::new().await;
    let (one, two) = (Key::ed(), Key::ed());
    let mut wrong = Key::ed().jwk("a");
    wrong["alg"] = json!("RS256");
    issuer.publish(&[wrong, one.jwk("a"), two.jwk("a"), json!({"kty":"oct","kid":"a","k":"AAAA"}), json!(7)]);
    let service = service(crate::issuer::options());
    for key in [&one, &two] {
        assert_eq!(outcome(&service, &key.token("a", &issuer.claims()), &issuer.rules()).await, Ok("1".to_owned()));
    }
    let stranger = Key::ed().token("a", &issuer.claims());
    assert_eq!(outcome(&service, &stranger, &issuer.rules()).await, Err(JwtError::Signature));
}

#[tokio::test]
async fn an_issuer_that_misbehaves_is_no_issuer() {
    let key = Key::ec();
    let moods = [
        (Mood::Down, "503"),
        (Mood::Slow, "too slow"),
        (Mood::Huge, "too large"),
        (Mood::Redirect, "302"),
        (Mood::WrongIssuer, "another issuer"),
        (Mood::Garbage, "no JSON"),
        (Mood::KeysElsewhere, "only https"),
    ];
    for (mood, why) in moods {
        let issuer = Issuer::new().await;
        issuer.publish(&[key.jwk("a")]);
        issuer.be(mood);
        let timeout = Duration::from_millis(if mood == Mood::Slow { 200 } else { 5000 });
        let service = service(JwtOptions { timeout, ..crate::issuer::options() });
        let found = outcome(&service, &key.token("a", &issuer.claims()), &issuer.rules()).await;
        let Err(JwtError::Unavailable(reason)) = found else { panic!("{mood:?}: {found:?}") };
        assert!(reason.contains(why), "{mood:?}: {reason}");
    }
}

#[tokio::test]
async fn keys_outlive_an_issuer_that_is_away_for_a_while() {
    let issuer = Issuer::new().await;
    let key = Key::ec();
    issuer.publish(&[key.jwk("a")]);
    let patient = service(eager());
    let strict = service(JwtOptions { stale: Duration::ZERO, ..eager() });
    let token = |n: u32| {
        let mut claims = issuer.claims();
        claims["n"] = json!(n);
        key.token("a", &claims)
    };
    for service in [&patient, &strict] {
        // Fresh for no time at all, so the one without patience has nothing left to say.
        let _ = outcome(service, &token(1), &issuer.rules()).await;
    }
    for mood in [Mood::Down, Mood::Garbage, Mood::Huge] {
        issuer.be(mood);
        for n in [1, 2] {
            assert_eq!(outcome(&patient, &token(n), &issuer.rules()).await, Ok("1".to_owned()), "{mood:?}");
            let found = outcome(&strict, &token(n), &issuer.rules()).await;
            assert!(matches!(found, Err(JwtError::Unavailable(_))), "{mood:?}: {found:?}");
        }
    }
    // It comes back with other keys, and the old ones are gone.
    issuer.publish(&[Key::ec().jwk("a")]);
    issuer.be(Mood::Good);
    eventually("the new keys are known", || async {
        outcome(&patient, &token(1), &issuer.rules()).await == Err(JwtError::Signature)
    })
    .await;
}

#[tokio::test]
async fn many_who_wait_make_one_request() {
    let issuer = Issuer::new().await;
    let key = Key::ec();
    issuer.publish(&[key.jwk("a")]);
    let service = service(crate::issuer::options());
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..50 {
        let (service, rules) = (Arc::clone(&service), issuer.rules());
        let mut claims = issuer.claims();
        claims["n"] = json!(n);
        let token = key.token("a", &claims);
        waiting.spawn(async move { service.verify(&token, &rules).await.is_ok() });
    }
    assert!(waiting.join_all().await.into_iter().all(|ok| ok));
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn who_hangs_up_takes_no_keys_along() {
    let issuer = Issuer::new().await;
    let key = Key::ec();
    issuer.publish(&[key.jwk("a")]);
    let service = service(crate::issuer::options());
    let (token, rules) = (key.token("a", &issuer.claims()), issuer.rules());
    {
        let mut first = std::pin::pin!(service.verify(&token, &rules));
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(first.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "the keys are on their way");
    }
    assert_eq!(outcome(&service, &token, &rules).await, Ok("1".to_owned()));
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn requests_go_only_where_they_may() {
    let issuer = Issuer::new().await;
    let key = Key::ec();
    issuer.publish(&[key.jwk("a")]);
    let check = async |issuer_url: &str, jwks_url: Option<String>, why: &str| {
        let service = service(crate::issuer::options());
        let rules = JwtRules { issuer: issuer_url.to_owned(), jwks_url, ..issuer.rules() };
        let mut claims = issuer.claims();
        claims["iss"] = json!(issuer_url);
        let found = outcome(&service, &key.token("a", &claims), &rules).await;
        let Err(JwtError::Unavailable(reason)) = found else { panic!("{issuer_url}: {found:?}") };
        assert!(reason.contains(why), "{issuer_url}: {reason}");
    };
    check("https://idp.example.com", Some(format!("{}/keys", issuer.url)), "loopback").await;
    check("https://10.0.0.1", None, "public internet").await;
    check("https://[::ffff:169.254.169.254]", None, "public internet").await;
    check("http://idp.example.com", None, "only https").await;
    check("not a url", None, "no URL").await;
    check("https://idp.example.com", Some("file:///etc/passwd".to_owned()), "only https").await;
    assert_eq!(issuer.asked(), 0);
}
