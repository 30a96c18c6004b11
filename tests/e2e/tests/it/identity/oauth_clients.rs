//! Clients that say who they are by a metadata document, or register themselves: what is believed, and what is not.

use std::time::{Duration, Instant};

use axum::{
    Json, Router,
    body::Body,
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use portcullis_e2e::{
    browser::Browser,
    http,
    oauth::{BACK, Hand, consent, member, parameter, serve},
    product::{Product, resource},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

async fn product(settings: Value) -> Product {
    let resources = [resource("User", "alice", json!({})), resource("Gateway", "main", json!({}))];
    Product::start_with(&resources, &[], settings).await.unwrap()
}

async fn signed_in(product: &Product) -> Browser {
    let made = product.ask(&["signin", "--user", "alice"], "").unwrap();
    let mut browser = Browser::new();
    browser.go(&product.page("/signin?next=/healthz")).await.unwrap();
    browser.submit("code", &[("code", made["code"].as_str().unwrap())]).await.unwrap();
    browser
}

/// Metadata documents of every sort. A document names the host that it is fetched from.
async fn document(Path(way): Path<String>, headers: axum::http::HeaderMap) -> Response {
    let host = headers[header::HOST].to_str().unwrap();
    let id = format!("http://{host}/{way}");
    let body = json!({"client_id": id, "client_name": "Documented", "redirect_uris": [BACK]});
    match way.as_str() {
        "good" => Json(body).into_response(),
        "moved" => Redirect::temporary("/good").into_response(),
        "another" => Json(json!({"client_id": format!("http://{host}/good"), "redirect_uris": [BACK]})).into_response(),
        "secret" => Json(json!({"client_id": id, "redirect_uris": [BACK], "client_secret": "x"})).into_response(),
        "huge" => Json(json!({"client_id": id, "redirect_uris": [BACK], "x": "x".repeat(20_000)})).into_response(),
        "slow" => {
            let never = futures_util::stream::pending::<Result<bytes::Bytes, std::convert::Infallible>>();
            Body::from_stream(never).into_response()
        }
        "error" => (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response(),
        _ => "no metadata".into_response(),
    }
}

#[tokio::test]
async fn a_metadata_document_is_believed_where_it_is_right_and_nowhere_else() {
    let product = product(json!({"allowPrivateClients": true})).await;
    let base = serve(Router::new().route("/{way}", get(document))).await;
    let mut browser = signed_in(&product).await;
    let (issuer, gateway) = (product.page(""), product.url("main"));
    let ask = |way: &str| Hand::new(&issuer, &format!("{base}/{way}"), &gateway);
    for way in ["moved", "another", "secret", "huge", "error", "garbage", "slow"] {
        let began = Instant::now();
        let ended = consent(&mut browser, &ask(way).authorize(&[])).await.unwrap();
        assert!(browser.status == 400 && ended.starts_with(&issuer), "{way}: {ended}");
        assert!(began.elapsed() < Duration::from_secs(12), "{way}");
    }
    let good = ask("good");
    browser.stops = vec![BACK.to_owned()];
    for time in ["first", "second"] {
        browser.go(&good.authorize(&[])).await.unwrap();
        // Any program on this machine could take that redirect and that id, so the person is asked each time.
        assert!(browser.html.contains(&format!("{base}/good")), "{time}: {}", browser.html);
        let back = browser.submit("decision", &[("decision", "allow")]).await.unwrap();
        let reply = good.redeem(&parameter(&back, "code").unwrap()).await.unwrap();
        assert!(member(&reply, "access_token").starts_with("pcl_"));
    }
    product.stop().await;
}

#[tokio::test]
async fn a_document_at_a_private_address_is_not_even_asked_for() {
    let product = product(json!({})).await;
    let mut browser = signed_in(&product).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for id in [
        format!("https://127.0.0.1:{port}/client"),
        format!("https://localhost:{port}/client"),
        format!("https://[::1]:{port}/client"),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://10.0.0.1/client".to_owned(),
        format!("http://127.0.0.1:{port}/client"),
    ] {
        let hand = Hand::new(&product.page(""), &id, &product.url("main"));
        let ended = consent(&mut browser, &hand.authorize(&[])).await.unwrap();
        assert!(browser.status == 400 && ended.starts_with(&product.page("/")), "{id}: {ended}");
    }
    let asked = futures_util::future::poll_immediate(std::pin::pin!(listener.accept())).await;
    assert!(asked.is_none(), "somebody connected");
    product.stop().await;
}

#[tokio::test]
async fn registration_is_bounded_and_can_be_switched_off() {
    let product = product(json!({})).await;
    let register =
        async |body: Value| http::send("POST", &product.page("/oauth/register"), &[], body.to_string()).await.unwrap();
    for bad in [
        json!({}),
        json!({"redirect_uris": []}),
        json!({"redirect_uris": ["javascript:alert(1)"]}),
        json!({"redirect_uris": ["http://app.example/cb"]}),
        json!({"redirect_uris": ["https://a.example/#x"]}),
        json!({"redirect_uris": vec!["https://a.example/"; 11]}),
        json!({"redirect_uris": ["https://a.example/"], "grant_types": ["client_credentials"]}),
        json!({"redirect_uris": ["https://a.example/"], "token_endpoint_auth_method": "private_key_jwt"}),
        json!([1]),
    ] {
        let reply = register(bad.clone()).await;
        assert_eq!(reply.status, 400, "{bad}: {}", reply.text());
    }
    let good = json!({"redirect_uris": ["https://a.example/"], "client_name": "A\u{202e}B"});
    let reply = register(good.clone()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(
        (member(&reply, "client_name"), member(&reply, "token_endpoint_auth_method")),
        ("AB".to_owned(), "client_secret_basic".to_owned())
    );
    assert!(!member(&reply, "client_secret").is_empty());
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    let mut last = 201;
    for _ in 0..40 {
        last = register(good.clone()).await.status.as_u16();
        if last != 201 {
            break;
        }
    }
    assert_eq!(last, 429);
    product.stop().await;

    let closed = self::product(json!({"clientRegistration": false})).await;
    let refused = http::send("POST", &closed.page("/oauth/register"), &[], good.to_string()).await.unwrap();
    assert_eq!(refused.status, 403, "{}", refused.text());
    let metadata = http::get(&closed.page("/.well-known/oauth-authorization-server"), &[]).await.unwrap().text();
    assert!(!metadata.contains("registration_endpoint"), "{metadata}");
    closed.stop().await;
}

#[tokio::test]
async fn a_gateway_is_known_to_take_our_tokens_by_whatever_name_its_plugin_has() {
    let gateway = |name: &str, plugin: &str| resource("Gateway", name, json!({"auth": [{"plugin": plugin}]}));
    let product = Product::start(&[
        resource("Plugin", "ours", json!({"source": {"builtIn": "bearer-token"}})),
        gateway("plain", "bearer-token"),
        gateway("named", "ours"),
    ])
    .await
    .unwrap();
    for name in ["plain", "named"] {
        let nobody = http::ask(&product.url(name), None, "tools/list", json!({})).await.unwrap();
        let challenge = nobody.headers["www-authenticate"].to_str().unwrap();
        assert!(nobody.status == 401 && challenge.contains("resource_metadata"), "{name}: {challenge}");
    }
    product.stop().await;
}
