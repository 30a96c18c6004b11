//! The built-in auth providers, as components, end to end.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use portcullis_identity::{AuthOptions, AuthRefusal, Authenticator, JwtService, LimitOptions, Presented, Provider};
use portcullis_model::{
    Name, Principal, Secret,
    spec::{Grants, Isolation, Limits},
};
use portcullis_plugin::{Host, HostOptions, LoadPlan, Services};
use serde_json::json;

use crate::{
    house::{House, name, resource},
    issuer::{Issuer, Key, Mood, now},
};

/// Both providers in a row, with the services that they use.
async fn providers(house: &House, jwt: &Arc<JwtService>, issuer: &str) -> Vec<Arc<Provider>> {
    let host = Host::new(HostOptions { pool_instances: 8, ..HostOptions::default() }).unwrap();
    let services = Services { tokens: Some(house.tokens.clone()), jwt: Some(jwt.clone()), ..Services::default() };
    let config =
        json!({"issuers":[{"issuer":issuer,"audience":["us"],"claims":{"groups":"groups","displayName":"name"}}]});
    let grants = [
        Grants { tokens: true, ..Grants::default() },
        Grants { issuers: vec![issuer.to_owned()], ..Grants::default() },
    ];
    let mut providers = Vec::new();
    for ((plugin, config), grants) in [("bearer-token", json!({})), ("jwks", config)].into_iter().zip(grants) {
        let built_in = portcullis_plugins::built_ins().iter().find(|b| b.name == plugin).unwrap();
        let plan = LoadPlan {
            name: plugin.to_owned(),
            tenant: name("default"),
            component: host.compile(built_in.wasm.into()).await.unwrap(),
            config: config.to_string(),
            grants,
            secrets: Default::default(),
            limits: Limits {
                cpu: portcullis_model::Span::seconds(2),
                wall: portcullis_model::Span::seconds(5),
                ..Limits::default()
            },
            isolation: Isolation::Call,
            services: services.clone(),
        };
        providers.push(Arc::new(Provider::new(host.load(plan).await.unwrap(), &Arc::from(plugin))));
    }
    providers
}

/// An authenticator, and the providers that use the same keys.
async fn gate(house: &House, issuer: &str, options: AuthOptions) -> (Arc<Authenticator>, Vec<Arc<Provider>>) {
    let jwt = JwtService::new(crate::issuer::options());
    let providers = providers(house, &jwt, issuer).await;
    (Authenticator::new(house.directories.clone(), house.tokens.clone(), jwt, options), providers)
}

async fn ask(
    at: &Authenticator,
    providers: &[Arc<Provider>],
    gateway: &str,
    token: Option<&Secret>,
) -> Result<Arc<Principal>, AuthRefusal> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let value = format!("Bearer {}", std::str::from_utf8(token.expose()).unwrap());
        headers.insert(AUTHORIZATION, HeaderValue::try_from(value).unwrap());
    }
    let presented = Presented {
        tenant: &name("default"),
        gateway: &name(gateway),
        method: "POST",
        path: "/mcp/main",
        address: "127.0.0.1".parse::<IpAddr>().unwrap(),
        headers: &headers,
        certificate: None,
        request: "r-1",
    };
    at.authenticate(providers, false, &presented).await
}

fn show(answer: &Result<Arc<Principal>, AuthRefusal>) -> String {
    match answer {
        Ok(p) => format!("{} [{}]", p.subject_text, p.teams.iter().map(Name::as_str).collect::<Vec<_>>().join(",")),
        Err(refusal) => format!("{} {}", refusal.status.as_u16(), refusal.fault.code),
    }
}

#[tokio::test]
async fn tokens_of_ours_and_of_an_issuer_through_real_plugins() {
    let house = House::new().await;
    let issuer = Issuer::new().await;
    let key = Key::ec();
    issuer.publish(&[key.jwk("a")]);
    let mut people = crate::house::people();
    let alice = format!(r#"{{"identities":[{{"issuer":"{}","subject":"1"}}]}}"#, issuer.url);
    people[0] = resource("default", "User", "alice", &alice);
    let blue = format!(r#"{{"groups":[{{"issuer":"{}","group":"blues"}}]}}"#, issuer.url);
    people[2] = resource("default", "Team", "blue", &blue);
    house.set_people(people);
    let (at, providers) = gate(&house, &issuer.url, AuthOptions::default()).await;
    let check = async |token: Option<&Secret>, expected: &str| {
        for _ in 0..2 {
            assert_eq!(show(&ask(&at, &providers, "main", token).await), expected);
        }
    };

    let created = house.token("user:bob").await;
    check(Some(&created.text), "user:bob []").await;
    check(Some(&key.token("a", &issuer.claims())), "user:alice [blue]").await;
    let mut claims = issuer.claims();
    claims["sub"] = json!("9");
    claims["name"] = json!("Nina");
    let nina = key.token("a", &claims);
    check(Some(&nina), &format!("external:{}#9 [blue]", issuer.url)).await;
    assert_eq!(ask(&at, &providers, "main", Some(&nina)).await.unwrap().display_name.as_deref(), Some("Nina"));

    check(None, "401 unauthenticated").await;
    check(Some(&Secret::new("garbage")), "401 invalid-credential").await;
    check(Some(&Secret::new("pcl_garbage")), "401 invalid-credential").await;
    check(Some(&Key::ec().token("a", &issuer.claims())), "401 invalid-credential").await;
    check(Some(&Key::ec().token("b", &issuer.claims())), "401 invalid-credential").await;
    claims["exp"] = json!(now() - 3600);
    check(Some(&key.token("a", &claims)), "401 invalid-credential").await;
    claims["exp"] = json!(now() + 60);
    claims["aud"] = json!("somebody else");
    check(Some(&key.token("a", &claims)), "401 invalid-credential").await;
    claims["iss"] = json!("https://elsewhere.example");
    check(Some(&key.token("a", &claims)), "401 invalid-credential").await;

    house.tokens.revoke(&name("default"), &created.record.id).await.unwrap();
    check(Some(&created.text), "401 invalid-credential").await;
}

#[tokio::test]
async fn an_issuer_that_is_away_refuses_and_says_that_it_is_not_the_caller() {
    let house = House::new().await;
    let issuer = Issuer::new().await;
    issuer.be(Mood::Down);
    let (at, providers) = gate(&house, &issuer.url, AuthOptions::default()).await;
    let token = Key::ec().token("a", &issuer.claims());
    assert_eq!(show(&ask(&at, &providers, "main", Some(&token)).await), "503 auth-unavailable");
}

/// Many people share an address. One of them floods it with what proves nothing; the others notice nothing of that.
#[tokio::test]
async fn a_flood_of_failures_locks_nobody_out_behind_the_same_address() {
    let house = House::new().await;
    let issuer = Issuer::new().await;
    let key = Key::ec();
    issuer.publish(&[key.jwk("a")]);
    let limit = LimitOptions { burst: 3, every: Duration::from_secs(3600), ..LimitOptions::default() };
    let (at, providers) = gate(&house, &issuer.url, AuthOptions { limit, ..AuthOptions::default() }).await;
    let signed = |subject: &str, expires: u64| {
        let mut claims = issuer.claims();
        claims["sub"] = json!(subject);
        claims["exp"] = json!(expires);
        claims
    };
    let soon = now() + 600;
    // Somebody's first call makes the issuer's keys known.
    assert!(ask(&at, &providers, "main", Some(&key.token("a", &signed("1", soon)))).await.is_ok());

    // Each forged in another way, so that no refusal is remembered.
    let stranger = Key::ec();
    let forged = |n: usize| match n % 5 {
        0 => Secret::new(format!("pcl_{n}")),
        1 => Secret::new(format!("garbage-{n}")),
        2 => stranger.token("a", &signed(&format!("forged-{n}"), soon)),
        3 => stranger.token("unknown", &signed(&format!("forged-{n}"), soon)),
        _ => key.token("a", &signed(&format!("late-{n}"), now() - 3600)),
    };
    for n in 0..50 {
        let shown = show(&ask(&at, &providers, "main", Some(&forged(n))).await);
        assert_eq!(shown, if n < 3 { "401 invalid-credential" } else { "429 too-many-failures" }, "{n}");
    }
    for n in 0..5 {
        let token = house.token("user:bob").await.text;
        assert_eq!(show(&ask(&at, &providers, "main", Some(&token)).await), "user:bob []");
        let token = key.token("a", &signed(&format!("new-{n}"), soon));
        assert!(ask(&at, &providers, "main", Some(&token)).await.is_ok(), "{n}");
    }
    // Whoever is signed and still refused, here for another audience, is throttled once that is known.
    let mut elsewhere = signed("1", soon);
    elsewhere["aud"] = json!("somebody else");
    let elsewhere = key.token("a", &elsewhere);
    assert_eq!(show(&ask(&at, &providers, "main", Some(&elsewhere)).await), "401 invalid-credential");
    assert_eq!(show(&ask(&at, &providers, "main", Some(&elsewhere)).await), "429 too-many-failures");
}
