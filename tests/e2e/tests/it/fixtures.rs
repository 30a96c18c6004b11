//! The fixtures themselves: real servers start and speak what is written of them, and our own server tells what it saw.

use portcullis_e2e::{
    driver::{Driver, Sdk, text},
    echo::{Echo, ODD},
    http,
    oidc::Oidc,
    servers,
};
use serde_json::json;

#[tokio::test]
async fn seven_real_servers_speak_what_is_written_of_them() {
    let folder = tempfile::tempdir().unwrap();
    servers::prepare(folder.path()).unwrap();
    for (at, server) in servers::all(folder.path()).into_iter().enumerate() {
        let sdk = if at % 2 == 0 { Sdk::Python } else { Sdk::Node };
        let mut direct = Driver::spawn(sdk, &server.command, &server.args).await.unwrap();
        assert_eq!(direct.version, server.version, "{}", server.name);
        assert_eq!(direct.list().await.unwrap().len(), server.tools, "{}", server.name);
        direct.close().await.unwrap();
    }
}

#[tokio::test]
async fn both_official_clients_speak_both_eras_to_our_own_server() {
    let echo = Echo::start().await.unwrap();
    for sdk in [Sdk::Python, Sdk::Node] {
        for (way, mode, version) in [
            ("modern", "auto", http::MODERN),
            ("modern-sse", "2026-07-28", http::MODERN),
            ("legacy", "auto", http::LEGACY),
            ("legacy-sse", "legacy", http::LEGACY),
        ] {
            let mut client = Driver::connect(sdk, &echo.url(way), Some("canary"), mode).await.unwrap();
            assert_eq!(client.version, version, "{sdk:?} {way}");
            assert_eq!(client.names().await.unwrap(), ["echo", "odd", "progress", "whoami"]);
            let who = client.call("whoami", json!({})).await.unwrap();
            assert!(text(&who).contains("Bearer canary"), "{sdk:?} {way}: {who}");
        }
    }
    let odd = http::call(&echo.url("modern"), None, "odd", json!({})).await.unwrap();
    assert!(odd.text().contains(ODD));
}

#[tokio::test]
async fn the_identity_provider_signs_and_rotates() {
    let mut provider = Oidc::start(0).await.unwrap();
    let first = provider.token("alice", "https://gateway.example/mcp").await.unwrap();
    assert_eq!(first.split('.').count(), 3, "{first}");
    let before = http::get(&format!("{}/jwks", provider.issuer), &[]).await.unwrap().text();
    provider.rotate().await.unwrap();
    let after = http::get(&format!("{}/jwks", provider.issuer), &[]).await.unwrap().text();
    assert_ne!(before, after);
}
