//! Which certificates make whom.
#![allow(clippy::unwrap_used)]

use portcullis_sdk::fake;

use super::*;

fn authenticate(config: &str, certificate: Option<fake::Certificate>) -> (Result<Outcome, Error>, fake::Identity) {
    let _host = fake::Host::new().config(config).install();
    let request = certificate.map_or_else(fake::Request::new, |c| fake::Request::new().with_certificate(c));
    let into = fake::Identity::new();
    (ClientCertificate::authenticate(request.lend(), into.lend()), into)
}

const SPIFFE: &str = r#"{"issuer": "corp-ca", "prefix": "spiffe://corp.example/", "groups": ["OU"]}"#;

#[test]
fn a_name_of_the_kind_asked_for_is_the_caller() {
    let certificate = || {
        fake::Certificate::new()
            .with_subject("CN", "ci runner")
            .with_subject("OU", "builders")
            .with_subject("OU", "night")
            .with_uri("spiffe://corp.example/ci")
            .with_dns_name("ci.corp.example")
            .with_email("ci@corp.example")
    };
    let check = |config: &str, wanted: &str| {
        let (outcome, identity) = authenticate(config, Some(certificate()));
        assert_eq!(outcome, Ok(Outcome::Accepted), "{config}");
        assert_eq!(identity.named().as_deref(), Some(wanted));
        assert_eq!(identity.expiry_ms(), Some(4_000_000_000_000));
        assert_eq!(identity.shown_as().as_deref(), Some("ci runner"));
        identity
    };
    let identity = check(SPIFFE, "external:corp-ca#spiffe://corp.example/ci");
    assert_eq!(identity.groups(), ["builders", "night"]);
    assert_eq!(identity.claimed("certificate"), Some(Value::Text("00".repeat(32))));
    check(r#"{"issuer": "a", "subject": "dns"}"#, "external:a#ci.corp.example");
    check(r#"{"issuer": "a", "subject": "email"}"#, "external:a#ci@corp.example");
    let identity = check(r#"{"issuer": "a", "subject": "CN"}"#, "external:a#ci runner");
    assert!(identity.groups().is_empty());
}

#[test]
fn what_names_nobody_is_left_to_others() {
    for certificate in [
        None,
        Some(fake::Certificate::new().with_subject("CN", "spiffe://corp.example/ci")),
        Some(fake::Certificate::new().with_uri("spiffe://other.example/ci")),
    ] {
        let (outcome, identity) = authenticate(SPIFFE, certificate);
        assert_eq!((outcome, identity.named()), (Ok(Outcome::NotMine), None));
    }
    let empty = fake::Certificate::new().with_subject("CN", "");
    assert_eq!(authenticate(r#"{"issuer": "a", "subject": "CN"}"#, Some(empty)).0, Ok(Outcome::NotMine));
}

#[test]
fn two_names_are_nobodys() {
    let two = fake::Certificate::new().with_uri("spiffe://corp.example/ci").with_uri("spiffe://corp.example/admin");
    let (outcome, identity) = authenticate(SPIFFE, Some(two));
    assert!(matches!(&outcome, Ok(Outcome::Refused(why)) if why.contains("several names (URIs)")), "{outcome:?}");
    assert_eq!(identity.named(), None);
    let again = fake::Certificate::new().with_uri("spiffe://corp.example/ci").with_uri("spiffe://corp.example/ci");
    assert_eq!(authenticate(SPIFFE, Some(again)).0, Ok(Outcome::Accepted));
    let other = fake::Certificate::new().with_uri("spiffe://corp.example/ci").with_uri("https://elsewhere.example/");
    assert_eq!(authenticate(SPIFFE, Some(other)).0, Ok(Outcome::Accepted), "one is of the kind");
}

#[test]
fn the_authority_can_be_asked_for() {
    let config = r#"{"issuer": "a", "subject": "CN", "requireIssuer": {"CN": "clients", "O": "corp"}}"#;
    let one =
        |cn: &str, o: &str| fake::Certificate::new().with_subject("CN", "ci").with_issuer("CN", cn).with_issuer("O", o);
    assert_eq!(authenticate(config, Some(one("clients", "corp"))).0, Ok(Outcome::Accepted));
    assert_eq!(authenticate(config, Some(one("servers", "corp"))).0, Ok(Outcome::NotMine));
    assert_eq!(authenticate(config, Some(one("clients, O=corp", "x"))).0, Ok(Outcome::NotMine));
}

#[test]
fn a_configuration_that_says_nothing_is_refused() {
    for (config, word) in [
        ("{}", "issuer"),
        (r#"{"issuer": ""}"#, "issuer"),
        (r#"{"issuer": "a", "subject": ""}"#, "subject"),
        (r#"{"issuer": "a", "subject": "ip"}"#, "subject"),
        (r#"{"issuer": "a", "group": "OU"}"#, "group"),
    ] {
        let certificate = fake::Certificate::new().with_subject("CN", "x").with_uri("x");
        let outcome = authenticate(config, Some(certificate)).0;
        assert!(matches!(&outcome, Err(Error::InvalidConfig(why)) if why.contains(word)), "{config}: {outcome:?}");
    }
}
