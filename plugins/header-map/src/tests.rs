//! Which headers a caller gets, and what may not stand in one.

#![allow(clippy::unwrap_used)]

use portcullis_sdk::{Error, Resolver, Value, fake};
use serde_json::json;

use crate::HeaderMap;

fn ann() -> fake::Caller {
    fake::Caller::new("user:ann")
        .team("blue")
        .team("red")
        .with_claim("email", Value::from("ann@x.example"))
        .with_claim("level", Value::Number(3.0))
        .with_claim("split", Value::from("a\r\nX-Admin: 1"))
        .with_claim("crews", Value::Texts(vec!["viewers,admins".to_owned(), "night".to_owned()]))
}

fn resolve(settings: &serde_json::Value, target: fake::Target) -> (Result<(), Error>, fake::Resolution) {
    let mut target = target;
    for (name, setting) in settings.as_object().unwrap() {
        target = target.with_setting(name, setting.to_string());
    }
    let into = fake::Resolution::new();
    (HeaderMap::resolve(ann().lend(), target.lend(), into.lend()), into)
}

#[test]
fn headers_say_who_is_calling() {
    let settings = json!({"headers": {
        "X-User": {"claim": "email"},
        "X-Name": {"caller": "name", "prefix": "u-"},
        "X-Teams": {"caller": "teams", "join": ";"},
        "X-Level": {"claim": "level"},
        "X-Env": {"text": "prod"},
        "X-Phone": {"claim": "phone", "absent": "leave-out"},
    }});
    let (answer, into) = resolve(&settings, fake::Target::new("crm"));
    assert_eq!(answer, Ok(()));
    let header = |name: &str| into.header_value(name);
    assert_eq!(header("X-User").as_deref(), Some("ann@x.example"));
    assert_eq!(header("X-Name").as_deref(), Some("u-ann"));
    assert_eq!(header("X-Teams").as_deref(), Some("blue;red"));
    assert_eq!(header("X-Level").as_deref(), Some("3.0"));
    assert_eq!(header("X-Env").as_deref(), Some("prod"));
    assert_eq!(header("X-Phone"), None);
}

#[test]
fn who_lacks_a_claim_is_refused() {
    let (answer, _) = resolve(&json!({"headers": {"X-Phone": {"claim": "phone"}}}), fake::Target::new("crm"));
    assert_eq!(answer, Err(Error::denied("header-map", "user:ann has no claim phone, which \"crm\" needs")));
}

#[test]
fn nothing_ends_a_header_early() {
    let (answer, into) = resolve(&json!({"headers": {"X-A": {"claim": "split"}}}), fake::Target::new("crm"));
    assert!(matches!(answer, Err(Error::Denied(denial)) if denial.message.contains("can't stand in a header")));
    assert_eq!(into.header_value("X-A"), None);
}

#[test]
fn a_connection_is_chosen_beside_the_headers() {
    let host = || {
        fake::Host::new()
            .connection(fake::Connection::new("shared", "organization"))
            .connection(fake::Connection::new("anns", "user:ann"))
            .install()
    };
    let settings = |under: &str| json!({"under": under, "headers": {"X-Env": {"text": "prod"}}});
    let _host = host();
    let (_, into) = resolve(&settings("call-time"), fake::Target::new("crm"));
    assert_eq!((into.chosen().as_deref(), into.header_value("X-Env").as_deref()), (Some("anns"), Some("prod")));
    let (_, into) = resolve(&settings("static"), fake::Target::new("crm").naming("shared"));
    assert_eq!(into.chosen().as_deref(), Some("shared"));
    let (_, into) = resolve(&settings("static"), fake::Target::new("crm").naming("gone"));
    assert!(into.missed().is_some_and(|need| need.contains("\"gone\"")));
    let (answer, _) = resolve(&settings("static"), fake::Target::new("crm"));
    assert!(matches!(answer, Err(Error::InvalidConfig(_))));
}

#[test]
fn wrong_settings_are_named() {
    for (settings, words) in [
        (json!({}), "headers: 1 to 16"),
        (json!({"headers": {"X-A": {}}}), "exactly one of"),
        (json!({"headers": {"X-A": {"claim": "a", "text": "b"}}}), "exactly one of"),
        (json!({"headers": {"X-A": {"claims": "a"}}}), "unknown field"),
        (json!({"headers": {"X-A": {"text": "a"}}, "under": "mine"}), "setting under"),
    ] {
        let (answer, _) = resolve(&settings, fake::Target::new("crm"));
        assert!(matches!(&answer, Err(Error::InvalidConfig(why)) if why.contains(words)), "{settings}: {answer:?}");
    }
}

#[test]
fn one_value_does_not_look_like_two() {
    for join in [",", ", "] {
        let settings = json!({"headers": {"X-Crews": {"claim": "crews", "join": join}}});
        let (answer, into) = resolve(&settings, fake::Target::new("crm"));
        assert!(matches!(answer, Err(Error::Denied(denial)) if denial.message.contains("joined by")), "{join}");
        assert_eq!(into.header_value("X-Crews"), None);
    }
    let settings = json!({"headers": {"X-Crews": {"claim": "crews", "join": ";"}}});
    let (answer, into) = resolve(&settings, fake::Target::new("crm"));
    assert_eq!((answer, into.header_value("X-Crews").as_deref()), (Ok(()), Some("viewers,admins;night")));
}
