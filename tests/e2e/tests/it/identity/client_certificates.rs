//! Programs that come with a certificate of their own: PyPI `mcp` over mutual TLS.

use std::{fs, path::Path, time::Instant};

use portcullis_e2e::{
    PATIENCE,
    authority::{Authority, Pair, Says},
    driver::{Driver, text},
    echo::Echo,
    eventually,
    oidc::Oidc,
    product::{Product, resource},
};
use serde_json::{Value, json};

const ISSUER: &str = "corp-ca";

/// What must be there, and who may what: `ci` is an agent of blue; whoever else is of `builders` is in red.
fn resources(echo: &Echo) -> Vec<Value> {
    let config = json!({"issuer": ISSUER, "prefix": "spiffe://corp.example/", "groups": ["OU"]});
    let plugin =
        json!({"source": {"builtIn": "client-certificate"}, "grants": {"issuers": [ISSUER]}, "config": config});
    let rule = |who: &str, tools: &[&str]| json!({"effect": "allow", "principals": [who], "tools": tools});
    let rules = [rule("agent:ci", &["echo"]), rule("team:red", &["odd"]), rule("user:alice", &["*"])];
    vec![
        resource("Plugin", "client-certificate", plugin),
        resource("Team", "blue", json!({})),
        resource("Team", "red", json!({"groups": [{"issuer": ISSUER, "group": "builders"}]})),
        resource("User", "alice", json!({})),
        resource(
            "Agent",
            "ci",
            json!({"team": "blue", "identities": [{"issuer": ISSUER, "subject": "spiffe://corp.example/ci"}]}),
        ),
        echo.open("echo", "modern"),
        resource(
            "Gateway",
            "main",
            json!({
                "auth": [{"plugin": "bearer-token"}, {"plugin": "client-certificate"}],
                "policies": [{"plugin": "tool-access", "config": {"rules": rules}}],
                "servers": [{"server": "echo"}],
            }),
        ),
    ]
}

fn url(product: &Product) -> String {
    format!("https://{}/mcp/main", product.address)
}

/// The tools that a client sees, or what it is told.
async fn seen(url: &str, token: Option<&str>, authority: &Path, own: Option<&Pair>) -> Result<Vec<String>, String> {
    let mut driver = Driver::over_tls(url, token, authority, own).await.map_err(|e| e.to_string())?;
    driver.names().await.map_err(|e| e.to_string())
}

#[tokio::test]
async fn a_certificate_says_who_a_program_is() {
    let dir = tempfile::tempdir().unwrap();
    let echo = Echo::start().await.unwrap();
    let ours = Authority::new(dir.path(), "ours").unwrap();
    let theirs = Authority::new(dir.path(), "theirs").unwrap();
    let server = ours.server("server").unwrap();
    let says = |uri: &'static [&'static str]| Says { common_name: "a program", uris: uri, ..Says::default() };
    let ci = ours.client("ci", 2, &says(&["spiffe://corp.example/ci"])).unwrap();
    let runner = Says { unit: Some("builders"), ..says(&["spiffe://corp.example/runner"]) };
    let runner = ours.client("runner", 3, &runner).unwrap();
    let nobody = ours.client("nobody", 4, &says(&["spiffe://other.example/ci"])).unwrap();
    let two = ours.client("two", 5, &says(&["spiffe://corp.example/ci", "spiffe://corp.example/runner"])).unwrap();
    let over = ours.client("over", 6, &Says { expired: true, ..says(&["spiffe://corp.example/ci"]) }).unwrap();
    let stranger = theirs.client("stranger", 2, &says(&["spiffe://corp.example/ci"])).unwrap();
    let revoked = ours.revoke("revoked.pem", &[]).unwrap();
    let clients = json!({"authorities": ours.certificate, "revoked": revoked});
    let tls = json!({"certificate": server.certificate, "key": server.key, "clientCertificates": clients});
    let product = Product::start_with(&resources(&echo), &[], json!({"tls": tls})).await.unwrap();
    let url = url(&product);
    let ask = |token: Option<String>, own: Option<&Pair>| {
        let (url, authority, own) = (url.clone(), ours.certificate.clone(), own.cloned());
        async move { seen(&url, token.as_deref(), &authority, own.as_ref()).await }
    };
    eventually("the agent sees its tool", || async {
        (ask(None, Some(&ci)).await == Ok(vec!["echo__echo".to_owned()])).then_some(())
    })
    .await;
    assert_eq!(ask(None, Some(&runner)).await, Ok(vec!["echo__odd".to_owned()]));

    // A token goes before a certificate where its provider does; a certificate that means nobody takes nothing away.
    let (_, alice) = product.token("user:alice").unwrap();
    let all = ask(Some(alice.clone()), None).await.unwrap();
    assert!(all.len() > 2, "{all:?}");
    assert_eq!(ask(Some(alice.clone()), Some(&ci)).await, Ok(all.clone()));
    assert_eq!(ask(Some(alice.clone()), Some(&nobody)).await, Ok(all));

    for (who, own, code) in [
        ("none", None, "unauthenticated"),
        ("one of another name", Some(&nobody), "unauthenticated"),
        ("one of two names", Some(&two), "invalid-credential"),
    ] {
        let told = ask(None, own).await.unwrap_err();
        assert!(told.contains(&format!("\"code\":\"{code}\"")), "{who}: {told}");
    }
    for (who, own) in [("another authority's", &stranger), ("one that is over", &over)] {
        let told = ask(None, Some(own)).await.unwrap_err();
        assert!(!told.contains("requestId"), "{who} gets no further than the handshake: {told}");
    }
    assert!(!product.log().contains("spiffe://"), "names of strangers are no business of the log");

    // Taken back: at the next request, also where the connection stays open.
    let mut open = Driver::over_tls(&url, None, &ours.certificate, Some(&ci)).await.unwrap();
    let said = open.call("echo__echo", json!({"message": "in"})).await.unwrap();
    assert!(text(&said).contains("in"), "{said}");
    ours.revoke("revoked.pem", &[&ci]).unwrap();
    let until = Instant::now() + PATIENCE;
    while open.call("echo__echo", json!({"message": "in"})).await.is_ok() {
        assert!(Instant::now() < until, "the open connection is still the agent's");
    }
    let told = ask(None, Some(&ci)).await.unwrap_err();
    assert!(!told.contains("requestId"), "{told}");
    assert_eq!(ask(None, Some(&runner)).await, Ok(vec!["echo__odd".to_owned()]), "nobody else");

    // A list that can't be used leaves the one before, and whoever looks after the gateway is told.
    let list = fs::read(&revoked).unwrap();
    fs::write(&revoked, "nonsense").unwrap();
    let doctor = || String::from_utf8_lossy(&product.cli(&["doctor"], "").unwrap().stdout).into_owned();
    eventually("the doctor knows", || async {
        doctor().contains("holds no list of revoked certificates").then_some(())
    })
    .await;
    assert!(doctor().contains("ERROR   tls: "), "{}", doctor());
    let told = ask(None, Some(&ci)).await.unwrap_err();
    assert!(!told.contains("requestId"), "it stays revoked: {told}");
    fs::write(&revoked, list).unwrap();
    eventually("it is right again", || async { (!doctor().contains("tls: ")).then_some(()) }).await;
}

#[tokio::test]
async fn where_it_is_required_nobody_comes_in_without() {
    let dir = tempfile::tempdir().unwrap();
    let echo = Echo::start().await.unwrap();
    let ours = Authority::new(dir.path(), "ours").unwrap();
    let server = ours.server("server").unwrap();
    let ci = Says { common_name: "ci", uris: &["spiffe://corp.example/ci"], ..Says::default() };
    let ci = ours.client("ci", 2, &ci).unwrap();
    let clients = json!({"authorities": ours.certificate, "required": true});
    let tls = json!({"certificate": server.certificate, "key": server.key, "clientCertificates": clients});
    let product = Product::start_with(&resources(&echo), &[], json!({"tls": tls})).await.unwrap();
    let url = url(&product);
    let (_, alice) = product.token("user:alice").unwrap();
    eventually("the agent sees its tool", || async {
        seen(&url, None, &ours.certificate, Some(&ci)).await.is_ok().then_some(())
    })
    .await;
    let told = seen(&url, Some(&alice), &ours.certificate, None).await.unwrap_err();
    assert!(!told.contains("requestId"), "{told}");
    assert!(seen(&url, Some(&alice), &ours.certificate, Some(&ci)).await.is_ok());
    // An authority that can't be read leaves the one before.
    let kept = dir.path().join("kept.crt");
    fs::rename(&ours.certificate, &kept).unwrap();
    fs::write(&ours.certificate, "nonsense").unwrap();
    eventually("it says what is wrong", || async {
        // Files are looked at when somebody comes.
        let ours = seen(&url, None, &kept, Some(&ci)).await.is_ok();
        product.log().contains("holds no certificate").then_some(ours)
    })
    .await
    .then_some(())
    .expect("the authorities before stay");
}

/// RFC 8705 section 3: a token that is bound to a certificate is worth nothing without it.
#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let echo = Echo::start().await.unwrap();
    let provider = Oidc::start(0).await.unwrap();
    let ours = Authority::new(dir.path(), "ours").unwrap();
    let server = ours.server("server").unwrap();
    let own = ours.client("own", 2, &Says { common_name: "own", ..Says::default() }).unwrap();
    let other = ours.client("other", 3, &Says { common_name: "other", ..Says::default() }).unwrap();
    let issuer = provider.issuer.clone();
    let audience = "https://gateway.example/mcp";
    let rules = json!({"issuers": [{"issuer": issuer, "audience": [audience]}]});
    let all = [
        resource(
            "Plugin",
            "jwks",
            json!({"source": {"builtIn": "jwks"}, "grants": {"issuers": [issuer]}, "config": rules}),
        ),
        echo.open("echo", "modern"),
        resource("Gateway", "main", json!({"auth": [{"plugin": "jwks"}], "servers": [{"server": "echo"}]})),
    ];
    let clients = json!({"authorities": ours.certificate});
    let tls = json!({"certificate": server.certificate, "key": server.key, "clientCertificates": clients});
    let product = Product::start_with(&all, &[], json!({"tls": tls, "allowPrivateIssuers": true})).await.unwrap();
    let url = url(&product);
    let bound = provider.bound_token(audience, &own.certificate).await.unwrap();
    let plain = provider.token("alice", audience).await.unwrap();
    let ask = |token: &str, own: Option<&Pair>| {
        let (url, token, authority, own) = (url.clone(), token.to_owned(), ours.certificate.clone(), own.cloned());
        async move { seen(&url, Some(&token), &authority, own.as_ref()).await }
    };
    eventually("the token works with its certificate", || async {
        ask(&bound, Some(&own)).await.is_ok().then_some(())
    })
    .await;
    for (who, own) in [("no certificate", None), ("another's", Some(&other))] {
        let told = ask(&bound, own).await.unwrap_err();
        assert!(
            told.contains("\"code\":\"invalid-credential\"") && told.contains("bound to a client certificate"),
            "{who}: {told}"
        );
    }
    assert!(ask(&plain, None).await.is_ok(), "what is bound to nothing needs nothing");
}
