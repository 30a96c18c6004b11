//! The gateway at a path of a proxy (nginx): metadata, logins, pages, forms, links and cookies lead to that path.

use portcullis_e2e::{
    browser::Browser,
    http,
    nginx::{Nginx, free_port},
    oauth::{BACK, OAuthDriver, consent},
    product::{Product, resource},
    swap::Running,
};
use serde_json::{Value, json};

const PREFIX: &str = "/tools/portcullis";

async fn json_at(url: &str) -> Value {
    let reply = http::get(url, &[]).await.unwrap();
    assert_eq!(reply.status, 200, "{url}: {}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

/// The product at a path of nginx, with an identity provider: where it is reached.
async fn house() -> (Product, (Nginx, Running), String) {
    let port = free_port().unwrap();
    let public = format!("http://127.0.0.1:{port}{PREFIX}");
    let idp = Running::signing_in(&format!("{public}/signin/callback/corp")).await.unwrap();
    let resources = [
        resource("User", "alice", json!({"identities": [{"issuer": idp.url, "subject": "alice"}]})),
        resource(
            "IdentityProvider",
            "corp",
            json!({"issuer": idp.url, "clientId": "portcullis", "clientSecret": {"env": "IDP_SECRET"}, "scopes": []}),
        ),
        resource(
            "McpServer",
            "time",
            json!({"process": {"command": portcullis_e2e::parts::binary(), "args": ["demo-server"]}}),
        ),
        resource(
            "McpServer",
            "locked",
            json!({
                "remote": {"url": "https://locked.example/mcp"},
                "fields": [{"name": "token", "required": true, "sensitive": true}],
                "credential": {"place": [{"field": "token", "header": "Authorization"}]},
            }),
        ),
        resource("Gateway", "main", json!({"servers": [{"server": "time"}, {"server": "locked"}]})),
    ];
    let listen = format!("127.0.0.1:{}", free_port().unwrap());
    let settings = json!({"publicUrl": format!("{public}/"), "listen": listen, "allowPrivateIssuers": true});
    let product = Product::start_with(&resources, &[("IDP_SECRET", "exchange-secret")], settings).await.unwrap();
    let nginx = Nginx::start(port, PREFIX, product.address).await.unwrap();
    (product, (nginx, idp), public)
}

#[tokio::test]
async fn what_is_well_known_stands_before_the_path_and_clients_find_their_way() {
    let (product, _running, public) = house().await;
    let origin = public.strip_suffix(PREFIX).unwrap();
    let gateway = format!("{public}/mcp/main");
    let refused = http::ask(&gateway, None, "tools/list", json!({})).await.unwrap();
    assert_eq!(refused.status, 401);
    let place = format!("{origin}/.well-known/oauth-protected-resource{PREFIX}/mcp/main");
    let challenge = refused.headers["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains(&format!("resource_metadata=\"{place}\"")), "{challenge}");
    let metadata = json_at(&place).await;
    assert_eq!((&metadata["resource"], &metadata["authorization_servers"]), (&json!(gateway), &json!([public])));
    for place in [
        format!("{origin}/.well-known/oauth-authorization-server{PREFIX}"),
        format!("{origin}/.well-known/openid-configuration{PREFIX}"),
        format!("{public}/.well-known/openid-configuration"),
    ] {
        let metadata = json_at(&place).await;
        assert_eq!(metadata["issuer"], public, "{place}");
        for endpoint in ["authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint"] {
            assert!(metadata[endpoint].as_str().unwrap().starts_with(&format!("{public}/oauth/")), "{metadata}");
        }
    }
    for mut client in [OAuthDriver::start().unwrap(), OAuthDriver::start_javascript().unwrap()] {
        let open = json!({"do": "session", "url": gateway, "how": {"code": {"redirect": BACK}}});
        let asked = client.ask(open).await.unwrap_or_else(|e| panic!("{e}\n{}", product.log()));
        let mut browser = Browser::new();
        // By the sign-in page and the form there to the question, and from its form to the client.
        browser.go(asked["open"].as_str().unwrap()).await.unwrap();
        assert!(browser.url.starts_with(&format!("{public}/signin")), "{}", browser.url);
        let code = product.ask(&["signin", "--user", "alice"], "").unwrap()["code"].as_str().unwrap().to_owned();
        browser.stops = vec![BACK.to_owned()];
        browser.submit("code", &[("code", &code)]).await.unwrap();
        let back = browser.submit("decision", &[("decision", "allow")]).await.unwrap();
        assert!(back.starts_with(BACK), "{back}: {}", browser.html);
        let opened = client.ask(json!({"back": back})).await.unwrap();
        assert_eq!(
            client.ask(json!({"do": "call", "tool": "time__time_now"})).await.unwrap()["error"],
            false,
            "{opened}"
        );
        client.ask(json!({"do": "end"})).await.unwrap();
        // The one that a browser holds is for this installation of ours, whatever else the host has.
        assert!(browser.cookies().keys().all(|k| !k.starts_with("portcullis") || k.ends_with(".tools.portcullis")));
    }
    product.stop().await;
}

#[tokio::test]
async fn pages_lead_to_pages_and_people_sign_in_by_their_provider() {
    let (product, _running, public) = house().await;
    let mut browser = Browser::new();
    browser.go(&format!("{public}/servers")).await.unwrap();
    assert!(browser.url.starts_with(&format!("{public}/signin?next=")), "{}", browser.url);
    browser.go(&format!("{public}/signin/with/corp?next=/servers")).await.unwrap();
    browser.submit("login", &[("login", "alice"), ("password", "x")]).await.unwrap();
    let mut ended = browser.url.clone();
    if browser.form("prompt").is_ok() {
        ended = browser.submit("prompt", &[]).await.unwrap();
    }
    assert_eq!(ended, format!("{public}/servers"), "{}", browser.html);

    // Every link and form of every page that there is a link to leads to a page here.
    let mut seen = std::collections::BTreeSet::new();
    let mut next = vec![format!("{public}/servers"), format!("{public}/")];
    while let Some(url) = next.pop() {
        if !seen.insert(url.clone()) {
            continue;
        }
        browser.go(&url).await.unwrap();
        assert_eq!(browser.status, 200, "{url}: {}", browser.html);
        for attribute in [" href=\"", " action=\"", " src=\""] {
            for piece in browser.html.split(attribute).skip(1) {
                let value = piece.split('"').next().unwrap().replace("&amp;", "&");
                if let Some(path) = value.strip_prefix('/') {
                    assert!(value.starts_with(&format!("{PREFIX}/")), "{url} leads to {value}");
                    if attribute == " href=\"" {
                        next.push(format!("{}/{path}", public.strip_suffix(PREFIX).unwrap()));
                    }
                }
            }
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");

    // The link in an answer to a call leads to the page that connects, and its form leads on.
    let (_, token) = product.token("user:alice").unwrap();
    let reply = http::call(&format!("{public}/mcp/main"), Some(&token), "locked__x", json!({})).await.unwrap();
    let text = reply.text();
    let at = text.find(&format!("{public}/connect/")).unwrap_or_else(|| panic!("{text}"));
    let link: String = text[at..].chars().take_while(|c| !c.is_whitespace() && !"\"\\,)".contains(*c)).collect();
    browser.go(&link).await.unwrap();
    let ended = browser.submit("f.token", &[("f.token", "s3cret"), ("owner_only", "true")]).await.unwrap();
    assert!(ended.starts_with(&format!("{public}/connections/")), "{ended}: {}", browser.html);
    // And out.
    browser.submit("csrf", &[]).await.unwrap();
    assert_eq!(browser.url, format!("{public}/signin"));
    let mut stranger = Browser::new();
    let ended = consent(&mut stranger, &format!("{public}/connections")).await.unwrap();
    assert!(ended.starts_with(&format!("{public}/signin")), "{ended}");
    product.stop().await;
}
