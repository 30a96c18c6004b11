//! Which tokens are whose, and what becomes of their claims.

#![allow(clippy::unwrap_used)]

use portcullis_sdk::{Error, JwtError, Outcome, Provider, Value, fake};

use crate::Jwks;

const IDP: &str = "https://idp.example";

const CONFIG: &str = r#"{"issuers": [
    {"issuer": "https://other.example", "audience": ["x"]},
    {"issuer": "https://idp.example", "audience": ["https://gw.example", "gw"], "tokenType": "at+jwt",
     "claims": {"groups": "/realm/groups", "displayName": "name", "keep": ["email", "https://idp.example/dept"]},
     "requireClaims": {"/verified": true, "scope": "mcp", "level": 2}}
]}"#;

const CLAIMS: &str = r#"{"sub": "248", "aud": "gw", "exp": 2000, "name": "Ann", "realm": {"groups": ["dev", "ops"]}, "email": "a@b.example",
    "https://idp.example/dept": "r&d", "verified": true, "scope": ["read", "mcp"], "level": 2, "phone": "1"}"#;

fn claims(change: impl FnOnce(&mut serde_json::Value)) -> serde_json::Value {
    let mut claims = serde_json::from_str(CLAIMS).unwrap();
    change(&mut claims);
    claims
}

fn run(config: &str, token: Option<fake::SignedToken>) -> (Result<Outcome, Error>, fake::Identity) {
    let request = fake::Request::new().with_bearer("T");
    let host = fake::Host::new().config(config);
    let _host = token.into_iter().fold(host, |host, token| host.signed("T", token)).install();
    let into = fake::Identity::new();
    (Jwks::authenticate(request.lend(), into.lend()), into)
}

#[track_caller]
fn refused(token: fake::SignedToken, word: &str) {
    let (outcome, identity) = run(CONFIG, Some(token));
    let Ok(Outcome::Challenge { parameters, message }) = outcome else { panic!("{outcome:?}") };
    assert!(parameters.starts_with("error=\"invalid_token\", error_description=\""), "{parameters}");
    assert!(message.contains(word), "{message}");
    assert_eq!(identity.named(), None, "a refused token names nobody");
}

#[test]
fn a_good_token_names_somebody() {
    let (outcome, identity) = run(CONFIG, Some(fake::SignedToken::new(IDP, CLAIMS)));
    assert_eq!(outcome, Ok(Outcome::Accepted));
    assert_eq!(identity.named().as_deref(), Some("external:https://idp.example#248"));
    assert_eq!(identity.groups(), ["dev", "ops"]);
    assert_eq!(identity.roles(), Vec::<String>::new());
    assert_eq!(identity.shown_as().as_deref(), Some("Ann"));
    assert_eq!(identity.claimed("email"), Some(Value::from("a@b.example")));
    assert_eq!(identity.claimed("https://idp.example/dept"), Some(Value::from("r&d")));
    assert_eq!(identity.claimed("phone"), None, "only what is kept");
    assert_eq!(identity.expiry_ms(), Some(2_000_000));
}

#[test]
fn several_issuers_are_read_each_by_its_own_claims() {
    const TWO: &str = r#"{"issuers": [
        {"issuer": "https://one.example", "audience": ["gw"],
         "claims": {"subject": "oid", "email": "mail", "roles": {"claim": "/app/roles", "map": {"Gateway.Admin": "admin", "Gateway.Op": "operator"}}}},
        {"issuer": "https://two.example", "audience": ["gw"], "claims": {"groups": "/realm/groups"}}]}"#;
    let claims = |more: serde_json::Value| {
        let mut all = serde_json::json!({"sub": "s", "oid": "o-1", "aud": "gw", "exp": 2000, "mail": "a@b.example", "groups": ["g"],
            "app": {"roles": ["Gateway.Admin", "Other"]}, "realm": {"groups": ["r"]}});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let named = |issuer: &str, more: serde_json::Value| {
        let (outcome, identity) = run(TWO, Some(fake::SignedToken::new(issuer, claims(more))));
        assert_eq!(outcome, Ok(Outcome::Accepted));
        identity
    };
    let one = named("https://one.example", serde_json::json!({}));
    assert_eq!(one.named().as_deref(), Some("external:https://one.example#o-1"));
    assert_eq!((one.roles(), one.groups()), (vec!["admin".to_owned()], vec!["g".to_owned()]));
    assert_eq!(one.claimed("email"), Some(Value::from("a@b.example")));
    let unverified = named("https://one.example", serde_json::json!({"email_verified": false}));
    assert_eq!(unverified.claimed("email"), None, "nobody verified it");
    let two = named("https://two.example", serde_json::json!({}));
    assert_eq!(two.named().as_deref(), Some("external:https://two.example#s"));
    assert_eq!((two.roles(), two.groups()), (Vec::<String>::new(), vec!["r".to_owned()]), "the other issuer's rules");
    for (more, word) in [
        (serde_json::json!({"oid": null}), "no subject"),
        (serde_json::json!({"oid": 7}), "no subject"),
        (serde_json::json!({"app": {"roles": {"admin": true}}}), "roles"),
    ] {
        let (outcome, _) = run(TWO, Some(fake::SignedToken::new("https://one.example", claims(more))));
        assert!(matches!(&outcome, Ok(Outcome::Challenge { message, .. }) if message.contains(word)), "{outcome:?}");
    }
}

#[test]
fn what_no_issuer_here_signed_is_left_to_others() {
    assert_eq!(run(CONFIG, None).0, Ok(Outcome::NotMine));
    assert_eq!(run(CONFIG, Some(fake::SignedToken::new("https://evil.example", CLAIMS))).0, Ok(Outcome::NotMine));
    assert_eq!(run(CONFIG, Some(fake::SignedToken::new("https://idp.example/", CLAIMS))).0, Ok(Outcome::NotMine));
    let _host = fake::Host::new().config(CONFIG).install();
    let into = fake::Identity::new();
    assert_eq!(Jwks::authenticate(fake::Request::new().lend(), into.lend()), Ok(Outcome::NotMine));
}

#[test]
fn a_broken_token_is_challenged() {
    let token = || fake::SignedToken::new(IDP, CLAIMS);
    refused(token().algorithm("none"), "none");
    refused(token().algorithm("HS256"), "HS256");
    refused(token().token_type("JWT"), "another type");
    refused(token().broken(JwtError::Signature), "signature");
    refused(token().broken(JwtError::UnknownKey), "does not publish");
    refused(token().broken(JwtError::Expired), "sign in again");
    refused(token().broken(JwtError::NotYetValid), "clocks");
    refused(fake::SignedToken::new(IDP, claims(|c| c["aud"] = "elsewhere".into())), "another audience");
}

#[test]
fn keys_that_cannot_be_had_are_a_fault() {
    let token = fake::SignedToken::new(IDP, CLAIMS).broken(JwtError::Unavailable("dns".into()));
    assert_eq!(run(CONFIG, Some(token)).0, Err(Error::Unavailable("dns".into())));
}

#[test]
fn claims_that_do_not_fit_are_challenged() {
    let token = |change: fn(&mut serde_json::Value)| fake::SignedToken::new(IDP, claims(change));
    refused(token(|c| c["verified"] = false.into()), "/verified");
    refused(token(|c| c["scope"] = "other".into()), "scope");
    refused(token(|c| c["level"] = 1.into()), "level");
    refused(token(|c| c["sub"] = "".into()), "no subject");
    refused(token(|c| c["realm"]["groups"] = serde_json::json!(["dev", 1])), "groups");
    refused(token(|c| c["realm"]["groups"] = serde_json::json!({"dev": true})), "groups");
}

#[test]
fn groups_may_be_one_or_none() {
    let groups = |change: fn(&mut serde_json::Value)| {
        let (outcome, identity) = run(CONFIG, Some(fake::SignedToken::new(IDP, claims(change))));
        assert_eq!(outcome, Ok(Outcome::Accepted));
        identity.groups()
    };
    assert_eq!(groups(|c| c["realm"]["groups"] = "dev".into()), ["dev"]);
    assert_eq!(groups(|c| c["realm"]["groups"] = serde_json::json!([])), Vec::<String>::new());
    assert_eq!(groups(|c| c["realm"] = serde_json::Value::Null), Vec::<String>::new());
}

#[test]
fn a_wrong_config_refuses_and_says_where() {
    for (config, place) in [
        ("{}", "issuers"),
        (r#"{"issuers": []}"#, "at least one"),
        (r#"{"issuers": [{"issuer": "i", "audience": []}]}"#, "issuers[0].audience"),
        (r#"{"issuers": [{"issuer": "i"}]}"#, "audience"),
        (r#"{"issuers": [{"issuer": "", "audience": ["a"]}]}"#, "issuers[0].issuer"),
        (r#"{"issuers": [{"issuer": "i", "audience": ["a"]}, {"issuer": "i", "audience": ["b"]}]}"#, "issuers[1]"),
        (r#"{"issuers": [{"issuer": "i", "audience": ["a"], "algorithms": ["HS256"]}]}"#, "HS256"),
        (r#"{"issuers": [{"issuer": "i", "audience": ["a"], "leewaySeconds": 301}]}"#, "300"),
        (r#"{"issuers": [{"issuer": "i", "audience": ["a"], "jwks": "x"}]}"#, "jwks"),
    ] {
        let (outcome, _) = run(config, None);
        let Err(Error::InvalidConfig(what)) = outcome else { panic!("{config}: {outcome:?}") };
        assert!(what.contains(place), "{config}: {what}");
    }
}
