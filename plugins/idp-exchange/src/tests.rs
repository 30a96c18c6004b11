//! Flows, as they go out and as their answers are understood.

#![allow(clippy::unwrap_used)]

use portcullis_sdk::{Error, NextStep, OnRejected, Resolver, TokenError, fake};
use serde_json::{Value, json};

use crate::{IdpExchange, now_ms};

const IDP: &str = "https://idp.example/token";
const AS: &str = "https://as.example/token";

fn settings(change: impl FnOnce(&mut Value)) -> fake::Target {
    let mut settings = json!({
        "tokenEndpoint": IDP,
        "client": {"id": "portcullis", "secret": "idp"},
        "audience": ["github"],
        "resource": ["https://github.example/mcp"],
        "scope": "repo read",
        "parameters": {"x": "y"},
    });
    change(&mut settings);
    let all = settings.as_object().unwrap().clone();
    all.into_iter().fold(fake::Target::new("github"), |target, (name, value)| target.with_setting(&name, value))
}

fn host() -> fake::Host {
    fake::Host::new().secret("idp", "s3cret").secret("as", "other").caller_token(fake::CallerToken::new(
        "SUBJECT",
        "https://idp.example",
        &["gateway"],
    ))
}

fn good(host: fake::Host) -> fake::Host {
    host.token_answer(IDP, Ok(r#"{"access_token": "NEW", "token_type": "Bearer", "expires_in": 300}"#))
}

fn resolve(target: &fake::Target) -> (Result<(), Error>, fake::Resolution) {
    let into = fake::Resolution::new();
    (IdpExchange::resolve(fake::Caller::new("user:ann").lend(), target.lend(), into.lend()), into)
}

#[track_caller]
fn denied(result: Result<(), Error>, word: &str) {
    let Err(Error::Denied(denial)) = result else { panic!("{result:?}") };
    assert!(denial.message.contains(word) && denial.message.contains("github"), "{}", denial.message);
}

fn fields(sent: &fake::TokenSent) -> Vec<(&str, &str)> {
    sent.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn token_exchange_says_what_the_rfc_says() {
    let host = good(host()).install();
    let (result, into) = resolve(&settings(|_| {}));
    assert_eq!(result, Ok(()));
    let sent = host.token_requests();
    assert_eq!(
        fields(&sent[0]),
        [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", "SUBJECT"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", "github"),
            ("resource", "https://github.example/mcp"),
            ("scope", "repo read"),
            ("x", "y"),
        ]
    );
    assert_eq!((sent.len(), sent[0].client.as_str()), (1, "basic portcullis s3cret"));
    assert_eq!(into.header_value("authorization").as_deref(), Some("Bearer NEW"));
    let left = into.expiry_ms().unwrap() - now_ms();
    assert!((285_000..=290_000).contains(&left), "{left}");
}

#[test]
fn types_clients_and_places_are_the_operators() {
    let host = host()
        .secret("key", "PEM")
        .token_answer(IDP, Ok(r#"{"data": {"jwt": "DEEP"}, "token_type": "odd", "expires_in": 10}"#))
        .install();
    let target = settings(|s| {
        s["subjectTokenType"] = json!("id_token");
        s["requestedTokenType"] = json!("urn:example:badge");
        s["client"] = json!({"id": "p", "auth": "private-key-jwt", "key": "key", "keyId": "k1", "audience": "https://idp.example", "algorithm": "PS256"});
        s["place"] = json!({"header": "X-Badge", "field": "/data/jwt"});
    });
    let (result, into) = resolve(&target);
    assert_eq!(result, Ok(()));
    assert_eq!(into.header_value("x-badge").as_deref(), Some("DEEP"));
    let sent = &host.token_requests()[0];
    assert_eq!(sent.field("subject_token_type"), Some("urn:ietf:params:oauth:token-type:id_token"));
    assert_eq!(sent.field("requested_token_type"), Some("urn:example:badge"));
    assert_eq!(sent.client, "key p PEM");
    assert_eq!(sent.assertion["aud"], "https://idp.example");
    assert_eq!((sent.assertion["kid"].as_str(), sent.assertion["alg"].as_str()), ("k1", "PS256"));
}

#[test]
fn on_behalf_of_is_a_jwt_bearer_grant_with_a_mark() {
    let host = good(host()).install();
    let target = settings(|s| {
        s["flow"] = json!("on-behalf-of");
        s["audience"] = json!([]);
        s["resource"] = json!([]);
        s["client"]["auth"] = json!("post");
    });
    assert_eq!(resolve(&target).0, Ok(()));
    let sent = &host.token_requests()[0];
    assert_eq!(
        fields(sent),
        [
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
            ("assertion", "SUBJECT"),
            ("requested_token_use", "on_behalf_of"),
            ("scope", "repo read"),
            ("x", "y"),
        ]
    );
    assert_eq!(sent.client, "post portcullis s3cret");
}

fn jag() -> fake::Target {
    settings(|s| {
        s["flow"] = json!("id-jag");
        s["audience"] = json!(["https://as.example"]);
        s["then"] = json!({"tokenEndpoint": AS, "client": {"id": "p2", "secret": "as"}, "scope": "tools"});
    })
}

#[test]
fn id_jag_takes_both_steps() {
    let assertion = r#"{"access_token": "JAG", "token_type": "N_A", "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag"}"#;
    let at = Ok(r#"{"access_token": "AT", "token_type": "bearer", "expires_in": 60}"#);
    let host = host().token_answer(IDP, Ok(assertion)).token_answer(AS, at).install();
    let (result, into) = resolve(&jag());
    assert_eq!(result, Ok(()));
    assert_eq!(into.header_value("authorization").as_deref(), Some("Bearer AT"));
    let [first, second] = &host.token_requests()[..] else { panic!("two requests") };
    assert_eq!(first.field("requested_token_type"), Some("urn:ietf:params:oauth:token-type:id-jag"));
    assert_eq!(first.field("audience"), Some("https://as.example"));
    assert_eq!((second.endpoint.as_str(), second.client.as_str()), (AS, "basic p2 other"));
    assert_eq!(
        fields(second),
        [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", "JAG"), ("scope", "tools")]
    );
}

#[test]
fn what_is_no_id_jag_goes_nowhere() {
    for answer in [
        r#"{"access_token": "AT", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}"#,
        r#"{"access_token": "AT"}"#,
        r#"{"issued_token_type": "urn:ietf:params:oauth:token-type:id-jag"}"#,
    ] {
        let host = host().token_answer(IDP, Ok(answer)).install();
        assert!(matches!(resolve(&jag()).0, Err(Error::Upstream { .. })), "{answer}");
        assert_eq!(host.token_requests().len(), 1, "nothing was sent to the second endpoint");
    }
}

#[test]
fn only_a_callers_usable_token_is_swapped() {
    let token = || fake::CallerToken::new("SUBJECT", "https://idp.example", &["gateway"]);
    let with = |token: Option<fake::CallerToken>| {
        let host = good(fake::Host::new().secret("idp", "s3cret"));
        let host = token.into_iter().fold(host, fake::Host::caller_token).install();
        let result = resolve(&settings(|_| {})).0;
        (result, host.token_requests().len())
    };
    for (token, word) in [
        (None, "without a token"),
        (Some(fake::CallerToken::ours()), "token of this gateway"),
        (Some(token().bound()), "bound to a key"),
        (Some(token().expires_ms(1)), "expired"),
    ] {
        let (result, sent) = with(token);
        denied(result, word);
        assert_eq!(sent, 0, "{word}: nothing was sent");
    }
    assert_eq!(with(Some(token().expires_ms(u64::MAX).of_sign_in())).0, Ok(()));
}

#[test]
fn refusals_are_told_by_their_word_and_no_more() {
    let refused =
        |error: &str| TokenError::Refused { status: 400, error: error.into(), description: Some("inner words".into()) };
    let with = |error: TokenError| {
        let host = host().token_answer(IDP, Err(error)).install();
        (resolve(&settings(|_| {})).0, host.logs())
    };
    for (error, word) in [
        ("invalid_grant", "Sign in again"),
        ("invalid_request", "Sign in again"),
        ("consent_required", "consent"),
        ("access_denied", "whether you may use"),
    ] {
        let (result, logs) = with(refused(error));
        assert!(!format!("{result:?}").contains("inner words"), "{result:?}");
        denied(result, word);
        assert!(logs[0].1.contains("inner words"), "{logs:?}");
    }
    assert!(matches!(with(refused("invalid_client")).0, Err(Error::Upstream { status: Some(400), .. })));
    assert_eq!(with(TokenError::Timeout).0, Err(Error::Timeout));
    assert!(matches!(with(TokenError::Unavailable("503".into())).0, Err(Error::Unavailable(_))));
    assert!(matches!(with(TokenError::Malformed("html".into())).0, Err(Error::Upstream { status: None, .. })));
}

#[test]
fn a_malformed_redemption_is_not_the_callers() {
    let assertion = r#"{"access_token": "JAG", "token_type": "N_A", "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag"}"#;
    let refused = TokenError::Refused { status: 400, error: "invalid_request".into(), description: None };
    let _host = host().token_answer(IDP, Ok(assertion)).token_answer(AS, Err(refused)).install();
    assert!(matches!(resolve(&jag()).0, Err(Error::Upstream { status: Some(400), .. })));
}

#[test]
fn answers_without_a_usable_token_are_a_fault() {
    for answer in
        [r#"{"token_type": "Bearer"}"#, r#"{"access_token": "NEW", "token_type": "DPoP"}"#, r#"{"access_token": 7}"#]
    {
        let _host = host().token_answer(IDP, Ok(answer)).install();
        let (result, into) = resolve(&settings(|_| {}));
        assert!(matches!(result, Err(Error::Upstream { .. })), "{answer}: {result:?}");
        assert_eq!(into.header_value("authorization"), None);
    }
}

#[test]
fn lives_that_nobody_says_are_short() {
    let life = |answer: &str| {
        let _host = host().token_answer(IDP, Ok(answer)).install();
        let (result, into) = resolve(&settings(|_| {}));
        assert_eq!(result, Ok(()));
        into.expiry_ms().unwrap().saturating_sub(now_ms())
    };
    assert!(life(r#"{"access_token": "NEW"}"#) <= 60_000);
    assert!(life(r#"{"access_token": "NEW", "expires_in": 0}"#) == 0);
    assert!(life(r#"{"access_token": "NEW", "expires_in": 18446744073709551615}"#) > 1_000_000);
}

#[test]
fn a_rejected_token_is_swapped_anew() {
    let _host = good(host()).install();
    let into = fake::Resolution::new();
    let (caller, target) = (fake::Caller::new("user:ann"), settings(|_| {}));
    let next = IdpExchange::rejected(caller.lend(), target.lend(), fake::Earlier::new().lend(), into.lend());
    assert_eq!(next, Ok(NextStep::Retry));
    assert_eq!(into.header_value("authorization").as_deref(), Some("Bearer NEW"));
}

#[test]
fn wrong_settings_are_named() {
    let wrong = |change: fn(&mut Value)| {
        let _host = good(host()).install();
        match resolve(&settings(change)).0 {
            Err(Error::InvalidConfig(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    assert!(wrong(|s| s["client"] = json!({"id": "p", "secret": "nobody"})).contains("\"nobody\""));
    assert!(wrong(|s| s["client"] = json!({"id": "p", "auth": "post"})).contains("client.secret"));
    assert!(wrong(|s| s["flow"] = json!("swap")).contains("flow"));
    assert!(wrong(|s| s["flow"] = json!("id-jag")).contains("then"));
    assert!(wrong(|s| s["tokenEndpoint"] = json!("https://elsewhere.example/token")).contains("elsewhere"));
}
