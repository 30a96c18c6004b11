//! The built-in auth providers, as components, end to end.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use portcullis_identity::{AuthOptions, AuthRefusal, Authenticator, JwtOptions, JwtService, Presented, Provider};
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
async fn providers(house: &House, issuer: &str) -> Vec<Arc<Provider>> {
    let host = Host::new(HostOptions { pool_instances: 8, ..HostOptions::default() }).unwrap();
    let services = Services {
        tokens: Some(house.tokens.clone()),
        jwt: Some(JwtService::new(JwtOptions::default())),
        ..Services::default()
    };
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
    let at = Authenticator::new(house.directories.clone(), house.tokens.clone(), AuthOptions::default());
    let providers = providers(&house, &issuer.url).await;
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
    let at = Authenticator::new(house.directories.clone(), house.tokens.clone(), AuthOptions::default());
    let providers = providers(&house, &issuer.url).await;
    let token = Key::ec().token("a", &issuer.claims());
    assert_eq!(show(&ask(&at, &providers, "main", Some(&token)).await), "503 auth-unavailable");
}
