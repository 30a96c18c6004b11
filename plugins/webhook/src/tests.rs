//! What callers get, and what is refused.

#![allow(clippy::unwrap_used)]

use portcullis_sdk::{Decision, Error, Setup, Value, fake, http::HttpError};

use crate::{Webhook, config::Config, decide_at, kept_for, question::Question};

const URL: &str = "https://guard.example/decide";

fn config() -> String {
    config_of("")
}

fn config_of(more: &str) -> String {
    format!(
        r#"{{"url": "{URL}", "signingSecret": "key", "tools": ["pay"], "claims": ["email", "phone"], "headers": ["X-Env"]{more}}}"#
    )
}

fn host(answer: fake::Response) -> fake::Host {
    fake::Host::new().config(config()).secret("key", "k3y").answer("POST", URL, answer)
}

fn ask(tool: &str) -> Result<Decision, Error> {
    let ann = fake::Caller::new("user:ann")
        .team("blue")
        .with_claim("email", Value::from("ann@x.example"))
        .with_header("x-env", "test");
    let call = fake::Call::new("bank", tool).with_arguments(r#"{"amount": 1.50}"#);
    decide_at(ann.lend(), call.lend(), 1_700_000_000)
}

#[test]
fn the_service_is_asked_with_everything_it_was_promised_signed() {
    let host = host(fake::Response::new(204, "")).install();
    assert_eq!(ask("pay"), Ok(Decision::Allow));
    let sent = &host.requests()[0];
    let body = std::str::from_utf8(&sent.body).unwrap();
    assert_eq!(
        body,
        r#"{"requestId":"fake-request","version":1,"hook":"tool-call","gateway":"main","server":"bank","tool":"pay","caller":{"tenant":"default","subject":"user:ann","kind":"user","teams":["blue"],"roles":[],"groups":[],"claims":{"email":"ann@x.example"}},"headers":{"x-env":"test"},"arguments":{"amount": 1.50},"argumentsSize":16}"#
    );
    assert_eq!(sent.header("portcullis-timestamp"), Some("1700000000"));
    // The fake writes down what was signed with which key.
    let signed: String = format!("hmac(1700000000.{body};k3y)").bytes().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sent.header("portcullis-signature"), Some(format!("v1={signed}").as_str()));
}

#[test]
fn tools_that_it_is_not_about_pass_unasked() {
    let host = host(fake::Response::new(403, "")).install();
    assert_eq!(ask("balance"), Ok(Decision::Allow));
    assert!(host.requests().is_empty());
}

#[test]
fn the_status_is_the_verdict() {
    for (answer, verdict) in [
        (fake::Response::new(204, ""), Ok(Decision::Allow)),
        (fake::Response::new(200, r#"{"allow": true}"#), Ok(Decision::Allow)),
        (fake::Response::new(200, r#"{"allow": false, "message": "no"}"#), Ok(Decision::deny("webhook", "no"))),
        (
            fake::Response::new(200, r#"{"allow": false, "arguments": {}}"#),
            Ok(Decision::deny("webhook", "the policy service does not allow this")),
        ),
        (
            fake::Response::new(200, r#"{"allow": true, "arguments": {"amount": 1}}"#),
            Ok(Decision::Modify(br#"{"amount":1}"#.to_vec())),
        ),
        (fake::Response::new(403, ""), Ok(Decision::deny("webhook", "the policy service does not allow this"))),
        (
            fake::Response::new(403, "<html>no</html>"),
            Ok(Decision::deny("webhook", "the policy service does not allow this")),
        ),
        (fake::Response::new(403, r#"{"message": "too much"}"#), Ok(Decision::deny("webhook", "too much"))),
    ] {
        let _host = host(answer).install();
        assert_eq!(ask("pay"), verdict);
    }
}

#[test]
fn what_is_no_verdict_lets_nothing_pass() {
    for answer in [
        fake::Response::new(500, ""),
        // What a plugin sees of any body without the grant.
        fake::Response::new(200, ""),
        fake::Response::new(200, "{}"),
        fake::Response::new(200, r#"{"arguments": {"amount": 1}}"#),
        fake::Response::new(200, r#"{"allow": "true"}"#),
        fake::Response::new(201, r#"{"allow": true}"#),
        fake::Response::new(302, ""),
        fake::Response::new(404, r#"{"allow": true}"#),
        fake::Response::new(200, "<html>sign in</html>"),
        fake::Response::new(200, r#"{"allow": true, "arguments": [1]}"#),
    ] {
        let _host = host(answer).install();
        assert!(matches!(ask("pay"), Err(Error::Upstream { .. })));
    }
    let _host =
        fake::Host::new().config(config()).secret("key", "k3y").failure("POST", URL, HttpError::Timeout).install();
    assert_eq!(ask("pay"), Err(Error::Timeout));
    let _host = fake::Host::new().config(config()).install();
    assert_eq!(ask("pay"), Err(Error::NotFound), "without its key nothing is sent");
}

#[test]
fn a_verdict_is_used_again_as_long_as_the_service_says() {
    let host = host(fake::Response::new(403, r#"{"message": "no", "cacheSeconds": 30}"#)).install();
    for _ in 0..3 {
        assert_eq!(ask("pay"), Ok(Decision::deny("webhook", "no")));
    }
    assert_eq!(host.requests().len(), 1);
    let call = fake::Call::new("bank", "pay").with_arguments(r#"{"amount": 2}"#);
    drop(decide_at(fake::Caller::new("user:ann").lend(), call.lend(), 0));
    assert_eq!(host.requests().len(), 2, "another question");
}

#[test]
fn a_verdict_is_kept_for_a_minute_at_most() {
    for (said, kept) in [
        (None, None),
        (Some(0.5), None),
        (Some(-1.0), None),
        (Some(f64::NAN), None),
        (Some(1.5), Some(1)),
        (Some(3600.0), Some(60)),
        (Some(f64::INFINITY), Some(60)),
    ] {
        assert_eq!(kept_for(said), kept, "{said:?}");
    }
}

#[test]
fn a_verdict_is_of_one_question_to_one_service() {
    let config = |text: &str| serde_json::from_str::<Config>(text).unwrap();
    let usual = config(&config_of(""));
    let key = |config: &Config, caller: fake::Caller, call: fake::Call| {
        Question::new(config, caller.lend(), call.lend()).unwrap().key(&config.url).unwrap()
    };
    let ann = || fake::Caller::new("user:ann").with_header("x-env", "test");
    let pay = || fake::Call::new("bank", "pay").with_arguments(r#"{"amount": 1}"#);
    let elsewhere = config(&config_of("").replace("guard.example", "other.example"));
    let blind = config(&config_of(r#", "arguments": false"#));
    let mut keys = vec![
        key(&usual, ann(), pay()),
        key(&elsewhere, ann(), pay()),
        key(&blind, ann(), pay()),
        key(&usual, fake::Caller::new("user:bob").with_header("x-env", "test"), pay()),
        key(&usual, ann().team("blue"), pay()),
        key(&usual, ann().in_tenant("acme"), pay()),
        key(&usual, ann().with_claim("email", Value::from("ann@x.example")), pay()),
        key(&usual, fake::Caller::new("user:ann"), pay()),
        key(&usual, ann(), pay().through("other")),
        key(&usual, ann(), fake::Call::new("bank2", "pay").with_arguments(r#"{"amount": 1}"#)),
        key(&usual, ann(), fake::Call::new("bank", "pay2").with_arguments(r#"{"amount": 1}"#)),
        key(&usual, ann(), fake::Call::new("bank", "pay").with_arguments(r#"{"amount": 2}"#)),
    ];
    assert_eq!(keys[0], key(&usual, ann(), pay()), "the same question has the same key");
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all, "and any other one has another");
    // Without the arguments their size is all that is known of them.
    let long = fake::Call::new("bank", "pay").with_arguments(r#"{"amount": 100}"#);
    assert_ne!(key(&blind, ann(), pay()), key(&blind, ann(), long));
}

#[test]
fn a_services_words_are_cut() {
    let long = format!(r#"{{"allow": false, "message": "{}"}}"#, "x".repeat(2_000));
    let _host = host(fake::Response::new(200, &long)).install();
    let Ok(Decision::Deny(denial)) = ask("pay") else { panic!("it is denied") };
    assert_eq!(denial.message.len(), 500);
}

#[test]
fn a_verdict_is_not_used_again_unless_the_service_says() {
    let host = host(fake::Response::new(200, r#"{"allow": true, "cacheSeconds": 0}"#)).install();
    drop(ask("pay"));
    drop(ask("pay"));
    assert_eq!(host.requests().len(), 2);
}

#[test]
fn wrong_configurations_are_refused_naming_the_place() {
    let names = (0..33).map(|n| format!("\"c{n}\"")).collect::<Vec<_>>().join(",");
    let many = format!(r#"{{"url": "https://a.example", "signingSecret": "k", "claims": [{names}]}}"#);
    for (config, words) in [
        (r#"{"url": "https://a.example"}"#, "signingSecret"),
        (r#"{"url": "http://a.example", "signingSecret": "k"}"#, "url: must be https"),
        (r#"{"url": "http://127.0.0.1.evil.example", "signingSecret": "k"}"#, "url: must be https"),
        (r#"{"url": "https://a.example", "signingSecret": "k", "timeoutMs": 0}"#, "timeoutMs"),
        (r#"{"url": "https://a.example", "signingSecret": "k", "timeoutMs": 10001}"#, "timeoutMs"),
        (r#"{"url": "https://a.example", "signingSecret": "k", "tools": []}"#, "tools: is empty"),
        (r#"{"url": "http://localhost.evil.example/", "signingSecret": "k"}"#, "url: must be https"),
        (many.as_str(), "claims: 32"),
    ] {
        let _host = fake::Host::new().config(config).install();
        let refused = Webhook::prepare();
        assert!(matches!(&refused, Err(Error::InvalidConfig(why)) if why.contains(words)), "{config}: {refused:?}");
    }
}
